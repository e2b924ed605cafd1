"""Cropping to what is not zero, and putting back."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["Box", "bounding_box", "nonzero_mask", "outside_nonzero"]

Box = tuple[slice, slice, slice]


def bounding_box(image: np.ndarray) -> Box:
    """Tight half-open box of the voxels where any channel of ``(channels, *spatial)`` is not zero.

    An all-zero image gives the whole image. Holes do not matter: filling them leaves the box as it is.
    """
    present = np.any(image != 0, axis=0)
    box = []
    for axis in range(3):
        along = np.flatnonzero(present.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(along[0]), int(along[-1]) + 1) if along.size else slice(0, present.shape[axis]))
    return (box[0], box[1], box[2])


def nonzero_mask(image: np.ndarray) -> np.ndarray:
    """Where any channel of ``(channels, *spatial)`` is not zero, holes filled (by face connectivity); bool, spatial."""
    present = np.any(image != 0, axis=0)
    if present.all():
        return present
    return np.asarray(ndimage.binary_fill_holes(present))


def outside_nonzero(labels: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The label map with -1 where it holds background and the image lies outside its non-zero region.

    Args:
        labels: ``(*spatial)`` integers.
        image: ``(channels, *spatial)``.
    """
    return np.where((labels == 0) & ~nonzero_mask(image), np.array(-1, labels.dtype), labels)
