"""The sliding window: where tiles lie and what their voxels weigh, against nnU-Net's known answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage

from autoseg.inference.window import importance_map, padding_to, tile_positions, tiles


@pytest.mark.parametrize(
    ("size", "patch", "step", "expected"),
    [
        (110, 64, 0.5, [0, 23, 46]),
        (200, 128, 0.5, [0, 36, 72]),
        (333, 128, 0.5, [0, 51, 102, 154, 205]),
        (333, 128, 0.25, [0, 29, 59, 88, 117, 146, 176, 205]),
        (64, 64, 0.5, [0]),
        (65, 64, 0.5, [0, 1]),
    ],
)
def test_tiles_lie_where_nnunets_do(size: int, patch: int, step: float, expected: list[int]) -> None:
    assert tile_positions(size, patch, step) == expected


@pytest.mark.parametrize("patch", [4, 7, 16])
@pytest.mark.parametrize("step", [0.25, 0.5, 1.0])
def test_tiles_cover_the_axis_from_end_to_end_in_even_steps(patch: int, step: float) -> None:
    for size in range(patch, 5 * patch):
        positions = tile_positions(size, patch, step)
        assert positions[0] == 0
        assert positions[-1] == size - patch
        gaps = np.diff(positions)
        if len(gaps):
            assert 1 <= gaps.min() <= gaps.max() <= min(patch, np.ceil(patch * step))
            assert gaps.max() - gaps.min() <= 1


def test_a_volume_has_every_combination_of_places_once() -> None:
    made = list(tiles((20, 12, 9), (8, 8, 8)))
    assert made == list(itertools.product([0, 4, 8, 12], [0, 4], [0, 1]))


def test_flat_tiles_take_every_slice() -> None:
    made = list(tiles((5, 12, 8), (1, 8, 8)))
    assert made == [(index, row, 0) for index in range(5) for row in (0, 4)]


@pytest.mark.parametrize(
    ("shape", "patch", "expected"),
    [
        ((8, 9, 10), (8, 8, 8), [(0, 0), (0, 0), (0, 0)]),
        ((5, 6, 20), (8, 8, 8), [(1, 2), (1, 1), (0, 0)]),
        ((1, 7, 3), (1, 8, 8), [(0, 0), (0, 1), (2, 3)]),
    ],
)
def test_padding_is_even_with_the_odd_voxel_at_the_end(shape: tuple, patch: tuple, expected: list) -> None:
    assert padding_to(shape, patch) == expected


def test_weights_of_an_edge_of_8_are_nnunets() -> None:
    expected = [0.003355, 0.1111, 1.3535, 6.066, 10, 6.066, 1.3535, 0.1111]
    np.testing.assert_allclose(importance_map((8, 1, 1))[:, 0, 0], expected, rtol=1e-3)
    np.testing.assert_allclose(importance_map((8, 8, 8))[:, 4, 4], expected, rtol=1e-3)


@pytest.mark.parametrize("patch", [(8, 8, 8), (1, 12, 10), (5, 7, 9), (2, 64, 48), (1, 256, 128)])
def test_weights_are_largest_at_the_centre_and_nowhere_zero(patch: tuple[int, int, int]) -> None:
    weights = importance_map(patch)
    centre = tuple(edge // 2 for edge in patch)
    assert weights.shape == patch
    assert weights.dtype == np.float32
    assert weights.max() == weights[centre] == 10
    assert (weights > 0).all()
    assert int((weights == 10).sum()) == 1


@pytest.mark.parametrize("patch", [(8, 8, 8), (6, 10, 12), (1, 12, 10)])
def test_weights_are_the_product_of_gaussians_of_an_eighth_of_the_edges(patch: tuple[int, int, int]) -> None:
    expected = np.ones(patch)
    for axis, edge in enumerate(patch):
        if edge > 1:
            distance = (np.arange(edge) - edge // 2) / (edge / 8)
            line = np.exp(-(distance**2) / 2)
            expected *= line.reshape([-1 if other == axis else 1 for other in range(3)])
    np.testing.assert_allclose(importance_map(patch), 10 * expected, rtol=1e-3)


def test_weights_fall_off_from_the_centre_along_every_axis() -> None:
    weights = importance_map((9, 12, 10))
    for axis, edge in enumerate(weights.shape):
        line = np.moveaxis(weights, axis, 0)[:, 4, 4]
        assert (np.diff(line[: edge // 2 + 1]) > 0).all()
        assert (np.diff(line[edge // 2 :]) < 0).all()


def test_the_cached_weights_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        importance_map((4, 4, 4))[0] = 0


@pytest.mark.parametrize("shape", [(8, 8, 8), (13, 9, 21), (30, 8, 10)])
def test_every_voxel_is_seen_by_a_tile_that_weighs_it(shape: tuple[int, int, int]) -> None:
    counts = np.zeros(shape)
    for corner in tiles(shape, (8, 8, 8)):
        counts[tuple(slice(start, start + 8) for start in corner)] += importance_map((8, 8, 8))
    assert (counts > 0).all()
    inner = ndimage.minimum_filter(counts, 3)[4:-4, 4:-4, 4:-4]
    assert (inner > 0.05).all()
