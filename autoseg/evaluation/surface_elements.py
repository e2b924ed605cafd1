"""Elements of the surface of an object in a voxel grid: where they lie, and the area of each.

The definition is that of Nikolov et al. (Deep learning to achieve clinically applicable segmentation of head and neck
anatomy, 2018): an element lies between the centres of eight neighbouring voxels of which some belong to the object and
some do not. Its area follows from the way in which the object divides that cell, as marching cubes see it (Lorensen and
Cline, SIGGRAPH 1987): edges of the cell are cut in the middle.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

__all__ = ["element_areas", "elements"]

Point = tuple[float, ...]
#: Corners of the unit cell; corner ``i`` is bit ``7 - i`` of a cell's code.
CORNERS = np.array(list(itertools.product((0, 1), repeat=3)))
CODES = 256


def element_areas(spacing: Sequence[float]) -> np.ndarray:
    """Area of the surface within a cell, by the cell's code: float64 ``(256,)``, in square millimetres.

    Args:
        spacing: millimetres between voxels, per axis.
    """
    first, second, third = spacing
    across = np.array([second * third, first * third, first * second])  # how an area scales that looks along an axis
    return np.linalg.norm(_area_vectors() * across, axis=2).sum(axis=1)


@functools.cache
def _area_vectors() -> np.ndarray:
    """For every code the triangles of the surface within a unit cell, as vectors of their areas: ``(256, most, 3)``.

    The corners on the side with fewer of them are taken in groups that edges of the cell connect; each group has a
    surface of its own. Both sides have four only where either gives the same areas.
    """
    triangles = []
    for code in range(CODES):
        inside = [corner for corner in range(8) if code >> (7 - corner) & 1]
        few = inside if len(inside) <= 4 else [corner for corner in range(8) if corner not in inside]
        triangles.append([vector for group in _connected(few) for vector in _cut_off(group)])
    result = np.zeros((CODES, max(map(len, triangles)), 3))
    for code, vectors in enumerate(triangles):
        if vectors:
            result[code, : len(vectors)] = vectors
    return result


def _connected(corners: Iterable[int]) -> list[tuple[int, ...]]:
    """Groups of corners that edges connect."""
    left, groups = set(corners), []
    while left:
        group, front = set(), {min(left)}
        while front:
            group |= front
            front = {corner ^ bit for corner in front for bit in (1, 2, 4)} & left - group
        left -= group
        groups.append(tuple(sorted(group)))
    return groups


@functools.cache
def _cut_off(group: tuple[int, ...]) -> tuple[Point, ...]:
    """Area vectors of the triangles that cut a group of at most four connected corners off the cell.

    They span the polygon through the middles of all edges that lead away from the group. Where its corners do not lie in
    one plane, the fewest planes are taken; stretching the cell changes nothing about that.
    """
    polygon = _around(group)
    ways = [[_area_vector(*triangle) for triangle in triangles] for triangles in _triangulations(polygon)]
    return tuple(min(ways, key=lambda vectors: len(set(map(_direction, vectors)))))


def _around(group: tuple[int, ...]) -> tuple[Point, ...]:
    """The middles of the edges that lead away from a group of corners, in order around it."""
    away = [(corner, corner ^ bit) for corner in group for bit in (1, 2, 4) if corner ^ bit not in group]
    left = [tuple(((CORNERS[one] + CORNERS[other]) / 2).tolist()) for one, other in away]
    ordered = [left.pop()]
    while left:  # each has one neighbour on either of its faces of the cell
        following = next(
            point
            for point in left
            if any(here == there and here != 0.5 for here, there in zip(point, ordered[-1], strict=True))
        )
        left.remove(following)
        ordered.append(following)
    return tuple(ordered)


def _triangulations(polygon: tuple[Point, ...]) -> Iterator[list[tuple[Point, Point, Point]]]:
    """All ways to divide a polygon into triangles of its corners."""
    if len(polygon) < 3:
        yield []
    for middle in range(1, len(polygon) - 1):
        for one in _triangulations(polygon[: middle + 1]):
            for other in _triangulations(polygon[middle:]):
                yield [*one, (polygon[0], polygon[middle], polygon[-1]), *other]


def _area_vector(one: Point, other: Point, third: Point) -> Point:
    (a, b, c), (d, e, f) = ([there - here for here, there in zip(one, end, strict=True)] for end in (other, third))
    return ((b * f - c * e) / 2, (c * d - a * f) / 2, (a * e - b * d) / 2)


def _direction(vector: Point) -> Point:
    return tuple(round(part / math.hypot(*vector), 6) for part in vector)


def elements(
    mask: np.ndarray, areas: np.ndarray, unknown: np.ndarray | None = None, *, planar: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The surface elements of an object.

    Args:
        mask: uint8 ``(slices, rows, columns)``, 1 in the object; its last slice, row and column, and also the first ones,
            are empty (of a planar mask: rows and columns only).
        areas: of ``element_areas``.
        unknown: uint8 of the same shape, 1 in voxels of which nothing is known: elements beside these are left out.
        planar: the mask has one slice, and the surface is its contour: areas are lengths times the spacing of slices.

    Returns:
        Ascending places in the flattened mask (that of the first of the eight voxels), and the areas.
    """
    places, sizes = [np.zeros(0, np.int64)], [np.zeros(0)]
    # a planar mask goes on as it is on both sides of its slice
    before = _codes_of_slice(mask[0])
    blind = None if unknown is None else _codes_of_slice(unknown[0])
    for index in range(len(mask)) if planar else range(len(mask) - 1):
        following = index if planar else index + 1
        after = _codes_of_slice(mask[following])
        codes = (before << 4 | after).ravel()
        here = np.flatnonzero(
            codes - np.uint8(1) < CODES - 2
        )  # 0 becomes 255: all eight outside, as all eight inside, fail
        if unknown is not None and blind is not None:
            blind_after = _codes_of_slice(unknown[following])
            here = here[((blind | blind_after).ravel()[here]) == 0]
            blind = blind_after
        places.append(here + index * codes.size)
        sizes.append(areas[codes[here]])
        before = after
    return np.concatenate(places), np.concatenate(sizes)


def _codes_of_slice(plane: np.ndarray) -> np.ndarray:
    """Four bits for every pixel: itself, its right neighbour, the one below, and the right neighbour of that."""
    two = plane << 1
    two[:, :-1] |= plane[:, 1:]
    four = two << 2
    four[:-1] |= two[1:]
    return four
