"""Label maps by votes against the rule itself: one indicator per label, resampled by scipy; the largest wins."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.values import ResamplingSpec
from autoseg.volume import spline, votes
from autoseg.volume.resample import SeparableResampler

ISOTROPIC = (1.0, 1.0, 1.0)
INTERPOLATED, STEPPED = SeparableResampler(ResamplingSpec()), SeparableResampler(ResamplingSpec(separate_axis_order=0))
#: Exact ties differ by rounding only; different sums of weights, at these sizes, by far more.
ROUNDING = 1e-10
sizes = st.one_of(st.integers(1, 3), st.integers(1, 14))


def nearest_voxels(old: int, new: int) -> list[int]:
    """Floor of the position plus one half, by fractions."""
    return [int(Fraction(2 * index + 1, 2) * old / new // 1) for index in range(new)]


def rule(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The rule, word by word, in any number of dimensions."""
    factors = [new / old for new, old in zip(shape, labels.shape, strict=True)]
    integers = np.unique(labels)
    indicators = np.stack(
        [
            ndimage.zoom((labels == integer).astype(np.float64), factors, order=1, mode="nearest", grid_mode=True)
            for integer in integers
        ]
    )
    tied = indicators >= indicators.max(axis=0) - ROUNDING
    close = labels[np.ix_(*(nearest_voxels(old, new) for old, new in zip(labels.shape, shape, strict=True)))]
    smallest = integers[tied.argmax(axis=0)]
    return np.where((tied & (close == integers.reshape(-1, *[1] * len(shape)))).any(axis=0), close, smallest)


def noise(shape: tuple[int, ...], integers: list[int], seed: int, dtype: type = np.int16) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array(integers, dtype), shape)


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(sizes, sizes, sizes),
    st.tuples(sizes, sizes, sizes),
    st.sampled_from([[0, 1], [-1, 0, 3, 500], list(range(40))]),
    st.integers(0, 2**32),
)
@example((2, 2, 2), (3, 3, 3), [0, 1], 0)
@example((2, 2, 2), (1, 1, 1), [-1, 0, 3, 500], 0)
@example((4, 4, 4), (2, 2, 2), list(range(40)), 0)
@example((1, 1, 14), (1, 1, 7), [-1, 0, 3, 500], 1)
def test_any_label_map_follows_the_rule(old: tuple, new: tuple, integers: list[int], seed: int) -> None:
    labels = noise(old, integers, seed)
    found = INTERPOLATED.labels(labels, new, ISOTROPIC, ISOTROPIC)
    np.testing.assert_array_equal(found, rule(labels, new))
    assert found.dtype == labels.dtype


@settings(max_examples=40, deadline=None)
@given(st.tuples(sizes, sizes, sizes), st.tuples(sizes, sizes, sizes), st.integers(0, 2), st.integers(0, 2**32))
def test_with_nearest_steps_along_a_coarse_axis_each_slice_follows_the_rule(
    old: tuple, new: tuple, apart: int, seed: int
) -> None:
    labels = noise(old, [-1, 0, 1, 7], seed)
    spacing = tuple(5.0 if axis == apart else 1.0 for axis in range(3))
    within = tuple(size for axis, size in enumerate(new) if axis != apart)
    chosen = labels.take(nearest_voxels(old[apart], new[apart]), apart)
    expected = np.stack([rule(each, within) for each in np.moveaxis(chosen, apart, 0)], apart)
    if chosen.shape == new and labels.shape == new:
        expected = labels
    np.testing.assert_array_equal(STEPPED.labels(labels, new, spacing, ISOTROPIC), expected)


@pytest.mark.parametrize("apart", [0, 1, 2])
def test_fewer_slices_than_before_follow_the_rule_in_all_axes(apart: int) -> None:
    old, new = [12, 11, 13], [9, 16, 10]
    old[apart], new[apart] = 12, 5
    labels = noise(tuple(old), [0, 1, 2, 9], apart)
    spacing = tuple(5.0 if axis == apart else 1.0 for axis in range(3))
    np.testing.assert_array_equal(INTERPOLATED.labels(labels, tuple(new), spacing, ISOTROPIC), rule(labels, tuple(new)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32])
def test_the_largest_integers_of_a_type_are_labels_like_others(dtype: type) -> None:
    limits = np.iinfo(dtype)
    labels = noise((6, 7, 8), [limits.min, 1, limits.max], 0, dtype)
    np.testing.assert_array_equal(
        INTERPOLATED.labels(labels, (9, 5, 11), ISOTROPIC, ISOTROPIC), rule(labels, (9, 5, 11))
    )


@pytest.mark.parametrize(("slab", "at_once"), [(1, 2**13), (5_000, 7), (2**22, 100)])
def test_slabs_and_threads_change_nothing(slab: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((6, 20, 21, 22)), (0, 1.5, 1.5, 1.5))
    labels = fields.argmax(0).astype(np.int8)
    new = (27, 13, 30)
    monkeypatch.setattr(votes, "SLAB", slab)
    monkeypatch.setattr(votes, "VOTES_AT_ONCE", at_once)
    monkeypatch.setattr(spline, "WORTH_THREADS", 0)
    monkeypatch.setattr(spline, "thread_count", lambda: 3)
    np.testing.assert_array_equal(INTERPOLATED.labels(labels, new, ISOTROPIC, ISOTROPIC), rule(labels, new))


def test_a_view_in_another_memory_layout_is_resampled_alike() -> None:
    labels = noise((6, 9, 12), [0, 1, 2], 0)
    turned = labels.transpose(2, 0, 1)[::-1]
    np.testing.assert_array_equal(
        INTERPOLATED.labels(turned, (15, 4, 9), ISOTROPIC, ISOTROPIC), rule(np.ascontiguousarray(turned), (15, 4, 9))
    )


def test_a_hundred_labels_take_no_more_memory_than_one() -> None:
    """Traced by Python's allocator: the result, and slabs of it; never an array of floats of the result's size."""
    import tracemalloc

    labels = noise((40, 60, 60), list(range(100)), 0, np.int8)
    new = (60, 90, 90)
    tracemalloc.start()
    INTERPOLATED.labels(labels, new, ISOTROPIC, ISOTROPIC)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < np.prod(new) + 8 * votes.SLAB
