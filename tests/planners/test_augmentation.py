"""How far patches may be turned, where they may be mirrored, and which labels are sides of the patient."""

from __future__ import annotations

import itertools

import pytest

from autoseg.values import Label, Labels
from planners.augmentation import augmentation, left_right_pairs


@pytest.mark.parametrize(
    ("patch", "angles", "in_plane"),
    [
        ((128, 128), (180.0,), False),
        ((96, 64), (180.0,), False),  # a ratio of 1.5 is not yet flat
        ((64, 97), (15.0,), False),
        ((97, 64), (15.0,), False),
        ((128, 128, 128), (30.0,) * 3, False),
        ((64, 192, 192), (30.0,) * 3, False),  # a ratio of 3 is not yet flat
        ((63, 192, 64), (180.0,), True),
        ((192, 40, 40), (30.0,) * 3, False),  # only the first axis can be that of thick slices
    ],
)
def test_flat_patches_are_turned_less_or_within_their_slices(patch, angles, in_plane):
    spec = augmentation(patch)
    assert (spec.rotation_degrees, spec.in_plane) == (angles, in_plane)


@pytest.mark.parametrize("patch", [(64, 64), (16, 64), (64, 64, 64), (8, 64, 64)])
def test_every_axis_is_mirrored_that_is_not_blocked(patch):
    axes = range(len(patch))
    for blocked in itertools.chain.from_iterable(
        itertools.combinations(axes, count) for count in range(len(patch) + 1)
    ):
        assert set(augmentation(patch, blocked_axes=blocked).mirror_axes) == set(axes) - set(blocked)


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
