"""Cropping to what is not zero, and putting back."""

from __future__ import annotations

import numpy as np

from autoseg.volume.lookup import look_up

__all__ = ["Box", "bounding_box", "nonzero_mask", "outside_nonzero"]

Box = tuple[slice, slice, slice]


def bounding_box(image: np.ndarray) -> Box:
    """Tight half-open box of the voxels where any channel of ``(channels, *spatial)`` is not zero.

    An all-zero image gives the whole image. Holes do not matter: filling them leaves the box as it is. Images whose faces
    all hold something, as most do, are not looked through.
    """
    box = [slice(0, size) for size in image.shape[1:]]
    for axis in range(3):
        inner = np.moveaxis(image[(slice(None), *box)], axis + 1, 0)
        if not (inner[0].any() and inner[-1].any()):
            others = tuple(other for other in range(4) if other != axis + 1)
            along = np.flatnonzero(image[(slice(None), *box)].any(axis=others))
            if not along.size:
                break
            box[axis] = slice(int(along[0]), int(along[-1]) + 1)
    return (box[0], box[1], box[2])


def nonzero_mask(image: np.ndarray) -> np.ndarray:
    """Where any channel of ``(channels, *spatial)`` is not zero, holes filled (by face connectivity); bool, spatial."""
    present = image[0] != 0
    for channel in image[1:]:
        present |= channel != 0
    if present.all():
        return present
    return _filled(present)


def _filled(present: np.ndarray) -> np.ndarray:
    """Connected zeros that touch no face of the volume are holes: numbering them is faster than letting them grow."""
    from scipy import ndimage

    numbers, count = ndimage.label(~present)
    hole = np.ones(count + 1, bool)
    for axis in range(3):
        for face in (0, -1):
            hole[numbers.take(face, axis)] = False
    hole[0] = True  # what is not zero
    return look_up(hole, numbers)


def outside_nonzero(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Puts -1 into a label map where it holds background outside an image's non-zero region.

    Args:
        labels: ``(*spatial)`` signed integers; changed.
        mask: ``nonzero_mask`` of the image.

    Returns:
        The label map.
    """
    if not mask.all():
        outside = labels == 0
        outside[mask] = False
        labels[outside] = -1
    return labels
