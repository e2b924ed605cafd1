"""The socket for file formats, and the choice of one by a file's ending, or by a folder's content.

A format reads a file into a Volume and writes a label map from one. Arrays are ``(channels, z, y, x)`` as stored; the
geometry says how they lie in space. File order (x, y, z) exists only inside the formats. A folder with a DICOM series counts
as one file; so does any file of a series, which stands for the whole series.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from autoseg import plugins
from autoseg.errors import InputError, UnreadableFileError
from autoseg.io.dicom_files import holds_dicom, is_dicom
from autoseg.io.headers import LARGEST_BYTES, Header, require_within
from autoseg.values import Volume

__all__ = [
    "Format",
    "foreign_formats",
    "format_of",
    "is_series",
    "known_endings",
    "label_ending",
    "parts_of",
    "read_header",
    "split_ending",
]

#: Label maps of images that come without an ending: folders with a DICOM series.
SERIES_LABEL_ENDING = ".nii.gz"


class Format(Protocol):
    """Reads and writes files with certain endings.

    Attributes:
        endings: of the files that it reads, in small letters, with their dot.
        label_endings: for those of them that hold no label maps (lossy, or more than one file) the ending that label maps
            for such images get.
    """

    endings: tuple[str, ...]
    label_endings: Mapping[str, str]

    def header(self, path: Path) -> Header:
        """What ``read`` will give, without reading voxels; the file is large enough for what it promises.

        Raises:
            UnreadableFileError: the file is not what its ending says, has no usable geometry, or is too small.
        """
        ...

    def read(self, path: Path) -> Volume:
        """The file's content, all channels, in its stored order and number type. The header is checked first.

        Raises:
            UnreadableFileError: the file is not what its ending says, has no usable geometry, or is damaged.
        """
        ...

    def write(self, path: Path, volume: Volume) -> None:
        """Writes a label map ``(1, z, y, x)`` of integers with its geometry, atomically.

        Raises:
            InputError: such a file cannot hold it.
        """
        ...

    def parts(self, path: Path) -> tuple[Path, ...]:
        """All files that reading ``path`` depends on: usually itself."""
        ...


@functools.cache
def _handlers() -> dict[str, Format]:
    return {name: plugins.load("format", name)() for name in plugins.available("format")}


@functools.cache
def _by_ending() -> dict[str, Format]:
    return {ending: handler for handler in _handlers().values() for ending in handler.endings}


@functools.cache
def _series() -> Format:
    series: Format = plugins.load("format", "dicom")()
    return series


def known_endings() -> tuple[str, ...]:
    """All file endings that can be read, longest first. Files of a DICOM series are no images of their own."""
    return tuple(sorted(_by_ending(), key=lambda ending: (-len(ending), ending)))


def split_ending(name: str) -> tuple[str, str]:
    """``("case_01", ".nii.gz")`` for ``case_01.nii.gz``; the ending is empty if no format knows it."""
    lower = name.lower()
    for ending in known_endings():
        if lower.endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)], name[-len(ending) :]
    return name, ""


def is_series(path: Path) -> bool:
    """True for a folder that directly holds DICOM files."""
    return path.is_dir() and holds_dicom(path)


def label_ending(ending: str) -> str:
    """The ending of label maps for images with this ending: the same where that can hold them.

    ``.jpg`` would change labels, for example: label maps become ``.png``. DICOM series have no ending and get ``.nii.gz``.
    """
    if not ending:
        return SERIES_LABEL_ENDING
    handler = _by_ending().get(ending.lower())
    return ending if handler is None else handler.label_endings.get(ending.lower(), ending)


def format_of(path: Path) -> Format:
    """The format for a file, or for a folder with a DICOM series.

    Raises:
        InputError: no installed format knows it.
        UnreadableFileError: there cannot be such a path, or it must not be looked at.
    """
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a name that is too long, for example
        raise UnreadableFileError(f"cannot read the file: {error.strerror or error}", file=path) from error
    if is_folder:
        if holds_dicom(path):
            return _series()
        raise InputError(
            "this folder is no image: there are no DICOM files in it",
            file=path,
            remedy="Name the folder that directly holds the files of the series.",
        )
    ending = split_ending(path.name)[1].lower()
    if ending:
        return _by_ending()[ending]
    if is_dicom(path):
        return _series()
    raise InputError(
        "no installed format reads this kind of file",
        file=path,
        expected=f"one of {', '.join(known_endings())}, or a folder with a DICOM series",
    )


def foreign_formats(paths: Iterable[str]) -> list[str]:
    """Identities of the formats that read these files, if they come from other packages: what is read depends on them."""
    endings = {split_ending(Path(path).name)[1].lower() for path in paths}
    return sorted({_foreign()[ending] for ending in endings & _foreign().keys()})


@functools.cache
def _foreign() -> dict[str, str]:
    """The identity of the format by ending, where it is not autoseg's own, whose changes raise the caches' versions."""
    owners = {ending: name for name, handler in _handlers().items() for ending in handler.endings}
    identities = {ending: plugins.identity("format", name) for ending, name in owners.items()}
    return {ending: identity for ending, identity in identities.items() if identity != owners[ending]}


def read_header(path: Path, *, limit: int = LARGEST_BYTES) -> Header:
    """What a file holds, without reading its voxels.

    Args:
        path: of a file, or of a folder with a DICOM series.
        limit: bytes that the voxels may take.

    Raises:
        InputError: no format knows it.
        UnreadableFileError: it cannot be read, is too small for what its header promises, or promises more than ``limit``.
    """
    header = format_of(path).header(path)
    try:
        return require_within(header, limit)
    except ValueError as error:
        raise UnreadableFileError(str(error), file=path, remedy="Cut the image, or remove the file.") from error


def parts_of(path: Path) -> tuple[Path, ...]:
    """All files that an image depends on: itself; the files of its DICOM series; a header and its data file.

    A folder stands for all that is in it. What cannot be read depends on itself, so that caches can be asked before anything
    is read.
    """
    try:
        return (path,) if path.is_dir() else format_of(path).parts(path)
    except Exception:  # whatever it is, reading tells of it where it costs one case
        return (path,)
