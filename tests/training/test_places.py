"""Where patches lie: known answers at borders, and all places with equal chance."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from autoseg.augmentation.spatial import RotateAndScale, reach
from autoseg.io.case_store import StoredCase
from autoseg.training.places import box_of, corner_range, draw_corner
from planners.training import training

DRAWS = 3000


def case(shape: Sequence[int], *voxels: Sequence[int], label: int = 1) -> StoredCase:
    """A case that is only asked for its shape and its locations."""
    array = np.zeros(shape, np.int8)
    return StoredCase(
        record=SimpleNamespace(),
        image=array[None],
        segmentation=array,
        locations={label: np.array(voxels)},
        reference=array,
    )


def corners(
    one: StoredCase,
    patch: Sequence[int],
    matrix: np.ndarray | None = None,
    *,
    anywhere: bool = True,
    draws: int = DRAWS,
) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.array([draw_corner(one, patch, matrix, random, forced=True, anywhere=anywhere) for _ in range(draws)])


def assert_uniform(values: np.ndarray, low: int, high: int) -> None:
    """Every whole number from low to high about equally often, and no other."""
    found, counts = np.unique(values, return_counts=True)
    np.testing.assert_array_equal(found, np.arange(low, high + 1))
    expected = len(values) / len(found)
    assert np.abs(counts - expected).max() < 4.5 * np.sqrt(expected)


@pytest.mark.parametrize(
    ("shape", "patch", "lowest", "highest"),
    [
        ((20, 20, 20), (8, 5, 20), (0, 0, 0), (12, 15, 0)),
        ((4, 5, 6), (8, 8, 8), (-2, -1, -1), (-2, -1, -1)),  # smaller than the patch: centred
        ((7, 8, 9), (8, 8, 8), (0, 0, 0), (0, 0, 1)),
    ],
)
def test_plain_patches_stay_within_the_image(shape, patch, lowest, highest) -> None:
    assert corner_range(shape, patch, [(edge - 1) / 2 for edge in patch]) == (lowest, highest)


def test_a_patch_that_samples_less_than_its_size_comes_as_near_to_both_borders() -> None:
    """Edges of 9 sampled at half the scale reach 2 voxels from the centre: the centre lies from 2 to 17."""
    assert corner_range((20, 20, 20), (9, 9, 9), (2, 2, 2)) == ((-2, -2, -2), (13, 13, 13))
    assert (
        corner_range((4, 20, 20), (9, 9, 9), (2, 2, 2))[0][0] == corner_range((4, 20, 20), (9, 9, 9), (2, 2, 2))[1][0]
    )


def test_a_lone_voxel_lies_anywhere_in_its_patch_with_equal_chance() -> None:
    voxel = np.array([20, 21, 22])
    positions = voxel - corners(case((44, 44, 44), voxel), (6, 5, 9))
    for axis, edge in enumerate((6, 5, 9)):
        assert_uniform(positions[:, axis], 0, edge - 1)
    assert np.abs(np.corrcoef(positions.T) - np.eye(3)).max() < 0.08


@pytest.mark.parametrize(
    ("voxel", "low", "high"), [(0, 0, 0), (3, 0, 3), (19, 12, 12), (17, 10, 12), (10, 3, 10)], ids=str
)
def test_near_borders_the_places_within_the_image_have_equal_chance_on_both_sides(voxel, low, high) -> None:
    found = corners(case((20, 20, 20), (10, voxel, 10)), (8, 8, 8))
    assert_uniform(found[:, 1], low, high)


def test_in_an_image_smaller_than_the_patch_there_is_one_place() -> None:
    for anywhere in (True, False):
        found = corners(case((4, 5, 30), (3, 0, 29)), (8, 8, 8), anywhere=anywhere, draws=50)
        np.testing.assert_array_equal(found[:, :2], [[-2, -1]] * 50)
        assert (found[:, 2] == 22).all()


@pytest.mark.parametrize(
    ("voxel", "corner"),
    [((10, 9, 11), (8, 7, 8)), ((0, 1, 2), (0, 0, 0)), ((19, 18, 17), (15, 16, 14))],
    ids=["inside", "near", "far"],
)
def test_in_the_centre_as_nnunet_but_for_the_far_border(voxel, corner) -> None:
    """nnU-Net's corner, voxel minus half a patch, at least 0; and as at the near border, no further than fits."""
    found = corners(case((20, 20, 20), voxel), (5, 4, 6), anywhere=False, draws=5)
    np.testing.assert_array_equal(found, [corner] * 5)


def test_turned_patches_hold_their_voxel_wherever_it_is() -> None:
    sampling = RotateAndScale((30.0, 30.0, 30.0), rotation_probability=0.7, scaling_probability=0.7)
    random = np.random.default_rng(1)
    patch, shape, half = (8, 10, 9), (30, 31, 32), (np.array((8, 10, 9)) - 1) / 2
    lost = {"inside": 0, "anywhere": 0}
    for draw in range(800):
        where = ("inside", "anywhere")[draw % 2]
        margin = 10 if where == "inside" else 0
        voxel = [int(random.integers(margin, size - margin)) for size in shape]
        matrix = sampling.draw(random, patch)
        corner = draw_corner(case(shape, voxel), patch, matrix, random, forced=True, anywhere=True)
        offset = np.array(voxel) - np.array(corner) - half
        if matrix is not None:
            offset = np.linalg.solve(matrix, offset)
            far = np.minimum(reach(matrix, patch), half)
            centre = np.array(corner) + half
            assert (centre - far >= -1e-9).all()
            assert (centre + far <= np.array(shape) - 1 + 1e-9).all()
        lost[where] += bool((np.abs(offset) > half + 1e-9).any())
    assert lost["inside"] == 0
    assert lost["anywhere"] < 24  # in the corners of the image, which no turned patch reaches without leaving it


@pytest.mark.parametrize("size", [(9, 8, 7), (12, 9)])
def test_a_box_holds_all_that_a_turned_patch_reads_and_little_more(size: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    sampling = RotateAndScale((60.0,) * (3 if len(size) == 3 else 1), rotation_probability=1.0, scaling_probability=1.0)
    for _ in range(50):
        matrix = sampling.draw(random, size)
        start, shape, centre = box_of((5, 6, 7), size, matrix)
        far = reach(matrix, size)
        flat = 3 - len(size)
        assert start[:flat] == (5,) * flat
        assert shape[:flat] == (1,) * flat
        low, high = centre - far, centre + far
        assert (low >= 1).all()
        assert (high <= np.array(shape[flat:]) - 2).all()
        assert (np.array(shape[flat:]) <= 2 * far + 5).all()
        corner = np.array((5, 6, 7)[flat:])
        np.testing.assert_allclose(centre + start[flat:], corner + (np.array(size) - 1) / 2)


def test_the_plan_says_where_forced_voxels_lie() -> None:
    assert training(as_nnunet=True, batch_dice=False, device="cpu", epochs=1).foreground_place == "centre"
    assert training(as_nnunet=False, batch_dice=False, device="cpu", epochs=1).foreground_place == "anywhere"
