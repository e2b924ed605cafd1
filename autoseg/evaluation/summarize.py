"""From the scores of cases to a Summary: means over the cases where a value is defined, with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from msgspec import UNSET

from autoseg.evaluation.overlap import label_keys
from autoseg.values import CaseScore, Labels, LabelScore, MeanScore, Measuring, Summary
from autoseg.values.scores import MEASURES

__all__ = ["summarize"]

COUNTS = ("tp", "fp", "fn", "tn", "n_pred", "n_ref")


def summarize(scores: Sequence[CaseScore], labels: Labels, measuring: Measuring | None = None) -> Summary:
    """Means per label over cases, and over labels; a label that never occurs is named and spoils nothing.

    Args:
        scores: of all cases.
        labels: what was scored.
        measuring: how everything beside the overlap was measured, if it was.
    """
    keys = label_keys(labels)
    names = dict(zip(keys, (label.name for label in labels.foreground), strict=True))
    mean = {key: _mean_over_cases([score.metrics[key] for score in scores]) for key in keys}
    return Summary(
        foreground_mean=_mean_over_labels(list(mean.values())),
        mean=mean,
        metric_per_case=tuple(sorted(scores, key=lambda score: score.prediction_file)),
        label_names=names,
        absent_labels=tuple(names[key] for key in keys if mean[key].cases == 0),
        measured_with=measuring or UNSET,
    )


def _mean_over_cases(scores: Sequence[LabelScore]) -> MeanScore:
    """Over the cases of which anything is known: a label that was not looked for has no voxel, not none that is right."""
    scores = [score for score in scores if score.n_ref + score.fp + score.tn]
    return MeanScore(
        dice=_mean(score.dice for score in scores),
        iou=_mean(score.iou for score in scores),
        cases=sum(score.dice is not None for score in scores),
        **_counts(scores),
        **_measures(scores, lambda name, values: sum(value is not None for value in values)),
    )


def _mean_over_labels(means: Sequence[MeanScore]) -> MeanScore:
    def most_cases(name: str, values: Sequence[float | None]) -> int:
        return max(mean.cases_of.get(name, 0) for mean in means if mean.cases_of)

    return MeanScore(
        dice=_mean(mean.dice for mean in means),
        iou=_mean(mean.iou for mean in means),
        cases=max((mean.cases for mean in means), default=0),
        **_counts(means),
        **_measures(means, most_cases),
    )


def _counts(scores: Sequence[LabelScore] | Sequence[MeanScore]) -> dict[str, Any]:
    return {name: _mean(getattr(score, name) for score in scores) or 0.0 for name in COUNTS}


def _measures(
    scores: Sequence[LabelScore] | Sequence[MeanScore], cases: Callable[[str, Sequence[float | None]], int]
) -> dict[str, Any]:
    """Means of all that was measured beside the overlap, where it is defined; and how many cases are behind each."""
    means: dict[str, Any] = {}
    cases_of: dict[str, int] = {}
    for name, written in MEASURES.items():
        values = [value for value in (getattr(score, name) for score in scores) if value is not UNSET]
        if values:
            means[name], cases_of[written] = _mean(values), cases(written, values)
    owned = [score.own for score in scores if score.own]
    own: dict[str, float | None] = {}
    for name in sorted({name for each in owned for name in each}):
        values = [each[name] for each in owned if name in each]
        own[name], cases_of[name] = _mean(values), cases(name, values)
    if own:
        means["own"] = own
    return means | ({"cases_of": cases_of} if cases_of else {})


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None
