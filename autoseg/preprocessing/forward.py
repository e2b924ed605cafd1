"""A case on its way to the network: orient, crop, normalize, resample, find foreground.

Everything that is done is noted in the PreprocessRecord, from which ``inverse.py`` finds the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from autoseg import plugins
from autoseg.values import AxisMap, Configuration, Geometry, Labels, Plan, PreprocessRecord, Volume, digest
from autoseg.values.json_form import Value
from autoseg.volume.axes import reorder, reorder_volume
from autoseg.volume.crop import bounding_box, nonzero_mask, outside_nonzero
from autoseg.volume.resample import target_shape

__all__ = ["PreprocessedCase", "case_key", "parameters_key", "preprocess_case", "preprocess_image", "working_axes"]

#: Raise this when the arrays change for equal parameters: cached cases are then made anew.
FORMAT_VERSION = 2
MOST_LOCATIONS, LEAST_SHARE = 10_000, 0.01
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
    axes = working_axes(volume.geometry, plan)
    ordered = reorder_volume(volume, axes)
    box = bounding_box(ordered.array)
    cropped = np.ascontiguousarray(ordered.array[(slice(None), *box)])
    image = _normalize(cropped, plan)
    spacing = ordered.geometry.spacing
    targets = [own if wanted is None else wanted for own, wanted in zip(spacing, configuration.spacing, strict=True)]
    shape = target_shape(cropped.shape[1:], spacing, configuration.spacing)
    resampler = plugins.load("resampler", configuration.resampling.resampler)(configuration.resampling)
    record = PreprocessRecord(
        case_id=case_id,
        key=key,
        source=volume.geometry,
        axes=axes,
        crop_start=(box[0].start, box[1].start, box[2].start),
        crop_shape=(cropped.shape[1], cropped.shape[2], cropped.shape[3]),
        spacing=spacing,
        shape=shape,
        target_spacing=(targets[0], targets[1], targets[2]),
    )
    return resampler.image(image, shape, spacing, targets), record


def preprocess_case(
    volume: Volume, labels: Volume, plan: Plan, configuration: Configuration, *, case_id: str, key: str
) -> PreprocessedCase:
    """An image and its label map as training sees them.

    Args:
        volume: float32 ``(channels, *spatial)`` as stored.
        labels: int32 ``(1, *spatial)`` on the same grid.
        plan: what all configurations share.
        configuration: the grid.
        case_id: for the record.
        key: content key, for the record.
    """
    image, record = preprocess_image(volume, plan, configuration, case_id=case_id, key=key)
    crop = (slice(None), *record.crop)
    inner = _to_indices(reorder(labels.array, record.axes)[crop][0], plan.labels)
    inner = outside_nonzero(inner, reorder(volume.array, record.axes)[crop])
    resampler = plugins.load("resampler", configuration.resampling.resampler)(configuration.resampling)
    segmentation = resampler.labels(inner, record.shape, record.spacing, record.target_spacing)
    return PreprocessedCase(
        record=record,
        image=image,
        segmentation=np.ascontiguousarray(segmentation),
        locations=_locations(segmentation, plan.labels),
    )


def _normalize(image: np.ndarray, plan: Plan) -> np.ndarray:
    mask = nonzero_mask(image) if any(spec.use_mask for spec in plan.normalization) else None
    channels = [
        plugins.load("normalizer", spec.scheme)(channel, mask if spec.use_mask else None, spec.properties)
        for spec, channel in zip(plan.normalization, image, strict=True)
    ]
    return np.stack(channels)


def _to_indices(labels: np.ndarray, declared: Labels) -> np.ndarray:
    """Integers of the label file to positions in ``Labels.integers`` (ignore: one more than the last)."""
    integers = [*declared.integers, *([declared.ignore] if declared.ignore is not None else [])]
    table = np.full(max(integers) + 1, -1, np.int16 if len(integers) > 126 else np.int8)
    table[integers] = np.arange(len(integers))
    indices = table[labels]
    assert indices.min() >= 0, "undeclared labels are refused before preprocessing"
    return indices


def _locations(segmentation: np.ndarray, declared: Labels) -> dict[int, np.ndarray]:
    """Voxels of each foreground entry, enough to draw patches around: all up to 10,000, else at least 1 %."""
    random = np.random.RandomState(1234)
    locations = {}
    for position, indices in enumerate(declared.region_indices, start=1):
        locations[position] = _some(np.isin(segmentation, indices), random)
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
