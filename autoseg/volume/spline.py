"""Spline interpolation on another grid, separable, in blocks: exact, in float32, in threads, and with little memory.

Interpolating with a cubic spline is linear and separable, and a new voxel depends on the old ones nearby only: the weights
of the cardinal cubic spline fall to 1e-7 within twelve voxels. So each axis has a narrow band of weights, and a volume is
resampled block by block of new slices, by small dense products with pieces of those bands. The result equals
``scipy.ndimage.zoom(order, mode="nearest", grid_mode=True)`` (half-pixel centres, edges repeated, no smoothing).
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from autoseg.executors import usable_cpus

__all__ = [
    "Sizes",
    "Slab",
    "axis_operator",
    "between_bytes",
    "combine_slices",
    "in_threads",
    "nearest",
    "resample_slices",
    "resample_spline",
    "slabs_of",
    "slice_groups",
    "thread_count",
]

Sizes = tuple[int, int, int]
Item = TypeVar("Item")
#: Smaller weights are left out. They are denormal numbers far from a voxel, which make products many times slower.
SMALLEST_WEIGHT = 1e-7
#: Voxels on each side that a cubic spline's weights are taken of; beyond, all are smaller than the smallest weight.
REACH = 14
#: The pole of the cubic spline's filter.
POLE = math.sqrt(3) - 2
#: New voxels of one axis that are computed together: more are fewer products, each with more weights that are zero.
TOGETHER = 20
#: Multiply-adds of one product. OpenBLAS starts its own threads above; ours share the volume already, and its threads wait
#: for each other by spinning, which on a busy machine makes a product ten times slower.
PRODUCT = 2**18
#: Bytes of what one thread works on in between: as much as fits its cache.
CACHED = 2**20
#: Bytes that the C library keeps for each thread after its work.
KEPT = 2**23
#: Voxels of a result that are worth starting threads for.
WORTH_THREADS = 2**21


class _Piece(NamedTuple):
    """Weights of some new voxels of an axis: ``new[rows] = matrix @ old[columns]``."""

    rows: slice
    columns: slice
    matrix: np.ndarray


def nearest(old: int, new: int) -> np.ndarray:
    """The old voxel nearest to each new one of an axis, at (i + 0.5) * old / new - 0.5; halves go up."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


def _cardinal(distance: np.ndarray) -> np.ndarray:
    """The cubic spline that is 1 at 0 and 0 at all other integers, in float64."""
    below = np.floor(distance).astype(int)
    total = np.zeros(distance.shape)
    for step in range(-1, 3):
        apart = np.abs(distance - (below + step))
        near, far = 2 / 3 - apart**2 + apart**3 / 2, (2 - apart) ** 3 / 6
        total += math.sqrt(3) * POLE ** np.abs(below + step) * np.where(apart < 1, near, far)
    return total


def _taps(old: int, new: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Per new voxel the old ones that it depends on and their weights in float64, both ``(new, taps)``."""
    if order == 0:
        return nearest(old, new)[:, None], np.ones((new, 1))
    numerator = (2 * np.arange(new) + 1) * old - new  # of the position, over 2 * new
    below = numerator // (2 * new)
    share = (numerator - below * 2 * new) / (2 * new)
    steps = np.arange(2) if order == 1 else np.arange(1 - REACH, REACH + 1)
    weights = np.stack([1 - share, share], axis=1) if order == 1 else _cardinal(share[:, None] - steps)
    weights[np.abs(weights) < SMALLEST_WEIGHT] = 0
    weights /= weights.sum(1, keepdims=True)
    return np.clip(below[:, None] + steps, 0, old - 1), weights


@functools.lru_cache(maxsize=64)
def axis_operator(old: int, new: int, order: int) -> np.ndarray:
    """The ``(new, old)`` float32 matrix that resamples one axis with a spline of that order (0, 1 or 3)."""
    return _dense(*_taps(old, new, order), old)


@functools.lru_cache(maxsize=64)
def _pieces(old: int, new: int, order: int) -> tuple[_Piece, ...]:
    """The same matrix as a band: its non-zero pieces."""
    places, weights = _taps(old, new, order)
    pieces = []
    for rows in _split(new, TOGETHER):
        used = places[rows][weights[rows] != 0]
        begin, end = int(used.min()), int(used.max()) + 1
        within = np.clip(places[rows], begin, end - 1) - begin  # places outside have no weight
        pieces.append(_Piece(rows, slice(begin, end), _dense(within, weights[rows], end - begin)))
    return tuple(pieces)


def _dense(places: np.ndarray, weights: np.ndarray, old: int) -> np.ndarray:
    matrix = np.zeros((len(places), old))
    np.add.at(matrix, (np.arange(len(places))[:, None], places), weights)
    matrix = matrix.astype(np.float32)
    matrix.setflags(write=False)  # it is cached
    return matrix


def _split(size: int, most: int) -> list[slice]:
    """Equal parts of at most that many."""
    count = -(-size // most)
    edges = [index * size // count for index in range(count + 1)]
    return [slice(begin, end) for begin, end in itertools.pairwise(edges)]


def slice_groups(shape: Sequence[int], voxel_bytes: int = 4, most: int = CACHED) -> list[slice]:
    """Slices of a volume ``(slices, rows, columns)`` that together take at most so many bytes, but at least one each."""
    return _split(shape[0], max(1, most // max(1, voxel_bytes * shape[1] * shape[2])))


def in_threads(work: Callable[[Item], object], items: Sequence[Item], voxels: int) -> None:
    """Calls a function for each item, in threads if there are many voxels; an error of one is raised.

    The threads are those of the process, as many as it has processors, whoever calls: several cases at once do not start
    several times as many.
    """
    if voxels < WORTH_THREADS or len(items) < 2 or thread_count() < 2:
        for item in items:
            work(item)
    else:
        for _ in _threads().map(work, items):
            pass


@functools.cache
def thread_count() -> int:
    """Threads for one volume: as many as there are processors, or fewer if ``OMP_NUM_THREADS`` says so.

    That is what numerical libraries are told by; a process that shares the machine with others gets its part so.
    """
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(usable_cpus(), max(1, int(told))) if told.isdecimal() else usable_cpus()


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_count(), thread_name_prefix="autoseg-volume")


def between_bytes(old: Sequence[int], new: Sequence[int]) -> int:
    """The most memory that resampling takes beside its input and its result."""
    if old[0] == new[0] == 1:  # a picture: rows
        old, new = (old[1], 1, old[2]), (new[1], 1, new[2])
    slice_bytes = max(old[1], new[1]) * max(old[2], new[2]) * 4
    block = (TOGETHER + 1) * old[1] * old[2] * 4 if old[0] != new[0] else 0
    return thread_count() * (block + 2 * max(CACHED, slice_bytes) + KEPT)


def resample_spline(
    array: np.ndarray,
    shape: Sizes,
    orders: Sequence[int],
    *,
    limits: tuple[float, float] | None = None,
    into: np.ndarray | None = None,
) -> np.ndarray:
    """One ``(*spatial)`` array on another grid.

    Args:
        array: of any number type and memory layout.
        shape: of the result.
        orders: the spline order per axis.
        limits: clip to these.
        into: float32 array for the result; None for a new one.
    """
    result, ending = np.empty(shape, np.float32) if into is None else into, _Ending(limits)
    in_threads(
        lambda slab: slab.write(array, result[slab.place], ending), slabs_of(array.shape, shape, orders), result.size
    )
    return result


@dataclass(frozen=True)
class Slab:
    """A part of a new grid that is computed by itself.

    Attributes:
        place: of the part in the new grid.
        shape: of the part.
    """

    place: tuple[slice, slice, slice]
    shape: Sizes
    _orders: tuple[int, int, int]
    _piece: _Piece | None
    _flat: bool

    def of(self, array: np.ndarray) -> np.ndarray:
        """What an ``(*spatial)`` array on the old grid is here, float32: the same bits as in the whole result."""
        part = np.empty(self.shape, np.float32)
        self.write(array, part, _Ending(None))
        return part

    def write(self, array: np.ndarray, target: np.ndarray, ending: _Ending) -> None:
        """The same, into ``target``."""
        if self._flat:
            array, target = np.moveaxis(array, 1, 0), np.moveaxis(target, 1, 0)
        if self._piece is None:
            rows = self.place[1 if self._flat else 0]
            _in_plane(_contiguous(array[rows], ending.offset), target, self._orders, ending)
            return
        block = combine_slices(self._piece.matrix, array[self._piece.columns], ending.offset)
        for part in slice_groups(block.shape):
            _in_plane(block[part], target[part], self._orders, ending)


def slabs_of(old: Sequence[int], new: Sizes, orders: Sequence[int]) -> list[Slab]:
    """The parts in which ``resample_spline`` computes an array of a new shape; each needs but a part of the old one."""
    flat = old[0] == new[0] == 1  # a picture: its rows are shared among the threads
    along = 1 if flat else 0
    within = (orders[1], 0, orders[2]) if flat else (orders[0], orders[1], orders[2])
    pieces: Sequence[_Piece | None]
    if old[along] == new[along]:
        shape = (old[1], 1, old[2]) if flat else old
        rows = slice_groups(shape)
        pieces = [None] * len(rows)
    else:
        pieces = _pieces(old[along], new[along], within[0])
        rows = [piece.rows for piece in pieces if piece is not None]
    slabs = []
    for part, piece in zip(rows, pieces, strict=True):
        place = [slice(0, size) for size in new]
        place[along] = part
        first, second, third = (each.stop - each.start for each in place)
        slabs.append(Slab((place[0], place[1], place[2]), (first, second, third), within, piece, flat))
    return slabs


def resample_slices(array: np.ndarray, orders: Sequence[int], apart: int, *, into: np.ndarray) -> None:
    """A ``(*spatial)`` array of thick slices on another grid: each slice is resampled and clipped to its own range first.

    Args:
        array: of any number type and memory layout.
        orders: the spline order per axis; 0 or 1 for the one apart.
        apart: the axis across the slices.
        into: float32 array for the result.
    """
    array, target = np.moveaxis(array, apart, 0), np.moveaxis(into, apart, 0)
    within = [0, *(orders[axis] for axis in range(3) if axis != apart)]
    pieces = _pieces(len(array), len(target), orders[apart])

    def work(piece: _Piece) -> None:
        slices = array[piece.columns]
        block = np.empty((len(slices), *target.shape[1:]), np.float32)
        for index, old in enumerate(slices):
            ending = _Ending((float(old.min()), float(old.max())))
            _in_plane(_contiguous(old[None], ending.offset), block[index : index + 1], within, ending)
        if len(array) == len(target):
            target[piece.rows] = block
        else:
            target[piece.rows] = combine_slices(piece.matrix, block)
            np.clip(target[piece.rows], block.min(), block.max(), out=target[piece.rows])

    in_threads(work, pieces, target.size)


class _Ending:
    """What ends the work on a block: the offset is added again, and values are clipped."""

    def __init__(self, limits: tuple[float, float] | None) -> None:
        self.limits, self.offset = limits, 0.0
        if limits is not None and abs(limits[0] + limits[1]) / 2 > limits[1] - limits[0]:
            self.offset = float(np.float32((limits[0] + limits[1]) / 2))

    def __call__(self, block: np.ndarray) -> None:
        if self.offset:
            block += np.float32(self.offset)
        if self.limits is not None:
            np.clip(block, *self.limits, out=block)


def _contiguous(array: np.ndarray, offset: float) -> np.ndarray:
    if offset:
        return np.subtract(array, offset, dtype=np.float64 if array.dtype.itemsize > 2 else np.float32).astype(
            np.float32, order="C"
        )
    return np.ascontiguousarray(array, np.float32)


def combine_slices(matrix: np.ndarray, source: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """New slices ``(slices, rows, columns)`` from old ones by a matrix ``(new, old)``, some rows at a time, in one thread.

    Args:
        matrix: float32.
        source: of any number type and memory layout.
        offset: to subtract from it first.
    """
    block = np.empty((len(matrix), *source.shape[1:]), np.float32)
    most = max(1, CACHED // (4 * len(source) * source.shape[2]))
    for rows in _split(source.shape[1], most):
        part = _contiguous(source[:, rows], offset)
        _left(matrix, part.reshape(len(part), -1), block[:, rows].reshape(len(matrix), -1))
    return block


def _in_plane(block: np.ndarray, target: np.ndarray, orders: Sequence[int], ending: _Ending) -> None:
    """Resamples rows and columns of contiguous slices into ``target``, which need not be contiguous."""
    slices, rows, columns = target.shape
    straight = target.flags.c_contiguous
    if block.shape[2] != columns:
        last = block.shape[1] == rows and straight
        wide = target if last else np.empty((slices, block.shape[1], columns), np.float32)
        for piece in _pieces(block.shape[2], columns, orders[2]):
            flat = block.reshape(-1, block.shape[2])[:, piece.columns]
            _right(flat, piece.matrix, wide.reshape(-1, columns)[:, piece.rows])
        block = wide
    if block.shape[1] != rows:
        high = target if straight else np.empty(target.shape, np.float32)
        for piece in _pieces(block.shape[1], rows, orders[1]):
            _left(piece.matrix, block[:, piece.columns], high[:, piece.rows])
        block = high
    if block is not target:
        target[...] = block
    ending(target)


def _left(matrix: np.ndarray, source: np.ndarray, target: np.ndarray) -> None:
    """``target = matrix @ source`` for ``(..., old, columns)``, in products that stay in one thread."""
    for columns, width in _tiles(source.shape[-1], matrix.size):
        np.matmul(matrix, _tiled(source, columns, width), out=_tiled(target, columns, width))


def _tiled(array: np.ndarray, columns: slice, width: int) -> np.ndarray:
    """A view of ``(..., rows, columns)`` as ``(..., tiles, rows, width)``."""
    part = array[..., columns]
    return np.moveaxis(part.reshape(*part.shape[:-1], -1, width), -2, -3)


def _right(source: np.ndarray, matrix: np.ndarray, target: np.ndarray) -> None:
    """``target = source @ matrix.T`` for ``(rows, old)``, in products that stay in one thread."""
    for rows, height in _tiles(len(source), matrix.size):
        part, result = source[rows], target[rows]
        np.matmul(part.reshape(-1, height, part.shape[1]), matrix.T, out=result.reshape(-1, height, result.shape[1]))


def _tiles(size: int, weights: int) -> Iterable[tuple[slice, int]]:
    """Columns in tiles of one width, so that a product stays small, and what is left over."""
    width = min(size, max(16, PRODUCT // weights // 16 * 16))
    whole = size // width * width
    yield slice(0, whole), width
    if whole < size:
        yield slice(whole, size), size - whole
