"""The A/A check: two runs of one configuration must be called different as rarely as promised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoseg.statistics.permutation import paired_permutation_test

__all__ = ["false_alarm_rate"]


def false_alarm_rate(
    first: np.ndarray,
    second: np.ndarray,
    patients: Sequence[str | int] | np.ndarray | None = None,
    *,
    level: float = 0.05,
    draws: int = 999,
    seed: int = 0,
) -> float:
    """Share of simulated comparisons of two equal candidates that the permutation test calls different.

    Args:
        first: scores ``(simulations, cases)``: in each row the cases of one experiment.
        second: scores of the same cases by a second run of the same configuration.
        patients: of each case; every case is its own if None.
        level: p values up to this are called different.
        draws: of each test; every simulation has a stream of its own.
        seed: of the streams.

    Returns:
        0.05 for a level of 0.05, up to what chance does with so many simulations, if the test keeps its promise.
    """
    alarms = 0
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        test = paired_permutation_test(one, other, patients, draws=draws, seed=seed + number)
        alarms += test.p_value <= level
    return alarms / len(first)
