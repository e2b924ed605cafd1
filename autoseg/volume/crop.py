"""Cropping to what is not zero, and putting back."""

from __future__ import annotations

import numpy as np

from autoseg.volume.lookup import look_up

__all__ = ["Box", "bounding_box", "nonzero_mask", "outside_nonzero"]

Box = tuple[slice, slice, slice]
#: As many zeros are visited one by one.
FEW_ZEROS = 2000


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
    zeros = present.size - np.count_nonzero(present)
    if not zeros:
        return present
    return _few_filled(present) if zeros <= FEW_ZEROS else _filled(present)


def _few_filled(present: np.ndarray) -> np.ndarray:
    """As ``_filled`` for a few zeros, each visited once from the faces on: quicker than to load a library for it."""
    at = np.argwhere(~present)
    on_face = ((at == 0) | (at == np.array(present.shape) - 1)).any(axis=1)
    # numbers of places in a volume with a margin, in which no neighbour of a place is on the other side
    steps = ((present.shape[1] + 2) * (present.shape[2] + 2), present.shape[2] + 2, 1)
    numbers = (at + 1) @ np.array(steps)
    front = numbers[on_face].tolist()
    hidden = set(numbers[~on_face].tolist())
    while front:
        place = front.pop()
        for near in (place + step for length in steps for step in (-length, length)):
            if near in hidden:
                hidden.remove(near)
                front.append(near)
    holes = at[[number in hidden for number in numbers.tolist()]]
    present[tuple(holes.T)] = True
    return present


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
