"""How good predictions are: LabelScore, CaseScore and Summary, in nnU-Net's ``summary.json`` form.

Undefined values are ``null``; the count of cases behind every mean stands beside it.
"""

from __future__ import annotations

from autoseg.values.json_form import Value, require

__all__ = ["CaseScore", "LabelScore", "MeanScore", "Summary"]


_NNUNET_NAMES = {"dice": "Dice", "iou": "IoU", "tp": "TP", "fp": "FP", "fn": "FN", "tn": "TN"}


class LabelScore(Value, frozen=True, kw_only=True, rename=_NNUNET_NAMES):
    """Overlap of one label in one case; counts are voxels where the reference is known.

    ``dice`` and ``iou`` are None where the label is in neither the reference nor the prediction.
    """

    dice: float | None
    iou: float | None
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


class MeanScore(Value, frozen=True, kw_only=True, rename=_NNUNET_NAMES):
    """Means over cases (or over labels), each over the cases where the value is defined.

    ``cases`` is the number of cases behind ``dice`` and ``iou``.
    """

    dice: float | None
    iou: float | None
    tp: float
    fp: float
    fn: float
    tn: float
    n_pred: float
    n_ref: float
    cases: int


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
    """

    foreground_mean: MeanScore
    mean: dict[str, MeanScore]
    metric_per_case: tuple[CaseScore, ...]
    label_names: dict[str, str]
    absent_labels: tuple[str, ...] = ()
    not_scored: tuple[str, ...] = ()
