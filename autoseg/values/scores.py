"""How good predictions are: Measuring, LabelScore, CaseScore and Summary, in nnU-Net's ``summary.json`` form.

Undefined values are ``null``, measures that nobody asked for are left out; the count of cases behind every mean stands
beside it.
"""

from __future__ import annotations

import math
from typing import Literal

from msgspec import UNSET, UnsetType

from autoseg.values.json_form import Value, require

__all__ = ["MEASURES", "CaseScore", "LabelScore", "MeanScore", "Measured", "Measuring", "Summary"]


_NNUNET_NAMES = {"dice": "Dice", "iou": "IoU", "tp": "TP", "fp": "FP", "fn": "FN", "tn": "TN"}
#: What can be measured beside the overlap, and how files name it.
MEASURES = {
    "precision": "Precision",
    "recall": "Recall",
    "volume_difference": "volume_difference",
    "volume_difference_ml": "volume_difference_ml",
    "hd": "HD",
    "hd95": "HD95",
    "assd": "ASSD",
    "nsd": "NSD",
    "lesion_f1": "lesion_F1",
    "lesion_tp": "lesion_TP",
    "lesion_fp": "lesion_FP",
    "lesion_fn": "lesion_FN",
}
#: A number, None where it is not defined, UNSET where it was not asked for.
Measured = float | None | UnsetType


class Measuring(Value, frozen=True, kw_only=True):
    """What is measured beside the overlap, and how.

    Attributes:
        metrics: names of plugs; Dice, IoU and counts are always there.
        tolerance_mm: of the normalized surface Dice.
        lesion_iou: least intersection over union of two lesions that are the same one.
        one_empty: what a distance is if only one of reference and prediction holds a label: not defined, or the diagonal
            of the image, the largest that there could be.
    """

    metrics: tuple[str, ...] = tuple(MEASURES)
    tolerance_mm: float = 1.0
    lesion_iou: float = 0.1
    one_empty: Literal["undefined", "diagonal"] = "undefined"

    def __post_init__(self) -> None:
        require(len(set(self.metrics)) == len(self.metrics), f"metrics repeat: {', '.join(self.metrics)}")
        require(
            0 <= self.tolerance_mm < math.inf,
            "the tolerance must not be negative",
            field="tolerance_mm",
            found=self.tolerance_mm,
        )
        require(0 < self.lesion_iou <= 1, "must be above 0, at most 1", field="lesion_iou", found=self.lesion_iou)


class _Measures(Value, frozen=True, kw_only=True, rename=_NNUNET_NAMES | MEASURES):
    """What is measured of a label, whether in one case or as a mean; the counts differ in type."""

    dice: float | None
    iou: float | None
    precision: Measured = UNSET
    recall: Measured = UNSET
    volume_difference: Measured = UNSET
    volume_difference_ml: Measured = UNSET
    hd: Measured = UNSET
    hd95: Measured = UNSET
    assd: Measured = UNSET
    nsd: Measured = UNSET
    lesion_f1: Measured = UNSET
    lesion_tp: Measured = UNSET
    lesion_fp: Measured = UNSET
    lesion_fn: Measured = UNSET
    own: dict[str, float | None] | UnsetType = UNSET


class LabelScore(_Measures, frozen=True, kw_only=True, rename=_NNUNET_NAMES):
    """Overlap of one label in one case, and what else was measured; counts are voxels where the reference is known.

    ``dice`` and ``iou`` are None where the label is in neither the reference nor the prediction. Distances are in
    millimetres; lesions are counted. ``own`` holds the results of metrics that did not come with autoseg, by name.
    """

    tp: int
    fp: int
    fn: int
    tn: int
    n_pred: int
    n_ref: int

    def __post_init__(self) -> None:
        for name in ("dice", "iou"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, f"{name} must be within 0..1, not {value}")
        require(
            self.tp + self.fp == self.n_pred and self.tp + self.fn == self.n_ref, "the counts contradict each other"
        )
        require(min(self.tp, self.fp, self.fn, self.tn) >= 0, "counts must not be negative")


class MeanScore(_Measures, frozen=True, kw_only=True, rename=_NNUNET_NAMES):
    """Means over cases (or over labels), each over the cases where the value is defined.

    ``cases`` is the number of cases behind ``dice`` and ``iou``; ``cases_of`` that behind every other measure, under the
    name that it has in files.
    """

    tp: float
    fp: float
    fn: float
    tn: float
    n_pred: float
    n_ref: float
    cases: int
    cases_of: dict[str, int] | UnsetType = UNSET


class CaseScore(Value, frozen=True, kw_only=True):
    """One case: label integer (a region: its printed tuple of integers) to score."""

    metrics: dict[str, LabelScore]
    prediction_file: str
    reference_file: str


class Summary(Value, frozen=True, kw_only=True):
    """All cases and their means.

    Attributes:
        foreground_mean: mean over labels of their means; labels that never occur do not count.
        mean: per label.
        metric_per_case: sorted by case.
        label_names: label key to its name.
        absent_labels: names of labels with no defined value in any case.
        not_scored: ids of cases with a prediction or a reference only.
        measured_with: how everything beside the overlap was measured, if it was.
    """

    foreground_mean: MeanScore
    mean: dict[str, MeanScore]
    metric_per_case: tuple[CaseScore, ...]
    label_names: dict[str, str]
    absent_labels: tuple[str, ...] = ()
    not_scored: tuple[str, ...] = ()
    measured_with: Measuring | UnsetType = UNSET
