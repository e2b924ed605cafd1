"""Overlap of prediction and reference: all counts from one pass over the voxels, and the metrics derived from them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np

from autoseg.values import Geometry, Labels, LabelScore

__all__ = ["Metric", "dice", "iou", "label_keys", "overlap_scores"]


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


def _positions(labels: np.ndarray, integers: Sequence[int]) -> np.ndarray:
    """For every voxel the position of its label among the declared integers, which are sorted; 0 if it is not there."""
    known = np.array(integers)
    nearest = np.searchsorted(known, labels.ravel()).clip(max=len(known) - 1)
    return np.where(known[nearest] == labels.ravel(), nearest, 0)


def _joint_counts(reference: np.ndarray, prediction: np.ndarray, labels: Labels) -> np.ndarray:
    """Voxels per pair of reference and predicted label; integers that are not declared count as background."""
    integers = labels.integers
    table = np.zeros(len(integers) ** 2, np.int64)
    for one, other in zip(reference, prediction, strict=True):  # slice by slice: the positions need 8 bytes a voxel
        if labels.ignore is not None:
            known = one != labels.ignore
            one, other = one[known], other[known]
        pairs = _positions(one, integers) * len(integers) + _positions(other, integers)
        table += np.bincount(pairs, minlength=len(table))
    return table.reshape(len(integers), len(integers))
