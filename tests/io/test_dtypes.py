"""The smallest unsigned type that holds all integers."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.io.dtypes import smallest_integers


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(0, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)],
)
def test_the_type_is_as_small_as_the_largest_allows_and_values_stay(largest: int, dtype: type) -> None:
    array = np.array([[0, largest // 2, largest]], np.int64)
    small = smallest_integers(array)
    assert small.dtype == dtype
    np.testing.assert_array_equal(small, array)


def test_an_empty_array_has_the_smallest_type() -> None:
    assert smallest_integers(np.empty((0, 3), np.int32)).dtype == np.uint8
