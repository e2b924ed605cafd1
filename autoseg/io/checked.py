"""Files with checksums made while they are written: arrays as ``.npy`` for memory maps, or compressed in chunks.

The checksum is CRC-32: it finds every flipped byte and every cut, at more than 2 GB a second; it is no protection against
people, and need not be. A compressed array has one for each chunk, too, which is checked whenever the chunk is read.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from autoseg.io.levels import Levels
from autoseg.values.json_form import Value

__all__ = ["StoredArray", "checksum_of", "checksummed", "write_npy"]

BYTES_AT_ONCE = 2**22


class StoredArray(Value, frozen=True, kw_only=True):
    """An array in a file, as the record of a case tells of it.

    Attributes:
        file: its name.
        bytes: its size.
        checksum: CRC-32 of its content.
        shape: of the array.
        dtype: of the array as it is read, in NumPy's words.
        chunk: shape of the chunks of a compressed array; None for a ``.npy`` file.
        levels: of each channel, where the array is stored as codes.
    """

    file: str
    bytes: int
    checksum: int
    shape: tuple[int, ...]
    dtype: str
    chunk: tuple[int, ...] | None = None
    levels: tuple[Levels, ...] = ()


class _Checksummed:
    """A file that counts and sums what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.bytes = self.checksum = 0

    def write(self, data: bytes | memoryview) -> None:
        # not numpy's tofile, which forgets why a write failed: a full disk must be told as one
        self._file.write(data)
        self.checksum = zlib.crc32(data, self.checksum)
        self.bytes += len(data)


@contextmanager
def checksummed(path: Path) -> Iterator[_Checksummed]:
    """A new file to write to."""
    with path.open("wb") as file:
        yield _Checksummed(file)


def write_npy(path: Path, array: np.ndarray) -> StoredArray:
    """Writes an array in NumPy's form, without a second copy of it in memory."""
    array = np.ascontiguousarray(array)
    with checksummed(path) as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        data = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        for begin in range(0, len(data), BYTES_AT_ONCE):
            file.write(data[begin : begin + BYTES_AT_ONCE])
    return StoredArray(
        file=path.name, bytes=file.bytes, checksum=file.checksum, shape=array.shape, dtype=array.dtype.name
    )


def checksum_of(path: Path) -> int:
    """CRC-32 of a file's content."""
    checksum = 0
    with path.open("rb") as file:
        while data := file.read(BYTES_AT_ONCE):
            checksum = zlib.crc32(data, checksum)
    return checksum
