"""Understanding the user's folders: a data set in nnU-Net's layout, and inputs for prediction."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from autoseg.errors import DocumentError, FindingsError, InputError
from autoseg.io.formats import is_series, known_endings, split_ending
from autoseg.values import Case, Dataset, Finding, Label, Labels, Split, decode

__all__ = ["read_dataset", "read_inputs", "read_labels_of", "read_split"]

_CHANNEL_SUFFIX = re.compile(r"^(?P<id>.+)_(?P<channel>\d{4})$")


class _DatasetJson(msgspec.Struct):
    """``dataset.json`` as users write it: other fields (licence, description, …) are free and not read."""

    labels: dict[str, int | list[int]]
    file_ending: str
    channel_names: dict[str, str] = {}
    modality: dict[str, str] = {}
    numTraining: int | None = None  # noqa: N815  the name in the file
    regions_class_order: list[int] = []
    dataset: dict[str, _TableEntry] = {}


class _TableEntry(msgspec.Struct):
    images: list[str]
    label: str | None = None


def read_dataset(folder: Path) -> tuple[Dataset, list[Finding]]:
    """The data set in a folder with ``dataset.json``, ``imagesTr`` and ``labelsTr``.

    Returns:
        The data set with the cases that are complete, and findings about the others.

    Raises:
        InputError: the folder or its ``dataset.json`` cannot be understood at all.
    """
    folder = folder.resolve()
    description = folder / "dataset.json"
    if not folder.is_dir():
        raise InputError("there is no such folder", file=folder, remedy="Name the folder that holds dataset.json.")
    if not description.is_file():
        raise InputError(
            "the folder has no dataset.json",
            file=folder,
            expected="dataset.json, imagesTr/ and labelsTr/ (nnU-Net's layout)",
            remedy='A minimal one: {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "liver": 1}, '
            '"file_ending": ".nii.gz"}',
        )
    stated = decode(_DatasetJson, description.read_bytes(), source=description)
    channels = _channels(stated.channel_names or stated.modality, description)
    if stated.file_ending.lower() not in known_endings():
        raise DocumentError(
            "unknown file_ending",
            file=description,
            found=stated.file_ending,
            expected=f"one of {', '.join(sorted(known_endings()))}",
        )
    labels = _labels(stated, description)
    findings: list[Finding] = []
    if stated.dataset:
        cases, findings = _listed(stated.dataset)
    else:
        cases, findings = _discovered(folder, stated.file_ending, len(channels))
    annotated = sum(case.label is not None for case in cases)
    if stated.numTraining is not None and stated.numTraining != annotated:
        findings.append(
            Finding(
                severity="warning",
                what="numTraining in dataset.json differs from the cases that are here",
                found=str(annotated),
                expected=str(stated.numTraining),
                remedy="Complete the folder if files are missing; else correct the number.",
            )
        )
    dataset = Dataset(
        name=folder.name,
        root=str(folder),
        channels=channels,
        labels=labels,
        file_ending=stated.file_ending,
        cases=tuple(sorted(cases, key=lambda case: case.id)),
    )
    return dataset, findings


def read_labels_of(description: Path) -> Labels:
    """The labels that a ``dataset.json`` declares.

    Raises:
        DocumentError: it cannot be understood.
    """
    return _labels(decode(_DatasetJson, description.read_bytes(), source=description), description)


def _channels(names: dict[str, str], source: Path) -> tuple[str, ...]:
    if not names or sorted(names) != sorted(str(index) for index in range(len(names))):
        raise DocumentError(
            "channel_names must name every channel by its number",
            file=source,
            found=names or "nothing",
            expected='for example {"0": "T1", "1": "T2"}',
        )
    return tuple(names[str(index)] for index in range(len(names)))


def _labels(stated: _DatasetJson, source: Path) -> Labels:
    entries: dict[str, tuple[int, ...]] = {
        name: (value,) if isinstance(value, int) else tuple(value) for name, value in stated.labels.items()
    }
    ignore = entries.pop("ignore", None)
    if entries.pop("background", None) != (0,):
        raise DocumentError("labels must declare background as 0", file=source, expected='"background": 0')
    try:
        if ignore is not None and len(ignore) != 1:
            raise ValueError("ignore must be one integer")
        foreground = tuple(Label(name=name, values=values) for name, values in entries.items())
        has_regions = any(len(label.values) > 1 for label in foreground)
        return Labels(
            foreground=foreground,
            ignore=None if ignore is None else ignore[0],
            region_values=tuple(stated.regions_class_order) if has_regions else (),
        )
    except ValueError as error:
        raise DocumentError(f"the labels are not usable: {error}", file=source) from error


def _listed(table: Mapping[str, _TableEntry]) -> tuple[list[Case], list[Finding]]:
    """The cases of an explicit table; environment variables in its paths are filled in."""
    cases, findings = [], []
    for id_, entry in table.items():
        images = tuple(os.path.expandvars(name) for name in entry.images)
        try:
            cases.append(Case(id=id_, images=images, label=entry.label and os.path.expandvars(entry.label)))
        except ValueError as error:
            findings.append(Finding(severity="error", what=str(error), remedy="Correct that entry of dataset.json."))
    return cases, findings


def _discovered(folder: Path, ending: str, channels: int) -> tuple[list[Case], list[Finding]]:
    for name in ("imagesTr", "labelsTr"):
        if not (folder / name).is_dir():
            raise InputError(f"the folder has no {name}/", file=folder, remedy="See nnU-Net's layout in the README.")
    images: dict[str, dict[int, str]] = defaultdict(dict)
    findings = []
    for file in _files(folder / "imagesTr"):
        stem, found = split_ending(file.name)
        match = _CHANNEL_SUFFIX.match(stem)
        if found.lower() != ending.lower() or match is None:
            findings.append(_left_out(f"imagesTr/{file.name}", f"CASE_0000{ending}"))
        else:
            images[match["id"]][int(match["channel"])] = f"imagesTr/{file.name}"
    labels: dict[str, str] = {}
    for file in _files(folder / "labelsTr"):
        stem, found = split_ending(file.name)
        if found.lower() != ending.lower():
            findings.append(_left_out(f"labelsTr/{file.name}", f"CASE{ending}"))
        else:
            labels[stem] = f"labelsTr/{file.name}"
    cases = []
    for id_ in sorted({*images, *labels}):
        files, label = images.get(id_, {}), labels.get(id_)
        problem = _channel_problem(id_, files, label, channels)
        if problem is not None:
            findings.append(problem)
            continue
        try:
            cases.append(Case(id=id_, images=_in_order(files), label=label))
        except ValueError as error:
            findings.append(Finding(severity="error", what=str(error), file=files[0], remedy="Rename the file."))
            continue
        if label is None:
            findings.append(
                Finding(severity="note", what="an image without a label file: it is not trained on", case=id_)
            )
    return cases, findings


def _left_out(file: str, expected: str) -> Finding:
    return Finding(
        severity="warning",
        what="a file is not named like those of the data set and is left out",
        file=file,
        expected=expected,
    )


def _channel_problem(id_: str, files: dict[int, str], label: str | None, channels: int) -> Finding | None:
    """What is wrong with the channel files of a case; one file alone may hold all channels, which reading will tell."""
    if not files:
        return Finding(
            severity="error",
            what="a label file has no image",
            case=id_,
            file=label,
            remedy="Add the image (imagesTr/CASE_0000 with its ending), or remove the label file.",
        )
    wanted = set(range(channels))
    if set(files) == wanted or set(files) == {0}:
        return None
    missing = wanted - set(files)
    return Finding(
        severity="error",
        what="channel files are missing" if missing else "there are too many channel files",
        case=id_,
        found=", ".join(f"_{index:04d}" for index in sorted(files)),
        expected=", ".join(f"_{index:04d}" for index in sorted(wanted)),
        remedy="Every case needs exactly the channels that dataset.json names.",
    )


def _in_order(files: dict[int, str]) -> tuple[str, ...]:
    return tuple(files[index] for index in sorted(files))


def _case(id_: str, images: tuple[str, ...], label: str | None) -> Case:
    try:
        return Case(id=id_, images=images, label=label)
    except ValueError as error:
        raise InputError(str(error), file=images[0] if images else label, remedy="Rename the file.") from error


def _files(folder: Path) -> list[Path]:
    """Files, DICOM series, and whatever else is named like an image: a broken link is not the same as no file."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(path for path in entries if path.is_file() or split_ending(path.name)[1] or is_series(path))


def read_inputs(path: Path, channels: Sequence[str]) -> tuple[Case, ...]:
    """The cases to predict in a folder (or one image file), with paths relative to ``path``'s folder.

    Files are ``CASE_0000.ENDING``, one per channel; with a single channel ``CASE.ENDING`` will do. A folder with a DICOM
    series counts as a file, so ``path`` may be one, or hold some.

    Raises:
        InputError: nothing to predict, or cases whose channels are not complete; all of them are listed.
    """
    if not path.exists():
        raise InputError("there is no such file or folder", file=path)
    if is_series(path):
        return (_case(path.resolve().name, (".",), None),)
    files = [path] if path.is_file() else _files(path)
    files = [file for file in files if split_ending(file.name)[1] or is_series(file)]
    if not files:
        raise InputError(
            "there is no image here", file=path, expected=f"files with {', '.join(sorted(known_endings()))}"
        )
    named = _named_channels([file.name for file in files], channels)
    suffixed: dict[str, dict[int, str]] = defaultdict(dict)
    for id_, channel, name in named:
        if channel in suffixed[id_]:
            raise InputError(
                "two files are the same channel of one case",
                case=id_,
                found=f"{suffixed[id_][channel]} and {name}",
                remedy="Remove or rename one of them.",
            )
        suffixed[id_][channel] = name
    problems = [_channel_problem(id_, found, None, len(channels)) for id_, found in sorted(suffixed.items())]
    if any(problems):
        raise FindingsError(
            "these inputs cannot be predicted as they are:", [finding for finding in problems if finding]
        )
    return tuple(_case(id_, _in_order(found), None) for id_, found in sorted(suffixed.items()))


def _named_channels(names: Sequence[str], channels: Sequence[str]) -> list[tuple[str, int, str]]:
    """Case id, channel and name of every file."""
    matches = {name: _CHANNEL_SUFFIX.match(split_ending(name)[0]) for name in names}
    plain = [name for name, match in matches.items() if match is None]
    if plain and len(channels) > 1:
        raise FindingsError(
            f"these files do not say which of the {len(channels)} channels they are ({', '.join(channels)}):",
            [f"{name}: expected a name like CASE_0000{split_ending(name)[1]}" for name in plain],
        )
    with_first = {match["id"] for match in matches.values() if match and int(match["channel"]) == 0}
    result = []
    for name, match in matches.items():
        # with one channel, a number without a channel 0 beside it belongs to the name: scan_2024.nii.gz
        if match is None or (len(channels) == 1 and match["id"] not in with_first):
            result.append((split_ending(name)[0], 0, name))
        else:
            result.append((match["id"], int(match["channel"]), name))
    return result


def read_split(path: Path, cases: Sequence[str]) -> Split:
    """Folds from a ``splits_final.json`` that somebody wrote.

    Raises:
        InputError: not its form, or cases that the data set does not have.
    """
    split: Split = decode(Split, path.read_bytes(), source=path)
    if not split:
        raise InputError("the split has no folds", file=path, remedy="Remove the file and let autoseg make the folds.")
    surplus = sorted({case for fold in split for case in (*fold.train, *fold.val)} - set(cases))
    if surplus:
        raise InputError(
            "the split names cases that are not in the data set",
            file=path,
            found=", ".join(surplus[:5]) + (" …" if len(surplus) > 5 else ""),
            remedy="Correct the file, or remove it and let autoseg make the folds.",
        )
    return split
