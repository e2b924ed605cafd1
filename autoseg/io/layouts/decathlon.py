"""The Medical Segmentation Decathlon's layout: ``dataset.json`` that lists ``training`` pairs; 4D files hold channels.

Also what was made from it for nnU-Net's first version, where ``x.nii.gz`` of the list is ``x_0000.nii.gz``, ….
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path

from autoseg.io.formats import split_ending
from autoseg.io.layouts.description import Description, Pair
from autoseg.io.layouts.items import readable_name
from autoseg.io.layouts.names import bare_forms, plain_id
from autoseg.io.layouts.understanding import Understanding
from autoseg.values import Case, Finding

__all__ = ["is_decathlon", "read_decathlon"]

_MOST_CHANNELS = 100


def is_decathlon(folder: Path, stated: Description) -> bool:
    """Whether the description lists its training pairs."""
    return any(isinstance(entry, Pair) for entry in stated.training)


def read_decathlon(folder: Path, stated: Description, wanted: Sequence[str]) -> Understanding:
    """The cases of the lists ``training`` and ``test``; files that are not there are told of when they are read."""
    cases, findings = [], []
    for entry in stated.training:
        pair = entry if isinstance(entry, Pair) else Pair(image=entry)
        images = _files(folder, pair.image)
        label = None if pair.label is None else _normal(pair.label)
        try:
            cases.append(Case(id=_id(pair.label or images[0], images), images=images, label=label))
        except (ValueError, IndexError) as error:
            findings.append(Finding(severity="error", what=str(error), file=stated.source, remedy="Correct the entry."))
    for given in stated.test:
        if isinstance(given, Pair) and given.label is not None:
            findings.append(Finding(severity="note", what="labels of test images are left alone", file=given.label))
    listed = {name for case in cases for name in (*case.images, case.label or "")}
    findings += _unlisted(folder, {posixpath.dirname(name) for name in listed}, listed)
    return Understanding(
        layout="the Decathlon's layout (training pairs in dataset.json)",
        root=folder,
        name=folder.name,
        stated=stated,
        cases=cases,
        test=_test_cases(folder, stated),
        findings=findings,
    )


def _normal(name: str) -> str:
    """``./imagesTr/x.nii.gz`` without its dot, with forward slashes."""
    return posixpath.normpath(name.replace("\\", "/"))


def _files(folder: Path, image: str | list[str]) -> tuple[str, ...]:
    names = [_normal(name) for name in ([image] if isinstance(image, str) else image)]
    if len(names) == 1 and not (folder / names[0]).exists():
        stem, ending = split_ending(names[0])
        numbered = [f"{stem}_{channel:04d}{ending}" for channel in range(_MOST_CHANNELS)]
        there = [name for name in numbered if (folder / name).exists()]
        return tuple(there or names)
    return tuple(names)


def _id(label: str, images: Sequence[str]) -> str:
    """The label's name; images may carry suffixes that it has not."""
    stem = split_ending(posixpath.basename(_normal(label)))[0]
    image = split_ending(posixpath.basename(images[0]))[0]
    return plain_id(stem if stem == image else list(bare_forms(stem, "label"))[-1])


def _test_cases(folder: Path, stated: Description) -> list[Case]:
    cases = []
    for entry in stated.test:
        images = _files(folder, entry.image if isinstance(entry, Pair) else entry)
        stem = split_ending(posixpath.basename(images[0]))[0].removesuffix("_0000") if images else ""
        if images and all(map(readable_name, images)) and (folder / images[0]).exists():
            try:
                cases.append(Case(id=stem, images=images))
            except ValueError:
                continue
    return cases


def _unlisted(folder: Path, folders: set[str], listed: set[str]) -> list[Finding]:
    """A warning for images beside the listed ones that the list does not name."""
    found = []
    for name in sorted(folders):
        for path in sorted((folder / name).iterdir()) if (folder / name).is_dir() else ():
            relative = posixpath.join(name, path.name) if name else path.name
            if not path.name.startswith(".") and split_ending(path.name)[1] and relative not in listed:
                found.append(relative)
    if not found:
        return []
    return [
        Finding(
            severity="warning",
            what=f"{len(found)} images lie beside those that dataset.json lists, and are left out",
            file=found[0],
            remedy="Add them to the list if they are meant to be used.",
        )
    ]
