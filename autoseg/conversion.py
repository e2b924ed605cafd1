"""From any layout to nnU-Net's: one file per channel, consecutive labels, ``dataset.json``; each file whole or absent.

What was converted before from the same files is left alone, so an interrupted conversion goes on. ``conversion.json`` says
where everything came from and which integer became which.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from autoseg.case_conversion import CaseToConvert, ConvertCase, copy_file
from autoseg.errors import CasesFailedError, FindingsError, InputError
from autoseg.executors import Executor, ThreadExecutor
from autoseg.files import read_document, sweep, write_atomically, write_document
from autoseg.io.case_work import run_admitted
from autoseg.io.formats import read_header, split_ending
from autoseg.io.layouts import read_dataset
from autoseg.io.outputs import check_no_links_out
from autoseg.logs import Logger, SilentLogger, reported
from autoseg.values import Dataset, Finding, Labels
from autoseg.values.json_form import Value, same_file_name
from autoseg.workspace import folders_of

__all__ = ["Conversion", "Converted", "convert_dataset"]

#: Endings that nnU-Net reads by itself; other files are written anew.
_KEPT_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png")
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_RECORD = "conversion.json"
_FOLDERS = ("imagesTr", "labelsTr", "imagesTs")
#: Seconds between two savings of the record: a killed conversion repeats no more than that.
_SAVE_EVERY = 2.0


class Conversion(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.conversion/1"):
    """What a converted data set was made from; its presence says that the folder is ours.

    Attributes:
        source: absolute path of what was converted.
        layout: as it was understood.
        integers: of label files: before -> after, as text.
        cases: folder and id, such as ``imagesTr/CASE``, to a digest of the files and of how they are written.
    """

    source: str
    layout: str
    integers: dict[str, int]
    cases: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What ``convert_dataset`` made.

    Attributes:
        path: of the folder.
        dataset: that was converted.
        training: cases with label maps.
        test: images in ``imagesTs``: for tests, or without label map.
        integers: of label files: before -> after.
        made: cases that were written now; the others were there.
        findings: from understanding the source.
    """

    path: Path
    dataset: Dataset
    training: int
    test: int
    integers: dict[int, int]
    made: int
    findings: tuple[Finding, ...]


def convert_dataset(
    source: Path,
    target: Path,
    *,
    channel_names: Sequence[str] = (),
    understood: Callable[[Dataset, Sequence[Finding]], None] | None = None,
    executor: Executor | None = None,
    logger: Logger | None = None,
) -> Converted:
    """Writes a data set of any layout in nnU-Net's.

    Args:
        source: folder or table; never written to.
        target: folder, empty or of an earlier conversion of the same source.
        channel_names: that overrule those stated or found.
        understood: sees what was understood before anything is written, and may raise to stop.
        executor: runs the cases.
        logger: for progress.

    Raises:
        InputError: the source cannot be understood, or the target holds something else.
        CasesFailedError: some cases failed; the others are written.
    """
    executor = executor or ThreadExecutor()
    dataset, findings = read_dataset(source, channel_names=channel_names, executor=executor)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise FindingsError(f"{dataset.name} cannot be converted as it is: {len(errors)} errors", findings)
    if understood is not None:
        understood(dataset, findings)
    before = _checked_target(target, dataset, source)
    task = ConvertCase(
        dataset=msgspec.structs.replace(dataset, cases=(), test=()),
        ending=_ending(dataset),
        integers=_consecutive(dataset.labels),
    )
    items = _items(dataset, target, before.cases if before else {})
    gone = sorted(set(before.cases if before else ()) - {item.id for item in items})
    if gone:
        raise InputError(
            "the target holds cases of an earlier conversion that the source does not have any more",
            file=target,
            found=", ".join(gone[:5]) + (" …" if len(gone) > 5 else ""),
            remedy="Name an empty folder.",
        )
    record = Conversion(
        source=str(source.resolve()),
        layout=dataset.layout,
        integers={str(old): new for old, new in task.integers.items()},
        cases=before.cases if before else {},
    )
    made = _write_cases(task, items, target, record, executor, logger or SilentLogger())
    _write_description(target, dataset, task)
    training = sum(item.labels is not None for item in items)
    return Converted(
        path=target,
        dataset=dataset,
        training=training,
        test=len(items) - training,
        integers=dict(task.integers),
        made=made,
        findings=tuple(findings),
    )


def _checked_target(target: Path, dataset: Dataset, source: Path) -> Conversion | None:
    """The record of an earlier conversion of the same source, None for a new or empty folder."""
    here = target.resolve()
    if any(here.is_relative_to(folder) or folder.is_relative_to(here) for folder in folders_of(dataset)):
        raise InputError(
            "the target lies inside the data set, or around it, and the data set is never written to",
            file=target,
            remedy="Name another folder.",
        )
    for existing in (here, *here.parents):
        if existing.is_file():
            raise InputError("the target is a file, or lies in one", file=existing, remedy="Name a folder.")
    check_no_links_out(target)
    for name in _FOLDERS:
        check_no_links_out(target / name)
    record = target / _RECORD
    if record.is_file():
        before = read_document(Conversion, record)
        if before.source == str(source.resolve()):
            return before
        raise InputError(
            "the target holds the conversion of another data set",
            file=target,
            found=before.source,
            expected=str(source.resolve()),
            remedy="Name an empty folder.",
        )
    if target.is_dir() and any(target.iterdir()):
        raise InputError(
            "the target is not empty, and autoseg did not make it", file=target, remedy="Name an empty folder."
        )
    return None


def _ending(dataset: Dataset) -> str:
    """One ending for all files: theirs if they share one that nnU-Net reads, else .png for pictures, .nii.gz for volumes."""
    names = [name for case in dataset.annotated_cases for name in (*case.images, case.label or "")]
    endings = {split_ending(name)[1].casefold() for name in names}
    if len(endings) == 1 and endings <= set(_KEPT_ENDINGS):
        return endings.pop()
    if endings <= set(_PICTURES):
        header = read_header(Path(dataset.root, dataset.annotated_cases[0].images[0]))
        if header.geometry.planar and np.issubdtype(np.dtype(header.dtype), np.unsignedinteger):
            return ".png"
    return ".nii.gz"


def _consecutive(labels: Labels) -> dict[int, int]:
    """Every integer and the one that it becomes: 0, 1, 2, … in their order, the ignore label last."""
    integers = {value: position for position, value in enumerate(labels.integers)}
    if labels.ignore is not None:
        integers[labels.ignore] = len(integers)
    return integers


def _items(dataset: Dataset, target: Path, known: Mapping[str, str]) -> list[CaseToConvert]:
    """Every case and where it goes; ``known``: the keys of an earlier conversion."""
    others = [*dataset.test, *(case for case in dataset.cases if case.label is None)]
    names: dict[str, str] = {}
    for case in others:
        if names.setdefault(same_file_name(case.id), case.images[0]) != case.images[0]:
            raise InputError(
                "a test image and an image without label map have the same name",
                case=case.id,
                found=f"{names[same_file_name(case.id)]} and {case.images[0]}",
                remedy="Rename one of them.",
            )
    images, labels, tests = (target / name for name in _FOLDERS)
    items = [CaseToConvert.of(case, dataset.root, images, labels) for case in dataset.annotated_cases]
    items += [CaseToConvert.of(case, dataset.root, tests) for case in others]
    return [msgspec.structs.replace(item, known=known.get(item.id)) for item in items]


def _write_cases(
    task: ConvertCase,
    items: Sequence[CaseToConvert],
    target: Path,
    record: Conversion,
    executor: Executor,
    logger: Logger,
) -> int:
    """Writes what is not there yet; returns the number of cases that were written."""
    done = dict(record.cases)
    target.mkdir(parents=True, exist_ok=True)
    for name in ("imagesTr", "labelsTr"):
        (target / name).mkdir(exist_ok=True)
    for name in _FOLDERS:
        sweep(target / name, older_than_seconds=0)
    write_document(target / _RECORD, record)  # from now on the folder is known as ours
    failures: dict[str, BaseException] = {}
    made, saved = 0, time.monotonic()
    try:
        with contextlib.closing(run_admitted(executor, task, items, task.bytes)) as outcomes:
            for count, outcome in enumerate(outcomes, start=1):
                name = outcome.item.id
                if outcome.result is None:
                    failures[name] = outcome.error or InputError("unknown failure")
                    logger.event("case_failed", stage=task.stage, case=name, **reported(failures[name]))
                    done.pop(name, None)
                else:
                    made += done.get(name) != outcome.result
                    done[name] = outcome.result
                logger.event("progress", stage=task.stage, done=count, total=len(items), detail=outcome.item.case.id)
                if time.monotonic() - saved > _SAVE_EVERY:
                    write_document(target / _RECORD, msgspec.structs.replace(record, cases=dict(sorted(done.items()))))
                    saved = time.monotonic()
    finally:
        write_document(target / _RECORD, msgspec.structs.replace(record, cases=dict(sorted(done.items()))))
    if failures:
        raise CasesFailedError(task.stage, failures, len(items) - len(failures))
    return made


def _write_description(target: Path, dataset: Dataset, task: ConvertCase) -> None:
    """``dataset.json`` as nnU-Net wants it, and what autoseg alone reads: patients and annotated lists; folds, if any."""
    integers = task.integers
    labels: dict[str, Any] = {"background": 0}
    for label in dataset.labels.foreground:
        values = [integers[value] for value in label.values]
        labels[label.name] = values if len(values) > 1 else values[0]
    if dataset.labels.ignore is not None:
        labels["ignore"] = integers[dataset.labels.ignore]
    stated: dict[str, Any] = {
        "name": dataset.name,
        "channel_names": {str(index): name for index, name in enumerate(dataset.channels)},
        "labels": labels,
        "numTraining": len(dataset.annotated_cases),
        "file_ending": task.ending,
    }
    if dataset.labels.has_regions:
        stated["regions_class_order"] = [integers.get(value, value) for value in dataset.labels.region_values]
    told = dataset.annotated_cases
    if patients := {case.id: case.patient for case in told if case.patient}:
        stated["patients"] = patients
    if annotated := {case.id: case.annotated for case in told if case.annotated is not None}:
        stated["annotated"] = annotated
    write_atomically(target / "dataset.json", msgspec.json.format(msgspec.json.encode(stated), indent=1) + b"\n")
    folds = Path(dataset.root) / "splits_final.json"
    if folds.is_file():
        with contextlib.suppress(shutil.SameFileError):
            copy_file(folds, target / "splits_final.json")
