"""Orders of slices: they can be undone, and separate neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.comparison.slices import (
    FEWEST_SLICES,
    chosen_slices,
    copies,
    exchanged_order,
    inverse,
    shuffled_order,
)


@pytest.mark.parametrize("count", [FEWEST_SLICES, 5, 8, 37, 300])
def test_an_order_can_be_undone_and_follows_from_its_seed(count) -> None:
    array = np.random.default_rng(0).normal(size=(count, 3, 2))
    for order in (shuffled_order(count, "a"), exchanged_order(count)):
        assert sorted(order) == list(range(count))
        assert not np.array_equal(array[order], array)
        np.testing.assert_array_equal(array[order][inverse(order)], array)
    np.testing.assert_array_equal(shuffled_order(count, "a"), shuffled_order(count, "a"))
    if count > 2 * FEWEST_SLICES:
        assert not np.array_equal(shuffled_order(count, "a"), shuffled_order(count, "b"))


@pytest.mark.parametrize("count", [4, 5, 8, 37])
def test_shuffling_separates_all_neighbours(count) -> None:
    for seed in "abcdefgh":
        assert (np.abs(np.diff(shuffled_order(count, seed))) > 1).all()


def test_exchanged_slices_are_neighbours() -> None:
    assert exchanged_order(5).tolist() == [1, 0, 3, 2, 4]


def test_slices_are_chosen_where_there_is_foreground() -> None:
    reference = np.zeros((30, 2, 2), np.uint8)
    assert chosen_slices(reference, 4) == [0, 10, 19, 29]
    reference[[5, 6, 7, 20], 0, 0] = 3
    assert chosen_slices(reference, 8) == [5, 6, 7, 20]
    assert chosen_slices(reference, 2) == [5, 20]


def test_copies_hold_one_slice_and_take_no_memory() -> None:
    image = np.random.default_rng(0).normal(size=(2, 6, 4, 3))
    volume = copies(image, 4, 40)
    assert volume.shape == (2, 40, 4, 3)
    assert (volume == image[:, 4:5]).all()
    assert volume.strides[1] == 0
