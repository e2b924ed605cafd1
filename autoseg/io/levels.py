"""Intensities in 16 bits: which float32 each code stands for, chosen per channel, with the error known.

A channel of few distinct intensities (8-bit pictures, CT that was not resampled) keeps them all, in a table: no error.
Any other channel gets evenly spaced levels, zero among them, so that zero stays zero. They lie ``2 * MOST_ERROR`` of the
channel's deviation apart, or as close as 16 bits allow where single voxels are far out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from autoseg.values.json_form import Value, require

__all__ = ["MOST_ERROR", "Levels", "choose_levels"]

#: Largest error, in deviations of the channel (and never over this number itself): what rounding to bfloat16, in which
#: networks compute, does to an intensity of 0.5.
MOST_ERROR = 2.0**-10
#: Channels with at most this many distinct intensities keep them exactly.
MOST_DISTINCT = 4096
MOST_CODES = 2**16
#: From zero, so that float32 holds levels apart.
MOST_STEPS = 2**23
SAMPLE = 2**16
#: Places of the grid on which values of a table are looked up.
MOST_SLOTS = 2**20
#: Voxels that are looked at together: enough for numpy, little for memory.
VOXELS_AT_ONCE = 2**20


class Levels(Value, frozen=True, kw_only=True):
    """What the codes of one channel stand for: ``values[code]`` if there are values, else ``(first + code) * step``.

    Attributes:
        values: the distinct intensities of the channel, ascending; empty for evenly spaced levels.
        first: of the levels, in steps from zero.
        step: between levels, in normalised intensity.
        codes: how many there are.
        error: the largest difference between an intensity and its level, as measured when it was stored.
    """

    values: tuple[float, ...] = ()
    first: int = 0
    step: float = 1.0
    codes: int
    error: float = 0.0

    def __post_init__(self) -> None:
        require(0 < self.codes <= MOST_CODES, "codes out of range", field="codes", found=self.codes)
        require(len(self.values) in (0, self.codes), "every code needs its value", field="values")
        require(self.step > 0, "the step must be positive", field="step", found=self.step)
        require(abs(self.first) <= MOST_STEPS, "first out of range", field="first", found=self.first)

    @property
    def dtype(self) -> np.dtype:
        """Of the codes: the smallest that holds them."""
        return np.dtype(np.uint8 if self.codes <= 256 else np.uint16)

    def encoder(self) -> Callable[[np.ndarray], np.ndarray]:
        """A function that gives the code of the nearest level; in a table, of intensities that are in it."""
        if self.values:
            return _by_table(self._table(), self.dtype)
        step, first = np.float32(self.step), np.float32(self.first)

        def encode(intensities: np.ndarray) -> np.ndarray:
            codes = np.rint(intensities / step)
            codes -= first
            return np.clip(codes, 0, self.codes - 1, out=codes).astype(self.dtype)

        return encode

    def decoder(self) -> Callable[[np.ndarray], np.ndarray]:
        """A function that gives the float32 intensities that codes stand for."""
        table, step, first = self._table(), np.float32(self.step), np.float32(self.first)

        def decode(codes: np.ndarray) -> np.ndarray:
            if len(table):
                return np.take(table, codes)
            intensities = codes.astype(np.float32)  # whole numbers below 2**24: exact
            intensities += first
            intensities *= step
            return intensities

        return decode

    def _table(self) -> np.ndarray:
        return np.array(self.values, np.float32)


def _by_table(table: np.ndarray, dtype: np.dtype) -> Callable[[np.ndarray], np.ndarray]:
    """A function that gives the place in an ascending table of intensities that are in it."""
    gap = np.diff(table).min(initial=np.inf)
    if table[0] + gap * MOST_SLOTS > table[-1]:
        # places on a grid as fine as the closest two: several times faster than a search
        slots = np.rint((table - table[0]) / gap).astype(np.int32)
        if (np.diff(slots) > 0).all():
            codes = np.zeros(slots[-1] + 1, dtype)
            codes[slots] = np.arange(len(table))
            return lambda intensities: codes[np.rint((intensities - table[0]) / gap).astype(np.int32)]
    return lambda intensities: np.searchsorted(table, intensities).astype(dtype)


def choose_levels(channel: np.ndarray) -> Levels | None:
    """The levels that suit a channel best; None if it holds what is not finite, or cannot be cut into levels.

    Args:
        channel: float32 ``(*spatial)``, at least one voxel.
    """
    low, high = float(channel.min()), float(channel.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    flat = channel.reshape(-1)
    sample = flat[:: max(1, flat.size // SAMPLE)]
    if len(np.unique(sample)) <= MOST_DISTINCT:
        values = _distinct(flat)
        if values is not None:
            return Levels(values=tuple(values.tolist()), codes=len(values))
    deviation = float(sample.std(dtype=np.float64))
    step = max(2 * MOST_ERROR * min(1.0, deviation), (high - low) / (MOST_CODES - 3))
    if not 1e-30 < step < 1e30:
        return None
    first, last = math.floor(low / step), math.ceil(high / step)
    if (
        max(abs(first), abs(last)) >= MOST_STEPS
    ):  # far from zero in a narrow range: float32 could not hold the levels apart
        return None
    return Levels(first=first, step=float(np.float32(step)), codes=last - first + 1)


def _distinct(flat: np.ndarray) -> np.ndarray | None:
    """The distinct values, ascending, unless they are too many."""
    values = flat[:0]
    for begin in range(0, flat.size, VOXELS_AT_ONCE):
        values = np.union1d(values, flat[begin : begin + VOXELS_AT_ONCE])
        if len(values) > MOST_DISTINCT:
            return None
    return values
