"""nnU-Net's raw layout, stated in full: ``dataset.json`` with channels, labels and ending; ``CASE_0000``; or its table."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoseg.errors import InputError
from autoseg.io.formats import split_ending
from autoseg.io.layouts.description import Description, Listed, stated_channels
from autoseg.io.layouts.items import left_out, readable_name
from autoseg.io.layouts.understanding import Understanding, check_ending
from autoseg.values import Case, Finding

__all__ = ["CHANNEL_SUFFIX", "channel_problem", "image_files", "is_nnunet", "read_nnunet"]

CHANNEL_SUFFIX = re.compile(r"^(?P<id>.+)_(?P<channel>\d{4})$")


def is_nnunet(folder: Path, stated: Description) -> bool:
    """Whether everything is stated as nnU-Net wants it; with less, names are found in the files as in other layouts."""
    complete = stated.file_ending is not None and stated.labels and (stated.channel_names or stated.modality)
    return bool(complete)


def read_nnunet(folder: Path, stated: Description, wanted: Sequence[str]) -> Understanding:
    """The cases of the table in ``dataset.json``, or else of ``imagesTr`` and ``labelsTr``.

    Raises:
        InputError: the description is wrong, or a folder is missing.
    """
    check_ending(stated)
    ending, channels = stated.file_ending or "", len(wanted) or len(stated_channels(stated))
    if stated.dataset:
        cases, findings = _listed(stated.dataset)
        layout = "the table of cases in dataset.json"
    else:
        cases, findings = _discovered(folder, ending, channels)
        layout = "nnU-Net's layout"
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
    return Understanding(
        layout=layout,
        root=folder,
        name=folder.name,
        stated=stated,
        cases=cases,
        test=_test_cases(folder, ending, channels),
        findings=findings,
    )


def _listed(table: Mapping[str, Listed]) -> tuple[list[Case], list[Finding]]:
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
            raise InputError(
                f"the folder has no {name}/",
                file=folder,
                expected="imagesTr/ and labelsTr/, for dataset.json is as nnU-Net wants it",
                remedy="Leave out file_ending from dataset.json to have files found under other names.",
            )
    images, findings = _numbered(folder, "imagesTr", ending)
    labels: dict[str, str] = {}
    for file in image_files(folder / "labelsTr"):
        stem, found = split_ending(file.name)
        if found.lower() != ending.lower():
            findings.append(_other_name(f"labelsTr/{file.name}", f"CASE{ending}"))
        else:
            labels[stem] = f"labelsTr/{file.name}"
    cases = []
    for id_ in sorted({*images, *labels}):
        files, label = images.get(id_, {}), labels.get(id_)
        problem = channel_problem(id_, files, label, channels)
        if problem is not None:
            findings.append(problem)
            continue
        try:
            cases.append(Case(id=id_, images=tuple(files[index] for index in sorted(files)), label=label))
        except ValueError as error:
            findings.append(left_out(files[0], str(error), severity="error", remedy="Rename the file."))
    return cases, findings


def _numbered(folder: Path, name: str, ending: str) -> tuple[dict[str, dict[int, str]], list[Finding]]:
    """Case id to channel number to path of the files ``CASE_0000`` in a sub-folder."""
    images: dict[str, dict[int, str]] = defaultdict(dict)
    findings = []
    for file in image_files(folder / name):
        stem, found = split_ending(file.name)
        match = CHANNEL_SUFFIX.match(stem)
        if found.lower() != ending.lower() or match is None:
            findings.append(_other_name(f"{name}/{file.name}", f"CASE_0000{ending}"))
        else:
            images[match["id"]][int(match["channel"])] = f"{name}/{file.name}"
    return images, findings


def _test_cases(folder: Path, ending: str, channels: int) -> list[Case]:
    """Images in ``imagesTs`` that are complete; what is not is told when it is predicted."""
    if not (folder / "imagesTs").is_dir():
        return []
    cases = []
    for id_, files in _numbered(folder, "imagesTs", ending)[0].items():
        if channel_problem(id_, files, None, channels) is None and all(map(readable_name, files.values())):
            try:
                cases.append(Case(id=id_, images=tuple(files[index] for index in sorted(files))))
            except ValueError:
                continue
    return cases


def _other_name(file: str, expected: str) -> Finding:
    return left_out(file, "a file is not named like those of the data set and is left out", expected=expected)


def channel_problem(id_: str, files: Mapping[int, str], label: str | None, channels: int) -> Finding | None:
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
        remedy="Every case needs exactly the channels that are named.",
    )


def image_files(folder: Path) -> list[Path]:
    """Files, and whatever else is named like an image: a broken link is not the same as no file."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(path for path in entries if path.is_file() or split_ending(path.name)[1])
