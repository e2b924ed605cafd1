"""Where the sums over tiles lie: in memory, or, if they are too large for it, in a file without a name."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import numpy as np

from autoseg.errors import AutosegError, InputError
from autoseg.machine import gibibytes, machine_memory

__all__ = ["empty_sums"]

#: Share of the free memory that the sums of one image may take: its label map needs some, and so does the next image.
SHARE_OF_ROOM = 0.5
#: Bytes that are taken without asking the system what it has.
SMALL = 2**26


def empty_sums(shape: tuple[int, ...], scratch: Path | None, room: int | None = None) -> np.ndarray:
    """An array of zeros, float32, of this shape.

    A file has its whole size on the disk before it is used, so a full disk is known before the work. It has no name: nothing
    is left of it, whatever ends the program.

    Args:
        shape: of the array.
        scratch: folder of the file; None for memory in any case.
        room: bytes that may be taken of memory; None for half of what is free.

    Raises:
        InputError: it fits neither memory nor, without a folder, anything else.
        AutosegError: there is no room for the file.
    """
    size = 4 * math.prod(shape)
    if room is None and size <= SMALL:
        return np.zeros(shape, np.float32)
    if room is None:
        memory = machine_memory()
        room = size if memory is None else int(SHARE_OF_ROOM * memory.room)
    if size <= room:
        return np.zeros(shape, np.float32)
    if scratch is None:
        if size <= 2 * room:  # nothing else will be needed beside it that is as large
            return np.zeros(shape, np.float32)
        raise InputError(
            f"the network's outputs for this image take {gibibytes(size)}, and there is room for {gibibytes(room)}",
            remedy="Predict its file with the command, autoseg predict, which keeps them on the disk.",
        )
    try:
        with tempfile.TemporaryFile(dir=scratch) as file:
            _reserve(file.fileno(), size)
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        raise AutosegError(
            f"the network's outputs for this image take {gibibytes(size)}, which memory has no room for, nor the disk of "
            f"{scratch}: {error.strerror or error}. Make room on one of them, or name an output folder elsewhere with -o"
        ) from error


def _reserve(file: int, size: int) -> None:
    """Takes the room on the disk now: writing to a mapped file when the disk is full would end the program."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    zeros, written = bytes(2**20), 0
    while written < size:
        written += os.write(file, zeros[: size - written])
