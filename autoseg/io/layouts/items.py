"""The images of a folder: files with a known ending and sub-folders that hold a DICOM series, wherever they lie."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from autoseg.io.formats import split_ending
from autoseg.values import Finding

__all__ = ["Item", "Tree", "holds_dicom", "left_out", "readable_name", "walk"]

_DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
#: Files of other kinds that nobody takes for a case.
_SIDE_FILES = (
    *(".json", ".tsv", ".csv", ".txt", ".md", ".pdf", ".xml", ".xlsx", ".html", ".db", ".ini", ".py", ".sh", ".bval"),
    *(".bvec", ".cfg", ".yaml", ".yml"),
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image or label map.

    Attributes:
        path: relative to the data set's root, with forward slashes.
        stem: the path without its ending, relative to the folder that was walked; tells case and channel.
        ending: empty for a folder with a DICOM series.
    """

    path: str
    stem: str
    ending: str


@dataclass(frozen=True, kw_only=True)
class Tree:
    """What a walk met: items by path, and findings about what was left out."""

    items: tuple[Item, ...]
    findings: tuple[Finding, ...]


def walk(folder: Path, root: Path, *, skip: Iterable[str] = ()) -> Tree:
    """All images below a folder, in order of their paths; hidden files and folders are of no account.

    Args:
        folder: to look into, with its sub-folders.
        root: that paths are relative to.
        skip: names of entries directly in the folder that are not looked at.
    """
    items: list[Item] = []
    findings: list[Finding] = []
    for path, is_series in _entries(folder, frozenset(skip), set()):
        name = path.relative_to(root).as_posix()
        if not readable_name(name):
            findings.append(left_out(name, "the name is not UTF-8 text", severity="error", remedy="Rename it."))
            continue
        stem, ending = (path.name, "") if is_series else split_ending(path.name)
        if ending or is_series:
            way = path.relative_to(folder).parent.as_posix()
            items.append(Item(path=name, stem=str(PurePosixPath(way, stem)), ending=ending))
        elif path.suffix.casefold() not in _SIDE_FILES:
            findings.append(left_out(name, "a file that is no image is left out", severity="note"))
    return Tree(items=tuple(sorted(items, key=lambda item: item.path)), findings=tuple(findings))


def _entries(folder: Path, skip: frozenset[str], seen: set[Path]) -> Iterator[tuple[Path, bool]]:
    """Files, and folders with a DICOM series (True); links are followed, each folder once."""
    real = folder.resolve()
    if real in seen:
        return
    seen.add(real)
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in skip or path.name == "__MACOSX":
            continue
        if not path.is_dir():
            yield path, False
        elif holds_dicom(path):
            yield path, True
            yield from ((file, False) for file in sorted(path.iterdir()) if _lies_beside_series(file))
        else:
            yield from _entries(path, frozenset(), seen)


def _lies_beside_series(file: Path) -> bool:
    ending = split_ending(file.name)[1]
    return bool(ending) and ending.casefold() not in _DICOM_ENDINGS and not file.name.startswith(".")


def holds_dicom(folder: Path) -> bool:
    """Whether a folder directly holds DICOM files, by their endings or, where they have none, their first bytes."""
    looked = 0
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix.casefold() in _DICOM_ENDINGS:
            return True
        if split_ending(path.name)[1] or path.suffix.casefold() in _SIDE_FILES:
            continue
        if path.name != "DICOMDIR" and _has_dicom_mark(path):
            return True
        looked += 1
        if looked == 3:  # a folder of something else
            break
    return False


def _has_dicom_mark(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def readable_name(name: str) -> bool:
    """Whether a name from the file system is text, and not bytes that only this system can show."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def left_out(
    file: str, what: str, *, severity: str = "warning", expected: str | None = None, remedy: str | None = None
) -> Finding:
    """A finding about a file that is not used."""
    shown = os.fsencode(file).decode(errors="backslashreplace")
    return Finding(severity=severity, what=what, file=shown, expected=expected, remedy=remedy)  # type: ignore[arg-type]
