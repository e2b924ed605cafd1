"""From logits to a label map on the case's own grid, holding one class at a time at full size."""

from __future__ import annotations

import dataclasses

import numpy as np

from autoseg import plugins
from autoseg.preprocessing.inverse import restore_labels
from autoseg.values import Configuration, Labels, PreprocessRecord, Volume

__all__ = ["label_map", "labels_from_logits"]


def label_map(logits: np.ndarray, record: PreprocessRecord, configuration: Configuration, labels: Labels) -> Volume:
    """The label map ``(1, *spatial)`` on the grid and in the order of the case's files, with the labels' palette.

    Args:
        logits: float32 ``(outputs, *spatial)`` on the configuration's grid.
        record: of the case.
        configuration: how to resample.
        labels: what the outputs mean.
    """
    written = restore_labels(labels_from_logits(logits, record, configuration, labels), record)
    return dataclasses.replace(written, palette=labels.palette)


def labels_from_logits(
    logits: np.ndarray, record: PreprocessRecord, configuration: Configuration, labels: Labels
) -> np.ndarray:
    """Labels ``(*spatial)`` of the cropped box at the case's own spacing, decided there from resampled logits.

    The outputs are resampled one after another and compete as they come; the result is that of resampling all of them.
    """
    resampler = plugins.load("resampler", configuration.resampling.resampler)(configuration.resampling)
    dtype = np.uint8 if max(labels.written_values) < 256 else np.uint16
    result = np.zeros(record.crop_shape, dtype)
    best: np.ndarray | None = None
    for output, channel in enumerate(logits):
        values = resampler.logits(channel[None], record.crop_shape, record.target_spacing, record.spacing)[0]
        if labels.has_regions:  # sigmoid above one half; later regions overwrite
            result[values > 0] = labels.written_values[output]
        elif best is None:
            best = values.copy()
        else:
            better = values > best
            result[better] = labels.integers[output]
            best[better] = values[better]
    return result
