"""Scores as trainings give them: skewed, alike within a patient, a few failures, labels that are absent here and there."""

from __future__ import annotations

import numpy as np


def two_runs(
    simulations: int, patients: np.ndarray, seed: int, *, alike: float = 0.02, noise: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """Dice ``(simulations, cases)`` of two runs of one configuration.

    Both share how hard a case is. Each run has its own luck with every patient (``alike``), and with every case; one
    patient in ten is a failure of one run or the other.
    """
    random = np.random.default_rng(seed)
    number = int(patients.max()) + 1
    hard = random.beta(18, 2, (simulations, len(patients)))
    runs = []
    for _ in range(2):
        luck = random.normal(0, alike, (simulations, number))
        luck -= np.where(random.random((simulations, number)) < 0.05, random.exponential(0.2, (simulations, number)), 0)
        runs.append(np.clip(hard + luck[:, patients] + random.normal(0, noise, hard.shape), 0, 1))
    return runs[0], runs[1]


def label_scores(cases: int, labels: int, seed: int, *, absent: float = 0.1) -> np.ndarray:
    """Dice ``(cases, labels)`` of which some are not defined."""
    random = np.random.default_rng(seed)
    return np.where(random.random((cases, labels)) < absent, np.nan, random.beta(18, 2, (cases, labels)))
