"""Slices along the axis that a 2D network does not look along, axis 0 of preprocessed arrays: in other orders, or alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoseg.values import digest

__all__ = ["FEWEST_SLICES", "chosen_slices", "copies", "exchanged_order", "inverse", "shuffled_order"]

#: Of fewer slices, no order separates all neighbours.
FEWEST_SLICES = 4
#: Orders that are drawn; the one that keeps the fewest neighbours is taken.
ORDERS = 50


def shuffled_order(count: int, seed: str) -> np.ndarray:
    """An order ``(count,)`` of slices in which hardly any is beside one of its neighbours, drawn by a seed."""
    random = np.random.default_rng(int(digest([seed])[:16], 16))
    orders = [random.permutation(count) for _ in range(ORDERS)]
    return min(orders, key=_neighbours_kept)


def _neighbours_kept(order: np.ndarray) -> int:
    return int((np.abs(np.diff(order)) == 1).sum())


def exchanged_order(count: int) -> np.ndarray:
    """An order ``(count,)`` in which slices change places two by two; a last one without a partner stays."""
    order = np.arange(count)
    pairs = count // 2 * 2
    order[:pairs] = order[:pairs].reshape(-1, 2)[:, ::-1].ravel()
    return order


def inverse(order: np.ndarray) -> np.ndarray:
    """The order that undoes another one: ``array[order][inverse(order)]`` is ``array``."""
    undone = np.empty_like(order)
    undone[order] = np.arange(len(order))
    return undone


def chosen_slices(reference: np.ndarray, count: int) -> list[int]:
    """Up to ``count`` slices, evenly spread over those that hold foreground; over all if none does.

    Args:
        reference: integers ``(slices, *plane)``; what is over 0 is foreground.
        count: at most so many.
    """
    some: Sequence[int] = np.flatnonzero((reference > 0).reshape(len(reference), -1).any(axis=1)).tolist()
    some = some or list(range(len(reference)))
    places = np.linspace(0, len(some) - 1, min(count, len(some)))
    return [some[round(place)] for place in places.tolist()]


def copies(image: np.ndarray, place: int, depth: int) -> np.ndarray:
    """A volume ``(channels, depth, *plane)`` of copies of one slice of an image; it takes no memory of its own."""
    return np.broadcast_to(image[:, place : place + 1], (image.shape[0], depth, *image.shape[2:]))
