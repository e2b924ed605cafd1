"""Compressed arrays that read like NumPy's: cut into boxes, each compressed by itself, so that a patch touches few.

The file holds the compressed boxes in C order of their places, then where each of them begins and ends (64 bits each), then
their CRC-32. The package ``blosc2`` compresses (Zstandard after a byte shuffle) and is imported only here; its own file
formats, which can carry code, are not used.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import msgspec
import numpy as np

from autoseg.errors import CompressedStoreError, DamagedCaseError
from autoseg.io.checked import StoredArray, checksummed
from autoseg.io.levels import Levels

__all__ = ["ChunkedArray", "Readable", "can_compress", "chunk_shape", "write_chunks"]

#: Voxels of a chunk: enough to compress well and to keep calls few, little enough that a patch reads little beside itself.
VOXELS_IN_CHUNK = 2**15
#: Of Blosc's head of a compressed chunk: its size, where the size of an entry and the filters stand, and the only filters.
HEAD, ENTRY_AT, FILTERS_AT, FILTERS = 32, 3, 16, bytes([1, 0, 0, 0, 0, 0])
#: Where the head tells in what form the rest is, with the only ones that ``write_chunks`` makes: Zstandard, or stored as it
#: is; with all entries there, or all of them zero.
CODEC_AT, CODECS, KIND_AT, KINDS = 2, (0, 4), 31, (0x00, 0x10)

Box = tuple[slice, ...]


class Readable(Protocol):
    """What an array of a stored case can do, whatever its form: slices of it are NumPy arrays."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes."""
        ...

    @property
    def ndim(self) -> int:
        """Number of axes."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Of what slices give."""
        ...

    def __getitem__(self, index: Any, /) -> Any: ...

    def __array__(self, *arguments: Any, **options: Any) -> np.ndarray: ...


def can_compress() -> bool:
    """Whether the package that compresses is installed."""
    try:
        _blosc2()
    except CompressedStoreError:
        return False
    return True


def _blosc2() -> ModuleType:
    try:
        import blosc2
    except ImportError as error:
        raise CompressedStoreError(
            "preprocessed cases are stored compressed here, and the package that reads them is not installed. "
            "Install it: pip install 'autoseg[blosc2]'. Or remove the workspace's folder preprocessed: cases are then made "
            "anew, uncompressed"
        ) from error
    module: ModuleType = blosc2
    return module


def chunk_shape(shape: Sequence[int], patch_size: Sequence[int]) -> tuple[int, ...]:
    """Edges of the chunks of an array ``(*spatial)``: in the proportions of the patches that will be read.

    Args:
        shape: of the array.
        patch_size: one entry per axis; axes of 1 are those along which single slices are read.
    """
    wide = [edge for edge in patch_size if edge > 1]
    scale = (VOXELS_IN_CHUNK / math.prod(wide)) ** (1 / len(wide)) if wide else 1.0
    edges = (1 if edge == 1 else round(edge * scale) for edge in patch_size)
    return tuple(min(size, max(1, edge)) for size, edge in zip(shape, edges, strict=True))


def _boxes(shape: Sequence[int], chunk: Sequence[int]) -> Iterator[Box]:
    """Where the chunks lie, in the order of the file."""
    steps = (range(0, size, edge) for size, edge in zip(shape, chunk, strict=True))
    for corner in itertools.product(*steps):
        yield tuple(slice(at, min(at + e, size)) for at, e, size in zip(corner, chunk, shape, strict=True))


def write_chunks(path: Path, array: Readable, chunk: Sequence[int], levels: Sequence[Levels] = ()) -> StoredArray:
    """Writes an array compressed; with levels (one per entry of axis 0, along which chunks are 1 thick) as their codes.

    Returns:
        What the record tells of it; the errors of the levels are measured.
    """
    blosc2 = _blosc2()
    ends, checksums, errors = [0], [], [0.0] * len(levels)
    encoders, decoders = [own.encoder() for own in levels], [own.decoder() for own in levels]
    with checksummed(path) as file:
        for box in _boxes(array.shape, chunk):
            part = np.ascontiguousarray(array[box])
            if levels:
                channel = box[0].start
                codes = encoders[channel](part)
                errors[channel] = max(errors[channel], float(np.abs(decoders[channel](codes) - part).max()))
                part = codes
            data = blosc2.compress2(
                part,
                codec=blosc2.Codec.ZSTD,
                clevel=1,
                filters=[blosc2.Filter.SHUFFLE],
                filters_meta=[0],
                typesize=part.itemsize,
                nthreads=1,
            )
            file.write(data)
            ends.append(file.bytes)
            checksums.append(zlib.crc32(data))
        file.write(np.array(ends, "<u8").tobytes())
        file.write(np.array(checksums, "<u4").tobytes())
    return StoredArray(
        file=path.name,
        bytes=file.bytes,
        checksum=file.checksum,
        shape=array.shape,
        dtype=array.dtype.name,
        chunk=tuple(chunk),
        levels=tuple(msgspec.structs.replace(own, error=error) for own, error in zip(levels, errors, strict=True)),
    )


class ChunkedArray:
    """A compressed array in a file; indexing with integers and slices of step 1 reads only the chunks that it touches.

    Args:
        path: of the file, of the size that the record tells.
        stored: what the record tells of it.
        case_id: whose array it is.

    Raises:
        CompressedStoreError: the package that decompresses is not installed.
        DamagedCaseError: when made or when read: the file is not as it was written.
    """

    def __init__(self, path: Path, stored: StoredArray, *, case_id: str) -> None:
        self._blosc2 = _blosc2()
        self._case_id = case_id
        self.path, self.shape, self.dtype = path, stored.shape, np.dtype(stored.dtype)
        assert stored.chunk is not None
        self._chunk, self._levels = stored.chunk, stored.levels
        self._decoders = [own.decoder() for own in stored.levels]
        self._counts = tuple(-(-size // edge) for size, edge in zip(self.shape, self._chunk, strict=True))
        count = math.prod(self._counts)
        self._file = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
        if self._file.size < 12 * count + 8:
            raise self._damaged("the file is too short")
        index = self._file[self._file.size - 12 * count - 8 :]
        self._ends = np.frombuffer(index[: 8 * (count + 1)].tobytes(), "<u8")
        self._checksums = np.frombuffer(index[8 * (count + 1) :].tobytes(), "<u4")

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self._read(tuple(slice(0, size) for size in self.shape))
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __getitem__(self, index: Any) -> Any:
        steps = index if isinstance(index, tuple) else (index,)
        if any(step is Ellipsis for step in steps):
            at = next(place for place, step in enumerate(steps) if step is Ellipsis)
            steps = (*steps[:at], *[slice(None)] * (self.ndim + 1 - len(steps)), *steps[at + 1 :])
        steps = (*steps, *[slice(None)] * (self.ndim - len(steps)))
        plain = all(step.step in (None, 1) if isinstance(step, slice) else hasattr(step, "__index__") for step in steps)
        if not plain or len(steps) != self.ndim:
            return np.asarray(self)[index]
        box, dropped = [], []
        for axis, (step, size) in enumerate(zip(steps, self.shape, strict=True)):
            if isinstance(step, slice):
                low, high, _ = step.indices(size)
                box.append(slice(low, max(low, high)))
            else:
                at = int(step)
                if not -size <= at < size:
                    raise IndexError(f"index {at} is out of bounds for axis {axis} with size {size}")
                box.append(slice(at % size, at % size + 1))
                dropped.append(axis)
        return self._read(tuple(box)).squeeze(tuple(dropped)) if dropped else self._read(tuple(box))

    def _read(self, box: Box) -> np.ndarray:
        result = np.empty([side.stop - side.start for side in box], self.dtype)
        if not result.size:
            return result
        touched = [
            range(side.start // edge, (side.stop - 1) // edge + 1) for side, edge in zip(box, self._chunk, strict=True)
        ]
        for place in itertools.product(*touched):
            part = self._decoded(place)
            source, target = [], []
            for at, edge, size, side in zip(place, self._chunk, part.shape, box, strict=True):
                low, high = max(side.start, at * edge), min(side.stop, at * edge + size)
                source.append(slice(low - at * edge, high - at * edge))
                target.append(slice(low - side.start, high - side.start))
            values = part[tuple(source)]
            result[tuple(target)] = self._decoders[place[0]](values) if self._decoders else values
        return result

    def _decoded(self, place: Sequence[int]) -> np.ndarray:
        """The chunk at a place, as it is stored."""
        number = 0
        for at, count in zip(place, self._counts, strict=True):
            number = number * count + at
        begin, end = int(self._ends[number]), int(self._ends[number + 1])
        data = self._file[begin:end].tobytes() if begin < end else b""
        if zlib.crc32(data) != self._checksums[number] or not data:
            raise self._damaged(f"chunk {number} is not as it was written")
        sides = zip(place, self._chunk, self.shape, strict=True)
        dtype = self._levels[place[0]].dtype if self._levels else self.dtype
        shape = [min(edge, size - at * edge) for at, edge, size in sides]
        if not self._holds(data, math.prod(shape), dtype.itemsize):
            raise self._damaged(f"chunk {number} does not hold what is recorded")
        part = np.zeros(shape, dtype)  # not empty: what is left out must not be what was in memory
        try:
            self._blosc2.decompress2(data, dst=part, nthreads=1)
        except (RuntimeError, ValueError) as error:
            raise self._damaged(f"chunk {number}: {error}") from error
        if self._levels and int(part.max()) >= self._levels[place[0]].codes:
            raise self._damaged(f"chunk {number} holds codes without level")
        return part

    def _holds(self, data: bytes, entries: int, size: int) -> bool:
        """Whether a compressed chunk says of itself that it gives so many entries of a size, in the form that is written.

        Blosc believes what it says, writes as many bytes, and knows forms that load code or refer to other memory.
        """
        if len(data) < HEAD or tuple(self._blosc2.get_cbuffer_sizes(data)[:2]) != (entries * size, len(data)):
            return False
        filters = data[FILTERS_AT : FILTERS_AT + len(FILTERS)]
        form = data[CODEC_AT] >> 5 in CODECS and data[KIND_AT] in KINDS
        return form and filters == FILTERS and data[ENTRY_AT] == size

    def _damaged(self, what: str) -> DamagedCaseError:
        return DamagedCaseError(self._case_id, f"{self.path.name}: {what}", file=self.path.parent)
