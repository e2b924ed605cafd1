"""Where labels lie in the cases: centroids in millimetres, along the axes of arrays as a plan has them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoseg.values import CaseFingerprint, Label
from autoseg.values.fingerprint import Orientation
from autoseg.values.json_form import Value

__all__ = ["Place", "places_of"]

Triple = tuple[float, float, float]


class Place(Value, frozen=True, kw_only=True):
    """A label in one case: its centroid in millimetres along the axes, its size in voxels and as a radius."""

    centre: Triple
    voxels: int
    radius_mm: float


def places_of(
    cases: Sequence[CaseFingerprint], label: Label, orientation: Orientation = "canonical"
) -> dict[str, Place]:
    """Where a label lies, per id of the cases that hold it.

    Args:
        cases: measured.
        label: or a region, which is taken as a whole.
        orientation: of the axes.
    """
    found = ((case.id, _place(case, label, orientation)) for case in cases)
    return {id_: place for id_, place in found if place is not None}


def _place(case: CaseFingerprint, label: Label, orientation: Orientation) -> Place | None:
    """The place of a label, or of a region as a whole; None if the case has nothing of it."""
    names = [name for name in map(str, label.values) if name in case.label_centres]
    voxels = sum(case.label_counts[name] for name in names)
    if voxels == 0:
        return None
    stored = [
        sum(case.label_counts[name] * case.label_centres[name][axis] for name in names) / voxels for axis in range(3)
    ]
    volume = voxels * math.prod(case.spacing)
    centre = _canonical(case, stored) if orientation == "canonical" else (stored[0], stored[1], stored[2])
    return Place(centre=centre, voxels=voxels, radius_mm=(volume * 3 / (4 * math.pi)) ** (1 / 3))


def _canonical(case: CaseFingerprint, stored: Sequence[float]) -> Triple:
    """Millimetres along the stored axes as those along the canonical ones: a flipped axis is counted from its other end."""
    lengths = [(size - 1) * step for size, step in zip(case.shape, case.spacing, strict=True)]
    turned = zip(
        case.to_canonical.reorder(stored), case.to_canonical.reorder(lengths), case.to_canonical.flipped, strict=True
    )
    first, second, third = (length - place if flip else place for place, length, flip in turned)
    return (first, second, third)
