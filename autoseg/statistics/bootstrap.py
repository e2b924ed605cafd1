"""Bootstrap of pooled means by patients, who are drawn with replacement, with all their cases, for all candidates at once.

So the draws of two candidates are paired: their difference needs no more than a subtraction. Three ways lead from the
draws to bounds:

==============  =====================================================================================================
``percentile``  quantiles of the draws (Efron 1979); too narrow for few patients
``expanded``    the same, further out by what Student's t adds for so many patients (Hesterberg 2015); the default
``bca``         corrected for bias and skewness (Efron 1987); needs draws on both sides of the mean, and values that differ
==============  =====================================================================================================

Expanded is the default because data sets are small: it misses the truth least often there (measured by
``tests/benchmarks/intervals.py``, figures in docs/explanation/selection.md). With hundreds of patients the three agree,
and BCa is best for the mean of one candidate's scores, which are skewed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from autoseg.errors import InputError
from autoseg.statistics.clusters import as_table, patient_numbers, sums_by_patient
from autoseg.values.statistics import Interval, IntervalMethod

__all__ = ["DRAWS", "BootstrapMeans", "bootstrap_means", "bootstrap_of_mean", "interval_of", "tail_bounds"]

DRAWS = 10_000
#: Numbers of drawn patients in memory at a time.
BLOCK = 2**21


class BootstrapMeans(NamedTuple):
    """Means of several candidates: as observed, as drawn, and without each patient in turn.

    Attributes:
        observed: ``(candidates,)``.
        drawn: ``(draws, candidates)``; each row of one draw of patients.
        without: ``(patients, candidates)``; for BCa. NaN where nothing is left.
    """

    observed: np.ndarray
    drawn: np.ndarray
    without: np.ndarray

    def difference(self, first: int, second: int) -> BootstrapMeans:
        """Of two candidates, as if it were one."""
        return BootstrapMeans(*(part[..., [first]] - part[..., [second]] for part in self))


def bootstrap_means(
    scores: np.ndarray, patients: Sequence[str | int] | np.ndarray | None = None, *, draws: int = DRAWS, seed: int = 0
) -> BootstrapMeans:
    """Draws patients with replacement and takes the pooled mean of every candidate in each draw.

    In a draw in which a label is defined in no case, the mean is over the other labels.

    Args:
        scores: ``(candidates, cases, labels)``, NaN where not defined.
        patients: of each case; every case is its own if None.
        draws: how many.
        seed: of the draws.

    Raises:
        InputError: no value is defined, or the arguments do not fit each other.
    """
    tables = np.asarray(scores, np.float64)
    if tables.ndim != 3 or np.isinf(tables).any():
        raise InputError(
            "scores have another form",
            found=f"an array of shape {tables.shape}",
            expected="finite numbers or NaN, (candidates, cases, labels)",
        )
    sums, counts = sums_by_patient(tables, patient_numbers(tables.shape[1], patients))
    if not counts.any(axis=(0, 2)).all():
        raise InputError("a candidate has no defined score", expected="at least one case with a label that is defined")
    number = len(sums)
    flat = np.concatenate([sums.reshape(number, -1), counts.reshape(number, -1)], axis=1)
    random = np.random.default_rng(seed)
    drawn = np.empty((draws, len(tables)))
    at_once = max(1, BLOCK // number)
    for start in range(0, draws, at_once):
        rows = min(at_once, draws - start)
        picked = random.integers(0, number, (rows, number)) + number * np.arange(rows)[:, None]
        times = np.bincount(picked.ravel(), minlength=rows * number).reshape(rows, number)
        drawn[start : start + rows] = _means(times.astype(np.float64) @ flat, sums.shape[1:])
    total = flat.sum(axis=0)
    return BootstrapMeans(_means(total[None], sums.shape[1:])[0], drawn, _means(total - flat, sums.shape[1:]))


def _means(flat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sums and counts of ``(rows, 2 x candidates x labels)`` to means over labels ``(rows, candidates)``."""
    sums, counts = flat.reshape(len(flat), 2, *shape).swapaxes(0, 1)
    known = counts > 0
    per_label = np.divide(sums, counts, out=np.zeros_like(sums), where=known)
    labels = known.sum(axis=-1)
    return np.divide(per_label.sum(axis=-1), labels, out=np.full(labels.shape, np.nan), where=labels > 0)


def tail_bounds(
    means: BootstrapMeans, tail: float, method: IntervalMethod = "expanded"
) -> tuple[float, float, IntervalMethod] | None:
    """Lower and upper bound of one mean, or of one difference, each with this probability of missing the truth.

    Args:
        means: of one candidate.
        tail: 0.05 for bounds that are one-sided at 95 %, together an interval at 90 %.
        method: see the module.

    Returns:
        The bounds and the method that was used: ``expanded`` where BCa does not apply. None for fewer than two patients,
        of which nothing can be said, and where a draw has no mean, because too few patients have a defined score.
    """
    number = len(means.without)
    drawn, observed = means.drawn[:, 0], float(means.observed[0])
    if number < 2 or not np.isfinite(drawn).all():
        return None
    if method == "bca":
        places = _bca_places(drawn, observed, means.without[:, 0], tail)
        if places is not None:
            low, high = np.quantile(drawn, places)
            return float(low), float(high), "bca"
        method = "expanded"
    if method == "expanded":
        tail = float(ndtr(np.sqrt(number / (number - 1)) * stdtrit(number - 1, tail)))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high), method


def _bca_places(drawn: np.ndarray, observed: float, without: np.ndarray, tail: float) -> tuple[float, float] | None:
    """Quantiles that are the bounds, or None where the correction is not defined."""
    below = float(np.mean(drawn < observed) + np.mean(drawn <= observed)) / 2
    deviations = without.mean() - without
    scatter = float((deviations**2).sum())
    if not (0 < below < 1 and scatter > 0):  # NaN, where a patient is all there is of every label, is refused here, too
        return None
    bias, acceleration = ndtri(below), float((deviations**3).sum()) / (6 * scatter**1.5)
    shifted = bias + ndtri(np.array([tail, 1 - tail]))
    if (1 - acceleration * shifted <= 0).any():
        return None
    low, high = ndtr(bias + shifted / (1 - acceleration * shifted))
    return float(low), float(high)


def interval_of(
    means: BootstrapMeans, cases: int, *, level: float = 0.95, method: IntervalMethod = "expanded"
) -> Interval:
    """The two-sided interval of one mean or difference, as a value."""
    bounds = tail_bounds(means, (1 - level) / 2, method)
    return Interval(
        mean=float(means.observed[0]),
        lower=bounds[0] if bounds else None,
        upper=bounds[1] if bounds else None,
        level=level,
        method=bounds[2] if bounds else method,
        cases=cases,
        patients=len(means.without),
        draws=len(means.drawn),
    )


def bootstrap_of_mean(
    values: np.ndarray,
    patients: Sequence[str | int] | np.ndarray | None = None,
    *,
    level: float = 0.95,
    method: IntervalMethod = "expanded",
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """The pooled mean of scores, or of differences of scores, with its interval by patients.

    Args:
        values: ``(cases,)`` or ``(cases, labels)``; NaN where not defined, which counts in no mean.
        patients: of each case; every case is its own if None.
        level: of the two-sided interval.
        method: of the bounds, see the module.
        draws: of patients.
        seed: of the draws.

    Raises:
        InputError: the values have another form, or patients do not fit them.
    """
    table = as_table(values)
    cases = int(np.isfinite(table).any(axis=1).sum())
    if not cases:
        return Interval(mean=None, lower=None, upper=None, level=level, method=method, cases=0, patients=0, draws=draws)
    return interval_of(
        bootstrap_means(table[None], patients, draws=draws, seed=seed), cases, level=level, method=method
    )
