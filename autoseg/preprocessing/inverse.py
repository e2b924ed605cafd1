"""The way back: from the network's grid to the grid of the case's own files, step by step against forward.py."""

from __future__ import annotations

import numpy as np

from autoseg.scratch import contiguous, zeros
from autoseg.values import PreprocessRecord, Volume
from autoseg.volume.axes import reorder

__all__ = ["restore_labels", "uncrop"]


def uncrop(labels: np.ndarray, record: PreprocessRecord) -> np.ndarray:
    """A label map of the cropped box ``(*spatial)`` pasted into background of the size before cropping."""
    assert labels.shape == record.crop_shape, (labels.shape, record.crop_shape)
    whole = zeros(record.axes.reorder(record.source.shape), labels.dtype)
    whole[record.crop] = labels
    return whole


def restore_labels(labels: np.ndarray, record: PreprocessRecord) -> Volume:
    """A label map of the cropped box, already resampled to its size, on the grid and in the order of the files."""
    stored = reorder(uncrop(labels, record)[None], record.axes.inverse())
    return Volume(array=contiguous(stored, stored.dtype), geometry=record.source)
