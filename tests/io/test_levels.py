"""Sixteen bits for an intensity: exact where it can be, else within the error that is stated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autoseg.io.levels import MOST_DISTINCT, MOST_ERROR, Levels, choose_levels
from autoseg.values import decode, encode


def there_and_back(channel: np.ndarray) -> tuple[Levels, np.ndarray]:
    """The levels as the record keeps them, and the intensities that they give back."""
    chosen = choose_levels(channel)
    assert chosen is not None
    levels = decode(Levels, encode(chosen))
    codes = levels.encoder()(channel)
    assert codes.dtype == levels.dtype
    assert codes.dtype.itemsize <= 2
    back = levels.decoder()(codes)
    assert back.dtype == np.float32
    return levels, back


def ct_like(shape: tuple[int, int, int] = (20, 60, 60)) -> np.ndarray:
    """Hounsfield units as integers, with noise, clipped and standardised as for a network."""
    random = np.random.default_rng(0)
    units = np.rint(random.normal(0, 20, shape) + np.where(np.indices(shape)[1] < 30, 40, -900))
    return ((np.clip(units, -151.37, 238.6) - 41.3) / 77.7).astype(np.float32)


@pytest.mark.parametrize(
    "channel",
    [
        ct_like(),
        (np.random.default_rng(1).integers(0, 256, (1, 90, 90)) / np.float32(255)).astype(np.float32),
        np.zeros((2, 3, 4), np.float32),
        np.full((1, 1, 1), -3.25e7, np.float32),
    ],
    ids=["ct", "8 bits", "constant", "one voxel"],
)
def test_few_distinct_intensities_are_kept_exactly(channel: np.ndarray) -> None:
    levels, back = there_and_back(channel)
    np.testing.assert_array_equal(back, channel)
    assert levels.dtype == (np.uint8 if len(np.unique(channel)) <= 256 else np.uint16)


@pytest.mark.parametrize("scale", [1.0, 3.0, 0.01, 1e-6])
def test_many_distinct_intensities_are_within_the_stated_error(scale: float) -> None:
    """2**-10, or that share of the deviation where it is below one; zero stays zero."""
    channel = (np.random.default_rng(2).normal(0.3, 1, (10, 100, 100)) * scale).astype(np.float32)
    channel[:, :20] = 0
    levels, back = there_and_back(channel)
    most = MOST_ERROR * min(1.0, float(channel.std())) * 1.02
    assert 0 < np.abs(back - channel).max() <= most
    assert (back[channel == 0] == 0).all()
    assert not levels.values


def test_far_outliers_widen_the_steps_as_little_as_sixteen_bits_need() -> None:
    channel = np.random.default_rng(3).normal(0, 1, (10, 100, 100)).astype(np.float32)
    channel[0, 0, 0], channel[0, 0, 1] = 3000, -1000
    levels, back = there_and_back(channel)
    assert np.abs(back - channel).max() <= levels.step / 2 * 1.01
    assert levels.step == pytest.approx(4000 / 65533, rel=1e-3)


def test_it_is_finer_than_half_precision_where_that_is_coarse() -> None:
    channel = np.random.default_rng(4).normal(0, 1, (10, 100, 100)).astype(np.float32)
    _, back = there_and_back(channel)
    assert np.abs(back - channel).max() < np.abs(channel.astype(np.float16) - channel).max()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_gets_no_levels(bad: float) -> None:
    channel = np.zeros((2, 3, 4), np.float32)
    channel[1, 1, 1] = bad
    assert choose_levels(channel) is None


def test_a_narrow_range_far_from_zero_gets_no_levels_rather_than_wrong_ones() -> None:
    channel = (1e7 + np.random.default_rng(5).random((4, 100, 100)) * 5000).astype(np.float32)
    assert len(np.unique(channel)) > MOST_DISTINCT
    levels = choose_levels(channel)
    assert levels is None or np.abs(levels.decoder()(levels.encoder()(channel)) - channel).max() <= levels.step


@given(
    arrays.arrays(
        np.float32, (3, 5, 7), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False) | st.just(np.float32(0))
    )
)
def test_any_finite_channel_comes_back_within_its_error(channel: np.ndarray) -> None:
    _, back = there_and_back(channel)
    np.testing.assert_array_equal(back, channel)  # 105 voxels have few distinct values
