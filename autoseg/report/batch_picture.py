"""A batch as a picture: what a network is shown while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from autoseg.files import replacing
from autoseg.report.overlay import EDGE_PIXELS, GAP, outlined

__all__ = ["draw_batch"]

#: More channels than these are in the files only.
SHOWN_CHANNELS = 4


def draw_batch(path: Path, images: np.ndarray, labels: np.ndarray, spacing: Sequence[float]) -> None:
    """Writes a PNG with one row per sample: its channels, and the first of them with the labels on it.

    Each row shows the slice of axis 0 with most foreground, its pixels stretched to equal millimetres.

    Args:
        path: of the picture.
        images: ``(batch, channels, axis 0, axis 1, axis 2)``.
        labels: ``(batch, axis 0, axis 1, axis 2)``, integers.
        spacing: millimetres along the three axes.
    """
    from skimage.io import imsave

    rows = [_row(image, reference, spacing) for image, reference in zip(images, labels, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.concatenate([np.pad(row, ((0, GAP), (0, 0), (0, 0))) for row in rows])[:-GAP]
    with replacing(path) as beside:
        imsave(beside, picture, check_contrast=False)


def _row(image: np.ndarray, labels: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    foreground = (labels > 0).sum(axis=(1, 2))
    index = int(foreground.argmax()) if foreground.any() else len(labels) // 2
    scale = EDGE_PIXELS / max(labels.shape[1] * spacing[1], labels.shape[2] * spacing[2])
    zoom = (spacing[1] * scale, spacing[2] * scale)
    panels = [_grey(channel[index], zoom) for channel in image[:SHOWN_CHANNELS]]
    panels.append(outlined(panels[0], ndimage.zoom(labels[index], zoom, order=0)))
    gap = np.zeros((panels[0].shape[0], GAP, 3), np.uint8)
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)


def _grey(plane: np.ndarray, zoom: tuple[float, float]) -> np.ndarray:
    """From black for the plane's least values to white for its greatest; what is no number is black."""
    numbers = np.nan_to_num(plane.astype(np.float32), nan=float("-inf"), posinf=float("inf"), neginf=float("-inf"))
    finite = plane[np.isfinite(plane)]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    shown = np.clip((np.clip(numbers, low, high) - low) / max(float(high - low), 1e-6), 0, 1)
    return np.repeat((ndimage.zoom(shown, zoom, order=1).clip(0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
