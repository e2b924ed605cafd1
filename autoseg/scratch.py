"""Arrays for which memory has no room: in files without a name, for as long as a piece of work says so.

Within ``arrays_in(folder)`` the large arrays of that thread lie in mapped files, which the system writes out and reads again
as it needs; outside of it, in memory. The bits are the same. A file has its whole size on the disk before it is used, so a
full disk is known before the work, and it has no name: nothing is left of it, whatever ends the program.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SMALL", "arrays_in", "contiguous", "empty", "in_files", "nameless", "zeros"]

_folder: ContextVar[Path | None] = ContextVar("folder of large arrays", default=None)
#: Bytes of an array that lies in memory in any case.
SMALL = 2**26
#: Entries that are converted together.
AT_ONCE = 2**22


@contextlib.contextmanager
def arrays_in(folder: Path | None) -> Iterator[None]:
    """Large arrays that this thread makes within lie in the folder; None: in memory."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def in_files() -> bool:
    """Whether large arrays lie in files here."""
    return _folder.get() is not None


def empty(shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
    """A new array; in a file its entries are zero.

    Raises:
        OSError: there is no room on the disk.
    """
    folder, size = _folder.get(), math.prod(shape) * np.dtype(dtype).itemsize
    return np.empty(shape, dtype) if folder is None or size <= SMALL else nameless(folder, shape, dtype)


def zeros(shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
    """A new array of zeros."""
    folder, size = _folder.get(), math.prod(shape) * np.dtype(dtype).itemsize
    return np.zeros(shape, dtype) if folder is None or size <= SMALL else nameless(folder, shape, dtype)


def contiguous(array: np.ndarray, dtype: Any, *, copy: bool = False) -> np.ndarray:
    """The array in C order and of that type; the same one if it is so already, unless a copy is wanted."""
    wanted = np.dtype(dtype)
    if not copy and array.dtype == wanted and array.flags.c_contiguous:
        return array
    if not in_files() or array.size * wanted.itemsize <= SMALL:
        return np.array(array, wanted, order="C")
    made = empty(array.shape, wanted)
    for source, target in zip(array, made, strict=True) if array.ndim == 4 else [(array, made)]:
        _convert(source, target)
    return made


def _convert(source: np.ndarray, target: np.ndarray) -> None:
    rows = max(1, AT_ONCE // max(1, math.prod(source.shape[1:])))
    for begin in range(0, len(source), rows):
        target[begin : begin + rows] = source[begin : begin + rows]


def nameless(folder: Path, shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
    """An array of zeros in a file without a name.

    Raises:
        OSError: there is no room on the disk.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        _reserve(file.fileno(), math.prod(shape) * np.dtype(dtype).itemsize)
        return np.memmap(file, dtype, "r+", shape=tuple(shape))


def _reserve(file: int, size: int) -> None:
    """Takes the room on the disk now: writing to a mapped file when the disk is full would end the program."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    nothing, written = bytes(2**20), 0
    while written < size:
        written += os.write(file, nothing[: size - written])
