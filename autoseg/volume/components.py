"""Connected components of label maps: what lies apart from the largest one. Voxels touch by faces, edges and corners.

A label map is looked through once, for its runs: equal voxels of foreground one after the other along the last axis. Runs
of an object that touch are joined, and there are a hundred times fewer of them than voxels, so every further object costs
next to nothing, however far its parts lie from each other. Of pure noise, which has nearly as many, the pairs that touch
take 30 bytes a voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["Runs", "foreground_runs", "keep_largest_components", "smaller_components", "voxels_of"]

#: Rows next to a row, as steps along the first two axes; those on the other side come when it is their turn.
NEXT_ROWS = ((0, 1), (1, -1), (1, 0), (1, 1))


class Runs(NamedTuple):
    """The foreground of a label map; runs are sorted by place.

    Attributes:
        first: place of each run's first voxel in the flattened label map.
        length: in voxels.
        value: of these voxels.
        shape: of the label map.
    """

    first: np.ndarray
    length: np.ndarray
    value: np.ndarray
    shape: tuple[int, int, int]


def foreground_runs(label_map: np.ndarray) -> Runs:
    """The runs of a label map, integers ``(*spatial)`` of three axes; 0 is background."""
    width = label_map.shape[2]
    firsts, lengths, values = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, label_map.dtype)]
    for number, plane in enumerate(label_map):
        begins = np.ones(plane.shape, bool)
        np.not_equal(plane[:, 1:], plane[:, :-1], out=begins[:, 1:])
        first = np.flatnonzero(begins)
        value = plane[first // width, first % width] if first.size else np.empty(0, label_map.dtype)
        kept = value != 0
        firsts.append(first[kept] + number * plane.size)
        lengths.append(np.diff(first, append=plane.size)[kept])
        values.append(value[kept])
    depth, height, width = label_map.shape
    return Runs(np.concatenate(firsts), np.concatenate(lengths), np.concatenate(values), (depth, height, width))


def smaller_components(runs: Runs, alive: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Runs of an object that are not in its largest component; of several of the largest size, all are the largest.

    Args:
        runs: of a label map.
        alive: bool per run: whether it is still foreground.
        values: integers of which the object consists; it is one object, whatever integers touch each other.

    Returns:
        Their numbers, ascending.
    """
    chosen = np.flatnonzero(alive & np.isin(runs.value, values))
    if chosen.size < 2:
        return chosen[:0]
    ends = _touching(runs.first[chosen], runs.length[chosen], runs.shape)
    graph = coo_array((np.ones(ends.shape[1], np.int8), (ends[0], ends[1])), shape=(chosen.size, chosen.size))
    _, component = connected_components(graph, directed=False)
    sizes = np.bincount(component, runs.length[chosen])
    return chosen[sizes[component] < sizes.max()]


def _touching(first: np.ndarray, length: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Pairs of runs that touch, ``(2, pairs)``."""
    _, height, width = shape
    row = first // width
    start = first + row  # rows lie one place apart, so that the end of one does not touch the beginning of the next
    stop = start + length
    following = np.flatnonzero(stop[:-1] == start[1:]).astype(np.int32)
    pairs = [np.stack([following, following + 1])]
    for along, across in NEXT_ROWS:
        inside = np.flatnonzero((row % height + across >= 0) & (row % height + across < height))
        shift = (along * height + across) * (width + 1)
        begin = np.searchsorted(stop, start[inside] + shift, side="left").astype(np.int32)
        end = np.searchsorted(start, stop[inside] + shift, side="right").astype(np.int32)
        count = np.maximum(end - begin, 0)
        pairs.append(np.stack([np.repeat(inside.astype(np.int32), count), _counted_up(begin, count)]))
    return np.concatenate(pairs, axis=1)


def _counted_up(begin: np.ndarray, count: np.ndarray) -> np.ndarray:
    """One after the other, so many integers from each beginning on; of the type of the beginnings."""
    ahead = np.cumsum(count) - count
    return np.arange(count.sum(), dtype=begin.dtype) + np.repeat((begin - ahead).astype(begin.dtype), count)


def voxels_of(runs: Runs, numbers: np.ndarray) -> np.ndarray:
    """Places of the voxels of some runs in the flattened label map."""
    return _counted_up(runs.first[numbers], runs.length[numbers])


def keep_largest_components(label_map: np.ndarray, objects: Sequence[Sequence[int]]) -> np.ndarray:
    """A label map in which of each object only the largest component is left; everything else of it is background.

    Args:
        label_map: integers ``(*spatial)``, three axes.
        objects: the integers of each, one after the other: a later one is looked at as the earlier ones left it.

    Returns:
        A new label map of the same type.
    """
    result = np.array(label_map, order="C")
    runs = foreground_runs(result)
    alive = np.ones(len(runs.first), bool)
    for values in objects:
        smaller = smaller_components(runs, alive, values)
        alive[smaller] = False
        result.reshape(-1)[voxels_of(runs, smaller)] = 0
    return result
