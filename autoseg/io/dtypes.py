"""Number types: integers as small as their values allow."""

from __future__ import annotations

import numpy as np

__all__ = ["smallest_integers"]


def smallest_integers(array: np.ndarray) -> np.ndarray:
    """The same integers in the smallest unsigned type that holds them; not below zero."""
    assert array.min(initial=0) >= 0
    return array.astype(np.min_scalar_type(int(array.max(initial=0))))
