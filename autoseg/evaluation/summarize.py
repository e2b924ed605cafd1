"""From the scores of cases to a Summary: means over the cases where a value is defined, with their number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from autoseg.evaluation.overlap import label_keys
from autoseg.values import CaseScore, Labels, LabelScore, MeanScore, Summary

__all__ = ["summarize"]

COUNTS = ("tp", "fp", "fn", "tn", "n_pred", "n_ref")


def summarize(scores: Sequence[CaseScore], labels: Labels) -> Summary:
    """Means per label over cases, and over labels; a label that never occurs is named and spoils nothing."""
    keys = label_keys(labels)
    names = dict(zip(keys, (label.name for label in labels.foreground), strict=True))
    mean = {key: _mean_over_cases([score.metrics[key] for score in scores]) for key in keys}
    return Summary(
        foreground_mean=_mean_over_labels(list(mean.values())),
        mean=mean,
        metric_per_case=tuple(sorted(scores, key=lambda score: score.prediction_file)),
        label_names=names,
        absent_labels=tuple(names[key] for key in keys if mean[key].cases == 0),
    )


def _mean_over_cases(scores: Sequence[LabelScore]) -> MeanScore:
    """Over the cases of which anything is known: a label that was not looked for has no voxel, not none that is right."""
    scores = [score for score in scores if score.n_ref + score.fp + score.tn]
    return MeanScore(
        dice=_mean(score.dice for score in scores),
        iou=_mean(score.iou for score in scores),
        cases=sum(score.dice is not None for score in scores),
        **{name: _mean(getattr(score, name) for score in scores) or 0.0 for name in COUNTS},
    )


def _mean_over_labels(means: Sequence[MeanScore]) -> MeanScore:
    return MeanScore(
        dice=_mean(mean.dice for mean in means),
        iou=_mean(mean.iou for mean in means),
        cases=max((mean.cases for mean in means), default=0),
        **{name: _mean(getattr(mean, name) for mean in means) or 0.0 for name in COUNTS},
    )


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None
