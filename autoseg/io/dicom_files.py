"""Which files are DICOM, and what their first bytes say: enough to find a series and to tell pictures from reports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from autoseg.errors import UnreadableFileError

__all__ = ["FileMeta", "dicom_files", "file_meta", "holds_dicom", "is_dicom"]

ENDINGS = (".dcm", ".dicom", ".ima")
#: Endings that DICOM files do not have: folders full of these are not opened file by file.
OTHERS = (
    *(".gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".gipl", ".raw", ".zraw", ".png", ".jpg", ".jpeg", ".bmp"),
    *(".tif", ".tiff", ".json", ".csv", ".tsv", ".txt", ".md", ".zip", ".xml", ".pdf"),
)
_PREFIX = "1.2.840.10008."
#: DICOM objects that are no images: indexes, presentation states, raw data, reports, documents, structure sets, plans.
_NO_IMAGES = tuple(
    _PREFIX + kind
    for kind in (
        "1.3.10",
        "5.1.4.1.1.11.",
        "5.1.4.1.1.66",
        "5.1.4.1.1.88.",
        "5.1.4.1.1.104.",
        "5.1.4.1.1.481.3",
        "5.1.4.1.1.481.5",
    )
)
#: Transfer syntaxes without compression.
_PLAIN = (_PREFIX + "1.2", _PREFIX + "1.2.1", _PREFIX + "1.2.2")


class FileMeta(NamedTuple):
    """What a file's own header group says.

    Attributes:
        kind: the SOP class, or empty.
        syntax: the transfer syntax, or empty.
    """

    kind: str = ""
    syntax: str = ""

    @property
    def is_image(self) -> bool:
        """False for what is certainly none."""
        return not self.kind.startswith(_NO_IMAGES)

    @property
    def is_plain(self) -> bool:
        """Whether the voxels are not compressed."""
        return self.syntax in _PLAIN


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its signature, or by its ending."""
    name = path.name.lower()
    if name.endswith(OTHERS) or not path.is_file():
        return False
    if name.endswith(ENDINGS):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def dicom_files(folder: Path) -> Iterator[Path]:
    """The DICOM files directly in a folder, sorted by name; hidden files and indexes are passed over.

    Raises:
        UnreadableFileError: the folder cannot be read.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UnreadableFileError(f"cannot read the folder: {error.strerror or error}", file=folder) from error
    for path in paths:
        if not path.name.startswith(".") and path.name.upper() != "DICOMDIR" and is_dicom(path):
            yield path


def holds_dicom(folder: Path) -> bool:
    """Whether there is any DICOM file directly in a folder."""
    return next(dicom_files(folder), None) is not None


def file_meta(path: Path) -> FileMeta:
    """The SOP class and the transfer syntax of a file: the group 0002, which is always little-endian with explicit types."""
    with path.open("rb") as file:
        head = file.read(4096)
    found: dict[int, str] = {}
    if head[128:132] == b"DICM":
        at = 132
        while at + 8 <= len(head) and head[at : at + 2] == b"\x02\x00":
            element = int.from_bytes(head[at + 2 : at + 4], "little")
            long = head[at + 4 : at + 6] in (b"OB", b"OW", b"OF", b"SQ", b"UN", b"UT")
            begin = at + (12 if long else 8)
            size = int.from_bytes(head[at + 8 : at + 12] if long else head[at + 6 : at + 8], "little")
            found[element] = head[begin : begin + size].decode("latin-1").strip("\0 ")
            at = begin + size
    return FileMeta(kind=found.get(0x02, ""), syntax=found.get(0x10, ""))
