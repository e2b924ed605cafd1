"""What every normalizer plug promises: see ``autoseg.volume.normalize.Normalizer``."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from autoseg import plugins
from autoseg.errors import InputError
from autoseg.values import IntensityProperties
from autoseg.volume.normalize import Normalizer

PROPERTIES = IntensityProperties(
    mean=100.0, median=95.0, std=30.0, min=0.0, max=255.0, percentile_00_5=10.0, percentile_99_5=240.0
)
MASK = np.random.default_rng(1).random((4, 5, 6)) < 0.5

each = pytest.mark.parametrize(
    "plug", [pytest.param(plugins.load("normalizer", n), id=n) for n in plugins.available("normalizer")]
)
any_mask = pytest.mark.parametrize(
    "mask", [None, MASK, np.zeros_like(MASK), np.ones_like(MASK)], ids=["no", "some", "none", "all"]
)


def image(dtype: type = np.float32) -> np.ndarray:
    """Values that every scheme takes, 8-bit colours included."""
    return np.random.default_rng(0).uniform(0, 255, (4, 5, 6)).astype(dtype)


@each
@any_mask
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_a_new_finite_float32_array_of_the_same_shape(plug: Normalizer, mask: np.ndarray | None, dtype: type) -> None:
    given = image(dtype)
    result = plug(given, mask, PROPERTIES)
    assert (result.shape, result.dtype) == (given.shape, np.float32)
    assert np.isfinite(result).all()
    assert not np.shares_memory(result, given)
    np.testing.assert_array_equal(given, image(dtype))


@each
def test_order_is_kept_where_all_is_inside(plug: Normalizer) -> None:
    ordered = np.argsort(image(), axis=None)
    assert (np.diff(plug(image(), None, PROPERTIES).ravel()[ordered]) >= 0).all()


@each
@pytest.mark.parametrize("value", [0.0, 7.0, 255.0])
def test_a_constant_image_gives_a_finite_constant(plug: Normalizer, value: float) -> None:
    result = plug(np.full((3, 4, 5), value, np.float32), None, PROPERTIES)
    assert np.isfinite(result).all()
    assert np.ptp(result) == 0


@each
def test_repetition_gives_the_same(plug: Normalizer) -> None:
    np.testing.assert_array_equal(plug(image(), MASK, PROPERTIES), plug(image(), MASK, PROPERTIES))


@each
def test_voxels_may_come_in_any_order(plug: Normalizer) -> None:
    turned = plug(image().transpose(2, 0, 1)[::-1], MASK.transpose(2, 0, 1)[::-1], PROPERTIES)
    np.testing.assert_allclose(turned[::-1].transpose(1, 2, 0), plug(image(), MASK, PROPERTIES), atol=1e-5)


@each
def test_missing_statistics_are_of_no_account_or_refused_as_input(plug: Normalizer) -> None:
    needs_statistics = not np.array_equal(
        plug(image(), None, PROPERTIES), plug(image(), None, msgspec.structs.replace(PROPERTIES, mean=50.0))
    )
    assert needs_statistics or not getattr(plug, "needs_properties", False)
    if needs_statistics:
        with pytest.raises(InputError, match="foreground"):
            plug(image(), None, None)
    else:
        np.testing.assert_array_equal(plug(image(), None, None), plug(image(), None, PROPERTIES))
