"""Interpolating label maps between thick slices by shape, so that no slice is simply repeated."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from autoseg.volume.spline import combine_slices

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
    for label, (slices, rows, columns) in _boxes(labels):
        # new slices between which the label is, and the old ones that they lie between
        new = _extent(np.asarray(operator[:, slices].any(axis=1)))
        old = slice(max(0, slices.start - 1), slices.stop + 1)
        distances = _signed_distances(labels[old, rows, columns] == label)
        between = combine_slices(operator[new, old], distances)
        place = (new, rows, columns)
        deeper = between > depth[place]
        result[place][deeper] = label
        depth[place][deeper] = between[deeper]
    return result


def _boxes(labels: np.ndarray) -> Iterator[tuple[int, tuple[slice, slice, slice]]]:
    """Every label but 0, ascending, with its bounding box."""
    from scipy import ndimage

    for label in sorted({int(value) for value in np.unique(labels[labels < 0])}):
        inside = labels == label
        rows, columns = _extent(inside.any(axis=(0, 2))), _extent(inside.any(axis=(0, 1)))
        yield label, (_extent(inside.any(axis=(1, 2))), rows, columns)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            yield label, box


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
