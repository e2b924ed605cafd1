"""A label map brought onto another grid: each voxel takes the value of the nearest one, background outside."""

from __future__ import annotations

import numpy as np

from autoseg.values import Geometry, Volume

__all__ = ["resample_nearest"]

#: A position this near to the middle between two voxels counts as there, as in ITK: rounding must not choose.
TIE = 1e-6


def resample_nearest(labels: Volume, wanted: Geometry) -> Volume:
    """The label map ``(1, *spatial)`` on another grid.

    Half-way positions go to the voxel with the larger index, as ITK's nearest-neighbour interpolator does. Slabs of
    one slice bound the memory.
    """
    steps, offset = _index_map(labels.geometry, wanted)
    source, shape = labels.array[0], labels.geometry.shape
    result = np.zeros(wanted.shape, labels.array.dtype)
    rows, columns = (np.arange(wanted.shape[axis], dtype=np.float64) for axis in (1, 2))
    for index in range(wanted.shape[0]):
        inside = np.ones(wanted.shape[1:], bool)
        places = []
        for axis in range(3):
            along = steps[axis, 0] * index + offset[axis] + steps[axis, 1] * rows[:, None] + steps[axis, 2] * columns
            nearest = np.floor(along + 0.5 + TIE).astype(np.int64)
            inside &= (nearest >= 0) & (nearest < shape[axis])
            places.append(nearest)
        result[index][inside] = source[places[0][inside], places[1][inside], places[2][inside]]
    return Volume(array=result[None], geometry=wanted)


def _index_map(source: Geometry, wanted: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and offset that give the source's voxel index of an index of the wanted grid."""

    def matrix(geometry: Geometry) -> np.ndarray:
        return np.array(geometry.directions, np.float64).T * np.array(geometry.spacing, np.float64)

    inverse = np.linalg.inv(matrix(source))
    return inverse @ matrix(wanted), inverse @ (np.array(wanted.origin) - np.array(source.origin))
