"""A normalizer that takes its process along where an image is glaring."""

from __future__ import annotations

import ctypes

import numpy as np


def fragile(image: np.ndarray, mask: np.ndarray | None, properties: object) -> np.ndarray:
    """Float32, or a crash."""
    if image.max() > 20_000:
        ctypes.string_at(0)
    return image.astype(np.float32)
