"""Where voxels lie in space: Geometry in array order, axis maps between orders, and a Volume that has both.

World coordinates are LPS in millimetres (x to the patient's left, y to posterior, z to superior), as in DICOM and ITK.
Arrays are ``(channels, axis 0, axis 1, axis 2)``; everything here is given per array axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from autoseg.values.json_form import Value, require

__all__ = ["LARGEST_STEP", "SMALLEST_STEP", "AxisMap", "Geometry", "Volume"]

Triple = tuple[float, float, float]
T = TypeVar("T")

#: Millimetres between voxels that can be meant: beyond are slips of the pen, which numbers elsewhere could not hold.
SMALLEST_STEP, LARGEST_STEP = 1e-9, 1e6

#: Canonical orientation: array axes (z, y, x) that run to superior, posterior and left.
CANONICAL_DIRECTIONS: tuple[Triple, Triple, Triple] = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
#: Where canonical array axes run to, and where from: superior, posterior, left.
SIDES = (("S", "I"), ("P", "A"), ("L", "R"))


class AxisMap(Value, frozen=True, kw_only=True):
    """A reordering of three array axes with flips: axis ``i`` of the result is axis ``order[i]`` of the source.

    ``flipped[i]`` tells whether axis ``i`` of the result runs against its source axis. There are 48 of these; they form
    a group under ``then`` with ``inverse``.
    """

    order: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)

    def __post_init__(self) -> None:
        require(sorted(self.order) == [0, 1, 2], f"order must name each of 0, 1, 2 once, not {self.order}")

    def reorder(self, per_axis: Sequence[T]) -> tuple[T, T, T]:
        """Values per axis (spacing, shape, patch size) of the source, in the order of the result."""
        return (per_axis[self.order[0]], per_axis[self.order[1]], per_axis[self.order[2]])

    def inverse(self) -> AxisMap:
        """The map back: ``m.then(m.inverse())`` changes nothing."""
        order = [self.order.index(axis) for axis in range(3)]
        return AxisMap(order=(order[0], order[1], order[2]), flipped=_three(self.flipped[axis] for axis in order))

    def then(self, following: AxisMap) -> AxisMap:
        """First this map, then the following one, as one map."""
        order = following.reorder(self.order)
        flips = following.reorder(self.flipped)
        return AxisMap(order=order, flipped=_three(a != b for a, b in zip(flips, following.flipped, strict=True)))

    @property
    def source_orientation(self) -> str:
        """Where the source's axes run to, if the result is canonical: ``LPS`` for x to left, y to posterior, z to superior.

        Axes in the order of files (x first), letters as nibabel's ``aff2axcodes`` gives them.
        """
        letters = {axis: SIDES[place][self.flipped[place]] for place, axis in enumerate(self.order)}
        return letters[2] + letters[1] + letters[0]


class Geometry(Value, frozen=True, kw_only=True):
    """Shape and place of a voxel grid, in array order.

    Attributes:
        shape: voxels per array axis.
        spacing: millimetres between voxel centres per array axis.
        origin: LPS position of the centre of voxel (0, 0, 0), in millimetres.
        directions: for every array axis the LPS unit vector along which it runs.
        planar: a 2D image: one slice, whose thickness is not physical. Its slice spacing is the larger in-plane one.
    """

    shape: tuple[int, int, int]
    spacing: Triple
    origin: Triple = (0.0, 0.0, 0.0)
    directions: tuple[Triple, Triple, Triple] = CANONICAL_DIRECTIONS
    planar: bool = False

    def __post_init__(self) -> None:
        require(all(size > 0 for size in self.shape), f"shape must be positive, not {self.shape}")
        require(
            all(SMALLEST_STEP <= step <= LARGEST_STEP for step in self.spacing),
            f"spacing must be positive and finite, from {SMALLEST_STEP:g} to {LARGEST_STEP:g} mm, not {self.spacing}",
        )
        require(all(math.isfinite(value) for value in self.origin), f"origin must be finite, not {self.origin}")
        lengths = [math.hypot(*direction) for direction in self.directions]
        require(
            all(abs(length - 1) < 1e-3 for length in lengths), f"directions must be unit vectors: {self.directions}"
        )
        require(abs(_determinant(self.directions)) > 1e-3, f"directions must be independent, not {self.directions}")
        require(not self.planar or self.shape[0] == 1, f"a planar geometry has one slice, not {self.shape[0]}")

    def position(self, index: Sequence[float]) -> Triple:
        """LPS position in millimetres of a (fractional) voxel index in array order."""
        return _three(
            self.origin[world]
            + sum(index[axis] * self.spacing[axis] * self.directions[axis][world] for axis in range(3))
            for world in range(3)
        )

    def mapped(self, axes: AxisMap) -> Geometry:
        """The geometry of the same voxels after the array went through ``axes``."""
        corner = [0, 0, 0]
        for source, flip in zip(axes.order, axes.flipped, strict=True):
            corner[source] = self.shape[source] - 1 if flip else 0
        directions = [
            tuple(-part if flip else part for part in self.directions[source])
            for source, flip in zip(axes.order, axes.flipped, strict=True)
        ]
        return Geometry(
            shape=axes.reorder(self.shape),
            spacing=axes.reorder(self.spacing),
            origin=self.position(corner),
            directions=(directions[0], directions[1], directions[2]),  # type: ignore[arg-type]
            planar=self.planar,
        )

    def to_canonical(self) -> AxisMap:
        """The axis permutation and flips that bring the array nearest to canonical orientation (z, y, x running to
        superior, posterior, left). Nothing is resampled; an oblique grid stays oblique. Planar images stay as they are.
        """
        if self.planar:
            return AxisMap()
        world = (2, 1, 0)  # array axis 0 should run along world z, axis 1 along y, axis 2 along x

        def alignment(order: tuple[int, ...]) -> float:
            return sum(abs(self.directions[source][world[axis]]) for axis, source in enumerate(order))

        # max keeps the first of equals, and the identity comes first: exact 45 degree ties change nothing
        order = max(itertools.permutations(range(3)), key=alignment)
        flipped = _three(self.directions[source][world[axis]] < 0 for axis, source in enumerate(order))
        return AxisMap(order=(order[0], order[1], order[2]), flipped=flipped)

    @property
    def orientation(self) -> str:
        """Where the axes run to, to the nearest: see ``AxisMap.source_orientation``. Empty for a planar image."""
        return "" if self.planar else self.to_canonical().source_orientation

    def displacement_from(self, other: Geometry) -> float:
        """Largest distance between equal corners of the two grids, in voxels of the smaller spacing."""
        smallest = min(*self.spacing, *other.spacing)
        corners = itertools.product(*((0, size - 1) for size in self.shape))
        return max(math.dist(self.position(corner), other.position(corner)) for corner in corners) / smallest

    def angle_from(self, other: Geometry) -> float:
        """Largest angle between equal array axes of the two grids, in degrees."""
        cosines = (
            sum(a * b for a, b in zip(mine, theirs, strict=True)) / (math.hypot(*mine) * math.hypot(*theirs))
            for mine, theirs in zip(self.directions, other.directions, strict=True)
        )
        return max(math.degrees(math.acos(max(-1.0, min(1.0, cosine)))) for cosine in cosines)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """An image or a label map with its place in space.

    Attributes:
        array: ``(channels, axis 0, axis 1, axis 2)``.
        geometry: of the three spatial axes.
        palette: of a picture whose voxels are numbers of colours: red, green and blue of every number from 0 on.
        spaced: False if the file says nothing about millimetres: its spacing is one pixel.
    """

    array: Any  # numpy.ndarray; not imported, so that values stay light
    geometry: Geometry
    palette: tuple[tuple[int, int, int], ...] = ()
    spaced: bool = True

    def __post_init__(self) -> None:
        require(
            tuple(self.array.shape[1:]) == self.geometry.shape,
            f"array shape {tuple(self.array.shape[1:])} differs from the geometry's {self.geometry.shape}",
        )


def _three(items: Any) -> Any:
    first, second, third = items
    return (first, second, third)


def _determinant(rows: Sequence[Sequence[float]]) -> float:
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
