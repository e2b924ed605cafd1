"""Target spacing and axis order: how finely, and along which axes, the data is looked at."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from autoseg.errors import InputError
from autoseg.values import Fingerprint, Orientation
from autoseg.values.json_form import Value

__all__ = [
    "Grid",
    "TargetSpacing",
    "axis_order",
    "common_grid",
    "large_after_resampling",
    "median_shape",
    "percentile",
    "target_spacing",
]

Triple = tuple[float, float, float]
#: An axis is coarse if its spacing is more than this many times that of the others, and its size that much smaller.
ANISOTROPY = 3
#: A case that has more than this many times its voxels after resampling is warned about.
BLOWN_UP = 3.0
#: A wished spacing must leave at least so many voxels along every axis that has more.
LEAST_VOXELS = 4


class TargetSpacing(Value, frozen=True, kw_only=True):
    """The spacing of full resolution in millimetres, per array axis, and why."""

    spacing: Triple
    reason: str


class Grid(Value, frozen=True, kw_only=True):
    """What the configurations of one plan share, in the plan's axis order.

    Attributes:
        order: array axes in the order of all further work.
        spacing: of full resolution in millimetres.
        shape: median size of the cases on that grid, in voxels; may end in .5.
        dataset_voxels: median size times cases.
        spacing_reason: why this spacing.
    """

    order: tuple[int, int, int]
    spacing: Triple
    shape: Triple
    dataset_voxels: float
    spacing_reason: str


def common_grid(fingerprint: Fingerprint, orientation: Orientation, wanted: Sequence[float] = ()) -> Grid:
    """The grid of full resolution.

    Args:
        fingerprint: sizes and spacings of the cases.
        orientation: of the arrays.
        wanted: spacing that the user wants, in the order that the plan would otherwise have; empty for the usual rule. 2D
            images keep their slice axis as it is, and need only two numbers.

    Raises:
        InputError: two numbers for images that are not 2D, or a spacing that leaves hardly any voxels.
    """
    spacings, shapes = fingerprint.spacings(orientation), fingerprint.shapes_after_crop(orientation)
    target = target_spacing(spacings, shapes)
    spacing, reason = target.spacing, target.reason
    shape = median_shape(spacings, shapes, spacing)
    if wanted:
        order = axis_order(spacing, shape)
        flat = shape[order[0]] == 1
        if len(wanted) == 2 and not flat:
            raise InputError("the images have three axes, so a spacing needs three numbers", found=_named(wanted))
        asked = (spacing[order[0]], *wanted[-2:]) if flat else tuple(wanted)
        first, second, third = (asked[order.index(axis)] for axis in range(3))
        reason = f"as asked for; {reason} would be {_named([spacing[axis] for axis in order])}"
        spacing = (first, second, third)
        coarse = median_shape(spacings, shapes, spacing)
        if any(now < LEAST_VOXELS < before for now, before in zip(coarse, shape, strict=True)):
            raise InputError(
                "the spacing that is asked for leaves too little of the images",
                found=f"a median of {_named([coarse[axis] for axis in order])} voxels",
                expected=f"at least {LEAST_VOXELS} along every axis",
                remedy=f"Ask for a finer one; the planner's choice is {_named([target.spacing[axis] for axis in order])}.",
            )
        shape = coarse
    order = axis_order(spacing, shape)
    return Grid(
        order=order,
        spacing=(spacing[order[0]], spacing[order[1]], spacing[order[2]]),
        shape=(shape[order[0]], shape[order[1]], shape[order[2]]),
        dataset_voxels=math.prod(shape) * len(fingerprint.cases),
        spacing_reason=reason,
    )


def large_after_resampling(fingerprint: Fingerprint, orientation: Orientation, grid: Grid) -> list[str]:
    """A warning if resampling multiplies the voxels of some cases; the single slice of 2D images is left as it is."""
    resampled = grid.order[1:] if grid.shape[0] == 1 else grid.order
    times = {
        case.id: math.prod(spacing[axis] / grid.spacing[grid.order.index(axis)] for axis in resampled)
        for case, spacing in zip(fingerprint.cases, fingerprint.spacings(orientation), strict=True)
    }
    large = sorted((case for case in times if times[case] > BLOWN_UP), key=lambda case: (-times[case], case))
    if not large:
        return []
    factor = (times[large[0]] / BLOWN_UP) ** (1 / len(resampled))
    coarser = [_up(step * factor) for step in grid.spacing[-len(resampled) :]]
    named = ", ".join(f"{case} ({times[case]:.1f} times)" for case in large[:3]) + (" …" if len(large) > 3 else "")
    return [
        f"resampling gives {len(large)} of {len(times)} cases over {BLOWN_UP:g} times their voxels without new information: "
        f"{named}. If time or disk matter, plan with a coarser grid, for example "
        f"--spacing {','.join(f'{step:.3g}' for step in coarser)}"
    ]


def _up(step: float) -> float:
    """Rounded up to three digits, so that what is suggested is enough."""
    unit = 10.0 ** (math.floor(math.log10(step)) - 2)
    return math.ceil(step / unit) * unit


def _named(spacing: Sequence[float]) -> str:
    return " x ".join(f"{step:.4g}" for step in spacing)


def target_spacing(spacings: Sequence[Triple], shapes: Sequence[Sequence[int]]) -> TargetSpacing:
    """Median spacing of the cases; along a coarse axis the 10th percentile, so that thin slices are not thrown away.

    Single slices keep the median: from a thick one, thinner ones cannot be made.

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
    much_coarser = target[coarse] > ANISOTROPY * finest_others
    if much_coarser and 1 < size[coarse] < min(size[axis] for axis in others) / ANISOTROPY:
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


def axis_order(target: Triple, shape: Sequence[float]) -> tuple[int, int, int]:
    """The axis of largest spacing first, the others in order: 2D configurations look at slices of the first axis.

    Images of one slice are such slices already, however thin it is.

    Args:
        target: spacing in millimetres per axis.
        shape: median size in voxels at that spacing.
    """
    single = [axis for axis in range(3) if shape[axis] == 1]
    first = max(single or range(3), key=lambda axis: target[axis])
    second, third = (axis for axis in range(3) if axis != first)
    return (first, second, third)


def median_shape(spacings: Sequence[Triple], shapes: Sequence[Sequence[int]], target: Triple) -> Triple:
    """Per-axis median of the cases' sizes at the target spacing, in voxels; may end in .5.

    Where all cases are single slices, they stay so: their thicknesses may differ, but none is made into several.
    """
    single = [all(shape[axis] == 1 for shape in shapes) for axis in range(3)]
    resampled = [
        [max(1, round(step / wanted * size)) for step, wanted, size in zip(spacing, target, shape, strict=True)]
        for spacing, shape in zip(spacings, shapes, strict=True)
    ]
    first, second, third = (
        1.0 if single[axis] else float(statistics.median(shape[axis] for shape in resampled)) for axis in range(3)
    )
    return (first, second, third)
