"""Files with checksums made while they are written: arrays as ``.npy`` for memory maps, or compressed in chunks.

The checksum is CRC-32: it finds every flipped byte and every cut, at more than 2 GB a second; it is no protection against
people, and need not be. A compressed array has one for each chunk, too, which is checked whenever the chunk is read.
A file may be changed on purpose, though, its checksums too: then what it holds may be wrong, but nothing worse happens.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec
import numpy as np

from autoseg.io.levels import Levels
from autoseg.values import digest
from autoseg.values.json_form import Value, one_of, require, require_each, require_file_name

__all__ = ["StoredArray", "checksum_of", "checksummed", "is_sealed", "mapped_npy", "sealed", "write_npy"]

BYTES_AT_ONCE = 2**22
#: Numbers that an array may hold.
DTYPES = (*(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "float16", "float32", "float64")
MOST_AXES = 8
#: Entries of an array, and of a chunk, which is decompressed as a whole: far more than is written.
MOST_ENTRIES, MOST_IN_CHUNK = 2**40, 2**22

Document = TypeVar("Document", bound=Value)


def sealed(document: Document) -> Document:
    """A document whose field ``checksum`` is the digest of everything else in it."""
    return msgspec.structs.replace(document, checksum=_own_checksum(document))


def is_sealed(document: Any) -> bool:
    """Whether a document is as it was sealed."""
    return bool(document.checksum == _own_checksum(document))


def _own_checksum(document: Any) -> str:
    return digest(msgspec.structs.replace(document, checksum=""))


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

    def __post_init__(self) -> None:
        require_file_name("the file", self.file, field="file")
        require(self.bytes >= 0, "bytes out of range", field="bytes", found=self.bytes)
        require(self.dtype in DTYPES, "no type of numbers", field="dtype", found=self.dtype, expected=one_of(DTYPES))
        require(0 < len(self.shape) <= MOST_AXES, "number of axes out of range", field="shape", found=len(self.shape))
        require_each(self.shape, "size", 0, MOST_ENTRIES, field="shape")
        require(math.prod(self.shape) <= MOST_ENTRIES, "the array is too large", field="shape", found=self.shape)
        if self.chunk is not None:
            require(len(self.chunk) == len(self.shape), "every axis needs its edge", field="chunk", found=self.chunk)
            require_each(self.chunk, "edge", 1, MOST_IN_CHUNK, field="chunk")
            require(math.prod(self.chunk) <= MOST_IN_CHUNK, "the chunks are too large", field="chunk", found=self.chunk)
        if self.levels:
            whole = self.chunk is not None and self.chunk[0] == 1 and len(self.levels) == self.shape[0]
            require(whole, "every channel needs its levels, and chunks of its own", field="levels")
            require(self.dtype == "float32", "levels stand for float32", field="dtype", found=self.dtype)


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


def mapped_npy(path: Path, stored: StoredArray) -> np.ndarray:
    """The array of a ``.npy`` file as a memory map.

    Raises:
        ValueError: the file does not hold what the record tells, and nothing else.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{path.name} has version {version} of NumPy's form")
        try:
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        except (RecursionError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"{path.name} does not tell what it holds") from error
        offset, size = file.tell(), path.stat().st_size
    if (shape, fortran and len(shape) > 1, dtype) != (stored.shape, False, np.dtype(stored.dtype)):
        order = " in Fortran's order" if fortran else ""
        raise ValueError(f"{path.name} holds {dtype} {shape}{order}, recorded are {stored.dtype} {stored.shape}")
    if size != offset + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{path.name} has {size} bytes, which are not those of {stored.dtype} {stored.shape}")
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, mode="r", offset=offset, shape=shape)


def checksum_of(path: Path) -> int:
    """CRC-32 of a file's content."""
    checksum = 0
    with path.open("rb") as file:
        while data := file.read(BYTES_AT_ONCE):
            checksum = zlib.crc32(data, checksum)
    return checksum
