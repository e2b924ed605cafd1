"""Label maps on another grid: each old voxel around a new one votes for its label by its linear weight.

That is the rule of resampling one indicator per label linearly, the largest of which wins, without making any indicator: a
new voxel lies between two old ones per axis, so at most eight have a vote. Where the eight agree, as they do nearly
everywhere, nothing is to be counted; so time and memory do not depend on how many labels there are. Votes are counted in
integers, so that a tie is a tie.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from autoseg.volume.spline import Sizes, in_threads, nearest, slice_groups

__all__ = ["resample_labels"]

#: Bytes of the slices that one thread works on: enough that few neighbours are looked at twice.
SLAB = 2**22
#: New voxels whose votes are counted together: what they take fits a cache.
VOTES_AT_ONCE = 2**13


class _Axis(NamedTuple):
    """Per new voxel of an axis: its nearest old one, the two it lies between, and their votes, integers as float64."""

    nearest: np.ndarray
    places: tuple[np.ndarray, ...]
    votes: tuple[np.ndarray, ...]

    def part(self, rows: slice) -> _Axis:
        return _Axis(
            self.nearest[rows], tuple(each[rows] for each in self.places), tuple(each[rows] for each in self.votes)
        )


def resample_labels(labels: np.ndarray, shape: Sizes, orders: Sequence[int]) -> np.ndarray:
    """A label map ``(*spatial)`` on another grid; the label with the most votes wins.

    A tie goes to the nearest voxel's label if that is among the tied (halves go up), else to the smallest label.

    Args:
        labels: integers.
        shape: of the result.
        orders: per axis 1 for linear votes, 0 for the nearest voxel's vote alone.

    Returns:
        Of the same integer type.
    """
    axes = [_axis(old, new, order) for old, new, order in zip(labels.shape, shape, orders, strict=True)]
    result = np.empty(shape, labels.dtype)

    def work(rows: slice) -> None:
        _resample_slices(labels, [axes[0].part(rows), *axes[1:]], result[rows])

    in_threads(work, slice_groups(shape, labels.itemsize + 3, SLAB), result.size)
    return result


def _axis(old: int, new: int, order: int) -> _Axis:
    places = nearest(old, new)
    if order == 0 or old in (1, new):
        return _Axis(places, (places,), (np.ones(new),))
    numerator = (2 * np.arange(new) + 1) * old - new  # of the position, over 2 * new
    below = numerator // (2 * new)
    above = (numerator - below * 2 * new).astype(np.float64)
    return _Axis(places, (np.clip(below, 0, old - 1), np.clip(below + 1, 0, old - 1)), (2 * new - above, above))


def _resample_slices(labels: np.ndarray, axes: Sequence[_Axis], result: np.ndarray) -> None:
    begin = min(int(each.min()) for each in axes[0].places)
    end = max(int(each.max()) for each in axes[0].places) + 1
    source = labels[begin:end]
    axes = [
        _Axis(axes[0].nearest - begin, tuple(each - begin for each in axes[0].places), axes[0].votes),
        *axes[1:],
    ]
    result[...] = _gathered(source, [axis.nearest for axis in axes])
    differ = _disagreement(source, axes)
    if differ is None:
        return
    corners = [np.minimum(axis.places[0], size - 1) for axis, size in zip(axes, differ.shape, strict=True)]
    places = np.flatnonzero(_gathered(differ, corners))
    flat = result.reshape(-1)
    for start in range(0, len(places), VOTES_AT_ONCE):
        part = places[start : start + VOTES_AT_ONCE]
        flat[part] = _winners(source, axes, np.unravel_index(part, result.shape), flat[part])


def _gathered(array: np.ndarray, places: Sequence[np.ndarray]) -> np.ndarray:
    for axis, each in enumerate(places):
        if len(each) != array.shape[axis] or not np.array_equal(each, np.arange(len(each))):
            array = array.take(each, axis)
    return array


def _disagreement(labels: np.ndarray, axes: Sequence[_Axis]) -> np.ndarray | None:
    """For each cell of neighbouring old voxels whether they differ; None if no new voxel lies between any."""
    differ: np.ndarray | None = None
    lower = labels
    for axis, each in enumerate(axes):
        if len(each.places) == 2 and labels.shape[axis] > 1:
            first, second = (
                tuple(part if other == axis else slice(None) for other in range(3))
                for part in (slice(None, -1), slice(1, None))
            )
            apart = lower[second] != lower[first]
            if differ is not None:
                apart |= differ[first]
                apart |= differ[second]
            differ, lower = apart, lower[first]
    return differ


def _winners(labels: np.ndarray, axes: Sequence[_Axis], at: tuple[np.ndarray, ...], close: np.ndarray) -> np.ndarray:
    """The labels with the most votes at some new voxels.

    Args:
        labels: the old label map.
        axes: between which voxels new ones lie.
        at: indices of the new voxels per axis.
        close: labels of their nearest old voxels.
    """
    voters, votes = [], []
    for corner in itertools.product(*(range(len(axis.places)) for axis in axes)):
        places = [axis.places[side][where] for axis, side, where in zip(axes, corner, at, strict=True)]
        shares = [axis.votes[side][where] for axis, side, where in zip(axes, corner, at, strict=True)]
        voters.append(labels[tuple(places)])
        votes.append(shares[0] * shares[1] * shares[2])
    totals = [vote.copy() for vote in votes]
    nearby = np.zeros(len(close))
    for one, vote in enumerate(votes):
        nearby += vote * (voters[one] == close)
        for other in range(one):
            same = voters[one] == voters[other]
            totals[one] += votes[other] * same
            totals[other] += vote * same
    most = np.maximum.reduce(totals)
    smallest = np.full(close.shape, np.iinfo(labels.dtype).max, labels.dtype)
    for voter, total in zip(voters, totals, strict=True):
        np.minimum(smallest, voter, out=smallest, where=total == most)
    return np.where(nearby == most, close, smallest)
