"""Patches move by legal steps: the largest, the next smaller and larger ones, and the one nearest to a wish."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from planners.patch import covers, grow, largest_patch, nearest_legal, shrink, smaller_patches
from planners.topology import Topology, network_topology

IMAGES = {
    "isotropic": ((1.0, 1.0, 1.0), (432.0, 512.0, 512.0)),
    "thick slices": ((3.6, 0.625, 0.625), (20.0, 320.0, 320.0)),
    "long": ((1.2, 0.8, 0.8), (900.0, 200.0, 150.0)),
    "flat": ((0.5, 0.5), (1500.0, 1100.0)),
    "tiny": ((1.0, 1.2, 2.0), (10.0, 9.0, 6.0)),
}
any_image = pytest.mark.parametrize(("spacing", "shape"), IMAGES.values(), ids=IMAGES)


def voxels(topology: Topology) -> int:
    return math.prod(topology.patch_size)


def over(limit: int):
    return lambda topology: voxels(topology) > limit


def never(topology: Topology) -> bool:
    return False


def always(topology: Topology) -> bool:
    return True


def legal(topology: Topology, spacing) -> bool:
    """The patch is what its own topology makes of it, and the network is deep enough to be one."""
    return network_topology(spacing, topology.patch_size) == topology and len(topology.strides) >= 2


@any_image
def test_the_largest_patch_is_a_cube_in_millimetres_within_the_image(spacing, shape):
    largest = largest_patch(spacing, shape)
    assert legal(largest, spacing)
    edges = zip(largest.patch_size, shape, largest.divisor, strict=True)
    assert all(edge < max(size, 8) + step for edge, size, step in edges)
    unbounded = largest_patch(spacing, [math.inf] * len(shape))
    sides = [edge * step for edge, step in zip(unbounded.patch_size, spacing, strict=True)]
    assert max(sides) / min(sides) < 1.5  # each edge is padded
    assert {2: 2048**2, 3: 256**3}[len(shape)] <= voxels(unbounded) * 1.02


@any_image
def test_an_image_is_covered_only_if_every_axis_is(spacing, shape):
    whole = network_topology(spacing, shape)
    assert covers(whole, shape)
    for axis in range(len(shape)):
        longer = [size + (axis == other) * whole.divisor[axis] for other, size in enumerate(whole.patch_size)]
        assert not covers(whole, longer)


@any_image
def test_shrinking_goes_by_single_steps_to_the_first_that_fits(spacing, shape):
    start = largest_patch(spacing, shape)
    assert shrink(start, spacing, shape, never) == start
    for share in (2, 5, 30, 200):
        found = shrink(start, spacing, shape, over(voxels(start) // share))
        assert legal(found, spacing) or found == start
        assert voxels(found) <= voxels(start) // share or not list(smaller_patches(found, spacing, shape))


@any_image
def test_where_nothing_fits_the_smallest_network_is_left(spacing, shape):
    smallest = shrink(largest_patch(spacing, shape), spacing, shape, always)
    assert len(smallest.strides) >= 2
    assert all(edge >= min(size, 4) for edge, size in zip(smallest.patch_size, shape, strict=True))
    assert not list(smaller_patches(smallest, spacing, shape))


@any_image
def test_smaller_patches_are_smaller_along_one_axis_first_where_most_of_the_image_is_covered(spacing, shape):
    start = largest_patch(spacing, [edge / 2 for edge in shape])
    order = []
    for smaller in smaller_patches(start, spacing, shape):
        less = [axis for axis in range(len(shape)) if smaller.patch_size[axis] < start.patch_size[axis]]
        assert len(less) == 1
        order += less
    covered = [start.patch_size[axis] / shape[axis] for axis in order]
    assert covered == sorted(covered, reverse=True)


@any_image
def test_growing_stops_where_no_step_fits_or_the_image_is_covered(spacing, shape):
    start = shrink(largest_patch(spacing, shape), spacing, shape, always)
    for limit in (voxels(start), 10**4, 10**5, 10**6, 10**9):
        if voxels(start) > limit:
            continue
        grown = grow(start, spacing, shape, over(limit))
        assert voxels(start) <= voxels(grown) <= limit
        assert legal(grown, spacing)
        assert grow(grown, spacing, shape, over(limit)) == grown
        edges = zip(grown.patch_size, shape, grown.divisor, start.patch_size, strict=True)
        assert all(edge < size + step or edge == before for edge, size, step, before in edges)


def test_growing_takes_the_axis_first_that_covers_least_of_the_image():
    spacing, shape = (1.0, 1.0, 1.0), (64.0, 64.0, 256.0)
    start = network_topology(spacing, (32, 32, 32))
    step = voxels(start) // 32 * start.divisor[2]
    assert grow(start, spacing, shape, over(voxels(start) + step)).patch_size == (32, 32, 40)


@pytest.mark.parametrize(
    ("spacing", "wanted", "nearest"),
    [
        ((1.0, 1.0, 1.0), (128, 128, 128), (128, 128, 128)),
        ((1.0, 1.0, 1.0), (100, 60, 33), (96, 56, 32)),  # 56 and 64 are equally near
        ((1.0, 1.0), (116, 116), (112, 112)),  # 4 poolings; 128 has 5, but lies farther away
        ((1.0, 1.0), (500, 500), (512, 512)),
        ((5.0, 1.0, 1.0), (7, 64, 64), (7, 64, 64)),
        ((1.0, 1.0, 1.0), (1, 1, 1), (8, 8, 8)),  # the smallest network
    ],
)
def test_the_nearest_legal_patch(spacing, wanted, nearest):
    assert nearest_legal(spacing, wanted).patch_size == nearest


@pytest.mark.parametrize("seed", range(40))
def test_a_wish_becomes_a_legal_patch_that_no_change_of_one_axis_brings_nearer(seed):
    draw = random.Random(seed)
    dimensions = draw.choice([2, 3])
    spacing = [round(draw.uniform(0.3, 6), 2) for _ in range(dimensions)]
    wanted = [draw.randint(12, 300) for _ in range(dimensions)]
    found = nearest_legal(spacing, wanted)
    assert legal(found, spacing)
    for axis in range(dimensions):
        away = abs(found.patch_size[axis] - wanted[axis])
        for edge in range(wanted[axis] - away + 1, wanted[axis] + away):
            other = list(found.patch_size)
            other[axis] = edge
            assert network_topology(spacing, other).patch_size != tuple(other)


def test_a_legal_wish_is_left_alone():
    for spacing, edges in itertools.product(
        [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0)], itertools.product((16, 48, 96), repeat=3)
    ):
        topology = network_topology(spacing, edges)
        if topology.patch_size == edges:
            assert nearest_legal(spacing, edges) == topology
