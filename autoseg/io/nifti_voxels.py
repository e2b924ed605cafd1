"""Headers and voxels of plain NIfTI files straight from their bytes: the file is unpacked once, and not copied.

ITK takes several times as long for a small file, and twice the memory for a large one. Whatever is not plain (scaled
intensities, other than three axes, oblique ones, rare types, extensions of the format, damage) is left to it.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from autoseg.io.headers import Header
from autoseg.io.nifti import RawHeader
from autoseg.scratch import contiguous, empty, in_files
from autoseg.values import Geometry

__all__ = ["can_be_mapped", "plain_header", "plain_voxels"]

HEADER_BYTES = 348
#: NIfTI's codes of number types, as NumPy names them.
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
GZIP = 16 + zlib.MAX_WBITS
#: Bytes that are unpacked together.
PIECE = 2**24
#: Codes of the unit of length: unknown, which is taken for millimetres, and millimetres.
MILLIMETRES = (0, 2)


def plain_header(raw: RawHeader, notes: tuple[str, ...]) -> Header | None:
    """What ITK makes of the header of a volume whose axes run exactly along those of the world; None for any other.

    Args:
        raw: the header.
        notes: to keep with it.
    """
    plain = (
        raw.version == 1
        and len(raw.sizes) == 3
        and min(raw.sizes) > 1
        and raw.code in TYPES
        and raw.scale[0] in (0, 1)
        and raw.scale[1] == 0
        and raw.units in MILLIMETRES
        and raw.qform_code > 0
    )
    if not plain:
        return None
    steps, form = np.abs(raw.steps[1:4]), raw.qform * np.array([[-1.0], [-1.0], [1.0]])  # RAS to LPS
    columns = form[:, :3] / steps + 0.0  # no negative zeros
    if not np.isin(np.abs(columns), (0.0, 1.0)).all():
        return None
    directions = [tuple(map(float, columns[:, axis])) for axis in (2, 1, 0)]
    geometry = Geometry(
        shape=(raw.sizes[2], raw.sizes[1], raw.sizes[0]),
        spacing=(float(steps[2]), float(steps[1]), float(steps[0])),
        origin=(float(form[0, 3]), float(form[1, 3]), float(form[2, 3])),
        directions=(directions[0], directions[1], directions[2]),  # type: ignore[arg-type]
    )
    return Header(channels=1, dtype=np.dtype(TYPES[raw.code]).name, geometry=geometry, notes=notes)


def plain_voxels(path: Path) -> np.ndarray | None:
    """The voxels ``(z, y, x)`` of a NIfTI-1 volume as they are stored, NaN included, in the machine's byte order.

    Args:
        path: ends in .nii or .nii.gz.

    Returns:
        An array that may be read only, or None if the file is not plain, or not whole.
    """
    if in_files():
        return _mapped_voxels(path)
    packed = path.read_bytes()
    unpacker = zlib.decompressobj(GZIP) if packed[:2] == b"\x1f\x8b" else None
    try:
        raw = unpacker.decompress(packed, HEADER_BYTES) if unpacker else packed[:HEADER_BYTES]
        form = _form(raw)
        if form is None:
            return None
        shape, dtype, begin = form
        wanted = begin + math.prod(shape) * dtype.itemsize
        if unpacker:
            # one byte more than is wanted, so that the end of the stream is reached and its checksum looked at
            rest = unpacker.decompress(unpacker.unconsumed_tail, wanted - HEADER_BYTES + 1)
            if not unpacker.eof or unpacker.unused_data:
                return None
            data, offset = rest, begin - HEADER_BYTES
        else:
            data, offset = packed, begin
    except zlib.error:
        return None
    if len(data) - offset != wanted - begin:
        return None
    voxels = np.frombuffer(data, dtype, offset=offset).reshape(shape)
    return voxels if dtype.isnative else voxels.astype(dtype.newbyteorder("="))


def can_be_mapped(path: Path) -> bool:
    """Whether ``plain_voxels`` gives the voxels of a file without holding them in memory, as far as its header tells."""
    try:
        return path.name.lower().endswith((".nii", ".nii.gz")) and _form(_opening(path)) is not None
    except (OSError, zlib.error):
        return False


def _opening(path: Path) -> bytes:
    with path.open("rb") as file:
        packed = file.read(4 * HEADER_BYTES)
    return (
        zlib.decompressobj(GZIP).decompress(packed, HEADER_BYTES)
        if packed[:2] == b"\x1f\x8b"
        else packed[:HEADER_BYTES]
    )


def _mapped_voxels(path: Path) -> np.ndarray | None:
    """The same voxels, in the file itself, or unpacked into a file without a name."""
    try:
        form = _form(_opening(path))
        if form is None:
            return None
        shape, dtype, begin = form
        size = math.prod(shape) * dtype.itemsize
        with path.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                if path.stat().st_size != begin + size:
                    return None
                voxels: np.ndarray = np.memmap(path, dtype, "r", offset=begin, shape=shape)
            else:
                file.seek(0)
                unpacked = _unpacked(file, begin, size)
                if unpacked is None:
                    return None
                voxels = unpacked.view(dtype).reshape(shape)
    except zlib.error:
        return None
    return voxels if dtype.isnative else contiguous(voxels, dtype.newbyteorder("="))


def _unpacked(file: BinaryIO, begin: int, size: int) -> np.ndarray | None:
    """The bytes from ``begin`` on of a packed file, piece by piece; None if they are not just as many, or damaged."""
    target, place, unpacker = empty((size,), np.uint8), -begin, zlib.decompressobj(GZIP)
    packed = file.read(PIECE)
    while packed:
        piece = unpacker.decompress(packed, PIECE)
        packed = unpacker.unconsumed_tail or (b"" if unpacker.eof else file.read(PIECE))
        part = np.frombuffer(piece, np.uint8)[max(0, -place) :]
        first, place = max(0, place), place + len(piece)
        if place > size:
            return None
        target[first : first + len(part)] = part
    whole = unpacker.eof and not unpacker.unused_data and not file.read(1)
    return target if whole and place == size else None


def _form(raw: bytes) -> tuple[tuple[int, ...], np.dtype, int] | None:
    """Shape ``(z, y, x)``, number type and offset of the voxels; None if there is anything unusual about them."""
    if len(raw) < HEADER_BYTES or raw[344:348] != b"n+1\0":
        return None
    order = {HEADER_BYTES.to_bytes(4, "little"): "<", HEADER_BYTES.to_bytes(4, "big"): ">"}.get(raw[:4])
    if order is None:
        return None
    sizes = np.frombuffer(raw, f"{order}i2", 8, 40).tolist()
    code, bits = np.frombuffer(raw, f"{order}i2", 2, 70).tolist()
    begin, slope, intercept = np.frombuffer(raw, f"{order}f4", 3, 108).tolist()
    plain = (
        sizes[0] == 3
        and min(sizes[1:4]) > 0
        and code in TYPES
        and slope in (0, 1)
        and intercept == 0
        and HEADER_BYTES < begin < 2**24
        and begin == int(begin)
    )
    if not plain:
        return None
    dtype = np.dtype(order + TYPES[code])
    return ((sizes[3], sizes[2], sizes[1]), dtype, int(begin)) if bits == 8 * dtype.itemsize else None
