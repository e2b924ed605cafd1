"""Where labels lie: the box around each, from one look at the label maps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from autoseg.evaluation.overlap import label_positions, places_with_labels
from autoseg.values import Labels
from autoseg.volume.crop import Box

__all__ = ["joined", "label_boxes"]


def label_boxes(reference: np.ndarray, prediction: np.ndarray, labels: Labels) -> dict[int, Box]:
    """The smallest box that holds a label in both maps, for every integer but 0 that is in one of them.

    Args:
        reference: integers ``(slices, rows, columns)``.
        prediction: integers, same shape.
        labels: what the integers mean.
    """
    there = [np.zeros((len(labels.integers), size), bool) for size in reference.shape]
    for index, (one, other) in enumerate(zip(reference, prediction, strict=True)):
        places = places_with_labels(one, other)
        rows, columns = np.divmod(places, reference.shape[2])
        for plane in (one, other):
            found = label_positions(plane.ravel()[places], labels.integers)
            there[0][found, index] = there[1][found, rows] = there[2][found, columns] = True
    boxes = {}
    for position, label in enumerate(labels.integers):
        if position and there[0][position].any():
            first, second, third = (_extent(along[position]) for along in there)
            boxes[label] = (first, second, third)
    return boxes


def joined(boxes: Iterable[Box]) -> Box | None:
    """The smallest box around boxes; None if there is none."""
    boxes = list(boxes)
    if not boxes:
        return None
    first, second, third = (
        slice(min(along.start for along in axis), max(along.stop for along in axis))
        for axis in zip(*boxes, strict=True)
    )
    return (first, second, third)


def _extent(present: np.ndarray) -> slice:
    places = np.flatnonzero(present)
    return slice(int(places[0]), int(places[-1]) + 1)
