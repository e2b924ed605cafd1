"""Distances between two surfaces in millimetres: computed once for an object, and every metric derived from them.

Where a distance is asked for, it is that of a surface element of one object to the nearest element of the other, and
elements count by their area. Elements and metrics are those of Nikolov et al. (2018), as their surface-distance computes
them; see ``surface_elements``. The average symmetric surface distance weighs all elements of both surfaces alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.evaluation.surface_elements import element_areas, elements
from autoseg.values import Geometry

__all__ = ["DEFAULT_TOLERANCE_MM", "SurfaceDistances", "assd", "hd", "hd95", "nsd", "surface_distances"]

DEFAULT_TOLERANCE_MM = 1.0
#: About as many neighbours of a surface element are looked at one by one, the nearest first, before a tree is asked.
NEIGHBOURS, MOST_STEPS = 400, 12
#: Distances and fractions that differ by less are equal: sums of rounded numbers.
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class OneWay:
    """Distances of the elements of one surface to another: ascending, in millimetres; and the area at each distance.

    Infinite if there is no other surface; empty if this one has no element.
    """

    distances_mm: np.ndarray
    areas: np.ndarray

    @property
    def area(self) -> float:
        """Of the whole surface, in square millimetres (of a contour: its length times the spacing of slices)."""
        return float(self.areas.sum())

    def within(self, fraction: float) -> float:
        """The smallest distance within which that fraction of the area lies."""
        reached = np.cumsum(self.areas)
        place = int(np.searchsorted(reached, fraction * reached[-1] * (1 - ROUNDING)))
        return float(self.distances_mm[min(place, len(reached) - 1)])


@dataclass(frozen=True, kw_only=True)
class SurfaceDistances:
    """Distances between the surfaces of a reference and of a prediction."""

    from_reference: OneWay
    from_prediction: OneWay

    @property
    def _defined(self) -> bool:
        return all(len(way.areas) and math.isfinite(way.distances_mm[-1]) for way in self._ways)

    @property
    def _ways(self) -> tuple[OneWay, OneWay]:
        return (self.from_reference, self.from_prediction)

    def hausdorff(self, percent: float = 100.0) -> float | None:
        """The larger of two distances within which that part of a surface lies; None if there is no surface in one.

        100 is the Hausdorff distance. In millimetres.
        """
        if not self._defined:
            return None
        if percent == 100.0:
            return max(float(way.distances_mm[-1]) for way in self._ways)
        return max(way.within(percent / 100) for way in self._ways)

    def average(self) -> float | None:
        """Mean distance over both surfaces, in millimetres; None if there is no surface in one of them."""
        if not self._defined:
            return None
        total = sum(float((way.distances_mm * way.areas).sum()) for way in self._ways)
        return total / sum(way.area for way in self._ways)

    def dice_at(self, tolerance_mm: float) -> float | None:
        """The part of both surfaces that is at most so far from the other one; None if there is none in both."""
        total = sum(way.area for way in self._ways)
        if not total:
            return None
        near = (way.areas[way.distances_mm <= tolerance_mm * (1 + ROUNDING)].sum() for way in self._ways)
        return float(sum(near)) / total


def surface_distances(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing: Sequence[float],
    *,
    planar: bool = False,
    unknown: np.ndarray | None = None,
) -> SurfaceDistances:
    """Measures the surfaces of two objects.

    Args:
        reference: bool ``(*spatial)``, nothing outside belongs to the object; best cut to the object's bounding box.
        prediction: bool, same shape.
        spacing: millimetres between voxels, per axis.
        planar: an image of one slice: contours are compared, not surfaces.
        unknown: bool ``(*spatial)`` with a margin of one voxel more on every side, True where nothing is known. Elements
            beside such a voxel are left out.
    """
    offsets, distances = _neighbourhood(spacing, planar=planar)
    margin = np.abs(offsets).max(axis=0)
    margin[1:] = np.maximum(1, margin[1:])
    margin[0] = 0 if planar else max(1, margin[0])
    areas = element_areas((1.0, *spacing[1:]) if planar else spacing)
    blind = None if unknown is None else _framed(unknown, margin - 1 if not planar else margin - (0, 1, 1))
    sides = []
    for mask in (reference, prediction):
        framed = _framed(mask, margin)
        places, sizes = elements(framed, areas, blind, planar=planar)
        framed.fill(0)
        framed.reshape(-1)[places] = 1  # from the object to its surface
        sides.append((framed, places, sizes))
    (one, one_places, one_sizes), (other, other_places, other_sizes) = sides
    steps = offsets @ np.array([one.shape[1] * one.shape[2], one.shape[2], 1])
    shells = list(zip(steps.tolist(), distances.tolist(), strict=True))
    return SurfaceDistances(
        from_reference=_one_way(one_places, one_sizes, other, other_places, shells, spacing),
        from_prediction=_one_way(other_places, other_sizes, one, one_places, shells, spacing),
    )


def _framed(mask: np.ndarray, margin: Sequence[int]) -> np.ndarray:
    """As uint8, with zeros around."""
    framed = np.zeros([size + 2 * width for size, width in zip(mask.shape, margin, strict=True)], np.uint8)
    framed[tuple(slice(width, width + size) for width, size in zip(margin, mask.shape, strict=True))] = mask
    return framed


def _neighbourhood(spacing: Sequence[float], *, planar: bool) -> tuple[np.ndarray, np.ndarray]:
    """All steps from an element to others within a sphere, nearest first, and how far they lead in millimetres."""
    axes = (1, 2) if planar else (0, 1, 2)
    volume = math.prod(spacing[axis] for axis in axes)
    radius = math.sqrt(NEIGHBOURS * volume / math.pi) if planar else math.cbrt(NEIGHBOURS * volume * 3 / (4 * math.pi))
    radius = min(radius, (MOST_STEPS + 0.5) * min(spacing[axis] for axis in axes))
    reach = [int(radius / spacing[axis]) if axis in axes else 0 for axis in range(3)]
    offsets = np.array(list(itertools.product(*(range(-steps, steps + 1) for steps in reach))))
    distances = _lengths(offsets, spacing)
    order = np.argsort(distances, kind="stable")
    order = order[distances[order] <= radius]
    return offsets[order], distances[order]


def _lengths(steps: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Millimetres of steps ``(count, 3)`` from voxel to voxel."""
    return np.sqrt(((steps * np.array(spacing)) ** 2).sum(axis=1))


def _one_way(
    places: np.ndarray,
    areas: np.ndarray,
    target: np.ndarray,
    target_places: np.ndarray,
    shells: Sequence[tuple[int, float]],
    spacing: Sequence[float],
) -> OneWay:
    """Distances from one surface to another.

    Two surfaces that nearly agree are compared by looking around: nearest neighbours first, until each element has met the
    other surface. What is farther away is looked up in a tree.

    Args:
        places: of this surface's elements.
        areas: theirs.
        target: uint8, 1 at the elements of the other surface, with room for all steps around both.
        target_places: theirs.
        shells: step in the flattened target and distance, nearest first.
        spacing: millimetres between voxels.
    """
    if not len(places) or not len(target_places):
        return OneWay(distances_mm=np.full(len(places), np.inf), areas=areas)
    distances, sums, flat = [], [], target.reshape(-1)
    for step, distance in shells:
        met = flat[places + step] == 1
        if met.any():
            distances.append(distance)
            sums.append(areas[met].sum())
            places, areas = places[~met], areas[~met]
        if not len(places):
            break
    far = _far(places, target_places, target.shape, spacing)
    order = np.argsort(far)
    return OneWay(
        distances_mm=np.concatenate([np.array(distances), far[order]]),
        areas=np.concatenate([np.array(sums), areas[order]]),
    )


def _far(places: np.ndarray, target_places: np.ndarray, shape: tuple[int, ...], spacing: Sequence[float]) -> np.ndarray:
    """Distances in millimetres from places to the nearest target."""
    if not len(places):
        return np.zeros(0)
    from scipy.spatial import cKDTree

    here = np.stack(np.unravel_index(places, shape), axis=1)
    there = np.stack(np.unravel_index(target_places, shape), axis=1)
    _, nearest = cKDTree(there * spacing, leafsize=32, balanced_tree=False, compact_nodes=False).query(here * spacing)
    return _lengths(there[nearest] - here, spacing)


def _plain(reference: np.ndarray, prediction: np.ndarray, geometry: Geometry) -> SurfaceDistances:
    return surface_distances(reference, prediction, geometry.spacing, planar=geometry.planar)


def hd(
    reference: np.ndarray, prediction: np.ndarray, *, probabilities: np.ndarray | None = None, geometry: Geometry
) -> float | None:
    """Hausdorff distance in millimetres; None if either is empty."""
    return _plain(reference, prediction, geometry).hausdorff()


def hd95(
    reference: np.ndarray, prediction: np.ndarray, *, probabilities: np.ndarray | None = None, geometry: Geometry
) -> float | None:
    """The distance in millimetres within which 95 % of each surface lies; None if either is empty."""
    return _plain(reference, prediction, geometry).hausdorff(95)


def assd(
    reference: np.ndarray, prediction: np.ndarray, *, probabilities: np.ndarray | None = None, geometry: Geometry
) -> float | None:
    """Average symmetric surface distance in millimetres; None if either is empty."""
    return _plain(reference, prediction, geometry).average()


def nsd(
    reference: np.ndarray,
    prediction: np.ndarray,
    *,
    probabilities: np.ndarray | None = None,
    geometry: Geometry,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
) -> float | None:
    """Normalized surface Dice: the part of both surfaces within the tolerance; None if both are empty, 0 if one is."""
    return _plain(reference, prediction, geometry).dice_at(tolerance_mm)
