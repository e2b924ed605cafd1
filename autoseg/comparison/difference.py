"""The difference of two configurations: case by case, per label and over all, with what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autoseg.comparison.contrasts import contrast, corrected
from autoseg.comparison.words import difference_answer
from autoseg.errors import counted
from autoseg.selection.evidence import as_array, with_right_absence
from autoseg.statistics.clusters import pooled_mean
from autoseg.values import ALL_LABELS, Evidence, Experiment

__all__ = ["compared_dice", "difference_of", "mean_dice", "question_of"]


def compared_dice(evidence: Evidence) -> np.ndarray:
    """Dice ``(2, cases, labels)`` as the selection counts it, NaN where it is defined for neither."""
    return with_right_absence(as_array(evidence))


def mean_dice(evidence: Evidence) -> dict[str, dict[str, float | None]]:
    """Configuration to label to its mean Dice, that over all labels first."""
    return {
        candidate.name: {
            ALL_LABELS: pooled_mean(table),
            **{label: pooled_mean(column[:, None]) for label, column in zip(evidence.labels, table.T, strict=True)},
        }
        for candidate, table in zip(evidence.candidates, compared_dice(evidence), strict=True)
    }


def difference_of(evidence: Evidence, folds: Sequence[str], dimensions: Mapping[str, int]) -> Experiment:
    """First minus second, over all labels and per label.

    Args:
        evidence: of the two, in order.
        folds: that the cases are of.
        dimensions: of the networks, by configuration.
    """
    first, second = (each.name for each in evidence.candidates)
    dice, patients = compared_dice(evidence), evidence.patients
    quantity = f"Dice of {first} minus Dice of {second}"
    contrasts = [contrast(quantity, dice[0] - dice[1], patients)]
    contrasts += [
        contrast(quantity, dice[0, :, place] - dice[1, :, place], patients, label=label)
        for place, label in enumerate(evidence.labels)
    ]
    told = corrected(contrasts)
    where = f"fold{'s' * (len(folds) > 1)} {', '.join(folds)}"
    rightly = int((np.isfinite(dice) & ~np.isfinite(as_array(evidence))).sum())
    absence = f" In {counted(rightly, 'score')} nothing was rightly found where the other found something: Dice 1."
    return Experiment(
        name="difference",
        question=question_of(first, second, dimensions),
        method=f"Dice of {counted(len(evidence.cases), 'case')} of {counted(len(set(patients)), 'patient')} ({where}), each "
        "predicted by networks that were not trained on it, case by case the one minus the other; mean over cases per "
        "label, then over labels. Intervals by a bootstrap of patients, p values by exchanging the two in patients."
        + absence
        * bool(rightly),
        contrasts=told,
        answer=difference_answer(told[0], first, second),
    )


def question_of(first: str, second: str, dimensions: Mapping[str, int]) -> str:
    """What is asked, as people ask it."""
    if (dimensions[first], dimensions[second]) == (3, 2):
        return f"Is 3D better than 2D here ({first}, {second})?"
    return f"Is {first} better than {second} here?"
