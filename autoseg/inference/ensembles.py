"""From probabilities of several configurations to the label maps of their ensembles: the mean decides.

One way for held-out cases, when ensembles are compared, and for new images, when one of them predicts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from autoseg.errors import InputError
from autoseg.inference.probabilities import LEVELS, Probabilities, parts_of_box
from autoseg.preprocessing.inverse import restore_labels
from autoseg.values import Labels, PreprocessRecord, Volume

__all__ = ["ensemble_bytes", "ensemble_label_maps"]

#: Voxels whose probabilities are averaged together.
VOXELS_AT_ONCE = 2**20


def ensemble_label_maps(
    kept: Mapping[str, Probabilities], ensembles: Sequence[Sequence[str]], labels: Labels
) -> list[Volume]:
    """Label maps ``(1, *spatial)`` of several ensembles, on the grid and in the order of the case's files.

    Labels: the one with the highest mean probability, of equal ones the first. Regions: those whose mean is above one half,
    later ones overwrite. Probabilities are read part by part, each once for all ensembles.

    Args:
        kept: configuration to its probabilities of the case.
        ensembles: the configurations of each.
        labels: what the outputs mean.

    Raises:
        InputError: probabilities are damaged, or of different cases or labels.
    """
    record = _same_grid(kept, labels)
    dtype = np.uint8 if max(labels.written_values) < 256 else np.uint16
    maps = [np.zeros(record.crop_shape, dtype) for _ in ensembles]
    for box in parts_of_box(record.crop_shape, VOXELS_AT_ONCE):
        _decide([each[box] for each in maps], box, kept, ensembles, labels)
    volumes = (restore_labels(each, record) for each in maps)
    return [dataclasses.replace(volume, palette=labels.palette) for volume in volumes]


def _decide(
    parts: Sequence[np.ndarray],
    box: tuple[slice, slice, slice],
    kept: Mapping[str, Probabilities],
    ensembles: Sequence[Sequence[str]],
    labels: Labels,
) -> None:
    """Fills a part of every label map; output by output, as no more than one is needed at a time."""
    most: list[np.ndarray | None] = [None] * len(ensembles)
    for output in range(labels.output_count):
        levels = {name: each.levels(output, box).astype(np.uint32) for name, each in kept.items()}
        for place, (part, members) in enumerate(zip(parts, ensembles, strict=True)):
            total = sum((levels[name] for name in members[1:]), start=levels[members[0]])
            before = most[place]
            if labels.has_regions:  # the mean of the members is above one half
                part[2 * total > LEVELS * len(members)] = labels.written_values[output]
            elif before is None:
                most[place] = total
            else:
                better = total > before
                part[better] = labels.integers[output]
                most[place] = np.maximum(before, total)


def _same_grid(kept: Mapping[str, Probabilities], labels: Labels) -> PreprocessRecord:
    names = list(kept)
    first = kept[names[0]].record
    for name, each in kept.items():
        if _grid(each.record) != _grid(first) or each.outputs != labels.output_count:
            raise InputError(
                f"the probabilities of {names[0]} and {name} are not of the same image and labels",
                case=first.case_id,
                found=f"{each.outputs} outputs on {each.record.crop_shape}",
                expected=f"{labels.output_count} outputs on {first.crop_shape}",
                remedy="Train both on the same data, or leave one of them out.",
            )
    return first


def _grid(record: PreprocessRecord) -> tuple[object, ...]:
    return (record.source, record.axes, record.crop_start, record.crop_shape)


def ensemble_bytes(voxels: int, configurations: int, ensembles: int) -> int:
    """The most memory that label maps of a case take, with one of them scored against the reference.

    Args:
        voxels: of the image.
        configurations: whose probabilities are read.
        ensembles: label maps that are made.
    """
    maps = 2 * 2 * voxels * ensembles  # 16 bits, on the box and on the files' grid
    return maps + 8 * min(voxels, VOXELS_AT_ONCE) * (configurations + 2 * ensembles) + 12 * voxels
