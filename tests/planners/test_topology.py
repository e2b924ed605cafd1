"""Laws of the U-Net's shape for any spacing and patch; known answers stand in ``test_known_answers``."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from planners.topology import Topology, network_topology


def any_case(seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    draw = random.Random(seed)
    dimensions = draw.choice([2, 3])
    spacing = tuple(round(math.exp(draw.uniform(-1, 2)), 3) for _ in range(dimensions))
    return spacing, tuple(draw.choice([float(draw.randint(1, 40)), draw.uniform(40, 300)]) for _ in range(dimensions))


any_patch = pytest.mark.parametrize(("spacing", "patch"), [any_case(seed) for seed in range(40)])


def rearranged(topology: Topology, order: tuple[int, ...]) -> Topology:
    def turned(sizes):
        return tuple(sizes[axis] for axis in order)

    return Topology(
        patch_size=turned(topology.patch_size),
        pools=turned(topology.pools),
        kernel_sizes=tuple(map(turned, topology.kernel_sizes)),
        strides=tuple(map(turned, topology.strides)),
    )


@any_patch
def test_the_patch_is_padded_to_the_next_multiple_of_its_poolings(spacing, patch):
    topology = network_topology(spacing, patch)
    for edge, wanted, step in zip(topology.patch_size, patch, topology.divisor, strict=True):
        assert edge % step == 0
        assert wanted <= edge < wanted + step


@any_patch
def test_every_stage_has_a_stride_and_a_kernel_and_strides_multiply_to_the_divisor(spacing, patch):
    topology = network_topology(spacing, patch)
    assert len(topology.strides) == len(topology.kernel_sizes)
    assert topology.strides[0] == (1,) * len(patch)
    assert {step for stride in topology.strides for step in stride} <= {1, 2}
    assert tuple(math.prod(steps) for steps in zip(*topology.strides, strict=True)) == topology.divisor


@any_patch
def test_kernels_widen_once_and_the_last_are_full(spacing, patch):
    kernels = network_topology(spacing, patch).kernel_sizes
    assert set(itertools.chain(*kernels)) <= {1, 3}
    assert kernels[-1] == (3,) * len(patch)
    for earlier, later in itertools.pairwise(kernels):
        assert all(small <= large for small, large in zip(earlier, later, strict=True))


@any_patch
def test_no_pooled_feature_map_has_an_edge_below_4(spacing, patch):
    topology = network_topology(spacing, patch)
    for edge, step in zip(topology.patch_size, topology.divisor, strict=True):
        assert step == 1 or edge // step >= 4


@any_patch
def test_finer_axes_are_halved_first(spacing, patch):
    """Whenever an axis is pooled, its spacing is within a factor of two of the finest one that is pooled with it."""
    current = list(spacing)
    for stride in network_topology(spacing, patch).strides[1:]:
        pooled = [current[axis] for axis, step in enumerate(stride) if step == 2]
        assert max(pooled) / min(pooled) < 2
        current = [step * edge for step, edge in zip(stride, current, strict=True)]


@any_patch
def test_the_order_of_the_axes_does_not_matter(spacing, patch):
    topology = network_topology(spacing, patch)
    for order in itertools.permutations(range(len(patch))):
        turned = network_topology([spacing[axis] for axis in order], [patch[axis] for axis in order])
        assert turned == rearranged(topology, order)


@any_patch
def test_only_the_proportions_of_the_spacing_matter(spacing, patch):
    assert network_topology([8 * step for step in spacing], patch) == network_topology(spacing, patch)
