"""Folders whose names and files tell what they hold: images/ beside labels/, all in one folder, or one folder per case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoseg.io.formats import is_series
from autoseg.io.layouts.description import Description
from autoseg.io.layouts.items import Item, walk
from autoseg.io.layouts.names import folder_part, folder_role, is_label_name
from autoseg.io.layouts.pairing import Pairs, channel_names, group_images, pair_up
from autoseg.io.layouts.understanding import Understanding
from autoseg.values import Case, Finding

__all__ = ["is_mixed", "is_paired", "read_mixed", "read_paired"]


@dataclass(kw_only=True)
class _Places:
    """Folders by what they hold."""

    images: list[Path] = field(default_factory=list)
    labels: list[Path] = field(default_factory=list)
    tests: list[Path] = field(default_factory=list)
    test_labels: list[Path] = field(default_factory=list)
    validation: bool = False


def _places(folder: Path) -> _Places:
    """What the sub-folders are called: ``imagesTr``, ``masks``, ``test``; and those in ``train/`` and ``val/``."""
    places = _Places()
    for path in _folders(folder):
        role, part = folder_role(path.name), folder_part(path.name)
        if part == "test":
            _add_test(places, path, role)
        elif role is not None:
            (places.images if role == "image" else places.labels).append(path)
            places.validation |= part == "validation"
        elif part is not None:
            inner = _places(path)
            places.images += inner.images
            places.labels += inner.labels
            places.tests += inner.tests
            places.validation |= part == "validation" and bool(inner.images)
    return places


def _add_test(places: _Places, path: Path, role: str | None) -> None:
    if role is not None:
        (places.tests if role == "image" else places.test_labels).append(path)
        return
    inner = [each for each in _folders(path) if folder_role(each.name)]
    places.tests += [each for each in inner if folder_role(each.name) == "image"] or ([] if inner else [path])
    places.test_labels += [each for each in inner if folder_role(each.name) == "label"]


def _folders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".") and not is_series(path)
    )


def is_paired(folder: Path, stated: Description) -> bool:
    """Whether there are folders of images and folders of labels."""
    places = _places(folder)
    return bool(places.images and places.labels)


def read_paired(folder: Path, stated: Description, wanted: Sequence[str]) -> Understanding:
    """Images and labels of the folders that are called so, paired by their names."""
    places = _places(folder)
    images, labels, findings = _Collected(), _Collected(), []
    for path in places.images:
        images.add(path, folder)
    for path in places.labels:
        labels.add(path, folder)
    findings += images.findings + labels.findings
    pairs = pair_up(images.items, labels.items, wanted)
    findings += pairs.findings
    if places.validation:
        findings.append(
            Finding(
                severity="note",
                what="cases for training and for validation are taken together: folds hold out cases by turns",
                remedy="A splits_final.json beside the folders tells other folds.",
            )
        )
    shown = " and ".join(
        "/, ".join(path.relative_to(folder).as_posix() for path in paths) + "/"
        for paths in (places.images, places.labels)
    )
    return Understanding(
        layout=f"images and labels in folders of their own: {shown}",
        root=folder,
        name=folder.name,
        stated=stated,
        cases=pairs.cases,
        test=_test_cases(places.tests, folder, pairs),
        channels=channel_names(pairs.channels),
        findings=findings,
        inferred=(_pairing_guess(pairs),),
    )


class _Collected:
    """Items of several folders, with what was left out."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.findings: list[Finding] = []

    def add(self, path: Path, root: Path) -> None:
        """Adds what lies below a folder."""
        tree = walk(path, root)
        self.items += tree.items
        self.findings += tree.findings


def _test_cases(folders: Sequence[Path], root: Path, pairs: Pairs) -> list[Case]:
    images: list[Item] = []
    for path in folders:
        images += [item for item in walk(path, root).items if not is_label_name(item.stem)]
    return group_images(images, [channel.casefold() for channel in pairs.channels])[0]


def _pairing_guess(pairs: Pairs) -> str:
    example = next((case for case in pairs.cases if case.label), None)
    if example is None:
        return "which files belong together"
    return f"which files belong together, {', '.join(example.images)} and {example.label} for example"


def is_mixed(folder: Path, stated: Description) -> bool:
    """Whether images and files that are called labels lie together, directly here or in a folder for each case."""
    items, _ = _training_items(folder)
    return any(is_label_name(item.stem) for item in items) and any(not is_label_name(item.stem) for item in items)


def read_mixed(folder: Path, stated: Description, wanted: Sequence[str]) -> Understanding:
    """Images and labels of one folder, or of one folder per case, told apart and paired by their names."""
    items, findings = _training_items(folder)
    labels = [item for item in items if is_label_name(item.stem)]
    pairs = pair_up([item for item in items if not is_label_name(item.stem)], labels, wanted)
    nested = sum("/" in item.stem for item in labels) * 2 > len(labels)
    return Understanding(
        layout="one folder for each case" if nested else "images and labels in one folder",
        root=folder,
        name=folder.name,
        stated=stated,
        cases=pairs.cases,
        test=_test_cases(_test_folders(folder), folder, pairs),
        channels=channel_names(pairs.channels),
        findings=(*findings, *pairs.findings),
        inferred=(_pairing_guess(pairs),),
    )


def _test_folders(folder: Path) -> list[Path]:
    return [path for path in _folders(folder) if folder_part(path.name) == "test"]


def _training_items(folder: Path) -> tuple[list[Item], list[Finding]]:
    """What lies here outside of folders for tests; a folder ``train`` in between does not count."""
    inner = [path for path in _folders(folder) if folder_part(path.name) in ("train", "validation")]
    collected = _Collected()
    for path in inner:
        collected.add(path, folder)
    tree = walk(folder, folder, skip=[path.name for path in (*inner, *_test_folders(folder))])
    return [*tree.items, *collected.items], [*tree.findings, *collected.findings]
