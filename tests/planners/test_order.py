"""Labels that always lie the same way round forbid mirroring along that axis, and nothing else does."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from autoseg.planning import Budget
from autoseg.values import AxisMap
from planners.order import find_order, fixed_axes, sides_and_order, told
from planners.presets import DEFAULT, NNUNET
from planners.sides import Sides, find_sides
from planners.unet import DefaultPlanner, NnunetPlanner
from tests.planners.synthetic import CPU_COST
from tests.planners.test_sides import ALL_ORDERS, KIDNEYS, ON_THE_LEFT, ON_THE_RIGHT, data_set

#: Canonical (z, y, x): low and high, in front and behind, right and left.
FRONT, BACK = np.s_[4:8, 3:7, 10:20], np.s_[4:8, 12:16, 10:20]
LIVER, SPINE = np.s_[4:8, 3:7, 2:9], np.s_[4:8, 14:18, 12:18]


def axes_of(data, orientation="canonical") -> dict[int, tuple[str, str]]:
    return {each.axis: (each.first, each.second) for each in find_order(data, orientation, find_sides(data))}


@pytest.mark.parametrize("order", ALL_ORDERS[::5])
def test_the_axis_is_found_in_whatever_order_arrays_are_stored(order: AxisMap) -> None:
    data = data_set(("front", "back"), *[{1: FRONT, 2: BACK}] * 6, order=order)
    assert axes_of(data) == {1: ("front", "back")}
    (found,) = find_order(data, "canonical", Sides())
    assert found.cases == 6
    assert found.distance_mm == pytest.approx(9 * 1.5)
    assert "'back' follows 'front' from anterior to posterior (13.5 mm in 6 cases)" in told((found,))


def test_as_stored_the_axes_are_those_of_the_files() -> None:
    turned = AxisMap(order=(2, 1, 0), flipped=(False, True, False))
    data = data_set(("front", "back"), *[{1: FRONT, 2: BACK}] * 6, order=turned)
    assert axes_of(data, "as_stored") == {1: ("back", "front")}  # that axis is stored the other way round
    mixed = data_set(("front", "back"), *[{1: FRONT, 2: BACK}] * 48)  # in all 48 orders nothing is the same way round
    assert axes_of(mixed, "as_stored") == {}
    assert axes_of(mixed) == {1: ("front", "back")}


def test_what_lies_now_here_now_there_has_no_order() -> None:
    one, other = {1: FRONT, 2: BACK}, {1: BACK, 2: FRONT}
    assert axes_of(data_set(("organ", "tumour"), *[one, other] * 4)) == {}
    assert axes_of(data_set(("organ", "tumour"), *[one] * 6, other)) == {}  # one of seven is enough against it
    assert axes_of(data_set(("organ", "tumour"), *[one] * 4)) == {}  # too few to tell
    assert axes_of(data_set(("organ", "tumour"), *[one] * 4, {1: FRONT}, {2: BACK})) == {}
    assert axes_of(data_set(("organ",), *[{1: FRONT}] * 6)) == {}


def test_labels_within_each_other_have_no_order() -> None:
    around = np.s_[2:10, 1:9, 8:22]
    assert axes_of(data_set(("shell", "core"), *[{1: around, 2: np.s_[4:8, 3:7, 10:20]}] * 6)) == {}


def test_sides_that_mirroring_exchanges_forbid_nothing() -> None:
    kidneys = {1: ON_THE_LEFT, 2: ON_THE_RIGHT}
    data = data_set((*KIDNEYS, "spine"), *[{**kidneys, 3: SPINE}] * 6)
    assert find_sides(data).swapped_labels
    assert 2 not in axes_of(data)  # the spine lies between them, exchanged or not
    with_liver = data_set((*KIDNEYS, "liver"), *[{**kidneys, 3: LIVER}] * 6)
    assert 2 in axes_of(with_liver)  # and the liver does not change sides
    sides, order = sides_and_order(DEFAULT, with_liver)
    assert sides.swapped_labels == ()
    assert sides.forbid_mirroring
    assert "other labels lie in a fixed order" in sides.reason()
    assert 2 in {each.axis for each in order}


def test_sides_that_contradict_their_names_are_told_as_such() -> None:
    data = data_set(KIDNEYS, *[{1: ON_THE_RIGHT, 2: ON_THE_LEFT}] * 6)
    sides, order = sides_and_order(DEFAULT, data)
    assert 2 not in {each.axis for each in order}
    assert sides.forbid_mirroring
    assert "until all of them are confirmed" in sides.reason()


def test_nnunet_mirrors_whatever_lies_where() -> None:
    data = data_set(("front", "back"), *[{1: FRONT, 2: BACK}] * 6)
    assert sides_and_order(NNUNET, data) == (find_sides(data), ())


def test_axes_of_the_patch_follow_the_plans_order() -> None:
    data = data_set(("front", "back"), *[{1: FRONT, 2: BACK}] * 6)
    order = find_order(data, "canonical", Sides())
    assert fixed_axes(order, (0, 1, 2), 3) == (1,)
    assert fixed_axes(order, (0, 1, 2), 2) == (0,)
    assert fixed_axes(order, (1, 0, 2), 3) == (0,)
    assert fixed_axes(order, (1, 0, 2), 2) == ()  # slices do not hold it


def test_the_plan_neither_mirrors_nor_turns_over_and_says_why() -> None:
    data = data_set(("front", "back"), *[{1: FRONT, 2: BACK}] * 6, order=AxisMap())
    larger = tuple(
        msgspec.structs.replace(case, shape=(12, 200, 200), shape_after_crop=(12, 200, 200)) for case in data.cases
    )
    data = msgspec.structs.replace(data, cases=larger)
    ours, theirs = (planner().plan(data, Budget(), CPU_COST, name="any") for planner in (DefaultPlanner, NnunetPlanner))
    flat, full = ours.configuration("2d").augmentation, ours.configuration("3d_fullres").augmentation
    assert flat.mirror_axes == (1,)
    assert full.mirror_axes == (0, 2)
    assert max(flat.rotation_degrees) <= 30
    assert "'back' follows 'front'" in ours.reasons["order of labels"]
    assert theirs.configuration("2d").augmentation.mirror_axes == (0, 1)
    assert "order of labels" not in theirs.reasons
