"""Normalizers against their formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.errors import InputError
from autoseg.values import IntensityProperties
from autoseg.volume.normalize import ct, none, rescale_to_0_1, rgb_to_0_1, zscore

PROPERTIES = IntensityProperties(
    mean=40.0, median=38.0, std=25.0, min=-900.0, max=1500.0, percentile_00_5=-60.0, percentile_99_5=130.0
)
IMAGE = np.random.default_rng(0).normal(30, 80, (5, 6, 7)).astype(np.float32)
MASK = np.random.default_rng(1).random((5, 6, 7)) < 0.4


def test_ct_clips_then_standardizes_by_the_data_set() -> None:
    expected = (np.clip(IMAGE.astype(np.float64), -60.0, 130.0) - 40.0) / 25.0
    np.testing.assert_allclose(ct(IMAGE, None, PROPERTIES), expected, atol=1e-6)


def test_ct_looks_at_no_mask() -> None:
    np.testing.assert_array_equal(ct(IMAGE, MASK, PROPERTIES), ct(IMAGE, None, PROPERTIES))


def test_ct_without_statistics_is_refused() -> None:
    with pytest.raises(InputError, match="foreground"):
        ct(IMAGE, None, None)


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_zscore_has_mean_zero_and_deviation_one(offset: float) -> None:
    shifted = IMAGE + np.float32(offset)
    exact = shifted.astype(np.float64)
    np.testing.assert_allclose(zscore(shifted, None, None), (exact - exact.mean()) / exact.std(), atol=2e-4)
    assert zscore(shifted, None, None).mean(dtype=np.float64) == pytest.approx(0, abs=2e-4)
    assert zscore(shifted, None, None).std(dtype=np.float64) == pytest.approx(1, abs=1e-4)


def test_zscore_with_a_mask_sees_and_changes_only_the_inside() -> None:
    result = zscore(IMAGE, MASK, None)
    inside = IMAGE[MASK].astype(np.float64)
    np.testing.assert_allclose(result[MASK], (inside - inside.mean()) / inside.std(), atol=1e-5)
    np.testing.assert_array_equal(result[~MASK], IMAGE[~MASK])


def test_zscore_with_an_empty_mask_changes_nothing() -> None:
    np.testing.assert_array_equal(zscore(IMAGE, np.zeros_like(MASK), None), IMAGE)


def test_rescaling_reaches_from_0_to_1_and_is_linear() -> None:
    exact = IMAGE.astype(np.float64)
    result = rescale_to_0_1(IMAGE, None, None)
    np.testing.assert_allclose(result, (exact - exact.min()) / (exact.max() - exact.min()), atol=1e-6)
    assert (result.min(), result.max()) == (0.0, 1.0)


def test_rgb_divides_by_255() -> None:
    colours = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    np.testing.assert_allclose(rgb_to_0_1(colours, None, None), np.arange(256).reshape(4, 8, 8) / 255, rtol=1e-6)


@pytest.mark.parametrize("value", [-0.01, 255.5, 4096])
def test_rgb_refuses_what_is_no_8_bit_colour(value: float) -> None:
    image = np.full((2, 2, 2), 7.0, np.float32)
    image[0, 0, 0] = value
    with pytest.raises(InputError, match=f"{value:g}"):
        rgb_to_0_1(image, None, None)


def test_none_is_the_image() -> None:
    np.testing.assert_array_equal(none(IMAGE.astype(np.int16), None, None), IMAGE.astype(np.int16))


@pytest.mark.parametrize("value", [0.0, 0.1, -1024.0, 1e30])
def test_a_constant_image_becomes_zero(value: float) -> None:
    constant = np.full((4, 5, 6), value, np.float32)
    for normalize in (zscore, rescale_to_0_1):
        np.testing.assert_array_equal(normalize(constant, None, None), np.zeros((4, 5, 6)))
    np.testing.assert_array_equal(zscore(constant, MASK[:4, :5, :6], None)[MASK[:4, :5, :6]], 0)


def test_ct_of_a_data_set_with_one_intensity_stays_finite() -> None:
    flat = IntensityProperties(
        mean=7.0, median=7.0, std=0.0, min=7.0, max=7.0, percentile_00_5=7.0, percentile_99_5=7.0
    )
    np.testing.assert_array_equal(ct(IMAGE, None, flat), np.zeros_like(IMAGE))
