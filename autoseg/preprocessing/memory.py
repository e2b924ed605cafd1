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
from autoseg.scratch import SMALL
from autoseg.values import Configuration, Plan
from autoseg.volume.resample import separate_axis, target_shape
from autoseg.volume.spline import between_bytes

__all__ = ["checking_bytes", "mapped_bytes", "measuring_bytes", "preparing_bytes", "preprocessing_bytes"]

Headers = Sequence[Header | None]
FLOAT, INTEGER = 4, 4
#: Voxels whose labels are located at once, and what that holds of each: places and their coordinates in 64 bits.
PLACES_AT_ONCE, BYTES_OF_PLACE = 2**20, 56


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
    """Reading a case and checking it: the image, then the label map beside it, with masks of both."""
    voxels, channels = _voxels(images)
    if label is None:
        return reading_bytes(images)
    reading = max(READER_COPIES * label.bytes, label.bytes + INTEGER * voxels)
    checking = label.bytes + (INTEGER + 2) * voxels
    return max(reading_bytes(images), FLOAT * voxels * channels + max(reading, checking))


def measuring_bytes(images: Headers, label: Header | None) -> int:
    """Checking a case and measuring it, if all of it is foreground: labels are located, and each channel is sorted."""
    voxels, channels = _voxels(images)
    held = (FLOAT * channels + INTEGER) * voxels
    locating = BYTES_OF_PLACE * min(voxels, PLACES_AT_ONCE)
    return max(checking_bytes(images, label), held + max((FLOAT + 2) * voxels, locating)) + SLACK


def preparing_bytes(images: Headers, plan: Plan, configuration: Configuration) -> int:
    """Reading an image and bringing it to the network's grid."""
    known = [header for header in images if header is not None]
    if not known:
        return SLACK
    shape, target, apart = _shapes(known[0], plan, configuration)
    voxels, channels = _voxels(images)
    masking = 6 * voxels if any(spec.use_mask for spec in plan.normalization) else 0
    between = 0 if shape == target else between_bytes(shape, target)
    # one channel is normalized and resampled at a time
    slices = 0 if apart is None else math.prod(target) // target[apart] * shape[apart] + math.prod(target)
    resampled = 0 if shape == target and channels == 1 else FLOAT * (channels + (shape != target)) * math.prod(target)
    making = (FLOAT + 1) * voxels + resampled + between + FLOAT * slices
    return max(reading_bytes(images), FLOAT * voxels * channels + max(masking, making)) + SLACK


def mapped_bytes(images: Headers, plan: Plan, configuration: Configuration) -> int:
    """As ``preparing_bytes``, with the large arrays in files (``scratch``): masks and pieces stay in memory."""
    known = [header for header in images if header is not None]
    if not known:
        return SLACK
    shape, target, _ = _shapes(known[0], plan, configuration)
    masking = 7 * _voxels(images)[0] if any(spec.use_mask for spec in plan.normalization) else 0
    between = 0 if shape == target else between_bytes(shape, target)
    return max(masking, between) + 2 * SMALL + SLACK


def preprocessing_bytes(images: Headers, label: Header | None, plan: Plan, configuration: Configuration) -> int:
    """Reading and checking a case, bringing image and label map to the configuration's grid, and storing both."""
    count = len(plan.labels.allowed_integers)
    return max(checking_bytes(images, label), _on_grid_bytes(images, plan, configuration, label_count=count)) + SLACK


def _on_grid_bytes(images: Headers, plan: Plan, configuration: Configuration, *, label_count: int) -> int:
    known = [header for header in images if header is not None]
    if not known:
        return 0
    shape, target, apart = _shapes(known[0], plan, configuration)
    return peak_bytes(
        shape,
        sum(header.channels for header in known),
        max((header.dtype for header in known), key=lambda name: np.dtype(name).itemsize),
        target,
        label_count,
        apart=apart,
    )


def _shapes(
    header: Header, plan: Plan, configuration: Configuration
) -> tuple[tuple[int, ...], tuple[int, ...], int | None]:
    """Voxels per axis before and after resampling, if nothing is cropped, and the axis that is resampled apart."""
    axes, grid = working_axes(header.geometry, plan), header.geometry
    shape, spacing = axes.reorder(grid.shape), axes.reorder(grid.spacing)
    wanted = [own if new is None else new for own, new in zip(spacing, configuration.spacing, strict=True)]
    apart = separate_axis(spacing, wanted, configuration.resampling.anisotropy_threshold)
    return shape, target_shape(shape, spacing, configuration.spacing), apart
