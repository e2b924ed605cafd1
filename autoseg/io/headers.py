"""What a file says about its voxels before any of them is read, and whether that can be true of a file of its size.

A header may promise more voxels than there is memory, by accident or on purpose. So every format tells its header first, and
compares it with the size of the file, which costs nothing; only then is memory taken.
"""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from autoseg.values import Geometry, Value

__all__ = [
    "DEFLATE_RATIO",
    "LARGEST_BYTES",
    "LARGEST_RATIO",
    "Header",
    "opened",
    "require_room",
    "require_stream",
    "require_within",
]

#: No image of more voxels than this is read: 64 GiB.
LARGEST_BYTES = 2**36
#: Deflate, in gzip files and PNG, cannot make data smaller than this.
DEFLATE_RATIO = 1032
#: The same for the strongest of all compressions that pictures have (runs of 128 KiB in 4 bytes).
LARGEST_RATIO = 2**15


class Header(Value, frozen=True, kw_only=True):
    """What a file holds, as reading it will give it.

    Attributes:
        channels: how many.
        dtype: number type of the voxels, by numpy's name.
        geometry: shape, spacing, origin and directions of the grid.
        palette: of a picture whose voxels are numbers of colours: red, green and blue of every number from 0 on.
        spaced: False if the file says nothing about millimetres: its spacing is one pixel.
        notes: what was decided in reading that somebody may want to know, each in one sentence.
    """

    channels: int
    dtype: str
    geometry: Geometry
    palette: tuple[tuple[int, int, int], ...] = ()
    spaced: bool = True
    notes: tuple[str, ...] = ()

    @property
    def voxels(self) -> int:
        """Numbers in the array, over all channels."""
        return self.channels * math.prod(self.geometry.shape)

    @property
    def bytes(self) -> int:
        """Size of the array that reading gives."""
        return self.voxels * np.dtype(self.dtype).itemsize


def require_within(header: Header, limit: int = LARGEST_BYTES) -> Header:
    """The header, if its voxels take no more than ``limit`` bytes.

    Raises:
        ValueError: they take more.
    """
    if header.bytes > limit:
        raise ValueError(
            f"the header promises {header.channels} x {header.geometry.shape} voxels of {header.dtype}, "
            f"{_readable(header.bytes)}, more than the limit of {_readable(limit)}"
        )
    return header


def require_room(wanted: int, found: int, *, ratio: int = 1) -> None:
    """Compares the bytes that a header promises with those that are there.

    Args:
        wanted: bytes of the voxels, uncompressed.
        found: bytes in the file that can hold them.
        ratio: the strongest that the file's compression can be.

    Raises:
        ValueError: the file is too small.
    """
    if wanted > found * ratio:
        cause = "the file is truncated" if ratio == 1 else "the file is truncated, or its header is wrong"
        raise ValueError(f"{cause}: {found} bytes, which cannot hold the {wanted} that the header promises")


def opened(path: Path) -> BinaryIO:
    """The file's content as a stream, decompressed if its name ends in ``.gz``."""
    return cast(BinaryIO, gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")


def require_stream(path: Path, wanted: int, *, smallest: int = 43) -> None:
    """Raises ``ValueError`` unless the file, decompressed if its name says so, has at least ``wanted`` bytes.

    Args:
        path: of a plain or ``.gz`` file.
        wanted: bytes from its beginning.
        smallest: a compressed file of no more bytes is decompressed to be sure; others are believed what they say of
            themselves.
    """
    size = path.stat().st_size
    if not path.name.lower().endswith(".gz"):
        found = size
    else:
        require_room(wanted, size, ratio=DEFLATE_RATIO)
        with path.open("rb") as file:
            file.seek(-min(4, size), 2)
            stated = int.from_bytes(file.read(4), "little")
        if stated == wanted % 2**32 and size > smallest:
            return
        found = 0
        with opened(path) as stream:
            while found < wanted and (block := stream.read(min(2**20, wanted - found))):
                found += len(block)
    if found < wanted:
        raise ValueError(f"the file is truncated: {found} bytes of {wanted}")


def _readable(size: int) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size //= 1024
    return f"{size} {unit}"
