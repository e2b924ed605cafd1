"""Equal grids, noise, conflicts, other axes, other samplings: the limits as laws, whatever the grid."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autoseg.io.checks import grid_findings
from autoseg.io.grids import covers_the_same_space, grid_conflict, is_noise, reordering
from autoseg.values import AxisMap, Geometry

ALL_MAPS = [
    AxisMap(order=order, flipped=flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]
SMALL = st.floats(-0.99e-3, 0.99e-3)
DIRECTION = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda vector: math.hypot(*vector) > 0.1)


def rotation(axis: tuple[float, float, float], degrees: float) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = np.array(axis) / math.hypot(*axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(degrees)
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


@st.composite
def grids(draw: st.DrawFn, sizes: tuple[int, int] = (1, 60)) -> Geometry:
    turned = rotation(draw(DIRECTION), draw(st.floats(0, 180)))
    return Geometry(
        shape=draw(st.tuples(*[st.integers(*sizes)] * 3)),
        spacing=draw(st.tuples(*[st.floats(0.2, 6)] * 3)),
        origin=draw(st.tuples(*[st.floats(-200, 200)] * 3)),
        directions=tuple(tuple(float(part) for part in row) for row in turned),
    )


def changed(grid: Geometry, **fields: object) -> Geometry:
    parts = {name: getattr(grid, name) for name in ("shape", "spacing", "origin", "directions")}
    return Geometry(**{**parts, **fields})


def moved(grid: Geometry, towards: tuple[float, float, float], voxels: float) -> Geometry:
    step = np.array(towards) / math.hypot(*towards) * voxels * min(grid.spacing)
    return changed(grid, origin=tuple(float(part) for part in np.array(grid.origin) + step))


def turned(grid: Geometry, axis: tuple[float, float, float], degrees: float) -> Geometry:
    directions = np.array(grid.directions) @ rotation(axis, degrees).T
    return changed(grid, directions=tuple(tuple(float(part) for part in row) for row in directions))


def severities(image: Geometry, other: Geometry) -> list[str]:
    return [finding.severity for finding in grid_findings(image, other, "the label file", "a", "label.nii.gz")]


@given(grid=grids(), cosines=st.tuples(*[SMALL] * 9), steps=st.tuples(*[SMALL] * 3), towards=DIRECTION, shift=SMALL)
@settings(deadline=None)
def test_noise_of_writing_below_a_thousandth_is_ignored(grid, cosines, steps, towards, shift) -> None:
    noisy = np.array(grid.directions) + 0.5 * np.reshape(cosines, (3, 3))
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    other = moved(grid, towards, shift)
    other = changed(
        other,
        directions=tuple(tuple(float(part) for part in row) for row in noisy),
        spacing=tuple(step * (1 + 0.99 * noise) for step, noise in zip(grid.spacing, steps, strict=True)),
    )
    assume(grid.displacement_from(other) <= 0.5)
    assert severities(grid, other) == []
    assert severities(grid, grid) == []


@given(grid=grids(), towards=DIRECTION, voxels=st.floats(0.002, 3))
@settings(deadline=None)
def test_a_displacement_is_an_error_from_half_a_voxel_on(grid, towards, voxels) -> None:
    assume(abs(voxels - 0.5) > 1e-6)
    assert severities(grid, moved(grid, towards, voxels)) == (["error"] if voxels > 0.5 else ["warning"])


@given(grid=grids(sizes=(1, 3)), axis=DIRECTION, degrees=st.floats(0.2, 20))
@settings(deadline=None)
def test_a_turn_of_more_than_one_degree_of_an_axis_is_an_error_however_small_the_grid(grid, axis, degrees) -> None:
    """The angle that counts is that by which the array's axes turn: 1 degree about one of them leaves it in place."""
    other = turned(grid, axis, degrees)
    angle = max(
        math.degrees(math.acos(min(1.0, float(np.dot(a, b)))))
        for a, b in zip(grid.directions, other.directions, strict=True)
    )
    assume(abs(angle - 1) > 1e-6 and abs(grid.displacement_from(other) - 0.5) > 1e-6)
    expected = "error" if angle > 1 or grid.displacement_from(other) > 0.5 else "warning"
    assume(expected == "error" or not is_noise(grid, other))
    assert severities(grid, other) == [expected]


@given(grid=grids(), other=grids())
@settings(deadline=None)
def test_a_conflict_is_symmetric(grid, other) -> None:
    assert (grid_conflict(grid, other) is None) == (grid_conflict(other, grid) is None)


def test_another_shape_is_a_conflict() -> None:
    grid = Geometry(shape=(3, 4, 5), spacing=(1.0, 1.0, 1.0))
    assert "shape (3, 4, 5) and (3, 4, 6)" in grid_conflict(grid, changed(grid, shape=(3, 4, 6)))


@given(grid=grids())
@settings(deadline=None, max_examples=20)
def test_every_reordering_is_found(grid) -> None:
    """The map found brings the reordered grid back, wherever that differs from leaving it."""
    for axes in ALL_MAPS:
        other = grid.mapped(axes)
        found = reordering(grid, other)
        assert found is not None
        assert grid_conflict(grid, other.mapped(found)) is None


def test_a_reordered_grid_somewhere_else_is_not_one() -> None:
    grid = Geometry(shape=(3, 4, 5), spacing=(1.0, 1.0, 1.0))
    other = grid.mapped(AxisMap(order=(2, 0, 1)))
    assert reordering(grid, changed(other, origin=(0.0, 0.0, 1.0))) is None


@pytest.mark.parametrize(
    ("shape", "spacing", "origin", "covers"),
    [
        (
            (20, 40, 40),
            (2.0, 1.0, 1.0),
            (0.0, 0.0, 0.0),
            False,
        ),  # the same voxels: if a header lies, it is not known which
        ((10, 20, 20), (4.0, 2.0, 2.0), (0.5, 0.5, 1.0), True),  # half as many, corner to corner
        ((10, 20, 20), (4.0, 2.0, 2.0), (0.0, 0.0, 0.0), True),  # first voxel on first voxel
        ((40, 40, 40), (1.0, 1.0, 1.0), (0.0, 0.0, -0.5), True),  # more slices
        ((20, 40, 30), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), False),  # a part of the image
        ((10, 20, 20), (4.0, 2.0, 2.0), (9.0, 0.0, 0.0), False),  # elsewhere
        ((10, 20, 20), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), False),  # a header with another spacing
    ],
)
def test_the_same_space_is_a_box_with_equal_corners(shape, spacing, origin, covers) -> None:
    image = Geometry(shape=(20, 40, 40), spacing=(2.0, 1.0, 1.0))
    label = Geometry(shape=shape, spacing=spacing, origin=origin)
    assert covers_the_same_space(image, label) is covers
    for axes in ALL_MAPS[::5]:
        assert covers_the_same_space(image, label.mapped(axes)) is covers


def test_the_remedy_and_the_fix_follow_from_how_the_grids_are_related() -> None:
    image = Geometry(shape=(20, 40, 30), spacing=(2.0, 1.0, 1.0))
    cases = {
        "reorder": image.mapped(AxisMap(order=(2, 1, 0))),
        "resample": Geometry(shape=(10, 40, 30), spacing=(4.0, 1.0, 1.0), origin=(0.0, 0.0, 1.0)),
        None: changed(image, origin=(5.0, 0.0, 0.0)),
    }
    for fix, other in cases.items():
        (label,) = grid_findings(image, other, "the label file", "a", "label.nii.gz")
        (channel,) = grid_findings(image, other, "a channel", "a", "a_0001.nii.gz")
        assert (label.severity, label.fix, channel.severity, channel.fix) == ("error", fix, "error", None)
        assert label.remedy
        assert channel.remedy
