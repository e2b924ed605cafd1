"""Interpolating label maps between thick slices by shape, so that no slice is simply repeated."""

from __future__ import annotations

import numpy as np

__all__ = ["interpolate_shapes"]


def interpolate_shapes(labels: np.ndarray, operator: np.ndarray) -> np.ndarray:
    """More slices along the first axis: the outline of each label moves from slice to slice.

    Every label's signed distance to its outline is taken within each slice and interpolated between slices (Raya and Udupa,
    IEEE Transactions on Medical Imaging 1990); where several labels are inside, the deepest wins; where none is, there is
    background. A label that ends shrinks to a point half-way to the next slice.

    Args:
        labels: integers ``(slices, rows, columns)``.
        operator: ``(new slices, slices)``, linear interpolation.
    """
    result = np.zeros((len(operator), *labels.shape[1:]), labels.dtype)
    depth = np.zeros(result.shape, np.float32)
    for label in np.unique(labels):
        if label == 0:
            continue
        inside = labels == label
        rows, columns = _extent(inside.any(axis=(0, 2))), _extent(inside.any(axis=(0, 1)))
        distances = _signed_distances(inside[:, rows, columns])
        between = (operator @ distances.reshape(len(distances), -1)).reshape(-1, *distances.shape[1:])
        deeper = between > depth[:, rows, columns]
        result[:, rows, columns][deeper] = label
        depth[:, rows, columns][deeper] = between[deeper]
    return result


def _extent(present: np.ndarray) -> slice:
    places = np.flatnonzero(present)
    return slice(int(places[0]), int(places[-1]) + 1)


def _signed_distances(inside: np.ndarray) -> np.ndarray:
    """Pixels to the outline within each slice, positive inside; float32.

    A slice without the label counts as far outside as the label is deep in the slices beside it.
    """
    from scipy import ndimage

    framed = np.pad(inside, ((0, 0), (1, 1), (1, 1)))
    distances = np.zeros(framed.shape, np.float32)
    for index, plane in enumerate(framed):
        if plane.any():
            within, without = ndimage.distance_transform_edt(plane), ndimage.distance_transform_edt(~plane)
            distances[index] = np.where(plane, within - 0.5, 0.5 - without)
    deepest = distances.max(axis=(1, 2))
    empty = ~framed.any(axis=(1, 2))
    beside = np.maximum(np.pad(deepest, (1, 0))[:-1], np.pad(deepest, (0, 1))[1:])
    distances[empty] = -beside[empty, None, None]
    return distances[:, 1:-1, 1:-1]
