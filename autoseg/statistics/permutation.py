"""Paired permutation test: had the two candidates changed places in some patients, how often would they differ as much?

Under the hypothesis that they are equally good, who is "first" is arbitrary in every patient, so the sign of a patient's
difference may be turned, for all cases and labels of the patient together. Few patients: all assignments of signs are
tried. Many: some thousand at random, and the observed one counts as one of them (Phipson and Smyth 2010), so that p is
never 0 and never too small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoseg.errors import InputError
from autoseg.statistics.clusters import as_table, patient_numbers
from autoseg.values.statistics import PairedTest

__all__ = ["PERMUTATIONS", "paired_permutation_test"]

#: Random assignments of signs; with the observed one, p is a multiple of 1/10,000.
PERMUTATIONS = 9_999
#: All assignments are tried up to so many patients that differ: 65,536 assignments.
EXACT_PATIENTS = 16
#: Signs in memory at a time.
BLOCK = 2**20


def paired_permutation_test(
    first: np.ndarray,
    second: np.ndarray,
    patients: Sequence[str | int] | np.ndarray | None = None,
    *,
    draws: int = PERMUTATIONS,
    seed: int = 0,
) -> PairedTest:
    """Tests whether the pooled means of two candidates differ, two-sided.

    A pair of which either value is not defined is left out and counted. Of several labels, the mean over labels is tested,
    each label with equal weight.

    Args:
        first: scores ``(cases,)`` or ``(cases, labels)``, NaN where not defined.
        second: of the same cases.
        patients: of each case; every case is its own if None.
        draws: random assignments where there are too many to try all.
        seed: of the random assignments.

    Raises:
        InputError: the two do not have the same cases and labels, or a value is infinite.
    """
    one, other = as_table(first), as_table(second)
    if one.shape != other.shape:
        raise InputError("only scores of the same cases can be paired", found=f"{one.shape} and {other.shape}")
    differences = one - other
    pairs = np.isfinite(differences)
    who = patient_numbers(len(one), patients)
    shares, difference = _shares(differences, who)
    sizes = np.sort(np.abs(shares[shares != 0]))  # sizes alone: exchanging the candidates changes nothing at all
    exact = len(sizes) <= EXACT_PATIENTS
    p_value, tried = (
        _exact(sizes, abs(difference or 0.0)) if exact else _random(sizes, abs(difference or 0.0), draws, seed)
    )
    count = len(np.unique(who[pairs.any(axis=1)]))
    return PairedTest(
        difference=difference,
        p_value=p_value,
        smallest_p_value=max(2.0 ** (1 - count), 0.0 if exact else 1 / (draws + 1)) if count else 1.0,
        exact=exact,
        draws=tried,
        pairs=int(pairs.sum()),
        left_out=int(pairs.size - pairs.sum()),
        patients=count,
    )


def _shares(differences: np.ndarray, who: np.ndarray) -> tuple[np.ndarray, float | None]:
    """What every patient adds to the pooled mean of ``(cases, labels)``, and that mean; sums of exactly rounded parts."""
    counts = np.isfinite(differences).sum(axis=0)
    labels = int((counts > 0).sum())
    if not labels:
        return np.zeros(0), None
    parts = np.nansum(differences / (np.maximum(counts, 1) * labels), axis=1)
    order = np.lexsort((parts, np.abs(parts)))  # so that neither the order of cases nor of candidates is seen
    shares = np.bincount(who[order], parts[order])
    return shares, float(shares[np.lexsort((shares, np.abs(shares)))].sum())


def _tolerance(sizes: np.ndarray) -> float:
    """Sums that differ by rounding alone are equal."""
    return 1e-12 * float(sizes.sum())


def _exact(sizes: np.ndarray, observed: float) -> tuple[float, int]:
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums + size, sums - size])
    return float(np.mean(np.abs(sums) >= observed - _tolerance(sizes))), len(sums)


def _random(sizes: np.ndarray, observed: float, draws: int, seed: int) -> tuple[float, int]:
    random = np.random.default_rng(seed)
    at_once = max(1, BLOCK // len(sizes))
    total, extreme = sizes.sum(), 0
    for start in range(0, draws, at_once):
        rows = min(at_once, draws - start)
        bits = np.unpackbits(
            np.frombuffer(random.bytes(rows * ((len(sizes) + 7) // 8)), np.uint8).reshape(rows, -1), axis=1
        )
        sums = total - 2 * (bits[:, : len(sizes)] @ sizes)
        extreme += int((np.abs(sums) >= observed - _tolerance(sizes)).sum())
    return (1 + extreme) / (1 + draws), draws
