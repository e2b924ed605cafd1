"""Quantiles of intensities: of what is not zero, close to those of all voxels, and from few of them."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.volume.quantiles import QUANTILES, image_quantiles


def test_zero_does_not_count_and_channels_have_their_own() -> None:
    values = np.arange(1, 1001, dtype=np.float32)
    image = np.zeros((3, 20, 10, 10), np.float32)
    image[0, :10] = values.reshape(10, 10, 10)
    image[1, 10:] = -values.reshape(10, 10, 10)
    first, second, third = image_quantiles(image)
    assert first == pytest.approx([1 + 999 * share for share in QUANTILES])
    assert second == pytest.approx([-1 - 999 * (1 - share) for share in QUANTILES])
    assert third == (0.0,) * len(QUANTILES)


def test_of_a_large_image_few_voxels_say_nearly_the_same() -> None:
    image = np.random.default_rng(0).gamma(2, 100, size=(1, 90, 160, 160)).astype(np.float32)
    (found,) = image_quantiles(image)
    np.testing.assert_allclose(found, np.quantile(image, QUANTILES), rtol=0.03)


def test_a_picture_is_not_thinned_out_along_its_one_slice() -> None:
    image = np.ones((1, 1, 3000, 2000), np.float32)
    assert image_quantiles(image) == ((1.0,) * len(QUANTILES),)
