"""The patch: its proportions, how it shrinks and grows by legal steps, and the smallest that is legal at all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

from planners.topology import SMALLEST_EDGE, SPACING_FACTOR, Topology, network_topology

__all__ = ["covers", "grow", "largest_patch", "nearest_legal", "shrink", "smaller_patches"]

#: Voxels of the first patch, before it is shrunk to the budget.
FIRST_PATCH = {2: 2048**2, 3: 256**3}


def largest_patch(spacing: Sequence[float], shape: Sequence[float]) -> Topology:
    """A cube in millimetres with a fixed number of voxels, no larger than the median image; at least two stages deep."""
    dimensions = len(spacing)
    proportions = [1 / step for step in spacing]
    scale = (FIRST_PATCH[dimensions] / math.prod(proportions)) ** (1 / dimensions)
    return _two_stages(
        spacing, [min(float(round(part * scale)), size) for part, size in zip(proportions, shape, strict=True)]
    )


def _two_stages(spacing: Sequence[float], patch_size: Sequence[float]) -> Topology:
    """The topology of a patch; one that is too small to be halved even once is taken larger than the image."""
    topology = network_topology(spacing, patch_size)
    for least in (2 * SMALLEST_EDGE, 3 * SMALLEST_EDGE):
        if len(topology.strides) > 1:
            break
        near = [step / min(spacing) < SPACING_FACTOR for step in spacing]
        padded = [max(edge, least) if fine else edge for edge, fine in zip(patch_size, near, strict=True)]
        topology = network_topology(spacing, padded)
    return topology


def covers(topology: Topology, shape: Sequence[float]) -> bool:
    """Whether a patch holds a whole median image."""
    return all(edge >= size for edge, size in zip(topology.patch_size, shape, strict=True))


def shrink(
    topology: Topology, spacing: Sequence[float], shape: Sequence[float], too_large: Callable[[Topology], bool]
) -> Topology:
    """Takes one pooling step after the other off the axis that covers most of the image, until the patch fits.

    Returns:
        The largest that fits; the smallest there is where none does.
    """
    while too_large(topology):
        smaller = next(smaller_patches(topology, spacing, shape), None)
        if smaller is None:
            break
        topology = smaller
    return topology


def smaller_patches(topology: Topology, spacing: Sequence[float], shape: Sequence[float]) -> Iterator[Topology]:
    """Patches that are a step smaller along one axis: first that which covers most of the image, of equals the highest.

    None is made thinner than the smallest feature map may be, even where it is not pooled: it would see next to nothing.
    """
    patch = topology.patch_size
    for axis in sorted(range(len(patch)), key=lambda axis: (patch[axis] / shape[axis], axis), reverse=True):
        if patch[axis] > topology.divisor[axis]:
            smaller = _shrunk(topology, spacing, axis)
            if len(smaller.strides) > 1 and smaller.patch_size[axis] >= SMALLEST_EDGE:
                yield smaller


def _shrunk(topology: Topology, spacing: Sequence[float], axis: int) -> Topology:
    patch, trial = list(topology.patch_size), list(topology.patch_size)
    trial[axis] -= topology.divisor[axis]
    patch[axis] -= network_topology(spacing, trial).divisor[axis]
    return network_topology(spacing, patch)


def grow(
    topology: Topology, spacing: Sequence[float], shape: Sequence[float], too_large: Callable[[Topology], bool]
) -> Topology:
    """Adds steps along the axes that cover least of the image, as long as the patch fits and does not cover it."""
    while True:
        larger = (
            each
            for axis in sorted(range(len(shape)), key=lambda axis: topology.patch_size[axis] / shape[axis])
            if topology.patch_size[axis] < shape[axis]
            and (each := _grown(topology, spacing, axis)) is not None
            and not too_large(each)
        )
        found = next(larger, None)
        if found is None:
            return topology
        topology = found


def _grown(topology: Topology, spacing: Sequence[float], axis: int) -> Topology | None:
    patch = list(topology.patch_size)
    patch[axis] += topology.divisor[axis]
    grown = network_topology(spacing, patch)
    others_kept = all(
        grown.patch_size[other] == edge for other, edge in enumerate(topology.patch_size) if other != axis
    )
    return grown if others_kept else None


def nearest_legal(spacing: Sequence[float], wanted: Sequence[int]) -> Topology:
    """The topology of the legal patch that is nearest to a wanted one, axis by axis: each a multiple of its poolings.

    How often an axis is pooled depends on its own size and on that of the others; so every axis is looked at again after
    another has changed.
    """
    patch = list(wanted)
    for _ in wanted:
        if network_topology(spacing, patch).patch_size == tuple(patch):
            break
        for axis, edge in enumerate(wanted):
            patch[axis] = _nearest_edge(spacing, patch, axis, edge)
    return _two_stages(spacing, patch)


def _nearest_edge(spacing: Sequence[float], patch: Sequence[int], axis: int, wanted: int) -> int:
    """The edge nearest to the wanted one, of two the smaller, that a network with the other axes as they are can have."""
    trial = list(patch)
    for distance in itertools.count():
        for edge in (wanted - distance, wanted + distance):
            trial[axis] = edge
            if edge > 0 and network_topology(spacing, trial).patch_size[axis] == edge:
                return edge
    raise AssertionError("an axis is pooled until it is small, so a power of two is always legal")
