"""From numbers of cases to contrasts: a mean with its interval by patients, and a test; of several, corrected by Holm.

The rules are those of the selection: draws of patients, bounds of the same kind, none of fewer than so many patients.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from autoseg.statistics import bootstrap_of_mean, holm, paired_permutation_test
from autoseg.statistics.clusters import as_table
from autoseg.values import ALL_LABELS, Contrast, Interval, SelectionRule

__all__ = ["FEWEST_PATIENTS", "contrast", "corrected"]

#: Of fewer there are no bounds and no test, as in the selection.
FEWEST_PATIENTS = SelectionRule().fewest_patients


def contrast(
    quantity: str, values: np.ndarray, patients: Sequence[str], *, label: str = ALL_LABELS, group: str = ""
) -> Contrast:
    """The mean of numbers that are 0 if there is nothing to tell; its p value is not corrected yet.

    Args:
        quantity: what was measured, in words.
        values: ``(cases,)`` or ``(cases, labels)``, NaN where not defined; the mean is the pooled one of scores.
        patients: of each case.
        label: name of the label.
        group: part of the data.
    """
    table = as_table(values)
    interval = _sober(bootstrap_of_mean(table, patients))
    tested = interval.lower is not None
    return Contrast(
        quantity=quantity,
        label=label,
        group=group,
        interval=interval,
        p_value=paired_permutation_test(table, np.zeros_like(table), patients).p_value if tested else None,
    )


def corrected(contrasts: Sequence[Contrast]) -> tuple[Contrast, ...]:
    """All of an experiment: the first stays as it is, the p values of the others are corrected for each other."""
    first, *others = contrasts
    p_values = holm([each.p_value for each in others])
    return (
        first,
        *(msgspec.structs.replace(each, p_value=p_value) for each, p_value in zip(others, p_values, strict=True)),
    )


def _sober(interval: Interval) -> Interval:
    """Without bounds where too few patients stand behind them."""
    few = interval.patients < FEWEST_PATIENTS
    return msgspec.structs.replace(interval, lower=None, upper=None) if few else interval
