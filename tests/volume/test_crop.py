"""Cropping to what is not zero."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.volume import crop
from autoseg.volume.crop import bounding_box, nonzero_mask, outside_nonzero


@pytest.fixture(autouse=True, scope="module", params=[0, crop.FEW_ZEROS], ids=["numbered", "visited"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Zeros are numbered by scipy, or visited one by one where they are few."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(crop, "FEW_ZEROS", request.param)
        yield


def image(*points: tuple[int, int, int, int], shape: tuple[int, int, int, int] = (2, 6, 7, 8)) -> np.ndarray:
    """Zeros, but for the given voxels (channel first)."""
    array = np.zeros(shape, np.float32)
    for point in points:
        array[point] = -0.5
    return array


@pytest.mark.parametrize("seed", range(8))
def test_the_box_is_that_of_scipys_find_objects(seed: int) -> None:
    random = np.random.default_rng(seed)
    array = image()
    start, stop = random.integers(0, 3, 3), random.integers(4, 7, 3)
    inner = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    array[(slice(None), *inner)] = random.random(array[(slice(None), *inner)].shape) < 0.1
    present = (array != 0).any(0)
    assert present.any()
    assert bounding_box(array) == ndimage.find_objects(present.astype(int))[0]


def test_any_channel_counts_and_so_do_negative_values() -> None:
    assert bounding_box(image((0, 1, 2, 3), (1, 4, 2, 7))) == (slice(1, 5), slice(2, 3), slice(3, 8))


@pytest.mark.parametrize("point", [(0, 0, 0, 0), (1, 5, 6, 7)])
def test_one_voxel_in_a_corner_is_its_own_box(point: tuple[int, int, int, int]) -> None:
    assert bounding_box(image(point)) == tuple(slice(at, at + 1) for at in point[1:])


def test_an_all_zero_image_is_not_cropped() -> None:
    assert bounding_box(image()) == (slice(0, 6), slice(0, 7), slice(0, 8))


def shell() -> np.ndarray:
    """A box with a hole inside, and zeros outside."""
    array = np.zeros((1, 6, 6, 6), np.float32)
    array[0, 1:5, 1:5, 1:5] = 1
    array[0, 2:4, 2:4, 2:4] = 0
    return array


def test_holes_are_filled_and_the_outside_is_not() -> None:
    mask = nonzero_mask(shell())
    expected = np.zeros((6, 6, 6), bool)
    expected[1:5, 1:5, 1:5] = True
    np.testing.assert_array_equal(mask, expected)


def test_a_hole_that_is_open_through_a_face_is_no_hole_but_one_open_at_an_edge_is() -> None:
    open_face, open_edge = shell(), shell()
    open_face[0, 1, 2, 2] = 0
    open_edge[0, 1, 1, 2] = 0  # touches the hole by an edge only: holes are of face connectivity
    assert not nonzero_mask(open_face)[2, 2, 2]
    assert nonzero_mask(open_edge)[2, 2, 2]


@pytest.mark.parametrize("array", [image(), np.ones((2, 3, 4, 5), np.float32)], ids=["zeros", "ones"])
def test_masks_of_uniform_images(array: np.ndarray) -> None:
    np.testing.assert_array_equal(nonzero_mask(array), array[0] != 0)


def test_a_voxel_is_inside_if_any_channel_is() -> None:
    np.testing.assert_array_equal(np.argwhere(nonzero_mask(image((0, 1, 2, 3), (1, 4, 2, 7)))), [[1, 2, 3], [4, 2, 7]])


def test_background_outside_becomes_minus_one_and_labels_stay() -> None:
    labels = np.zeros((6, 6, 6), np.int8)
    labels[0, 0, 0] = 2  # outside the image's non-zero region
    labels[3, 3, 3] = 1  # in its hole
    marked = outside_nonzero(labels, nonzero_mask(shell()))
    expected = np.full((6, 6, 6), -1)
    expected[1:5, 1:5, 1:5] = 0
    expected[0, 0, 0], expected[3, 3, 3] = 2, 1
    np.testing.assert_array_equal(marked, expected)
    assert marked is labels


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.floats(0.3, 1), st.integers(1, 2), st.integers(0, 2**32), st.booleans())
def test_masks_are_those_of_scipys_filling_of_holes(
    shape: tuple, share: float, channels: int, seed: int, turned: bool
) -> None:
    array = (np.random.default_rng(seed).random((channels, *shape)) < share).astype(np.float32)
    array = array.transpose(0, 3, 1, 2)[:, ::-1] if turned else array
    np.testing.assert_array_equal(nonzero_mask(array), ndimage.binary_fill_holes((array != 0).any(0)))


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.floats(0, 0.2), st.integers(0, 2**32))
def test_the_box_of_any_image_is_that_of_its_nonzero_voxels(shape: tuple, share: float, seed: int) -> None:
    array = (np.random.default_rng(seed).random((2, *shape)) < share).astype(np.float32)
    places = np.argwhere(array.any(0)) if array.any() else np.argwhere(array[0] == 0)
    expected = tuple(slice(low, high + 1) for low, high in zip(places.min(0), places.max(0), strict=True))
    assert bounding_box(array) == expected
