"""Left and right: found by name, confirmed by arrays in any stored order, suggested by geometry alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import pytest
from scipy import ndimage

from autoseg.values import AxisMap, CaseFingerprint, Fingerprint, Label, Labels
from autoseg.volume.axes import reorder
from planners.sides import Sides, find_sides, left_right_pairs
from tests.planners.synthetic import fingerprint

Box = tuple[slice, slice, slice]
SHAPE, SPACING = (12, 20, 30), (3.0, 1.5, 0.75)  # canonical: (z, y, x), x runs from the patient's right to left
ON_THE_RIGHT, ON_THE_LEFT = np.s_[4:8, 6:12, 3:9], np.s_[4:8, 7:13, 20:26]
KIDNEYS = ("left kidney", "right kidney")
ALL_ORDERS = [
    AxisMap(order=order, flipped=flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


def scanned(id_: str, boxes: Mapping[int, Box], to_canonical: AxisMap) -> CaseFingerprint:
    """A case that holds these integers in these boxes of the canonical array, stored in another axis order."""
    canonical = np.zeros((1, *SHAPE), np.int32)
    for integer, box in boxes.items():
        canonical[(0, *box)] = integer
    stored, steps = reorder(canonical, to_canonical.inverse())[0], to_canonical.inverse().reorder(SPACING)
    centres = {str(integer): ndimage.center_of_mass(stored == integer) for integer in boxes}
    return CaseFingerprint(
        id=id_,
        spacing=steps,
        shape=stored.shape,
        shape_after_crop=stored.shape,
        to_canonical=to_canonical,
        planar=False,
        label_counts={str(integer): int((stored == integer).sum()) for integer in boxes},
        label_centres={
            name: tuple(float(place * step) for place, step in zip(centre, steps, strict=True))
            for name, centre in centres.items()
        },
    )


def data_set(names: Sequence[str] | Labels, *cases: Mapping[int, Box], order: AxisMap | None = None) -> Fingerprint:
    """Cases with these boxes; each stored in another order unless one is given."""
    labels = names if isinstance(names, Labels) else named(*names)
    orders = itertools.cycle([order] if order else ALL_ORDERS)
    measured = [
        scanned(f"case {i:02d}", boxes, axes) for i, (boxes, axes) in enumerate(zip(cases, orders, strict=False))
    ]
    empty = fingerprint([(SPACING, SHAPE, 1)])
    return msgspec.structs.replace(empty, labels=labels, cases=tuple(measured))


def named(*names: str) -> Labels:
    return Labels(foreground=tuple(Label(name=name, values=(i,)) for i, name in enumerate(names, start=1)))


def found(names: Sequence[str] | Labels, *cases: Mapping[int, Box]) -> Sides:
    return find_sides(data_set(names, *cases))


RIGHT_WAY, WRONG_WAY = {1: ON_THE_LEFT, 2: ON_THE_RIGHT}, {1: ON_THE_RIGHT, 2: ON_THE_LEFT}


@pytest.mark.parametrize("order", ALL_ORDERS, ids=str)
def test_sides_are_those_of_the_patient_in_whatever_order_arrays_are_stored(order: AxisMap) -> None:
    sides = find_sides(data_set(KIDNEYS, RIGHT_WAY, order=order))
    assert (sides.swapped_labels, sides.forbid_mirroring) == (((1, 2),), False)
    sides = find_sides(data_set(KIDNEYS, WRONG_WAY, order=order))
    assert (sides.swapped_labels, sides.forbid_mirroring) == ((), True)


@pytest.mark.parametrize(
    ("right", "wrong", "evidence"),
    [
        (1, 0, "confirmed"),
        (9, 1, "confirmed"),
        (27, 3, "confirmed"),
        (8, 1, "doubtful"),
        (5, 5, "doubtful"),
        (4, 5, "contradicted"),
        (0, 1, "contradicted"),
    ],
)
def test_one_case_in_ten_may_disagree(right: int, wrong: int, evidence: str) -> None:
    sides = found(KIDNEYS, *[RIGHT_WAY] * right, *[WRONG_WAY] * wrong)
    (pair,) = sides.pairs
    assert (pair.evidence, pair.cases, len(pair.against)) == (evidence, right + wrong, wrong)
    assert bool(sides.swapped_labels) == (evidence == "confirmed")
    assert len(sides.warnings) == (wrong > 0)


def test_cases_that_contradict_the_names_are_told_by_name() -> None:
    sides = found(KIDNEYS, *[WRONG_WAY] * 5, RIGHT_WAY)
    (warning,) = sides.warnings
    for words in ("'left kidney'", "5 of 6 cases", "case 00, case 01, case 02, …", "orientation"):
        assert words in warning
    assert "nothing is mirrored" in sides.reason()
    assert "case 05" not in warning


def test_confirmed_pairs_are_told_with_the_number_of_cases_that_hold_both() -> None:
    reason = found(KIDNEYS, *[RIGHT_WAY] * 4, {1: ON_THE_LEFT}).reason()
    assert "left kidney / right kidney (confirmed by where they lie in 4 of 4 cases)" in reason
    assert "exchanges them" in reason
    assert "nnU-Net" in found(KIDNEYS, RIGHT_WAY).reason(mirrored_anyway=True)


def test_a_pair_that_no_case_holds_as_a_whole_is_not_exchanged() -> None:
    sides = found(KIDNEYS, {1: ON_THE_LEFT}, {2: ON_THE_RIGHT})
    assert (sides.pairs[0].evidence, sides.swapped_labels, sides.forbid_mirroring) == ("unknown", (), True)
    assert "no case holds both" in sides.reason()


def test_every_pair_must_be_confirmed_but_those_that_are_nowhere() -> None:
    names = (*KIDNEYS, "left lung", "right lung", "liver")
    both = {**RIGHT_WAY, 3: np.s_[9:11, 5:9, 20:26], 4: np.s_[9:11, 5:9, 3:9]}
    assert found(names, both).swapped_labels == ((1, 2), (3, 4))
    assert found(names, RIGHT_WAY).swapped_labels == ((1, 2), (3, 4))  # nobody has lungs: they have no say
    half = {**RIGHT_WAY, 3: np.s_[9:11, 5:9, 20:26]}
    assert found(names, half).swapped_labels == ()
    exchanged = {**RIGHT_WAY, 3: both[4], 4: both[3]}
    assert found(names, exchanged).swapped_labels == ()
    assert found(names, {5: ON_THE_RIGHT}).forbid_mirroring  # nobody has any


def test_exchanged_are_positions_whatever_the_integers_are() -> None:
    labels = Labels(
        foreground=(
            Label(name="right kidney", values=(40,)),
            Label(name="liver", values=(7,)),
            Label(name="left kidney", values=(12,)),
        ),
        ignore=30,
    )
    sides = found(labels, {12: ON_THE_LEFT, 40: ON_THE_RIGHT})
    assert [tuple(labels.integers[index] for index in pair) for pair in sides.swapped_labels] == [(12, 40)]


def test_regions_are_confirmed_as_a_whole_and_not_exchanged() -> None:
    """The small part on the wrong side does not move the region's centre over; its outputs are no labels to exchange."""
    labels = Labels(
        foreground=(Label(name="left lung", values=(1, 3)), Label(name="right lung", values=(2,))), region_values=(1, 2)
    )
    sides = found(labels, {**RIGHT_WAY, 3: np.s_[0:1, 0:1, 0:4]})
    assert (sides.pairs[0].evidence, sides.swapped_labels, sides.forbid_mirroring) == ("confirmed", (), True)
    assert "regions" in sides.reason()


def test_without_names_labels_that_lie_like_sides_are_a_suggestion_alone() -> None:
    sides = found(("a", "b"), *[RIGHT_WAY] * 3)
    assert (sides.pairs, sides.swapped_labels, sides.lookalikes) == ((), (), (("a", "b"),))
    assert not sides.forbid_mirroring
    assert (
        "'a' and 'b' look like the two sides of the patient; if they are, name them left … and right …"
        in sides.reason()
    )
    assert sides.reason(mirrored_anyway=True) == ""
    assert found(("a", "b"), *[WRONG_WAY] * 3).lookalikes == (("a", "b"),)


LOW, HIGH = np.s_[0:3, 6:12, 12:18], np.s_[9:12, 6:12, 12:18]


@pytest.mark.parametrize(
    "cases",
    [
        [RIGHT_WAY] * 2,
        [RIGHT_WAY] * 3 + [WRONG_WAY],
        [{1: ON_THE_LEFT}] * 9,
        [{1: LOW, 2: HIGH}] * 4,
        [{1: np.s_[0:3, 6:12, 3:9], 2: np.s_[9:12, 6:12, 20:26]}] * 4,
        [{1: ON_THE_LEFT, 2: np.s_[5:7, 6:9, 3:9]}] * 4,
        [{1: np.s_[2:10, 4:16, 5:25], 2: np.s_[2:10, 4:16, 12:28]}] * 4,
    ],
    ids=["few cases", "no agreement", "never both", "one above the other", "oblique", "one much larger", "overlapping"],
)
def test_labels_that_do_not_lie_like_sides_are_not_suggested(cases: list[Mapping[int, Box]]) -> None:
    sides = found(("a", "b"), *cases)
    assert sides == Sides()
    assert sides.reason() == ""


def test_one_exception_in_ten_does_not_hide_a_suggestion() -> None:
    assert found(("a", "b"), *[RIGHT_WAY] * 18, *[WRONG_WAY] * 2).lookalikes == (("a", "b"),)
    assert found(("a", "b"), *[RIGHT_WAY] * 18, *[WRONG_WAY] * 3).lookalikes == ()


def test_each_label_is_suggested_with_the_partner_that_lies_beside_it() -> None:
    """Across the two layers, a and b as well as c and d would do."""
    left, right = np.s_[7:13, 20:26], np.s_[7:13, 3:9]
    lower, upper = slice(0, 2), slice(2, 4)
    boxes = {1: (lower, *left), 2: (upper, *right), 3: (lower, *right), 4: (upper, *left)}
    assert found(("a", "b"), *[boxes] * 3).lookalikes == (("a", "b"),)
    assert found(("a", "b", "c", "d"), *[boxes] * 3).lookalikes == (("a", "c"), ("b", "d"))


def test_labels_with_a_side_in_their_names_are_no_suggestion() -> None:
    assert found(KIDNEYS, *[RIGHT_WAY] * 4).lookalikes == ()
    sides = found((*KIDNEYS, "a", "b"), *[{**RIGHT_WAY, 3: np.s_[8:12, 7:13, 20:26], 4: np.s_[8:12, 6:12, 3:9]}] * 3)
    assert (sides.swapped_labels, sides.lookalikes) == (((1, 2),), (("a", "b"),))


def test_without_any_centres_nothing_is_exchanged_or_suggested() -> None:
    assert find_sides(fingerprint([(SPACING, SHAPE, 5)], names=KIDNEYS)).forbid_mirroring
    assert find_sides(fingerprint([(SPACING, SHAPE, 5)], names=["a", "b"])) == Sides()


def pairs(*names: str) -> list[tuple[str, str]]:
    return left_right_pairs(Labels(foreground=tuple(Label(name=name, values=(i,)) for i, name in enumerate(names, 1))))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left kidney", "right kidney"),
        ("Left Kidney", "RIGHT KIDNEY"),
        ("LeftKidney", "RightKidney"),
        ("kidneyLeft", "kidneyRight"),
        ("KidneyL", "KidneyR"),
        ("LKidney", "RKidney"),
        ("lung_L", "lung_R"),
        ("L_lung", "r_lung"),
        ("kidney-lt", "kidney-rt"),
        ("lung upper lobe left", "lung upper lobe right"),
        ("rib_left_7", "rib_right_7"),
        ("left", "right"),
        ("L", "R"),
    ],
)
def test_names_that_differ_only_in_the_side_are_a_pair(left, right):
    assert pairs(left, right) == pairs(right, "Liver", left) == [(left, right)]


@pytest.mark.parametrize(
    "names",
    [
        ("left atrium",),
        ("left atrium", "right ventricle"),
        ("Liver", "River"),
        ("Clear", "Crear"),
        ("Lung", "Rung"),
        ("Spleen L", "Spleen"),
        ("bright spot", "bleft spot"),
        ("tumor", "tumol"),
    ],
)
def test_other_names_are_no_pair(names):
    assert pairs(*names) == []


def test_all_pairs_are_found_once():
    names = ("lung_L", "lung_R", "heart", "left kidney", "right kidney", "right arm")
    assert sorted(pairs(*names)) == [("left kidney", "right kidney"), ("lung_L", "lung_R")]
