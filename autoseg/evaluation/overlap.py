"""Overlap of prediction and reference: all counts from one pass over the voxels, and the metrics derived from them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np

from autoseg.values import Geometry, Labels, LabelScore

__all__ = [
    "Metric",
    "dice",
    "iou",
    "label_keys",
    "label_positions",
    "millilitres",
    "overlap_scores",
    "places_with_labels",
    "precision",
    "ratio",
    "recall",
    "volume_difference",
    "volume_difference_ml",
]


class Metric(Protocol):
    """The metric plug: one number for one foreground object, or None where it is not defined."""

    def __call__(
        self,
        reference: np.ndarray,
        prediction: np.ndarray,
        *,
        probabilities: np.ndarray | None = None,
        geometry: Geometry,
    ) -> float | None:
        """Compares two bool arrays ``(*spatial)`` on the same grid."""
        ...


def dice(
    reference: np.ndarray, prediction: np.ndarray, *, probabilities: np.ndarray | None = None, geometry: Geometry
) -> float | None:
    """Dice coefficient 2 |A and B| / (|A| + |B|); None if both are empty."""
    return _dice(int((reference & prediction).sum()), int(prediction.sum()), int(reference.sum()))


def iou(
    reference: np.ndarray, prediction: np.ndarray, *, probabilities: np.ndarray | None = None, geometry: Geometry
) -> float | None:
    """Intersection over union (Jaccard); None if both are empty."""
    return _iou(int((reference & prediction).sum()), int(prediction.sum()), int(reference.sum()))


def precision(
    reference: np.ndarray, prediction: np.ndarray, *, probabilities: np.ndarray | None = None, geometry: Geometry
) -> float | None:
    """The part of the prediction that is right; None if nothing is predicted."""
    return ratio(int((reference & prediction).sum()), int(prediction.sum()))


def recall(
    reference: np.ndarray, prediction: np.ndarray, *, probabilities: np.ndarray | None = None, geometry: Geometry
) -> float | None:
    """The part of the reference that is found; None if it is empty."""
    return ratio(int((reference & prediction).sum()), int(reference.sum()))


def volume_difference(
    reference: np.ndarray, prediction: np.ndarray, *, probabilities: np.ndarray | None = None, geometry: Geometry
) -> float | None:
    """How much larger the prediction is, as a part of the reference's volume; None if that is empty."""
    return ratio(int(prediction.sum()) - int(reference.sum()), int(reference.sum()))


def volume_difference_ml(
    reference: np.ndarray, prediction: np.ndarray, *, probabilities: np.ndarray | None = None, geometry: Geometry
) -> float | None:
    """How much larger the prediction is, in millilitres; None in a planar image, which has no volume."""
    return millilitres(int(prediction.sum()) - int(reference.sum()), geometry)


def ratio(part: int, whole: int) -> float | None:
    """None where there is no whole."""
    return part / whole if whole else None


def millilitres(voxels: int, geometry: Geometry) -> float | None:
    """Volume of so many voxels; None in a planar image."""
    return None if geometry.planar else voxels * math.prod(geometry.spacing) / 1000


def _dice(both: int, predicted: int, wanted: int) -> float | None:
    return 2 * both / (predicted + wanted) if predicted + wanted else None


def _iou(both: int, predicted: int, wanted: int) -> float | None:
    union = predicted + wanted - both
    return both / union if union else None


def label_keys(labels: Labels) -> list[str]:
    """Keys of the foreground entries in nnU-Net's summary: the integer, or the printed tuple of a region."""
    if not labels.has_regions:
        return [str(label.values[0]) for label in labels.foreground]
    return [str(label.values if len(label.values) > 1 else label.values[0]) for label in labels.foreground]


def overlap_scores(
    reference: np.ndarray, prediction: np.ndarray, labels: Labels, annotated: Collection[str] | None = None
) -> dict[str, LabelScore]:
    """Scores of every foreground entry; voxels that the reference ignores count nowhere.

    A label that was not looked for is known nowhere: its counts are 0, and no metric is defined.

    Args:
        reference: integers ``(*spatial)``.
        prediction: integers, same shape.
        labels: what the integers mean.
        annotated: names of the labels that were looked for; None for all.
    """
    table = _joint_counts(reference, prediction, labels)
    position = {value: index for index, value in enumerate(labels.integers)}
    scores = {}
    for key, label, known in zip(label_keys(labels), labels.foreground, labels.looked_for(annotated), strict=True):
        if not known:
            scores[key] = LabelScore(dice=None, iou=None, tp=0, fp=0, fn=0, tn=0, n_pred=0, n_ref=0)
            continue
        inside = [position[value] for value in label.values]
        both = int(table[np.ix_(inside, inside)].sum())
        wanted, predicted = int(table[inside].sum()), int(table[:, inside].sum())
        scores[key] = LabelScore(
            dice=_dice(both, predicted, wanted),
            iou=_iou(both, predicted, wanted),
            tp=both,
            fp=predicted - both,
            fn=wanted - both,
            tn=int(table.sum()) - predicted - wanted + both,
            n_pred=predicted,
            n_ref=wanted,
        )
    return scores


def label_positions(labels: np.ndarray, integers: Sequence[int]) -> np.ndarray:
    """For every voxel the position of its label among the declared integers, which are sorted; 0 if it is not there."""
    beyond = integers[-1] + 1
    positions = np.zeros(beyond + 1, np.intp)
    positions[list(integers)] = np.arange(len(integers))
    return positions[labels.clip(0, min(beyond, np.iinfo(labels.dtype).max))]


def _joint_counts(reference: np.ndarray, prediction: np.ndarray, labels: Labels) -> np.ndarray:
    """Voxels per pair of reference and predicted label; integers that are not declared count as background."""
    integers = labels.integers
    table = np.zeros(len(integers) ** 2, np.int64)
    for one, other in zip(reference, prediction, strict=True):  # slice by slice: the positions need 8 bytes a voxel
        places = places_with_labels(one, other)
        table[0] += one.size - len(places)  # 0 is background, and comes first
        one, other = one.ravel()[places], other.ravel()[places]
        if labels.ignore is not None:
            known = one != labels.ignore
            one, other = one[known], other[known]
        pairs = label_positions(one, integers) * len(integers) + label_positions(other, integers)
        table += np.bincount(pairs, minlength=len(table))
    return table.reshape(len(integers), len(integers))


def places_with_labels(*planes: np.ndarray) -> np.ndarray:
    """Ascending places in flattened arrays of one shape that hold all voxels where any of them is not 0, and a few others.

    Most of a label map is background: eight voxels are looked at as one number each time.
    """
    size = planes[0].size
    whole = size - size % 8
    flags = np.zeros(whole // 8, bool)
    for plane in planes:
        flat = np.ascontiguousarray(plane).ravel()[:whole]
        flags |= flat.view(np.uint64).reshape(len(flags), plane.itemsize).any(axis=1)
    places = (np.flatnonzero(flags)[:, None] * 8 + np.arange(8)).ravel()
    return np.concatenate([places, np.arange(whole, size)])
