"""Reordering arrays: views that follow the group of axis maps, with geometry alongside."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from autoseg.values import AxisMap, Geometry, Volume
from autoseg.volume.axes import reorder, reorder_volume

MAPS = [
    AxisMap(order=order, flipped=flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]
ARRAY = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)


def test_the_48_maps_give_48_different_arrays() -> None:
    cube = np.arange(8).reshape(1, 2, 2, 2)
    assert len({reorder(cube, axes).tobytes() for axes in MAPS}) == 48


@pytest.mark.parametrize("axes", MAPS, ids=str)
def test_reordering_follows_then_and_inverse(axes: AxisMap) -> None:
    np.testing.assert_array_equal(reorder(reorder(ARRAY, axes), axes.inverse()), ARRAY)
    for following in MAPS[::5]:
        np.testing.assert_array_equal(reorder(ARRAY, axes.then(following)), reorder(reorder(ARRAY, axes), following))


def test_one_known_reordering() -> None:
    axes = AxisMap(order=(2, 0, 1), flipped=(False, True, False))
    np.testing.assert_array_equal(reorder(ARRAY, axes), ARRAY.transpose(0, 3, 1, 2)[:, :, ::-1, :])


def test_nothing_is_copied() -> None:
    assert np.shares_memory(reorder(ARRAY, MAPS[30]), ARRAY)


@pytest.mark.parametrize("axes", MAPS[::3], ids=str)
def test_every_voxel_of_a_volume_keeps_its_place(axes: AxisMap) -> None:
    geometry = Geometry(shape=(3, 4, 5), spacing=(3.0, 2.0, 0.5), origin=(7.0, -8.0, 9.0))
    volume = reorder_volume(Volume(array=ARRAY, geometry=geometry), axes)
    places = {tuple(np.round(geometry.position(index), 9)): ARRAY[0][index] for index in np.ndindex(3, 4, 5)}
    for index in np.ndindex(*volume.geometry.shape):
        assert places[tuple(np.round(volume.geometry.position(index), 9))] == volume.array[0][index]
