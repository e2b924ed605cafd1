"""The low resolution: a coarser grid on which a patch sees a good part of the image, for large images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from autoseg.values.json_form import Value
from planners.memory import FittedPatch

__all__ = ["LowResolution", "low_resolution"]

Triple = tuple[float, float, float]
#: A patch of full resolution that covers less of the median image than this calls for a low resolution.
SMALL_SHARE = 0.25
#: Each step makes the grid coarser by this factor; at least half of the voxels must go, or it is not worth it.
STEP, LEAST_REDUCTION = 1.03, 2.0


class LowResolution(Value, frozen=True, kw_only=True):
    """A coarser grid with the patch that fits it: spacing in millimetres, median size in voxels (not rounded)."""

    spacing: Triple
    shape: Triple
    fitted: FittedPatch


def low_resolution(
    spacing: Triple,
    shape: Triple,
    patch_size: Sequence[int],
    fit: Callable[[Triple, Triple], FittedPatch],
    *,
    at_most_times: float = math.inf,
) -> LowResolution | None:
    """nnU-Net's rule: the grid grows coarser, its finer axes first, until a patch covers a quarter of the median image.

    Args:
        spacing: of full resolution, in millimetres.
        shape: median size on that grid, in voxels.
        patch_size: of full resolution.
        fit: the patch for a spacing and a median size.
        at_most_times: how much larger than that of full resolution the patch may get; where even that would not do, nothing
            is fitted, which saves time.

    Returns:
        None where full resolution does, or where little would be gained.
    """
    whole, covered = math.prod(shape), math.prod(patch_size)
    grid, size, found = spacing, shape, None
    while covered < SMALL_SHARE * math.prod(size):
        finer = [max(grid) / step > 2 for step in grid]
        grow = finer if any(finer) else [True] * 3
        grid = _triple(step * (STEP if grows else 1.0) for step, grows in zip(grid, grow, strict=True))
        size = _triple(edge * old / new for edge, old, new in zip(shape, spacing, grid, strict=True))
        if covered * at_most_times < SMALL_SHARE * math.prod(size) and found is None:
            continue
        fitted = fit(grid, size)
        found, covered = LowResolution(spacing=grid, shape=size, fitted=fitted), math.prod(fitted.topology.patch_size)
    return found if found is not None and whole / math.prod(size) >= LEAST_REDUCTION else None


def _triple(values: Iterable[float]) -> Triple:
    first, second, third = values
    return (first, second, third)
