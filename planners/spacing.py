"""Target spacing and axis order: how finely, and along which axes, the data is looked at."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from autoseg.values.json_form import Value

__all__ = ["TargetSpacing", "axis_order", "median_shape", "percentile", "target_spacing"]

Triple = tuple[float, float, float]
#: An axis is coarse if its spacing is more than this many times that of the others, and its size that much smaller.
ANISOTROPY = 3


class TargetSpacing(Value, frozen=True, kw_only=True):
    """The spacing of full resolution in millimetres, per array axis, and why."""

    spacing: Triple
    reason: str


def target_spacing(spacings: Sequence[Triple], shapes: Sequence[Sequence[int]]) -> TargetSpacing:
    """Median spacing of the cases; along a coarse axis the 10th percentile, so that thin slices are not thrown away.

    Args:
        spacings: of the cases, in millimetres per axis.
        shapes: of the cases after cropping, in voxels.
    """
    target = [float(statistics.median(spacing[axis] for spacing in spacings)) for axis in range(3)]
    size = [float(statistics.median(shape[axis] for shape in shapes)) for axis in range(3)]
    coarse = max(range(3), key=lambda axis: target[axis])
    others = [axis for axis in range(3) if axis != coarse]
    finest_others = max(target[axis] for axis in others)
    reason = "median of the cases"
    if target[coarse] > ANISOTROPY * finest_others and size[coarse] * ANISOTROPY < min(size[axis] for axis in others):
        median = target[coarse]
        target[coarse] = percentile([spacing[coarse] for spacing in spacings], 10)
        if target[coarse] < finest_others:
            target[coarse] = finest_others + 1e-5
        reason = (
            f"median of the cases, and {target[coarse]:.4g} mm along the coarse axis: the 10th percentile there "
            f"(median {median:.4g}), because its spacing is over {ANISOTROPY} times the others'"
        )
    return TargetSpacing(spacing=(target[0], target[1], target[2]), reason=reason)


def percentile(values: Sequence[float], percent: float) -> float:
    """Percentile with linear interpolation between order statistics, as numpy's default."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def axis_order(target: Triple) -> tuple[int, int, int]:
    """The axis of largest spacing first, the others in order: 2D configurations look at slices of the first axis."""
    first = max(range(3), key=lambda axis: target[axis])
    second, third = (axis for axis in range(3) if axis != first)
    return (first, second, third)


def median_shape(spacings: Sequence[Triple], shapes: Sequence[Sequence[int]], target: Triple) -> Triple:
    """Per-axis median of the cases' sizes at the target spacing, in voxels; may end in .5."""
    resampled = [
        [round(step / wanted * size) for step, wanted, size in zip(spacing, target, shape, strict=True)]
        for spacing, shape in zip(spacings, shapes, strict=True)
    ]
    first, second, third = (float(statistics.median(shape[axis] for shape in resampled)) for axis in range(3))
    return (first, second, third)
