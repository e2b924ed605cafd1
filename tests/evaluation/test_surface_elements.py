"""Areas of surface elements: against marching cubes, against DeepMind's surface-distance, and by their symmetries."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from autoseg.evaluation.surface_elements import element_areas, elements

SPACINGS = [(1.0, 1.0, 1.0), (1.0, 2.0, 3.0), (5.0, 0.7, 0.71), (0.1, 10.0, 1.0)]
spacings = pytest.mark.parametrize("spacing", SPACINGS, ids=str)


def cell(code: int) -> np.ndarray:
    """The corners of a cell that are inside."""
    return np.array([code >> (7 - corner) & 1 for corner in range(8)], bool).reshape(2, 2, 2)


def code_of(corners: np.ndarray) -> int:
    return int(corners.ravel() @ (1 << np.arange(7, -1, -1)))


@spacings
def test_areas_are_those_of_surface_distance(spacing: tuple[float, float, float]) -> None:
    tables = pytest.importorskip("surface_distance.lookup_tables")
    expected = tables.create_table_neighbour_code_to_surface_area(spacing)
    assert element_areas(spacing) == pytest.approx(expected, rel=1e-12)


@spacings
def test_contours_are_those_of_surface_distance(spacing: tuple[float, float, float]) -> None:
    tables = pytest.importorskip("surface_distance.lookup_tables")
    expected = tables.create_table_neighbour_code_to_contour_length(spacing[1:])
    assert element_areas((1.0, *spacing[1:]))[np.arange(16) * 17] == pytest.approx(expected, rel=1e-12)


@spacings
@pytest.mark.parametrize(
    "corners",
    [{0}, {0, 1}, {0, 2}, {0, 4}, {0, 1, 2, 3}, {0, 1, 4, 5}, {0, 1, 2, 4}, {0, 7}],
    ids=str,
)
def test_flat_surfaces_are_those_of_marching_cubes(corners: set[int], spacing: tuple[float, float, float]) -> None:
    measure = pytest.importorskip("skimage.measure")
    inside = cell(sum(1 << (7 - corner) for corner in corners))
    vertices, faces, _, _ = measure.marching_cubes(inside.astype(float), 0.5, spacing=spacing, method="lorensen")
    area = measure.mesh_surface_area(vertices, faces)
    assert element_areas(spacing)[code_of(inside)] == pytest.approx(area, rel=1e-6)


def test_inside_and_outside_have_one_surface() -> None:
    areas = element_areas((5.0, 0.7, 0.71))
    assert areas == pytest.approx(areas[::-1], rel=1e-12)
    assert areas[0] == areas[255] == 0
    assert (areas[1:255] > 0).all()


@pytest.mark.parametrize("order", [(0, 2, 1), (1, 2, 0)], ids=str)
def test_turning_and_mirroring_a_cell_changes_nothing(order: tuple[int, int, int]) -> None:
    spacing = (5.0, 0.7, 1.3)
    areas, turned = element_areas(spacing), element_areas([spacing[axis] for axis in order])
    for flipped in ((), (0,), (1, 2), (0, 1, 2)):
        same = [code_of(np.flip(cell(code), flipped).transpose(order)) for code in range(256)]
        assert turned[same] == pytest.approx(areas, rel=1e-12)


def test_the_surface_of_a_box_is_known() -> None:
    """Faces, edges cut at 45 degrees, and corners cut off."""
    sizes, spacing = np.array([4, 3, 6]), np.array([3.0, 1.0, 1.5])
    mask = np.pad(np.ones(sizes, np.uint8), 1)
    _, areas = elements(mask, element_areas(spacing))
    inner = (sizes - 1) * spacing
    faces = 2 * sum(np.prod(np.delete(inner, axis)) for axis in range(3))
    edges = 4 * sum(inner[axis] * np.hypot(*np.delete(spacing, axis)) / 2 for axis in range(3))
    a, b, c = (spacing / 2)[:, None] * np.eye(3)
    corners = 8 * np.linalg.norm(np.cross(b - a, c - a)) / 2
    assert areas.sum() == pytest.approx(faces + edges + corners, rel=1e-12)


def test_elements_beside_unknown_voxels_are_left_out() -> None:
    mask = np.pad(np.ones((3, 4, 4), np.uint8), 2)
    every, _ = elements(mask, element_areas((1, 1, 1)))
    unknown = np.zeros_like(mask)
    unknown[3, 2, 3] = 1
    kept, _ = elements(mask, element_areas((1, 1, 1)), unknown)
    gone = np.stack(np.unravel_index(np.setdiff1d(every, kept), mask.shape), axis=1)
    assert set(kept) < set(every)
    assert {tuple(place) for place in gone} <= set(itertools.product((2, 3), (1, 2), (2, 3)))
    assert len(gone) == 4  # those of the eight cells around it that the surface crosses
