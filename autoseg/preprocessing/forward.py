"""A case on its way to the network: orient, crop, normalize, resample, find foreground.

Everything that is done is noted in the PreprocessRecord, from which ``inverse.py`` finds the way back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from autoseg import plugins
from autoseg.scratch import empty
from autoseg.values import AxisMap, Configuration, Geometry, Labels, Plan, PreprocessRecord, Volume, digest
from autoseg.values.json_form import Value
from autoseg.volume.axes import reorder, reorder_volume
from autoseg.volume.crop import bounding_box, nonzero_mask, outside_nonzero
from autoseg.volume.lookup import any_of, look_up
from autoseg.volume.resample import target_shape
from autoseg.volume.spline import between_bytes

__all__ = [
    "PreprocessedCase",
    "case_key",
    "parameters_key",
    "peak_bytes",
    "preprocess_case",
    "preprocess_image",
    "working_axes",
]

#: Raise this when the arrays change for equal parameters: cached cases are then made anew.
FORMAT_VERSION = 3
MOST_LOCATIONS, LEAST_SHARE = 10_000, 0.01
#: Bytes of small arrays, and of what allocators do not give back.
SLACK = 4 * 2**20
#: Voxels of a mask that are looked at together: enough for numpy, little for memory.
VOXELS_AT_ONCE = 2**20


@dataclass(frozen=True, kw_only=True)
class PreprocessedCase:
    """A case ready for the network.

    Attributes:
        record: what was done.
        image: float32 ``(channels, *spatial)``.
        segmentation: integers ``(*spatial)``; see ``io.case_store.StoredCase``.
        locations: foreground class to voxel positions ``(n, 3)``.
    """

    record: PreprocessRecord
    image: np.ndarray
    segmentation: np.ndarray
    locations: Mapping[int, np.ndarray]


def working_axes(geometry: Geometry, plan: Plan) -> AxisMap:
    """From the stored array order to the plan's: orientation first, then the plan's axis order."""
    orient = geometry.to_canonical() if plan.orientation == "canonical" else AxisMap()
    return orient.then(AxisMap(order=plan.axis_order))


class _Parameters(Value, frozen=True, kw_only=True):
    version: int
    orientation: str
    axis_order: tuple[int, int, int]
    labels: Labels
    normalization: tuple[object, ...]
    spacing: tuple[float | None, ...]
    resampling: object


def parameters_key(plan: Plan, configuration: Configuration) -> str:
    """Digest of all parameters that the preprocessed arrays depend on; equal for configurations with equal arrays."""
    return digest(
        _Parameters(
            version=FORMAT_VERSION,
            orientation=plan.orientation,
            axis_order=plan.axis_order,
            labels=plan.labels,
            normalization=tuple(
                (plugins.identity("normalizer", spec.scheme), spec.use_mask, spec.properties)
                for spec in plan.normalization
            ),
            spacing=configuration.spacing,
            # logits_order does not change what is stored
            resampling=msgspec.structs.replace(
                configuration.resampling,
                logits_order=1,
                resampler=plugins.identity("resampler", configuration.resampling.resampler),
            ),
        )
    )


def peak_bytes(
    header_shape: Sequence[int],
    channels: int,
    dtype: str,
    target_shape: Sequence[int],
    label_count: int,
    *,
    apart: int | None = None,
) -> int:
    """The most memory that preprocessing one case holds at a time, image and label map included, the process not.

    It is written down phase by phase, for an image that is not cropped and holds zeros, from the arrays that each phase
    holds. Fewer bytes are needed without a label map, or where air is cropped away. Of reading, only the arrays of one file
    and their float32 copy are counted.

    Args:
        header_shape: voxels per axis of the image's grid, in the plan's axis order.
        channels: of the image.
        dtype: of its file, by NumPy's name.
        target_shape: voxels per axis of the configuration's grid.
        label_count: entries of ``Labels.integers`` and the ignore label.
        apart: the axis that is resampled apart, of thick slices; None if there is none.
    """
    voxels, new = math.prod(header_shape), math.prod(target_shape)
    index = np.dtype(_index_type(label_count)).itemsize
    stored, floats, integers = np.dtype(dtype).itemsize * channels, 4 * channels, 4
    held = (floats + integers) * voxels
    reading = (stored + floats + channels) * voxels
    checking = held + (integers + 2) * voxels
    # the mask: what is not zero, its opposite, numbers of connected zeros
    masking = held + (1 + 1 + 4) * voxels
    indexing = held + (1 + index + 1) * voxels
    voting = held + (1 + index) * voxels + index * new
    if tuple(header_shape) == tuple(target_shape):
        making, between = 4 * voxels + (floats * new if channels > 1 else 0), 0
    else:
        making = 4 * voxels + floats * new + (4 * new if channels > 1 else 0)
        between = between_bytes(header_shape, target_shape)
    imaging = held + voxels + index * new + making
    locating = held + (floats + index + 1) * new
    if apart is not None and between:
        # slices on the new grid's plane, then what lies between them: intensities, and depths of labels with their copies
        slices = new // target_shape[apart] * header_shape[apart]
        imaging += 4 * slices + 4 * new
        if target_shape[apart] > header_shape[apart]:
            voting += 8 * slices + 13 * new
    most = max(reading, checking, masking, indexing, voting + between, imaging + between, locating)
    return most + most // 100 + SLACK


def case_key(parameters: str, contents: list[str]) -> str:
    """Digest of the parameters and of the content hashes of image and label files, in order."""
    return digest([parameters, *contents])


def preprocess_image(
    volume: Volume, plan: Plan, configuration: Configuration, *, case_id: str, key: str = ""
) -> tuple[np.ndarray, PreprocessRecord]:
    """An image as the network sees it.

    Args:
        volume: float32 ``(channels, *spatial)`` as stored.
        plan: orientation, axis order and normalization.
        configuration: target spacing and resampling.
        case_id: for the record.
        key: content key, for the record.

    Returns:
        float32 ``(channels, *spatial)`` on the configuration's grid, and the record.
    """
    return _image_on_grid(volume, plan, configuration, _placed(volume, plan, configuration, case_id, key), None)


def preprocess_case(
    volume: Volume, labels: Volume, plan: Plan, configuration: Configuration, *, case_id: str, key: str
) -> PreprocessedCase:
    """An image and its label map as training sees them; ``peak_bytes`` tells the memory that it takes.

    Args:
        volume: float32 ``(channels, *spatial)`` as stored.
        labels: int32 ``(1, *spatial)`` on the same grid.
        plan: what all configurations share.
        configuration: the grid.
        case_id: for the record.
        key: content key, for the record.
    """
    record = _placed(volume, plan, configuration, case_id, key)
    crop = (slice(None), *record.crop)
    # the label map goes first: what it needs in between is gone before the image's grid is made
    mask = nonzero_mask(reorder(volume.array, record.axes)[crop])
    inner = outside_nonzero(_to_indices(reorder(labels.array, record.axes)[crop][0], plan.labels), mask)
    kept = mask if any(spec.use_mask for spec in plan.normalization) else None
    del mask
    resampler = plugins.load("resampler", configuration.resampling.resampler)(configuration.resampling)
    segmentation = np.ascontiguousarray(resampler.labels(inner, record.shape, record.spacing, record.target_spacing))
    del inner
    image, _ = _image_on_grid(volume, plan, configuration, record, kept)
    del kept
    return PreprocessedCase(
        record=record, image=image, segmentation=segmentation, locations=_locations(segmentation, plan.labels)
    )


def _placed(volume: Volume, plan: Plan, configuration: Configuration, case_id: str, key: str) -> PreprocessRecord:
    """Where the image lies, is cropped, and goes."""
    axes = working_axes(volume.geometry, plan)
    ordered = reorder_volume(volume, axes)
    box = bounding_box(ordered.array)
    crop = (box[0].stop - box[0].start, box[1].stop - box[1].start, box[2].stop - box[2].start)
    spacing = ordered.geometry.spacing
    targets = [own if wanted is None else wanted for own, wanted in zip(spacing, configuration.spacing, strict=True)]
    return PreprocessRecord(
        case_id=case_id,
        key=key,
        source=volume.geometry,
        axes=axes,
        crop_start=(box[0].start, box[1].start, box[2].start),
        crop_shape=crop,
        spacing=spacing,
        shape=target_shape(crop, spacing, configuration.spacing),
        target_spacing=(targets[0], targets[1], targets[2]),
    )


def _image_on_grid(
    volume: Volume, plan: Plan, configuration: Configuration, record: PreprocessRecord, mask: np.ndarray | None
) -> tuple[np.ndarray, PreprocessRecord]:
    """The normalized and resampled image, one channel at a time."""
    cropped = reorder(volume.array, record.axes)[(slice(None), *record.crop)]
    if mask is None and any(spec.use_mask for spec in plan.normalization):
        mask = nonzero_mask(cropped)
    resampler = plugins.load("resampler", configuration.resampling.resampler)(configuration.resampling)
    image: np.ndarray | None = None
    for index, (spec, channel) in enumerate(zip(plan.normalization, cropped, strict=True)):
        normalize = plugins.load("normalizer", spec.scheme)
        normalized = normalize(channel, mask if spec.use_mask else None, spec.properties)
        made = resampler.image(normalized[None], record.shape, record.spacing, record.target_spacing)
        del normalized
        if len(cropped) == 1:
            return np.ascontiguousarray(made), record
        if image is None:
            image = empty((len(cropped), *record.shape))
        image[index] = made[0]
        del made
    assert image is not None, "an image has a channel"
    return image, record


def _to_indices(labels: np.ndarray, declared: Labels) -> np.ndarray:
    """Integers of the label file to positions in ``Labels.integers`` (ignore: one more than the last)."""
    integers = [*declared.integers, *([declared.ignore] if declared.ignore is not None else [])]
    table = np.full(max(integers) + 1, -1, _index_type(len(integers)))
    table[integers] = np.arange(len(integers))
    indices = look_up(table, labels)
    assert indices.min() >= 0, "undeclared labels are refused before preprocessing"
    return indices


def _index_type(label_count: int) -> type[np.signedinteger]:
    return np.int16 if label_count > 126 else np.int8


def _locations(segmentation: np.ndarray, declared: Labels) -> dict[int, np.ndarray]:
    """Voxels of each foreground entry, enough to draw patches around: all up to 10,000, else at least 1 %."""
    random = np.random.RandomState(1234)
    locations = {}
    for position, indices in enumerate(declared.region_indices, start=1):
        locations[position] = _some(any_of(segmentation, indices), random)
    if declared.ignore_index is not None:
        locations[0] = _some(segmentation != declared.ignore_index, random)
    return {position: at for position, at in locations.items() if len(at)}


def _some(where: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Positions of some voxels of a mask ``(*spatial)``, in C order, all with equal chance.

    Memory is that of the result, not of all voxels of the mask, which may be most of a very large image.
    """
    flat = where.reshape(-1)
    blocks = [flat[begin : begin + VOXELS_AT_ONCE] for begin in range(0, flat.size, VOXELS_AT_ONCE)]
    ends = np.cumsum([0, *(np.count_nonzero(block) for block in blocks)])
    total = int(ends[-1])
    count = min(total, max(MOST_LOCATIONS, int(np.ceil(LEAST_SHARE * total))))
    ranks = _ranks(total, count, random)
    places = [
        np.flatnonzero(block)[ranks[slice(*np.searchsorted(ranks, (begin, end)))] - begin] + number * VOXELS_AT_ONCE
        for number, (block, begin, end) in enumerate(zip(blocks, ends[:-1], ends[1:], strict=True))
        if end > begin
    ]
    return np.stack(np.unravel_index(np.concatenate([np.empty(0, np.int64), *places]), where.shape), axis=-1)


def _ranks(total: int, count: int, random: np.random.RandomState) -> np.ndarray:
    """``count`` different numbers below ``total``, ascending."""
    if count == total:
        return np.arange(total)
    if total <= VOXELS_AT_ONCE:
        return np.sort(random.choice(total, count, replace=False))
    # one of each of equal stretches, which differ in length by one: of 99 or 100 voxels here
    edges = np.arange(count + 1) * total // count
    return edges[:-1] + (random.random_sample(count) * np.diff(edges)).astype(np.int64)
