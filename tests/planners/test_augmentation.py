"""How far patches may be turned, and where they may be mirrored."""

from __future__ import annotations

import pytest

from planners.augmentation import augmentation


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


PATCHES = [(64, 64), (16, 64), (64, 64, 64), (8, 64, 64)]
FORBIDDEN, SWAPPED = {"forbid_mirroring": True}, {"swapped_labels": [(1, 2)]}


@pytest.mark.parametrize("patch", PATCHES)
def test_every_axis_is_mirrored_but_that_from_side_to_side_where_it_is_forbidden(patch):
    axes = tuple(range(len(patch)))
    assert augmentation(patch).mirror_axes == axes
    for axis in axes:
        assert augmentation(patch, left_right_axis=axis).mirror_axes == axes
        assert augmentation(patch, left_right_axis=axis, **FORBIDDEN).mirror_axes == tuple(
            other for other in axes if other != axis
        )


@pytest.mark.parametrize("patch", PATCHES)
def test_an_axis_along_which_labels_are_exchanged_is_mirrored_with_them(patch) -> None:
    for axis in range(len(patch)):
        spec = augmentation(patch, left_right_axis=axis, **SWAPPED)
        assert (spec.mirror_axes, spec.swap_axis) == (tuple(range(len(patch))), axis)
        assert spec.swapped_labels == ((1, 2),)


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("given", [FORBIDDEN, SWAPPED, {"left_right_axis": 1}], ids=["forbidden", "labels", "axis"])
def test_without_axis_or_labels_nothing_is_exchanged(patch, given) -> None:
    """Slices from side to side, or no labels with sides: as if nobody had asked."""
    assert augmentation(patch, **given) == augmentation(patch)


@pytest.mark.parametrize("given", [FORBIDDEN, SWAPPED], ids=["forbidden", "exchanged"])
@pytest.mark.parametrize(
    ("patch", "angles", "in_plane"),
    [
        ((128, 128), (30.0,), False),
        ((64, 97), (15.0,), False),
        ((16, 64, 64), (30.0,), True),
        ((64,) * 3, (30.0,) * 3, False),
    ],
)
def test_where_labels_have_sides_slices_are_turned_little(given, patch, angles, in_plane) -> None:
    """Turned by half a circle and mirrored from front to back, left is right."""
    spec = augmentation(patch, left_right_axis=len(patch) - 1, **given)
    assert (spec.rotation_degrees, spec.in_plane) == (angles, in_plane)
