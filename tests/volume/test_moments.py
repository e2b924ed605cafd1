"""Mean and variance in pieces against NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autoseg.volume import moments
from autoseg.volume.moments import mean_and_variance


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.float64])
@pytest.mark.parametrize("at_once", [1, 7, 2**17])
def test_pieces_give_the_same(dtype: type, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = (np.random.default_rng(0).normal(1000, 3, (5, 6, 7))).astype(dtype)
    where = np.random.default_rng(1).random(values.shape) < 0.3
    monkeypatch.setattr(moments, "AT_ONCE", at_once)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(mean_and_variance(values), (exact.mean(), exact.var()), rtol=1e-12)
    np.testing.assert_allclose(mean_and_variance(values, where), (exact[where].mean(), exact[where].var()), rtol=1e-12)


def test_a_small_variance_far_from_zero_keeps_its_digits() -> None:
    values = np.array([1e6, 1e6 + 0.125] * 1000, np.float32)
    mean, variance = mean_and_variance(values)
    assert mean == pytest.approx(1e6 + 0.0625, abs=1e-9)
    assert variance == pytest.approx(0.0625**2, rel=1e-9)


def test_nothing_has_no_mean() -> None:
    assert all(math.isnan(value) for value in mean_and_variance(np.zeros(0, np.float32)))
    assert math.isnan(mean_and_variance(np.ones((2, 2)), np.zeros((2, 2), bool))[0])
