"""Grids in space: axis maps are a group, and no map moves a voxel in the world."""

from __future__ import annotations

import itertools
import math

import nibabel
import numpy as np
import pytest

from autoseg.values import AxisMap, Geometry, Volume

MAPS = [
    AxisMap(order=order, flipped=flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]
every_map = pytest.mark.parametrize("axes", MAPS, ids=lambda axes: f"{axes.order}{[int(f) for f in axes.flipped]}")


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    """Turns about x, y and z, one after another."""
    result = np.eye(3)
    for angle, (first, second) in zip(np.radians(degrees), ((1, 2), (0, 2), (0, 1)), strict=True):
        turn = np.eye(3)
        turn[[first, second], [first, second]] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        result = turn @ result
    return result


def grid(degrees: tuple[float, float, float] = (12.0, -20.0, 25.0), shift: float = 0.0) -> Geometry:
    """An anisotropic grid, tilted about every axis of the world."""
    turned = rotation(degrees)
    directions = tuple(tuple(float(part) for part in turned[:, world]) for world in (2, 1, 0))
    return Geometry(
        shape=(3, 4, 5), spacing=(3.0, 1.25, 0.7), origin=(-10.0 + shift, 20.0, 30.5), directions=directions
    )


def reordered(array: np.ndarray, axes: AxisMap) -> np.ndarray:
    """The three leading axes of an array through a map, in plain numpy."""
    rest = range(3, array.ndim)
    turned = np.transpose(array, (*axes.order, *rest))
    return np.flip(turned, [axis for axis in range(3) if axes.flipped[axis]])


def positions(geometry: Geometry) -> np.ndarray:
    """LPS positions ``(*shape, 3)`` of all voxels."""
    return np.array([geometry.position(index) for index in np.ndindex(*geometry.shape)]).reshape(*geometry.shape, 3)


def assert_same_grid(one: Geometry, other: Geometry) -> None:
    assert one.shape == other.shape
    np.testing.assert_allclose(one.spacing, other.spacing, rtol=1e-12)
    np.testing.assert_allclose(one.origin, other.origin, atol=1e-9)
    np.testing.assert_allclose(one.directions, other.directions, atol=1e-12)


def test_axis_maps_are_a_group() -> None:
    place = {(axes.order, axes.flipped): index for index, axes in enumerate(MAPS)}

    def number(axes: AxisMap) -> int:
        return place[axes.order, axes.flipped]

    table = np.array([[number(one.then(other)) for other in MAPS] for one in MAPS])  # KeyError: not closed
    identity, every = number(AxisMap()), np.arange(48)
    assert (table[identity] == every).all()
    assert (table[:, identity] == every).all()
    inverse = np.array([number(axes.inverse()) for axes in MAPS])
    assert (table[every, inverse] == identity).all()
    assert (table[inverse, every] == identity).all()
    # (a then b) then c == a then (b then c), for all 48 ** 3
    assert (table[table] == table[every[:, None, None], table[None]]).all()


@every_map
def test_then_is_one_map_after_the_other(axes: AxisMap) -> None:
    array = np.arange(60).reshape(3, 4, 5)
    for following in MAPS:
        one_by_one = reordered(reordered(array, axes), following)
        np.testing.assert_array_equal(reordered(array, axes.then(following)), one_by_one)
        assert axes.then(following).reorder((3, 4, 5)) == one_by_one.shape


@every_map
def test_mapped_keeps_the_position_of_every_voxel(axes: AxisMap) -> None:
    mapped = grid().mapped(axes)
    np.testing.assert_allclose(positions(mapped), reordered(positions(grid()), axes), atol=1e-9)


@every_map
def test_mapped_there_and_back_is_the_same_grid(axes: AxisMap) -> None:
    assert_same_grid(grid().mapped(axes).mapped(axes.inverse()), grid())


@every_map
def test_all_orders_of_a_grid_have_one_canonical_form(axes: AxisMap) -> None:
    stored = grid().mapped(axes)
    canonical = stored.mapped(stored.to_canonical())
    assert_same_grid(canonical, grid())  # whose axes run nearest to superior, posterior, left
    assert canonical.to_canonical() == AxisMap()


@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), (25.0, 10.0, -15.0), (-8.0, -25.0, 12.0)])
def test_canonical_orientation_agrees_with_nibabel(degrees: tuple[float, float, float]) -> None:
    for axes in MAPS:
        stored = grid(degrees).mapped(axes)
        columns = np.array(stored.directions).T * stored.spacing  # world LPS by array axis
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.block(
            [[columns, np.reshape(stored.origin, (3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]
        )
        found = nibabel.io_orientation(affine)  # per stored axis: the axis of RAS, and whether it runs along
        sides = {0: -1, 1: -1, 2: 1}  # right and anterior are negative in LPS
        expected = {2 - int(world): (axis, sides[int(world)] * sense) for axis, (world, sense) in enumerate(found)}
        canonical = stored.to_canonical()
        assert canonical.order == tuple(expected[axis][0] for axis in range(3))
        assert canonical.flipped == tuple(expected[axis][1] < 0 for axis in range(3))


@every_map
def test_the_orientation_is_told_as_nibabel_tells_it(axes: AxisMap) -> None:
    """Letters of the file's axes, x first; nibabel's world is RAS."""
    geometry = grid().mapped(axes)
    columns = [np.array(geometry.directions[axis]) * geometry.spacing[axis] for axis in (2, 1, 0)]
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1, -1, 1]) @ np.stack(columns, axis=1)
    assert geometry.orientation == "".join(nibabel.aff2axcodes(affine))
    assert geometry.to_canonical().source_orientation == geometry.orientation


def test_a_planar_image_has_no_orientation_and_the_default_grid_is_lps() -> None:
    assert Geometry(shape=(1, 4, 5), spacing=(1.0, 1.0, 1.0), planar=True).orientation == ""
    assert Geometry(shape=(3, 4, 5), spacing=(1.0, 1.0, 1.0)).orientation == "LPS"


def test_a_tie_of_exactly_45_degrees_changes_nothing() -> None:
    half = math.sqrt(0.5)
    turned = Geometry(
        shape=(2, 3, 4), spacing=(1.0, 1.0, 1.0), directions=((0.0, half, half), (0.0, half, -half), (1.0, 0.0, 0.0))
    )
    assert turned.to_canonical().order == (0, 1, 2)


def test_a_planar_image_stays_as_it_is() -> None:
    flat = Geometry(
        shape=(1, 4, 5),
        spacing=(1.0, 1.0, 1.0),
        directions=((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
        planar=True,
    )
    assert flat.to_canonical() == AxisMap()


def test_position_in_default_orientation_is_array_order_reversed() -> None:
    plain = Geometry(shape=(3, 4, 5), spacing=(3.0, 2.0, 0.5), origin=(1.0, 10.0, 100.0))
    assert plain.position((1, 2, 3)) == (1.0 + 1.5, 10.0 + 4.0, 100.0 + 3.0)
    assert plain.position((0.5, 0.0, 0.0)) == (1.0, 10.0, 101.5)


def test_displacement_counts_voxels_of_the_smallest_spacing() -> None:
    assert grid().displacement_from(grid()) == 0
    assert grid().displacement_from(grid(shift=0.35)) == pytest.approx(0.35 / 0.7)
    assert grid(shift=0.35).displacement_from(grid()) == pytest.approx(0.35 / 0.7)


def test_displacement_sees_a_rotation_about_the_first_voxel() -> None:
    turned = Geometry(
        shape=(2, 3, 3), spacing=(1.0, 1.0, 1.0), directions=((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    )
    plain = Geometry(shape=(2, 3, 3), spacing=(1.0, 1.0, 1.0))
    assert plain.displacement_from(turned) == pytest.approx(4.0)  # the corner (0, 2, 2) went from (2, 2) to (-2, 2)


@pytest.mark.parametrize("degrees", [0.0, 0.01, 2.0, 90.0, 180.0])
def test_angle_is_that_of_the_rotation(degrees: float) -> None:
    turned = rotation((0.0, 0.0, degrees))
    directions = tuple(tuple(float(part) for part in turned[:, world]) for world in (2, 1, 0))
    plain = Geometry(shape=(2, 2, 2), spacing=(1.0, 2.0, 3.0))
    other = Geometry(shape=(2, 2, 2), spacing=(1.0, 2.0, 3.0), directions=directions)
    assert plain.angle_from(other) == pytest.approx(degrees, abs=1e-5)


@pytest.mark.parametrize(
    "broken",
    [
        {"shape": (0, 1, 1)},
        {"spacing": (1.0, -1.0, 1.0)},
        {"spacing": (1.0, 0.0, 1.0)},
        {"spacing": (1.0, math.nan, 1.0)},
        {"spacing": (1.0, math.inf, 1.0)},
        {"origin": (0.0, math.nan, 0.0)},
        {"directions": ((0.0, 0.0, 1.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))},
        {"directions": ((0.0, 0.0, math.nan), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))},
        {"planar": True},
    ],
    ids=str,
)
def test_an_impossible_grid_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(broken))):
        Geometry(**{"shape": (2, 1, 1), "spacing": (1.0, 1.0, 1.0), **broken})


@pytest.mark.parametrize("order", [(0, 1, 1), (1, 2, 3), (-1, 0, 1)])
def test_an_order_that_is_no_permutation_is_refused(order: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="order"):
        AxisMap(order=order)


@pytest.mark.parametrize("shape", [(1, 3, 4, 6), (3, 4, 5), (1, 1, 3, 4, 5)])
def test_a_volume_needs_the_shape_of_its_geometry(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        Volume(array=np.zeros(shape), geometry=grid())
