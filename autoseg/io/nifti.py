"""What ITK's NIfTI reader and writer do not tell: truncated files, and voxels that are not numbers.

ITK reads a truncated file of integers without a word, reports a write to a full disk as done, and turns NaN into 0. So the
header is looked at here, too.
"""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np

__all__ = ["is_nifti", "require_whole", "with_nonfinite"]

HEADER_BYTES = 348
#: NIfTI's codes of floating-point voxels.
FLOATS = {16: "f4", 64: "f8"}


class _Header(NamedTuple):
    order: str
    code: int
    begin: int
    data_bytes: int

    @property
    def file_bytes(self) -> int:
        return self.begin + self.data_bytes


def is_nifti(path: Path) -> bool:
    """Whether the file's ending says NIfTI, in any case of letters."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def require_whole(path: Path) -> None:
    """Raises ``ValueError`` unless the file holds as many bytes as its header says; other formats are not looked at."""
    if not is_nifti(path):
        return
    with _opened(path) as file:
        wanted = _read_header(file).file_bytes
        if _stated_bytes(path) == wanted % 2**32 and path.stat().st_size > HEADER_BYTES // 8:
            return
        found = file.tell()
        while found < wanted and (block := file.read(min(2**20, wanted - found))):
            found += len(block)
    if found < wanted:
        raise ValueError(f"the file is truncated: {found} bytes of {wanted}")


def with_nonfinite(array: np.ndarray, path: Path) -> np.ndarray:
    """The array, as ITK read it from this NIfTI file, with NaN and infinity as the file has them.

    Args:
        array: floating-point voxels in the file's order.
        path: of the file.
    """
    with _opened(path) as file:
        header = _read_header(file)
        if header.code not in FLOATS:
            return array
        file.seek(header.begin)
        raw = file.read(header.data_bytes)
    stored = np.frombuffer(raw, header.order + FLOATS[header.code], array.size).reshape(array.shape)
    broken = ~np.isfinite(stored)
    if broken.any():
        array = array.copy()
        array[broken] = stored[broken]
    return array


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")


def _stated_bytes(path: Path) -> int:
    """Size of the uncompressed file modulo 2**32: a plain file's own, or what the end of a gzip file says."""
    if not path.name.lower().endswith(".gz"):
        return path.stat().st_size % 2**32
    with path.open("rb") as file:
        file.seek(-4, 2)
        return int.from_bytes(file.read(4), "little")


def _read_header(file: BinaryIO) -> _Header:
    raw = file.read(HEADER_BYTES)
    if len(raw) < HEADER_BYTES:
        raise ValueError("the file is truncated within its header")
    orders = {HEADER_BYTES.to_bytes(4, "little"): "<", HEADER_BYTES.to_bytes(4, "big"): ">"}
    if raw[:4] not in orders:
        second = raw[4:7] == b"n+2"  # the magic of NIfTI-2
        raise ValueError("this is a NIfTI-2 file; NIfTI-1 is supported" if second else "this is not a NIfTI-1 file")
    order = orders[raw[:4]]

    def number(kind: str, offset: int) -> float:
        return float(np.frombuffer(raw, order + kind, 1, offset)[0])

    axes = min(7, max(0, int(number("i2", 40))))
    sizes = [max(1, int(number("i2", 42 + 2 * axis))) for axis in range(axes)]
    begin = number("f4", 108)
    if not HEADER_BYTES <= begin < 2**31:
        begin = HEADER_BYTES + 4
    return _Header(
        order=order,
        code=int(number("i2", 70)),
        begin=int(begin),
        data_bytes=math.prod(sizes) * int(number("i2", 72)) // 8,
    )
