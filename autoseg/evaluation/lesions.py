"""Detection of lesions: connected parts of the reference, each found by one connected part of the prediction or missed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoseg.values import Geometry

__all__ = ["LEAST_IOU", "Detection", "detect", "lesion_f1", "lesion_fn", "lesion_fp", "lesion_tp"]

#: Two lesions of less intersection over union are not the same one.
LEAST_IOU = 0.1


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Lesions of a reference that were found, those that were missed, and predicted ones that are none."""

    found: int
    missed: int
    invented: int

    @property
    def f1(self) -> float | None:
        """2 found / (2 found + missed + invented); None if there is nothing in both."""
        total = 2 * self.found + self.missed + self.invented
        return 2 * self.found / total if total else None


def detect(reference: np.ndarray, prediction: np.ndarray, least_iou: float = LEAST_IOU) -> Detection:
    """Pairs lesions one to one, those of the largest intersection over union first.

    A lesion is what touches by faces, edges or corners.

    Args:
        reference: bool ``(*spatial)``.
        prediction: bool, same shape.
        least_iou: of two lesions that are the same one.
    """
    from scipy import ndimage

    touching = np.ones((3,) * reference.ndim, bool)
    wanted, wanted_count = ndimage.label(reference, touching)
    predicted, predicted_count = ndimage.label(prediction, touching)
    both = reference & prediction
    pairs, shared = np.unique(
        wanted[both].astype(np.int64) * (predicted_count + 1) + predicted[both], return_counts=True
    )
    one, other = np.divmod(pairs, predicted_count + 1)
    sizes = np.bincount(wanted[reference], minlength=wanted_count + 1)
    other_sizes = np.bincount(predicted[prediction], minlength=predicted_count + 1)
    iou = shared / (sizes[one] + other_sizes[other] - shared)
    found = _matched(one, other, iou, least_iou)
    return Detection(found=found, missed=wanted_count - found, invented=predicted_count - found)


def _matched(one: np.ndarray, other: np.ndarray, iou: np.ndarray, least_iou: float) -> int:
    """How many pairs there are, each lesion in one at most; the largest overlap first, of equal ones the first."""
    taken, other_taken = set(), set()
    for index in np.argsort(-iou, kind="stable"):
        if iou[index] < least_iou:
            break
        if one[index] not in taken and other[index] not in other_taken:
            taken.add(one[index])
            other_taken.add(other[index])
    return len(taken)


def lesion_f1(
    reference: np.ndarray, prediction: np.ndarray, *, probabilities: np.ndarray | None = None, geometry: Geometry
) -> float | None:
    """F1 of the detection of lesions; None if both are empty."""
    return detect(reference, prediction).f1


def lesion_tp(
    reference: np.ndarray, prediction: np.ndarray, *, probabilities: np.ndarray | None = None, geometry: Geometry
) -> float | None:
    """Lesions that were found."""
    return float(detect(reference, prediction).found)


def lesion_fp(
    reference: np.ndarray, prediction: np.ndarray, *, probabilities: np.ndarray | None = None, geometry: Geometry
) -> float | None:
    """Predicted lesions that are none; the mean over cases is the number of false positives per case."""
    return float(detect(reference, prediction).invented)


def lesion_fn(
    reference: np.ndarray, prediction: np.ndarray, *, probabilities: np.ndarray | None = None, geometry: Geometry
) -> float | None:
    """Lesions that were missed."""
    return float(detect(reference, prediction).missed)
