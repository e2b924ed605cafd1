"""Everything that is asked about a case, computed once: overlap by one look at all voxels, the rest label by label.

Each label is cut to the box around it, labels run in threads, and what several metrics need (surface distances, lesions)
is computed once for all of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from autoseg import plugins
from autoseg.errors import InputError
from autoseg.evaluation.boxes import joined, label_boxes
from autoseg.evaluation.lesions import Detection, detect
from autoseg.evaluation.overlap import label_keys, millilitres, overlap_scores, ratio
from autoseg.evaluation.surface import SurfaceDistances, surface_distances
from autoseg.values import Geometry, Label, Labels, LabelScore, Measuring
from autoseg.values.scores import MEASURES
from autoseg.volume.crop import Box

__all__ = ["label_scores"]


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One label of a case, cut to its box; what is needed is computed when it is asked for, and kept.

    ``unknown`` has a margin of one voxel more; None if all around is known.
    """

    score: LabelScore
    reference: np.ndarray
    prediction: np.ndarray
    unknown: np.ndarray | None
    geometry: Geometry
    measuring: Measuring

    @functools.cached_property
    def surfaces(self) -> SurfaceDistances:
        spacing, planar = self.geometry.spacing, self.geometry.planar
        return surface_distances(self.reference, self.prediction, spacing, planar=planar, unknown=self.unknown)

    @functools.cached_property
    def lesions(self) -> Detection:
        return detect(self.reference, self.prediction, self.measuring.lesion_iou)

    def distance(self, measured: Callable[[SurfaceDistances], float | None]) -> float | None:
        """A distance; where only one of the two is there, what was agreed on instead."""
        if self.measuring.one_empty == "diagonal" and (self.score.n_ref == 0) != (self.score.n_pred == 0):
            return _diagonal(self.geometry)
        return measured(self.surfaces)


#: The metrics that come with autoseg, from what is computed once; each gives what the plug of its name gives alone.
_DERIVED: dict[str, Callable[[_Pair], float | None]] = {
    "dice": lambda pair: pair.score.dice,
    "iou": lambda pair: pair.score.iou,
    "precision": lambda pair: ratio(pair.score.tp, pair.score.n_pred),
    "recall": lambda pair: ratio(pair.score.tp, pair.score.n_ref),
    "volume_difference": lambda pair: ratio(pair.score.n_pred - pair.score.n_ref, pair.score.n_ref),
    "volume_difference_ml": lambda pair: millilitres(pair.score.n_pred - pair.score.n_ref, pair.geometry),
    "hd": lambda pair: pair.distance(SurfaceDistances.hausdorff),
    "hd95": lambda pair: pair.distance(lambda surfaces: surfaces.hausdorff(95)),
    "assd": lambda pair: pair.distance(SurfaceDistances.average),
    "nsd": lambda pair: pair.surfaces.dice_at(pair.measuring.tolerance_mm),
    "lesion_f1": lambda pair: pair.lesions.f1,
    "lesion_tp": lambda pair: float(pair.lesions.found),
    "lesion_fp": lambda pair: float(pair.lesions.invented),
    "lesion_fn": lambda pair: float(pair.lesions.missed),
}


def label_scores(
    reference: np.ndarray,
    prediction: np.ndarray,
    labels: Labels,
    geometry: Geometry,
    measuring: Measuring,
    *,
    annotated: Collection[str] | None = None,
    threads: int = 1,
) -> dict[str, LabelScore]:
    """Scores of every foreground entry: overlap, and what is to be measured.

    Voxels that the reference ignores belong to nothing, and surface elements beside them are left out. Of a label that was
    not looked for, nothing is defined.

    Args:
        reference: integers ``(slices, rows, columns)``.
        prediction: integers, same shape.
        labels: what the integers mean.
        geometry: of both.
        measuring: what to measure.
        annotated: names of the labels that were looked for; None for all.
        threads: labels at once.

    Raises:
        UnknownNameError: there is no such metric.
        InputError: a metric of the user's own gives what is no number.
    """
    scores = overlap_scores(reference, prediction, labels, annotated)
    if not measuring.metrics:
        return scores
    own = {name: plugins.load("metric", name) for name in measuring.metrics if name not in _DERIVED}
    boxes = label_boxes(reference, prediction, labels)

    def measured(key: str, label: Label, box: Box | None) -> LabelScore:
        pair = _pair(scores[key], reference, prediction, labels, label, box, geometry, measuring)
        values: dict[str, Any] = {name: _DERIVED[name](pair) for name in measuring.metrics if name in MEASURES}
        if own:
            whole = _pair(scores[key], reference, prediction, labels, label, None, geometry, measuring)
            values["own"] = {name: _own(name, metric, whole) for name, metric in own.items()}
        return msgspec.structs.replace(scores[key], **values)

    known = labels.looked_for(annotated)
    nothing: dict[str, Any] = {name: None for name in measuring.metrics if name in MEASURES}
    if own:
        nothing["own"] = dict.fromkeys(own)
    work = {
        key: (key, label, joined(boxes[value] for value in label.values if value in boxes))
        for key, label, looked_for in zip(label_keys(labels), labels.foreground, known, strict=True)
        if looked_for
    }
    with ThreadPoolExecutor(threads, thread_name_prefix="label") as pool:
        largest_first = sorted(work.values(), key=lambda item: -_size(item[2]))
        done = {item[0]: pool.submit(measured, *item) for item in largest_first}
        return {
            key: done[key].result() if key in done else msgspec.structs.replace(score, **nothing)
            for key, score in scores.items()
        }


def _pair(
    score: LabelScore,
    reference: np.ndarray,
    prediction: np.ndarray,
    labels: Labels,
    label: Label,
    box: Box | None,
    geometry: Geometry,
    measuring: Measuring,
) -> _Pair:
    """A label cut to its box; whole where there is none."""
    place = box or tuple(slice(0, size) for size in reference.shape)
    wanted, predicted = _inside(reference[place], label), _inside(prediction[place], label)
    unknown = None
    if labels.ignore is not None:
        predicted &= reference[place] != labels.ignore
        unknown = _ignored_around(reference, place, labels.ignore, planar=geometry.planar)
    return _Pair(
        score=score, reference=wanted, prediction=predicted, unknown=unknown, geometry=geometry, measuring=measuring
    )


def _inside(integers: np.ndarray, label: Label) -> np.ndarray:
    inside = integers == label.values[0]
    for value in label.values[1:]:
        inside |= integers == value
    return inside


def _ignored_around(reference: np.ndarray, box: tuple[slice, ...], ignore: int, *, planar: bool) -> np.ndarray | None:
    """Where nothing is known, in a box and one voxel around it; None if that is nowhere. Outside the image all is known."""
    margins = [0 if planar and axis == 0 else 1 for axis in range(3)]
    wide = [
        slice(max(0, along.start - margin), along.stop + margin) for along, margin in zip(box, margins, strict=True)
    ]
    ignored = reference[tuple(wide)] == ignore
    if not ignored.any():
        return None
    sizes = zip(box, wide, margins, ignored.shape, strict=True)
    before = [margin - (along.start - each.start) for along, each, margin, _ in sizes]
    after = [
        along.stop - along.start + 2 * margin - size - first
        for along, margin, size, first in zip(box, margins, ignored.shape, before, strict=True)
    ]
    return np.pad(ignored, list(zip(before, after, strict=True)))


def _own(name: str, metric: Callable[..., float | None], pair: _Pair) -> float | None:
    value = metric(pair.reference, pair.prediction, geometry=pair.geometry)
    if value is not None and not math.isfinite(value):
        raise InputError(
            f"the metric {name!r} gave no number",
            found=value,
            expected="a finite number, or None where it is not defined",
        )
    return None if value is None else float(value)


def _diagonal(geometry: Geometry) -> float:
    """The largest distance within an image, in millimetres."""
    axes = range(1 if geometry.planar else 0, 3)
    return math.hypot(*(geometry.shape[axis] * geometry.spacing[axis] for axis in axes))


def _size(box: Box | None) -> int:
    return math.prod(along.stop - along.start for along in box) if box else 0
