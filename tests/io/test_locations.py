"""Places of foreground voxels: flat on disk, positions to those who ask."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.io.locations import Locations, flat_locations

SHAPE = (5, 6, 7)


def some() -> dict[int, np.ndarray]:
    random = np.random.default_rng(0)
    return {label: np.argwhere(random.random(SHAPE) < share) for label, share in ((0, 0.5), (2, 0.1), (5, 0.02))}


def test_positions_come_back_in_order() -> None:
    flat, counts = flat_locations({5: some()[5][::-1], **{label: some()[label] for label in (2, 0)}}, SHAPE)
    found = Locations(lambda: flat, counts, SHAPE)
    assert list(found) == [0, 2, 5]
    for label, positions in some().items():
        np.testing.assert_array_equal(found[label], positions)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1, 1, 1), np.uint8), ((4, 8, 8), np.uint8), ((5, 8, 8), np.uint16), ((1, 3600, 3600), np.uint32)],
)
def test_they_are_as_small_as_the_array_allows(shape: tuple[int, ...], dtype: type) -> None:
    last = np.array(shape) - 1
    flat, counts = flat_locations({1: last[None]}, shape)
    assert flat.dtype == dtype
    np.testing.assert_array_equal(Locations(lambda: flat, counts, shape)[1], [last])


def test_very_large_arrays_need_eight_bytes() -> None:
    shape = (2000, 2000, 2000)
    flat, counts = flat_locations({1: np.array([[1999, 1999, 1999], [0, 0, 1]])}, shape)
    assert flat.dtype == np.uint64
    found = Locations(lambda: flat, counts, shape)
    np.testing.assert_array_equal(found[1], [[0, 0, 1], [1999, 1999, 1999]])
    assert found.draw(1, np.random.default_rng(0)) in {(0, 0, 1), (1999, 1999, 1999)}


def test_a_draw_is_that_of_the_positions_themselves() -> None:
    flat, counts = flat_locations(some(), SHAPE)
    found, one, other = Locations(lambda: flat, counts, SHAPE), np.random.default_rng(3), np.random.default_rng(3)
    for label in (0, 2, 5) * 20:
        positions = some()[label]
        assert found.draw(label, one) == tuple(positions[int(other.integers(len(positions)))])


def test_they_are_read_once_and_not_before_they_are_needed() -> None:
    flat, counts = flat_locations(some(), SHAPE)
    asked = []

    def read() -> np.ndarray:
        asked.append(1)
        return flat

    found = Locations(read, counts, SHAPE)
    assert sorted(label for label in found if label > 0) == [2, 5]
    assert asked == []
    found.draw(2, np.random.default_rng(0))
    assert len(found[5]) == len(some()[5])
    assert asked == [1]
    with pytest.raises(KeyError):
        found[3]
