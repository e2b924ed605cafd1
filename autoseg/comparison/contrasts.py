"""From numbers of cases to contrasts: a mean with its interval by patients, and a test; of several, corrected by Holm.

The rules are those of the selection: draws of patients, bounds of the same kind, none of fewer than so many patients.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from autoseg.statistics import (
    BootstrapMeans,
    bootstrap_means,
    bootstrap_of_mean,
    effect_sizes,
    holm,
    interval_of,
    paired_permutation_test,
)
from autoseg.statistics.clusters import as_table
from autoseg.values import ALL_LABELS, Contrast, Interval, SelectionRule

__all__ = ["FEWEST_PATIENTS", "contrast", "contrast_of_groups", "corrected"]

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
    defined = np.isfinite(table).any(axis=1)
    of_cases = np.array([np.nan if not some else np.nanmean(row) for row, some in zip(table, defined, strict=True)])
    return Contrast(
        quantity=quantity,
        label=label,
        group=group,
        interval=interval,
        p_value=paired_permutation_test(table, np.zeros_like(table), patients).p_value if tested else None,
        effects=effect_sizes(of_cases, np.zeros_like(of_cases)),
    )


def contrast_of_groups(
    quantity: str,
    first: np.ndarray,
    second: np.ndarray,
    patients: Sequence[str],
    *,
    group: str,
    label: str = ALL_LABELS,
) -> Contrast:
    """The mean in one group of cases minus that in another one; patients are drawn for both together.

    The groups hold different cases, so there are no pairs to exchange, and nothing is tested but by the interval. It has
    bounds only if each group has patients enough.

    Args:
        quantity: what was measured, in words.
        first: ``(cases, labels)``, NaN where a case is not in the group.
        second: of the same cases.
        patients: of each case.
        group: how the two are called.
        label: name of the label.
    """
    tables = np.stack([as_table(first), as_table(second)])
    cases = int(np.isfinite(tables).any(axis=(0, 2)).sum())
    alone = [bootstrap_of_mean(table, patients) for table in tables]
    if not all(each.cases for each in alone):
        missing = msgspec.structs.replace(alone[0], mean=None, lower=None, upper=None, cases=cases)
        return Contrast(quantity=quantity, label=label, group=group, interval=missing)
    means = bootstrap_means(tables, patients).difference(0, 1)
    whole = np.isfinite(means.drawn[:, 0])  # rarely, nobody of a group is drawn
    interval = interval_of(BootstrapMeans(means.observed, means.drawn[whole], means.without), cases)
    if min(each.patients for each in alone) < FEWEST_PATIENTS:
        interval = msgspec.structs.replace(interval, lower=None, upper=None)
    return Contrast(quantity=quantity, label=label, group=group, interval=interval)


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
