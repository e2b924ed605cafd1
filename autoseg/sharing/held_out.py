"""How good the exported model is, pooled over the held-out cases of its folds, with intervals and without names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from autoseg.evaluation.overlap import label_keys
from autoseg.evaluation.summarize import summarize
from autoseg.statistics import bootstrap_of_mean
from autoseg.values import CaseScore, Evidence, Labels, MeanScore, Metrics, Summary

__all__ = ["pooled_metrics"]


def pooled_metrics(
    name: str,
    labels: Labels,
    summaries: Mapping[str, Sequence[Summary]],
    validation: Mapping[str, float | None],
    evidence: Evidence | None,
    patient_of: Callable[[CaseScore], str],
) -> Metrics:
    """Dice per label with intervals by patients, and the means of everything else that was measured.

    Args:
        name: of the candidate that is exported.
        labels: of the plan.
        summaries: configuration to the scores of its folds.
        validation: configuration to the mean of its folds' Dice.
        evidence: of the selection, which alone has the scores of ensembles; None for those of the one configuration.
        patient_of: patient of a scored case.
    """
    names = dict(zip(label_keys(labels), (label.name for label in labels.foreground), strict=True))
    pooled = {member: [score for each in of for score in each.metric_per_case] for member, of in summaries.items()}
    if evidence is not None:
        rows, patients = [list(row) for row in evidence.dice[name]], list(evidence.patients)
    else:
        scores = pooled[name]
        rows = [[score.metrics[key].dice for key in names] for score in scores]
        patients = [patient_of(score) for score in scores]
    dice = np.array(rows, np.float64).reshape(len(rows), len(names))  # None becomes NaN
    return Metrics(
        model=name,
        cases=len(rows),
        patients=len(set(patients)),
        dice={label: bootstrap_of_mean(dice[:, [place]], patients) for place, label in enumerate(names.values())},
        mean=bootstrap_of_mean(dice, patients),
        members={member: _means(scores, labels, names) for member, scores in pooled.items() if scores},
        validation=dict(validation),
    )


def _means(scores: Sequence[CaseScore], labels: Labels, names: Mapping[str, str]) -> dict[str, MeanScore]:
    means = summarize(scores, labels).mean
    return {name: means[key] for key, name in names.items()}
