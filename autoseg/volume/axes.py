"""Reordering the spatial axes of an array by an AxisMap: a view, never an interpolation."""

from __future__ import annotations

import numpy as np

from autoseg.values import AxisMap, Volume

__all__ = ["reorder", "reorder_volume"]


def reorder(array: np.ndarray, axes: AxisMap) -> np.ndarray:
    """A view of ``(channels, axis 0, axis 1, axis 2)`` with its spatial axes permuted and flipped."""
    view = array.transpose(0, *(axis + 1 for axis in axes.order))
    return view[(slice(None), *(slice(None, None, -1 if flip else 1) for flip in axes.flipped))]


def reorder_volume(volume: Volume, axes: AxisMap) -> Volume:
    """The same voxels at the same places in space, in another array order."""
    return Volume(array=reorder(volume.array, axes), geometry=volume.geometry.mapped(axes))
