"""Where the voxels of each class are: flat positions in the smallest integers, ascending, class after class."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from autoseg.io.chunks import Readable

__all__ = ["Locations", "flat_locations"]


def flat_locations(locations: Mapping[int, np.ndarray], shape: tuple[int, ...]) -> tuple[np.ndarray, dict[int, int]]:
    """Positions as ascending places in C order, one class after another, and how many each class has.

    Args:
        locations: class to positions ``(n, 3)``; classes without any are left out.
        shape: of the array that they lie in.
    """
    dtype = np.min_scalar_type(max(1, int(np.prod(shape, dtype=np.int64)) - 1))
    flat, counts = [np.empty(0, dtype)], {}
    for label, positions in sorted(locations.items()):
        if len(positions):
            flat.append(np.sort(np.ravel_multi_index(tuple(np.asarray(positions).T), shape)).astype(dtype))
            counts[label] = len(positions)
    return np.concatenate(flat), counts


class Locations(Mapping[int, np.ndarray]):
    """Class to positions ``(n, 3)``, ascending in C order; computed when asked for, from flat places.

    Args:
        places: gives the flat places of all classes; asked once, when the first is needed.
        counts: class to how many of them are its own, in order.
        shape: of the array that they lie in.
    """

    def __init__(self, places: Callable[[], Readable], counts: Mapping[int, int], shape: tuple[int, ...]) -> None:
        self._read, self._shape = places, shape
        self._places: Readable | None = None
        ends = np.cumsum([0, *counts.values()]).tolist()
        self._ranges = dict(zip(counts, itertools.pairwise(ends), strict=True))

    def __iter__(self) -> Iterator[int]:
        return iter(self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    def __getitem__(self, label: int) -> np.ndarray:
        begin, end = self._ranges[label]
        return np.stack(np.unravel_index(self._flat()[begin:end], self._shape), axis=-1)

    def draw(self, label: int, random: np.random.Generator) -> tuple[int, ...]:
        """One position of a class, all with equal chance."""
        begin, end = self._ranges[label]
        place = int(self._flat()[begin + int(random.integers(end - begin))])
        return tuple(int(at) for at in np.unravel_index(place, self._shape))

    def _flat(self) -> Readable:
        if self._places is None:
            self._places = self._read()
        return self._places
