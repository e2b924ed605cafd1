"""What a held-out case's label map and its reference tell beside the Dice: where along the axis through the slices a
structure is hit, how large it is, and how much it changes from slice to slice.

Slices are those of the plan's arrays (axis 0), which a 2D network sees one by one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence

import numpy as np
from scipy import ndimage

from autoseg.values import AxisMap, Geometry, Label, Labels
from autoseg.values.json_form import Value, require
from autoseg.volume.axes import reorder

__all__ = ["PARTS", "CaseMeasures", "Changes", "LabelMeasures", "Overlap", "measure_case"]

#: Of a structure's extent along the axis through the slices.
PARTS = 5


class Overlap(Value, frozen=True, kw_only=True):
    """Voxels of a label in some part of an image: in both maps, in the prediction, in the reference."""

    both: int
    predicted: int
    wanted: int

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            both=self.both + other.both, predicted=self.predicted + other.predicted, wanted=self.wanted + other.wanted
        )

    @property
    def dice(self) -> float | None:
        """None if both are empty."""
        return 2 * self.both / (self.predicted + self.wanted) if self.predicted + self.wanted else None


class Changes(Value, frozen=True, kw_only=True):
    """How much a label map changes from slice to slice, counted in voxels.

    Attributes:
        shared: voxels that lie in both of two neighbouring slices, between the first and the last slice of the structure.
        sizes: voxels of both of these slices, each pair counted by itself.
        flips: voxels that differ from both of their neighbours along the axis, which agree: there and back again.
        voxels: of the structure.
    """

    shared: int
    sizes: int
    flips: int
    voxels: int

    @property
    def agreement(self) -> float | None:
        """Dice of neighbouring slices, all pairs taken together; None of a structure in one slice or none."""
        return 2 * self.shared / self.sizes if self.sizes else None

    @property
    def flip_rate(self) -> float | None:
        """Flips for each voxel; None of an empty structure."""
        return self.flips / self.voxels if self.voxels else None


class LabelMeasures(Value, frozen=True, kw_only=True):
    """One label in one case.

    Attributes:
        whole: overlap in all of the image.
        parts: overlap in each fifth of the reference's extent along axis 0; what lies beyond its ends belongs to the first
            and the last. Empty if the reference is empty.
        prediction: its changes from slice to slice.
        reference: likewise.
    """

    whole: Overlap
    parts: tuple[Overlap, ...]
    prediction: Changes
    reference: Changes

    def __post_init__(self) -> None:
        require(len(self.parts) in (0, PARTS), "parts must be all or none", field="parts", found=len(self.parts))


class CaseMeasures(Value, frozen=True, kw_only=True):
    """One case.

    Attributes:
        labels: name to measures, of the labels that were looked for.
        spacing: of the slices in millimetres; None of a planar image.
        voxel_ml: volume of a voxel in millilitres; None of a planar image.
    """

    labels: dict[str, LabelMeasures]
    spacing: float | None
    voxel_ml: float | None


def measure_case(
    reference: np.ndarray,
    prediction: np.ndarray,
    geometry: Geometry,
    axes: AxisMap,
    labels: Labels,
    annotated: Collection[str] | None = None,
) -> CaseMeasures:
    """Measures one label map; voxels that the reference ignores count nowhere.

    Args:
        reference: integers ``(*spatial)``, in the order of the file.
        prediction: same shape.
        geometry: of both.
        axes: from the order of the file to the plan's.
        labels: what the integers mean.
        annotated: names of the labels that were looked for; None for all.
    """
    wanted, predicted = (reorder(array[None], axes)[0] for array in (reference, prediction))
    boxes = [ndimage.find_objects(each, max_label=max(1, labels.integers[-1])) for each in (wanted, predicted)]
    measures = {}
    for label, known in zip(labels.foreground, labels.looked_for(annotated), strict=True):
        if known:
            box = _box([found for each in boxes for found in _of_label(each, label, wanted.shape)], wanted.shape)
            counted = wanted[box] != labels.ignore if labels.ignore is not None else None
            measures[label.name] = _measure_label(_mask(wanted[box], label), _mask(predicted[box], label), counted)
    return CaseMeasures(
        labels=measures,
        spacing=None if geometry.planar else axes.reorder(geometry.spacing)[0],
        voxel_ml=None if geometry.planar else math.prod(geometry.spacing) / 1000,
    )


def _of_label(boxes: Sequence[tuple[slice, ...] | None], label: Label, shape: Sequence[int]) -> list[tuple[slice, ...]]:
    if 0 in label.values:  # a region that background belongs to
        return [tuple(slice(0, size) for size in shape)]
    return [box for value in label.values if (box := boxes[value - 1]) is not None]


def _box(boxes: Sequence[tuple[slice, ...]], shape: Sequence[int]) -> tuple[slice, ...]:
    """Around all boxes, with the slices next to it where there are any; empty if there is no box."""
    if not boxes:
        return (slice(0, 0),) * len(shape)
    per_axis = zip(*boxes, strict=True)
    first, *rest = (slice(min(each.start for each in axis), max(each.stop for each in axis)) for axis in per_axis)
    return (slice(max(0, first.start - 1), min(shape[0], first.stop + 1)), *rest)


def _mask(array: np.ndarray, label: Label) -> np.ndarray:
    return np.isin(array, label.values) if len(label.values) > 1 else array == label.values[0]


def _measure_label(wanted: np.ndarray, predicted: np.ndarray, counted: np.ndarray | None) -> LabelMeasures:
    """Of bool arrays ``(slices, ...)`` around all that is not empty."""
    if counted is not None:
        wanted, predicted = wanted & counted, predicted & counted
    per_slice = np.stack([each.sum(axis=(1, 2), dtype=np.int64) for each in (wanted & predicted, predicted, wanted)])
    parts: tuple[Overlap, ...] = ()
    filled = np.flatnonzero(per_slice[2])
    if len(filled):
        start, stop = int(filled[0]), int(filled[-1]) + 1
        # by the middle of each slice; of three slices two are ends, of two or one none
        place = np.floor(PARTS * (np.arange(per_slice.shape[1]) - start + 0.5) / (stop - start)).clip(0, PARTS - 1)
        parts = tuple(_overlap(per_slice[:, place == part]) for part in range(PARTS))
    return LabelMeasures(
        whole=_overlap(per_slice),
        parts=parts,
        prediction=_changes(predicted, per_slice[1], counted),
        reference=_changes(wanted, per_slice[2], counted),
    )


def _overlap(per_slice: np.ndarray) -> Overlap:
    both, predicted, wanted = (int(each) for each in per_slice.sum(axis=1))
    return Overlap(both=both, predicted=predicted, wanted=wanted)


def _changes(mask: np.ndarray, per_slice: np.ndarray, counted: np.ndarray | None) -> Changes:
    filled = np.flatnonzero(per_slice)
    shared = sizes = 0
    for one, other in itertools.pairwise(range(filled[0], filled[-1] + 1) if len(filled) else ()):
        valid = True if counted is None else counted[one] & counted[other]
        shared += int((mask[one] & mask[other] & valid).sum())
        sizes += int((mask[one] & valid).sum()) + int((mask[other] & valid).sum())
    flips = (mask[1:-1] != mask[:-2]) & (mask[:-2] == mask[2:])
    if counted is not None:
        flips &= counted[1:-1] & counted[:-2] & counted[2:]
    return Changes(shared=shared, sizes=sizes, flips=int(flips.sum()), voxels=int(per_slice.sum()))
