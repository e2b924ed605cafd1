"""The images of a folder: files with a known ending and sub-folders that hold a DICOM series, wherever they lie."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from autoseg.errors import UnreadableFileError
from autoseg.io.formats import is_series, split_ending
from autoseg.values import Finding

__all__ = ["SYSTEM_FILES", "Item", "Tree", "left_out", "readable_name", "walk"]

#: What operating systems leave in folders.
SYSTEM_FILES = re.compile(r"^(\.DS_Store|\._.+|Thumbs\.db|ehthumbs\.db|desktop\.ini)$", re.IGNORECASE)
#: Files of other kinds that nobody takes for a case.
_SIDE_FILES = (
    *(".json", ".tsv", ".csv", ".txt", ".md", ".pdf", ".xml", ".xlsx", ".html", ".db", ".ini", ".py", ".sh", ".bval"),
    *(".bvec", ".cfg", ".yaml", ".yml", ".raw", ".zraw"),
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
    for path, series in _entries(folder, frozenset(skip), set()):
        name = path.relative_to(root).as_posix()
        if not readable_name(name):
            findings.append(left_out(name, "the name is not UTF-8 text", severity="error", remedy="Rename it."))
            continue
        stem, ending = (path.name, "") if series else split_ending(path.name)
        if ending or series:
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
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UnreadableFileError(f"cannot read the folder: {error.strerror or error}", file=folder) from error
    for path in paths:
        if path.name.startswith(".") or path.name in skip or path.name == "__MACOSX":
            continue
        if not path.is_dir():
            yield path, False
        elif is_series(path):
            yield path, True
            yield from ((file, False) for file in sorted(path.iterdir()) if _lies_beside_series(file))
        else:
            yield from _entries(path, frozenset(), seen)


def _lies_beside_series(file: Path) -> bool:
    return bool(split_ending(file.name)[1]) and not file.name.startswith(".")


def readable_name(name: str) -> bool:
    """Whether a name from the file system is text, and not bytes that only this system can show."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def left_out(
    file: str,
    what: str,
    *,
    severity: str = "warning",
    expected: str | None = None,
    remedy: str = "Nothing is to be done, unless it belongs to the data set: rename or convert it then.",
) -> Finding:
    """A finding about a file that is not used."""
    shown = os.fsencode(file).decode(errors="backslashreplace")
    return Finding(severity=severity, what=what, file=shown, expected=expected, remedy=remedy)  # type: ignore[arg-type]
