"""How far patches may be turned, and where they may be mirrored."""

from __future__ import annotations

import itertools

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


@pytest.mark.parametrize("patch", [(64, 64), (16, 64), (64, 64, 64), (8, 64, 64)])
def test_every_axis_is_mirrored_that_is_not_blocked(patch):
    axes = range(len(patch))
    for blocked in itertools.chain.from_iterable(
        itertools.combinations(axes, count) for count in range(len(patch) + 1)
    ):
        assert set(augmentation(patch, blocked_axes=blocked).mirror_axes) == set(axes) - set(blocked)


def test_an_axis_along_which_labels_are_exchanged_is_mirrored_with_them() -> None:
    spec = augmentation((64, 64, 64), swap_axis=2, swapped_labels=[(1, 2)])
    assert (spec.mirror_axes, spec.swap_axis, spec.swapped_labels) == ((0, 1, 2), 2, ((1, 2),))


@pytest.mark.parametrize("given", [{"swapped_labels": [(1, 2)]}, {"swap_axis": 1}], ids=["no axis", "no labels"])
def test_without_axis_or_labels_nothing_is_exchanged(given) -> None:
    spec = augmentation((64, 64), **given)
    assert (spec.swap_axis, spec.swapped_labels) == (None, ())
