"""Scores of made-up candidates, for the tests of the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autoseg.selection import gather_evidence
from autoseg.values import Candidate, Cost, Evidence

LABELS = ("heart", "lung")


def candidate(name: str, seconds: float | None) -> Candidate:
    return Candidate(name=name, members=tuple(name.split("+")), cost=Cost(seconds_per_case=seconds, training_hours=1.0))


def rows(scores: np.ndarray | Sequence[Sequence[float]], first: int = 0) -> dict[str, dict[str, float | None]]:
    """Scores ``(cases, labels)`` of cases ``c00``, ``c01``, … by id and label; NaN is not defined."""
    return {
        f"c{number:02d}": {
            label: None if np.isnan(score) else float(score) for label, score in zip(LABELS, row, strict=False)
        }
        for number, row in enumerate(scores, start=first)
    }


def evidence_of(
    tables: Mapping[str, np.ndarray], seconds: Sequence[float | None], patients: Mapping[str, str] | None = None
) -> Evidence:
    """Of candidates in this order, that all have the same cases."""
    candidates = [candidate(name, cost) for name, cost in zip(tables, seconds, strict=True)]
    return gather_evidence(candidates, {name: rows(table) for name, table in tables.items()}, patients)


def cohort(cases: int, seed: int = 0, labels: int = 2) -> np.ndarray:
    """Dice around 0.75, never near 0 or 1, so that it can be moved."""
    return np.random.default_rng(seed).uniform(0.65, 0.85, (cases, labels))


def shifted(scores: np.ndarray, points: float, noise: float, seed: int) -> np.ndarray:
    """Lower by so many Dice points in the mean, with noise (in points) that is balanced over the cases."""
    random = np.random.default_rng(seed)
    wobble = random.normal(0, noise, scores.shape)
    return scores - (points + wobble - wobble.mean(axis=0)) / 100
