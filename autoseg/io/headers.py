"""What a file says about its voxels before any of them is read."""

from __future__ import annotations

import math

import numpy as np

from autoseg.values import Geometry, Value

__all__ = ["Header"]


class Header(Value, frozen=True, kw_only=True):
    """What a file holds, as reading it will give it.

    Attributes:
        channels: how many.
        dtype: number type of the voxels, by numpy's name.
        geometry: shape, spacing, origin and directions of the grid.
    """

    channels: int
    dtype: str
    geometry: Geometry

    @property
    def voxels(self) -> int:
        """Numbers in the array, over all channels."""
        return self.channels * math.prod(self.geometry.shape)

    @property
    def bytes(self) -> int:
        """Size of the array that reading gives."""
        return self.voxels * np.dtype(self.dtype).itemsize
