"""Connected components of label maps: what lies apart from the largest one. Voxels touch by faces, edges and corners."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from autoseg.volume.crop import bounding_box

__all__ = ["beyond_largest", "keep_largest_components"]


def beyond_largest(label_map: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Voxels with one of some integers that are not in the largest connected component of all these.

    Of several components of the largest size, all are the largest.

    Args:
        label_map: integers ``(*spatial)``, three axes.
        values: of which the object consists; it is looked at as one, whatever integers touch each other.

    Returns:
        Their places in the flattened label map, ascending.
    """
    mask = label_map == values[0] if len(values) == 1 else np.isin(label_map, values)
    box = bounding_box(mask[None])
    inside = mask[box]
    numbers, count = ndimage.label(inside, np.ones((3, 3, 3), bool))
    if count < 2:
        return np.empty(0, np.int64)
    sizes = np.bincount(numbers[inside], minlength=count + 1)
    smaller = sizes < sizes.max()
    smaller[0] = False  # what is no part of the object
    places = np.nonzero(smaller[numbers])
    corner = [side.start for side in box]
    whole = tuple(place + start for place, start in zip(places, corner, strict=True))
    return np.ravel_multi_index(whole, label_map.shape).astype(np.int64, copy=False)


def keep_largest_components(label_map: np.ndarray, objects: Sequence[Sequence[int]]) -> np.ndarray:
    """A label map in which of each object only the largest component is left; everything else of it is background.

    Args:
        label_map: integers ``(*spatial)``, three axes.
        objects: the integers of each, one after the other: a later one is looked at as the earlier ones left it.

    Returns:
        A new label map of the same type.
    """
    result = np.array(label_map, order="C")
    for values in objects:
        result.reshape(-1)[beyond_largest(result, values)] = 0
    return result
