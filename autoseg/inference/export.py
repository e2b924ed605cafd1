"""From logits to a label map on the case's own grid, slab by slab: no class is ever held at full size."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from autoseg import plugins
from autoseg.preprocessing.inverse import restore_labels
from autoseg.scratch import empty
from autoseg.values import Configuration, Labels, PreprocessRecord, Volume
from autoseg.volume.spline import Slab, in_threads

__all__ = ["decided_labels", "label_map", "labels_from_logits"]


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

    The outputs of a slab are resampled one after another and compete as they come; the result is that of resampling all of
    them as a whole, to the bit.
    """
    resampler = plugins.load("resampler", configuration.resampling.resampler)(configuration.resampling)
    grids = (record.crop_shape, record.target_spacing, record.spacing)
    if not hasattr(resampler, "slabs"):  # a user's own
        whole = (resampler.logits(channel[None], *grids)[0] for channel in logits)
        return decided_labels(whole, record.crop_shape, labels)
    result = empty(record.crop_shape, label_dtype(labels))

    def decide(slab: Slab) -> None:
        result[slab.place] = decided_labels(map(slab.of, logits), slab.shape, labels)

    in_threads(decide, resampler.slabs(logits.shape[1:], *grids), result.size)
    return result


def label_dtype(labels: Labels) -> type[np.unsignedinteger]:
    """Of a label map as it stands in files."""
    return np.uint8 if max(labels.written_values) < 256 else np.uint16


def decided_labels(outputs: Iterable[np.ndarray], shape: tuple[int, ...], labels: Labels) -> np.ndarray:
    """Labels ``(*spatial)`` as they stand in files, decided voxel by voxel.

    Args:
        outputs: of the network, one after another, each ``(*spatial)``: regions, or labels that compete.
        shape: of all of them.
        labels: what the outputs mean.
    """
    result = np.zeros(shape, label_dtype(labels))
    best: np.ndarray | None = None
    for output, values in enumerate(outputs):
        if labels.has_regions:  # sigmoid above one half; later regions overwrite
            result[values > 0] = labels.written_values[output]
        elif best is None:
            best = values.copy()
        else:
            better = values > best
            result[better] = labels.integers[output]
            best[better] = values[better]
    return result
