"""Whether two voxel grids are the same, and if not, how they are related: noise, a conflict, other axes, other sampling.

Programs write headers with few digits, so equal grids differ a little. Up to half a voxel and one degree, voxels can be
paired by their index; beyond, two files show different places, unless one can be brought onto the other's grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from autoseg.values import AxisMap, Geometry

__all__ = ["covers_the_same_space", "grid_conflict", "is_noise", "reordering"]

#: Differences of direction cosines, of spacings (relative) and of origins (in voxels) below this are noise of writing.
NOISE = 1e-3
#: Above these, two files show different places.
CONFLICT_VOXELS, CONFLICT_DEGREES = 0.5, 1.0


def grid_conflict(one: Geometry, other: Geometry) -> str | None:
    """How two grids that should be equal differ by more than half a voxel or one degree, or None."""
    if one.shape != other.shape:
        return f"shape {one.shape} and {other.shape} (z, y, x)"
    angle, apart = one.angle_from(other), one.displacement_from(other)
    if angle <= CONFLICT_DEGREES and apart <= CONFLICT_VOXELS:
        return None
    if angle > CONFLICT_DEGREES:
        return f"directions differ by {angle:.1f} degrees"
    if any(abs(a - b) > NOISE * max(a, b) for a, b in zip(one.spacing, other.spacing, strict=True)):
        return f"spacing {_rounded(one.spacing)} and {_rounded(other.spacing)} mm (z, y, x)"
    return f"they are {apart:.1f} voxels apart"


def is_noise(one: Geometry, other: Geometry) -> bool:
    """Whether grids of equal shape differ by no more than what writing a header with few digits does."""
    smallest = min(*one.spacing, *other.spacing)
    directions = zip(itertools.chain(*one.directions), itertools.chain(*other.directions), strict=True)
    return (
        grid_conflict(one, other) is None
        and math.dist(one.origin, other.origin) < NOISE * smallest
        and all(abs(a - b) < NOISE * max(a, b) for a, b in zip(one.spacing, other.spacing, strict=True))
        and all(abs(a - b) < NOISE for a, b in directions)
    )


def reordering(wanted: Geometry, other: Geometry) -> AxisMap | None:
    """The permutation and flips that bring the other grid onto the wanted one, or None if no such map does."""
    axes = _nearest_axes(wanted, other)
    return axes if grid_conflict(wanted, other.mapped(axes)) is None else None


def covers_the_same_space(wanted: Geometry, other: Geometry) -> bool:
    """Whether the other grid is another sampling of the same box in space, with other voxels.

    Equal corners of the two boxes are to be within one voxel of the coarser grid, along each of its axes. Grids with
    equally many voxels are never another sampling: then one header is wrong, and nobody knows which.
    """
    turned = other.mapped(_nearest_axes(wanted, other))
    if turned.shape == wanted.shape:
        return False
    coarse = [max(a, b) for a, b in zip(wanted.spacing, turned.spacing, strict=True)]
    for corner in itertools.product((0, 1), repeat=3):
        apart = [a - b for a, b in zip(_corner(wanted, corner), _corner(turned, corner), strict=True)]
        for direction, step in zip(wanted.directions, coarse, strict=True):
            if abs(sum(a * b for a, b in zip(apart, direction, strict=True))) > step:
                return False
    return wanted.angle_from(turned) <= 45


def _nearest_axes(wanted: Geometry, other: Geometry) -> AxisMap:
    """The map that turns the other grid's axes nearest to the wanted grid's."""

    def cosine(axis: int, source: int) -> float:
        return sum(a * b for a, b in zip(wanted.directions[axis], other.directions[source], strict=True))

    def alignment(order: Sequence[int]) -> float:
        return sum(abs(cosine(axis, source)) for axis, source in enumerate(order))

    first, second, third = max(itertools.permutations(range(3)), key=alignment)
    flips = tuple(cosine(axis, source) < 0 for axis, source in enumerate((first, second, third)))
    return AxisMap(order=(first, second, third), flipped=(flips[0], flips[1], flips[2]))


def _corner(geometry: Geometry, corner: Sequence[int]) -> Sequence[float]:
    """An outer corner of the box that the voxels fill: half a voxel beyond their centres."""
    return geometry.position([size - 0.5 if far else -0.5 for size, far in zip(geometry.shape, corner, strict=True)])


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values)
