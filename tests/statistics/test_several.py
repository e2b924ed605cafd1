"""Holm's correction: by hand, and its laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.errors import InputError
from autoseg.statistics import holm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_four_labels_by_hand() -> None:
    """0.005 x 4, 0.01 x 3, 0.03 x 2, then 0.04 x 1, which must not fall below its predecessor."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))


def test_a_test_that_was_not_made_does_not_count() -> None:
    assert holm([0.01, None, 0.02]) == pytest.approx((0.02, None, 0.02))
    assert holm([None]) == (None,)
    assert holm([]) == ()


@given(P_VALUES)
def test_the_corrected_are_no_smaller_keep_their_order_and_stay_below_bonferroni(p_values: list[float]) -> None:
    corrected = [value for value in holm(p_values) if value is not None]
    for raw, value in zip(p_values, corrected, strict=True):
        assert raw <= value <= 1
        assert value <= min(1, len(p_values) * raw) or any(other <= raw for other in p_values)
        assert min(corrected) == min(1, len(p_values) * min(p_values))
    pairs = sorted(zip(p_values, corrected, strict=True))
    assert [value for _, value in pairs] == sorted(corrected)


@given(P_VALUES, st.randoms())
def test_the_order_of_tests_does_not_matter(p_values: list[float], random) -> None:
    order = list(range(len(p_values)))
    random.shuffle(order)
    corrected = holm(p_values)
    assert holm([p_values[place] for place in order]) == tuple(corrected[place] for place in order)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(wrong: float) -> None:
    with pytest.raises(InputError):
        holm([0.5, wrong])
