"""Effect sizes: how large a difference is, measured in its own scatter, and in how many cases it goes which way."""

from __future__ import annotations

import numpy as np

from autoseg.errors import InputError
from autoseg.values.statistics import EffectSizes

__all__ = ["effect_sizes"]


def effect_sizes(first: np.ndarray, second: np.ndarray, *, equal_within: float = 0.0) -> EffectSizes:
    """Sizes of the difference of two candidates in the same cases; cases of which a value is not defined are left out.

    Args:
        first: scores ``(cases,)``, NaN where not defined.
        second: of the same cases.
        equal_within: differences up to this size count as none in ``better``, ``worse``, ``equal`` and the ranks.

    Raises:
        InputError: the two do not have the same cases.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise InputError("only scores of the same cases can be paired", found=f"{one.shape} and {other.shape}")
    defined = np.isfinite(one) & np.isfinite(other)
    differences = np.sort(one[defined] - other[defined])
    better, worse = differences > equal_within, differences < -equal_within
    spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    ranks = _ranks(np.abs(differences[better | worse]))
    total = float(ranks.sum())
    return EffectSizes(
        mean=float(differences.mean()) if len(differences) else None,
        median=float(np.median(differences)) if len(differences) else None,
        standardized=float(differences.mean() / spread) if spread > 0 else None,
        rank_biserial=float(ranks @ np.sign(differences[better | worse])) / total if total else None,
        better=int(better.sum()),
        worse=int(worse.sum()),
        equal=int(len(differences) - better.sum() - worse.sum()),
        left_out=int((~defined).sum()),
    )


def _ranks(sizes: np.ndarray) -> np.ndarray:
    """From 1 for the smallest; equal ones share the mean of their ranks."""
    _, places, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]
