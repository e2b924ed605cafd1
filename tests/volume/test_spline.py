"""Blockwise spline products against scipy's zoom in float64: any shape, any number type, in one thread and in several."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.values import ResamplingSpec
from autoseg.volume import spline
from autoseg.volume.resample import SeparableResampler
from autoseg.volume.spline import axis_operator, nearest, resample_spline

ISOTROPIC = (1.0, 1.0, 1.0)
CUBIC = SeparableResampler(ResamplingSpec())
DTYPES = [np.float16, np.float32, np.float64, np.int8, np.uint8, np.int16, np.uint16, np.int32]
#: Few voxels in some axes, many in others; about 30,000 at most, for scipy's sake.
sizes = st.one_of(st.integers(1, 3), st.integers(1, 30))


def values(shape: tuple[int, ...], dtype: type, seed: int) -> np.ndarray:
    """Noise that fills the type's range, or some thousands."""
    random = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return random.integers(max(limits.min, -(2**20)), min(limits.max, 2**20), shape, dtype, endpoint=True)
    return (random.standard_normal(shape) * 1000).astype(dtype)


def zoomed(array: np.ndarray, shape: tuple[int, ...], order: int = 3) -> np.ndarray:
    """Scipy's zoom in float64."""
    factors = [new / old for new, old in zip(shape, array.shape, strict=True)]
    return ndimage.zoom(array.astype(np.float64), factors, order=order, mode="nearest", grid_mode=True)


def assert_equals_zoom(image: np.ndarray, shape: tuple[int, int, int]) -> None:
    """To 1e-5 of the range, after clipping; what float32 cannot say is not asked for."""
    found = CUBIC.image(image[None], shape, ISOTROPIC, ISOTROPIC)[0]
    low, high = float(image.min()), float(image.max())
    expected = np.clip(zoomed(image, shape), low, high)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= 1e-5 * (high - low) + np.spacing(np.float32(max(-low, high)))


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(sizes, sizes, sizes),
    st.tuples(sizes, sizes, sizes),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32),
)
@example((1, 1, 1), (3, 3, 3), np.float32, 0)
@example((2, 3, 1), (1, 1, 1), np.int16, 0)
@example((1, 30, 30), (1, 29, 30), np.uint8, 0)
def test_any_shape_equals_scipys_zoom(old: tuple, new: tuple, dtype: type, seed: int) -> None:
    assert_equals_zoom(values(old, dtype, seed), new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((1, 3, 900), (1, 5, 1501)),
        ((700, 2, 3), (263, 2, 7)),
        ((2, 1024, 3), (3, 1023, 2)),
        ((1, 300, 300), (1, 401, 333)),
        ((70, 80, 90), (91, 61, 130)),
        ((4, 5, 600), (4, 5, 40)),
    ],
)
def test_large_sizes_equal_scipys_zoom(old: tuple, new: tuple) -> None:
    assert_equals_zoom(values(old, np.float32, 0), new)
    assert_equals_zoom(values(old, np.int16, 1), new)


@settings(max_examples=40, deadline=None)
@given(
    st.permutations(range(3)),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.tuples(sizes, sizes, sizes),
    st.sampled_from([1, 3]),
)
def test_views_in_any_memory_layout_are_resampled_alike(order: list, flips: tuple, new: tuple, degree: int) -> None:
    array = values((7, 12, 9), np.int16, 3).transpose(order)[
        tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    ]
    found = resample_spline(array, new, (degree,) * 3)
    np.testing.assert_array_equal(found, resample_spline(np.ascontiguousarray(array), new, (degree,) * 3))
    assert np.abs(found - zoomed(array, new, degree)).max() < 1e-5 * np.ptp(array.astype(int))


def test_a_narrow_range_far_from_zero_keeps_its_precision() -> None:
    """As exact as float32 can say: the steps between its numbers there are 2e-5 of this range."""
    image = (1000 + 3 * np.random.default_rng(0).random((20, 21, 22))).astype(np.float32)
    found = CUBIC.image(image[None], (33, 30, 17), ISOTROPIC, ISOTROPIC)[0]
    expected = np.clip(zoomed(image, (33, 30, 17)), image.min(), image.max())
    assert np.abs(found - expected).max() < np.spacing(np.float32(1003))


@pytest.mark.parametrize("apart", [None, 0, 1, 2])
def test_threads_change_nothing(apart: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    spacing = [5.0 if axis == apart else 1.0 for axis in range(3)]
    image = values((2, 30, 41, 52), np.int16, 4)
    alone = CUBIC.image(image, (47, 39, 61), spacing, ISOTROPIC)
    monkeypatch.setattr(spline, "WORTH_THREADS", 0)
    monkeypatch.setattr(spline, "thread_count", lambda: 3)
    np.testing.assert_array_equal(CUBIC.image(image, (47, 39, 61), spacing, ISOTROPIC), alone)


def test_a_volume_worth_threads_equals_scipys_zoom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spline, "thread_count", lambda: 2)
    new = (130, 128, 140)
    assert np.prod(new) > spline.WORTH_THREADS
    assert_equals_zoom(values((100, 128, 120), np.float32, 5), new)


def test_an_error_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(item: int) -> None:
        if item == 3:
            raise MemoryError("no room")

    monkeypatch.setattr(spline, "thread_count", lambda: 2)
    with pytest.raises(MemoryError, match="no room"):
        spline.in_threads(fail, range(8), 2 * spline.WORTH_THREADS)


@pytest.mark.parametrize(("told", "expected"), [("1", 1), ("0", 1), ("many", None), ("", None)])
def test_a_process_that_is_told_its_threads_takes_no_more(
    told: str, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    spline.thread_count.cache_clear()
    assert spline.thread_count() == (expected or spline.usable_cpus())
    spline.thread_count.cache_clear()


def test_the_input_is_not_changed_by_clipping() -> None:
    array = values((4, 5, 6), np.float32, 0)
    before = array.copy()
    result = resample_spline(array, (4, 5, 6), (3, 3, 3), limits=(-1.0, 1.0))
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(result, np.clip(before, -1, 1))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 90), st.sampled_from([1, 3]))
def test_an_operator_is_the_zoom_of_an_identity_matrix(old: int, new: int, order: int) -> None:
    expected = ndimage.zoom(np.eye(old), (new / old, 1), order=order, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(axis_operator(old, new, order), expected, atol=5e-7)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000))
def test_halves_go_up_to_the_next_voxel(old: int, new: int) -> None:
    places = nearest(old, new)
    assert places[0] >= 0
    assert places[-1] < old
    # twice the distance to the position ((2 i + 1) old - new) / (2 new), in integers
    distance = 2 * new * places - ((2 * np.arange(new) + 1) * old - new)
    assert (distance > -new).all()
    assert (distance <= new).all()
