"""How much memory the work on a case takes at most, by the headers of its files: what admission counts with.

Each phase of the work is written down as what it holds at its worst moment, in bytes per voxel of the file's grid, of the
cropped grid (taken for the whole) and of the target grid. Tests compare the sums with what workers really held.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autoseg.io.case_work import READER_COPIES, SLACK
from autoseg.io.headers import Header
from autoseg.preprocessing.forward import peak_bytes, working_axes
from autoseg.values import Configuration, Plan
from autoseg.volume.resample import target_shape

__all__ = ["checking_bytes", "measuring_bytes", "preparing_bytes", "preprocessing_bytes"]

Headers = Sequence[Header | None]
FLOAT, INTEGER = 4, 4


def _voxels(headers: Headers) -> tuple[int, int]:
    """Voxels of the grid, and channels."""
    known = [header for header in headers if header is not None]
    return max((math.prod(header.geometry.shape) for header in known), default=0), sum(each.channels for each in known)


def reading_bytes(headers: Headers) -> int:
    """Reading all channels of an image as float32: the last file is being read while the others are held."""
    known = [header for header in headers if header is not None]
    if not known:
        return 0
    raw = sum(header.bytes for header in known)
    largest = max(header.bytes for header in known)
    voxels, channels = _voxels(known)
    joined = raw if len(known) > 1 else 0
    return max(raw + (READER_COPIES - 1) * largest, raw + joined + (FLOAT + 1) * voxels * channels)


def checking_bytes(images: Headers, label: Header | None) -> int:
    """Reading a case and checking it: the image, then the label map beside it and its sorted copy."""
    voxels, channels = _voxels(images)
    image = FLOAT * voxels * channels
    if label is None:
        return reading_bytes(images)
    reading = READER_COPIES * label.bytes + (INTEGER + 1) * voxels
    checking = label.bytes + 4 * INTEGER * voxels
    return max(reading_bytes(images), image + max(reading, checking))


def measuring_bytes(images: Headers, label: Header | None) -> int:
    """Checking a case and measuring it, if all of it is foreground: intensities are sorted in float64."""
    voxels, channels = _voxels(images)
    held = (FLOAT * channels + INTEGER) * voxels
    measuring = (FLOAT + 3 * 8) * voxels * channels + 3 * voxels
    return max(checking_bytes(images, label), held + measuring) + SLACK


def _resampled(images: Headers, plan: Plan, configuration: Configuration) -> tuple[int, int]:
    """Voxels of the target grid if nothing is cropped, and the most that a grid between has."""
    first = next((header for header in images if header is not None), None)
    if first is None:
        return 0, 0
    axes = working_axes(first.geometry, plan)
    shape, spacing = axes.reorder(first.geometry.shape), axes.reorder(first.geometry.spacing)
    target = target_shape(shape, spacing, configuration.spacing)
    return math.prod(target), max(math.prod(target), math.prod(max(a, b) for a, b in zip(shape, target, strict=True)))


def preparing_bytes(images: Headers, plan: Plan, configuration: Configuration, *, beside: int = 0) -> int:
    """Reading an image and bringing it to the network's grid; ``beside``: bytes held all the while."""
    voxels, channels = _voxels(images)
    target, between = _resampled(images, plan, configuration)
    array = FLOAT * voxels * channels
    normalizing = 4 * array + 2 * voxels * channels + 2 * FLOAT * voxels
    resampling = 3 * array + FLOAT * channels * target + 3 * FLOAT * between
    return max(reading_bytes(images), beside + max(normalizing, resampling)) + SLACK


def preprocessing_bytes(images: Headers, label: Header | None, plan: Plan, configuration: Configuration) -> int:
    """Reading and checking a case, bringing image and label map to the configuration's grid, and storing both."""
    known = [header for header in images if header is not None]
    if not known:
        return SLACK
    first = known[0].geometry
    axes = working_axes(first, plan)
    shape = axes.reorder(first.shape)
    return max(
        checking_bytes(images, label) + SLACK,
        peak_bytes(
            shape,
            sum(header.channels for header in known),
            max((header.dtype for header in known), key=lambda name: np.dtype(name).itemsize),
            target_shape(shape, axes.reorder(first.spacing), configuration.spacing),
            len(plan.labels.allowed_integers),
        )
        + SLACK,
    )
