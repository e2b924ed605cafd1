"""Connected components: by hand, against scikit-image, and their laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label

from autoseg.volume.components import foreground_runs, keep_largest_components, smaller_components, voxels_of


def plane(*rows: str) -> np.ndarray:
    """A label map of one slice; a dot is background."""
    return np.array([[[0 if letter == "." else int(letter) for letter in row] for row in rows]], np.uint8)


def test_the_smaller_of_two_is_removed() -> None:
    before = plane("11..1", "11...", "....1")
    np.testing.assert_array_equal(keep_largest_components(before, [[1]]), plane("11...", "11...", "....."))
    runs = foreground_runs(before)
    smaller = smaller_components(runs, np.ones(len(runs.first), bool), [1])
    assert voxels_of(runs, smaller).tolist() == [4, 14]
    assert before[0, 0, 4] == 1


def test_corners_touch_also_across_slices() -> None:
    stairs = np.zeros((3, 3, 3), np.int16)
    stairs[np.arange(3), np.arange(3), np.arange(3)] = 5
    np.testing.assert_array_equal(keep_largest_components(stairs, [[5]]), stairs)


def test_the_end_of_a_row_does_not_touch_the_beginning_of_the_next_nor_of_the_next_slice() -> None:
    before = plane("...11", "1....")
    np.testing.assert_array_equal(keep_largest_components(before, [[1]]), plane("...11", "....."))
    before = np.zeros((2, 3, 4), np.uint8)
    before[0, 2], before[1, 0] = 1, 1
    before[1, 0, 0] = 0
    np.testing.assert_array_equal(keep_largest_components(before, [[1]])[1], 0)


def test_runs_by_hand() -> None:
    runs = foreground_runs(plane("1122.", ".3333"))
    assert (runs.first.tolist(), runs.length.tolist(), runs.value.tolist()) == ([0, 2, 6], [2, 2, 4], [1, 2, 3])
    assert voxels_of(runs, np.array([0, 2])).tolist() == [0, 1, 6, 7, 8, 9]


def test_of_equal_ones_all_are_kept() -> None:
    np.testing.assert_array_equal(keep_largest_components(plane("11.1.11"), [[1]]), plane("11...11"))


def test_labels_that_touch_are_one_object_together_and_two_apart() -> None:
    before = plane("1122.2", "......", "1....1")
    np.testing.assert_array_equal(keep_largest_components(before, [[1, 2]]), plane("1122..", "......", "......"))
    np.testing.assert_array_equal(keep_largest_components(before, [[2]]), plane("1122..", "......", "1....1"))


def test_one_object_after_the_other() -> None:
    """Without all foreground first, label 2 would keep its three voxels on the right."""
    before = plane("11112..222")
    both = keep_largest_components(before, [[1, 2], [2]])
    np.testing.assert_array_equal(both, plane("11112....."))
    np.testing.assert_array_equal(keep_largest_components(before, [[2]]), plane("1111...222"))


@pytest.mark.parametrize(
    "before", [plane("....", "...."), plane("1111"), np.full((2, 3, 4), 7, np.uint16), np.zeros((0, 3, 4), np.uint8)]
)
def test_what_has_at_most_one_component_stays(before: np.ndarray) -> None:
    after = keep_largest_components(before, [[1], [7], [9]])
    np.testing.assert_array_equal(after, before)
    assert after.dtype == before.dtype


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([(1, 9, 9), (5, 6, 7), (4, 1, 12)]))
def test_it_is_what_scikit_image_finds_and_doing_it_twice_changes_nothing(seed: int, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(seed)
    before = random.choice(3, shape, p=[0.8, 0.15, 0.05]).astype(np.uint8)
    for values in ([1], [2], [1, 2]):
        mask = np.isin(before, values)
        numbers = label(mask, connectivity=3)
        sizes = np.bincount(numbers.ravel())[1:]
        kept = np.isin(numbers, 1 + np.flatnonzero(sizes == sizes.max())) if sizes.size else mask
        wanted = np.where(mask & ~kept, 0, before)
        once = keep_largest_components(before, [values])
        np.testing.assert_array_equal(once, wanted)
        np.testing.assert_array_equal(keep_largest_components(once, [values]), once)


def test_a_map_that_is_a_view_is_read_right() -> None:
    before = np.random.default_rng(0).choice(2, (6, 7, 8), p=[0.8, 0.2]).astype(np.uint8)
    turned = before.transpose(2, 0, 1)[::-1]
    np.testing.assert_array_equal(
        keep_largest_components(turned, [[1]]), keep_largest_components(before, [[1]]).transpose(2, 0, 1)[::-1]
    )
