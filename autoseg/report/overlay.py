"""Overlays: slices of an image with the outlines of reference and prediction beside each other, as one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from autoseg.files import replacing
from autoseg.values import Volume
from autoseg.volume.axes import reorder_volume

__all__ = ["EDGE_PIXELS", "GAP", "Shown", "draw_overlays", "outlined"]

#: Distinct for people with colour-vision deficiency (Okabe and Ito), in the order of labels.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178))
GAP, EDGE_PIXELS = 6, 240


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One row of the picture: image, reference and prediction on the same grid."""

    image: Volume
    reference: Volume
    prediction: Volume


def draw_overlays(path: Path, cases: Sequence[Shown]) -> None:
    """Writes a PNG with one row per case: the image, the reference on it, the prediction on it.

    Each row shows the slice with most reference foreground, turned to the usual view (patient's right on the left), with
    the pixels stretched to equal millimetres.
    """
    from skimage.io import imsave

    rows = [_row(case) for case in cases]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0))) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        imsave(beside, np.concatenate(padded)[:-GAP], check_contrast=False)


def _row(case: Shown) -> np.ndarray:
    axes = case.image.geometry.to_canonical()
    image, reference, prediction = (
        reorder_volume(volume, axes) for volume in (case.image, case.reference, case.prediction)
    )
    spacing = image.geometry.spacing
    index = int((reference.array[0] > 0).sum(axis=(1, 2)).argmax())
    plane = image.array[0, index].astype(np.float32)
    low, high = np.percentile(plane, (0.5, 99.5))
    grey = np.clip((plane - low) / max(float(high - low), 1e-6), 0, 1)
    scale = EDGE_PIXELS / max(plane.shape[0] * spacing[1], plane.shape[1] * spacing[2])
    zoom = (spacing[1] * scale, spacing[2] * scale)
    base = np.repeat((ndimage.zoom(grey, zoom, order=1).clip(0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
    panels = [base]
    for volume in (reference, prediction):
        panels.append(outlined(base, ndimage.zoom(volume.array[0, index], zoom, order=0)))
    gap = np.zeros((base.shape[0], GAP, 3), np.uint8)
    return np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)


def outlined(base: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The image with each label tinted and outlined."""
    picture = base.astype(np.float32)
    for label in np.unique(labels[labels > 0]):
        colour = np.array(COLOURS[(int(label) - 1) % len(COLOURS)], np.float32)
        inside = labels == label
        picture[inside] = 0.75 * picture[inside] + 0.25 * colour
        picture[inside & ~ndimage.binary_erosion(inside, iterations=2)] = colour
    return picture.astype(np.uint8)
