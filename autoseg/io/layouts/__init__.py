"""Understanding the user's folders: data sets in any common layout, inputs for prediction, and folds that came along.

One module per layout; ``LAYOUTS`` is the order in which they are asked "is this one of yours?". A layout gives an
``Understanding``; names of channels and labels that nobody stated are then found in the files, and told as inferred.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import InputError
from autoseg.executors import Executor
from autoseg.io.layouts.bids import is_bids, read_bids
from autoseg.io.layouts.decathlon import is_decathlon, read_decathlon
from autoseg.io.layouts.describe import describe_dataset
from autoseg.io.layouts.description import (
    DESCRIPTIONS,
    Description,
    labels_of,
    misspelled_fields,
    read_description,
)
from autoseg.io.layouts.folders import is_mixed, is_paired, read_mixed, read_paired
from autoseg.io.layouts.found_tables import has_table, idle_tables, read_file, read_found
from autoseg.io.layouts.inputs import read_inputs
from autoseg.io.layouts.integers import IntegerCache
from autoseg.io.layouts.label_pairs import pairs_by_name
from autoseg.io.layouts.nnunet import is_nnunet, read_nnunet
from autoseg.io.layouts.splits import read_split
from autoseg.io.layouts.table import TABLE_ENDINGS
from autoseg.io.layouts.understanding import Understanding, annotated_names, complete
from autoseg.values import Dataset, Finding, Labels, decode
from autoseg.workspace import Workspace

__all__ = [
    "LAYOUTS",
    "Layout",
    "describe_dataset",
    "pairs_by_name",
    "read_annotated_of",
    "read_dataset",
    "read_inputs",
    "read_labels_of",
    "read_split",
]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A way to arrange a data set.

    Attributes:
        name: for messages.
        recognises: whether a folder, with what its descriptions state, is arranged so.
        read: its cases; the last argument is the names of channels that are asked for.
    """

    name: str
    recognises: Callable[[Path, Description], bool]
    read: Callable[[Path, Description, Sequence[str]], Understanding]


#: What is stated comes before what is told by names; the first that recognises a folder reads it.
LAYOUTS = (
    Layout(name="dataset.json with imagesTr/ and labelsTr/ (nnU-Net)", recognises=is_nnunet, read=read_nnunet),
    Layout(name="dataset.json with training pairs (Decathlon)", recognises=is_decathlon, read=read_decathlon),
    Layout(name="a table of paths (CSV, TSV, JSON)", recognises=has_table, read=read_found),
    Layout(name="sub-*/ and derivatives/ (BIDS)", recognises=is_bids, read=read_bids),
    Layout(name="images/ and labels/", recognises=is_paired, read=read_paired),
    Layout(name="CASE_img and CASE_seg in one folder or one per case", recognises=is_mixed, read=read_mixed),
)


def read_dataset(
    source: Path,
    *,
    channel_names: Sequence[str] = (),
    workspace: Workspace | None = None,
    executor: Executor | None = None,
) -> tuple[Dataset, list[Finding]]:
    """The data set in a folder, or in a table of paths (CSV, TSV, JSON).

    Args:
        source: the folder, its ``dataset.json``, or the table.
        channel_names: that the user asks for; overrule those stated or found.
        workspace: of this data set; remembers what was found in label files.
        executor: looks into label files, where the labels are not declared; threads by default.

    Returns:
        The data set with the cases that are complete, and findings about the others.

    Raises:
        InputError: it cannot be understood at all, or the workspace is another data set's.
    """
    source = source.resolve()
    if source.is_file():
        understood = _of_file(source, channel_names)
    elif source.is_dir():
        understood = _of_folder(source, read_description(source), channel_names)
    else:
        raise InputError("there is no such folder", file=source, remedy="Name the folder or table of your data set.")
    understood = dataclasses.replace(understood, findings=(*understood.findings, *misspelled_fields(understood.root)))
    known = IntegerCache(workspace) if workspace else None
    dataset, findings = complete(understood, channel_names=channel_names, known=known, executor=executor)
    if workspace and known:
        workspace.check_dataset(dataset)  # before anything is written into it
        known.save()
    return dataset, findings


def _of_file(source: Path, channel_names: Sequence[str]) -> Understanding:
    if source.name in DESCRIPTIONS:
        return _of_folder(source.parent, read_description(source.parent), channel_names)
    if source.suffix.casefold() not in TABLE_ENDINGS:
        raise InputError(
            "a file is not a data set", file=source, expected=f"a folder, or a table ({', '.join(TABLE_ENDINGS)})"
        )
    return read_file(source, channel_names)


def _of_folder(folder: Path, stated: Description, channel_names: Sequence[str]) -> Understanding:
    for layout in LAYOUTS:
        if layout.recognises(folder, stated):
            understood = layout.read(folder, stated, channel_names)
            return dataclasses.replace(understood, findings=(*understood.findings, *idle_tables(folder)))
    here = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if not path.name.startswith("."))
    raise InputError(
        "it is not clear what in this folder is an image and what a label",
        file=folder,
        found=(", ".join(here[:8]) + (" …" if len(here) > 8 else "")) or "nothing",
        expected="; or ".join(layout.name for layout in LAYOUTS),
        remedy="A table always does: a CSV file with the columns image and label, one row per case. Or "
        'dataset.json: {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}',
    )


def read_labels_of(description: Path) -> Labels:
    """The labels that a ``dataset.json`` declares.

    Raises:
        DocumentError: it cannot be understood.
    """
    stated = decode(Description, description.read_bytes(), source=description)
    stated.source = str(description)
    return labels_of(stated)[0]


def read_annotated_of(folder: Path) -> dict[str, tuple[str, ...]]:
    """The labels that were looked for, of the cases for which the descriptions of a folder list them.

    Raises:
        DocumentError: they cannot be understood.
    """
    stated = read_description(folder)
    if not stated.annotated:
        return {}
    labels = labels_of(stated)[0]
    return {case: tuple(annotated_names(names, labels) or ()) for case, names in stated.annotated.items()}
