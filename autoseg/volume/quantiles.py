"""Quantiles of an image's intensities: of training images, and in the same way of those that are predicted."""

from __future__ import annotations

import numpy as np

__all__ = ["QUANTILES", "image_quantiles"]

#: What is taken of each channel. The outermost voxels are left out: single bright ones differ from scan to scan.
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
#: About so many voxels are looked at, evenly spread: the quantiles of more differ by less than scans do.
VOXELS = 2**18


def image_quantiles(image: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """``QUANTILES`` of every channel's voxels that are not zero; zeros where all are.

    Zero is what masks, and programs that cut or turn images, put around them.

    Args:
        image: ``(channels, *spatial)``; read at regular distances only.
    """
    step = max(1, round((np.prod(image.shape[1:], dtype=float) / VOXELS) ** (1 / 3)))
    steps = tuple(slice(None, None, min(step, edge)) for edge in image.shape[1:])
    found = []
    for channel in image:
        values = np.asarray(channel[steps], np.float32)
        values = values[values != 0]
        found.append(tuple(map(float, np.quantile(values, QUANTILES))) if values.size else (0.0,) * len(QUANTILES))
    return tuple(found)
