"""The socket for file formats, and the choice of one by a file's ending.

A format reads a file into a Volume and writes a label map from one. Arrays are ``(channels, z, y, x)`` as stored; the
geometry says how they lie in space. File order (x, y, z) exists only inside the formats.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Protocol

from autoseg import plugins
from autoseg.errors import InputError
from autoseg.io.headers import Header
from autoseg.values import Volume

__all__ = ["Format", "format_of", "known_endings", "read_header", "split_ending"]


class Format(Protocol):
    """Reads and writes files with certain endings."""

    endings: tuple[str, ...]

    def header(self, path: Path) -> Header:
        """What ``read`` will give, without reading voxels where the format allows it.

        Raises:
            UnreadableFileError: the file is not what its ending says, or has no usable geometry.
        """
        ...

    def read(self, path: Path) -> Volume:
        """The file's content, all channels, in its stored order and number type.

        Raises:
            UnreadableFileError: the file is not what its ending says, or has no usable geometry.
        """
        ...

    def write(self, path: Path, volume: Volume) -> None:
        """Writes a label map ``(1, z, y, x)`` of integers with its geometry, atomically."""
        ...


@functools.cache
def _by_ending() -> dict[str, Format]:
    formats = (plugins.load("format", name)() for name in plugins.available("format"))
    return {ending: handler for handler in formats for ending in handler.endings}


def known_endings() -> tuple[str, ...]:
    """All file endings that can be read, longest first."""
    return tuple(sorted(_by_ending(), key=lambda ending: (-len(ending), ending)))


def split_ending(name: str) -> tuple[str, str]:
    """``("case_01", ".nii.gz")`` for ``case_01.nii.gz``; the ending is empty if no format knows it."""
    lower = name.lower()
    for ending in known_endings():
        if lower.endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)], name[-len(ending) :]
    return name, ""


def format_of(path: Path) -> Format:
    """The format for a file.

    Raises:
        InputError: no installed format knows its ending.
    """
    ending = split_ending(path.name)[1].lower()
    if not ending:
        raise InputError(
            "no installed format reads this kind of file", file=path, expected=f"one of {', '.join(known_endings())}"
        )
    return _by_ending()[ending]


def read_header(path: Path) -> Header:
    """What a file holds, without its voxels.

    Raises:
        InputError: no format knows it, or it cannot be read.
    """
    return format_of(path).header(path)
