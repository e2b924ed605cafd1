"""Predictions and references of other names: a wrong pair would be a wrong score that nobody sees."""

from __future__ import annotations

import pytest

from autoseg.io.layouts import pairs_by_name


@pytest.mark.parametrize("side", ["left", "R", "lh", "LEFT"])
@pytest.mark.parametrize("reference", ["{}", "{}_right", "{}_seg"])
def test_a_side_of_the_body_is_never_left_away(side: str, reference: str) -> None:
    predictions = [f"case_{number:02d}_{side}" for number in (1, 2)]
    assert pairs_by_name(predictions, [reference.format(f"case_{number:02d}") for number in (1, 2)]) == {}


def test_sides_are_paired_with_themselves() -> None:
    predictions = ["a_left_ct", "a_right_ct"]
    pairs = pairs_by_name(predictions, ["a_left_gt", "a_right_gt"])
    assert set(pairs.values()) == {("a_left_ct", "a_left_gt"), ("a_right_ct", "a_right_gt")}


def test_one_side_alone_is_not_scored_against_the_whole_beside_it() -> None:
    pairs = pairs_by_name(["a_left", "b_left"], ["a_left", "a_right", "b"])
    assert pairs == {"a_left": ("a_left", "a_left")}
