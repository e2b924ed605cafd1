"""Geometry of augmentation: how far a patch may be turned, and along which axes it may be mirrored."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg.values import AugmentationSpec

__all__ = ["augmentation"]

#: Beyond these ratios of patch edges, rotation is kept small (2D) or within slices (3D).
FLAT_2D, FLAT_3D = 1.5, 3


def augmentation(
    patch_size: Sequence[int],
    *,
    blocked_axes: Sequence[int] = (),
    swap_axis: int | None = None,
    swapped_labels: Sequence[tuple[int, int]] = (),
) -> AugmentationSpec:
    """What may be done to patches of that size.

    Args:
        patch_size: voxels per axis.
        blocked_axes: axes of the patch that must not be mirrored.
        swap_axis: the axis of the patch along which mirroring exchanges labels; None if the patch has no such axis.
        swapped_labels: which labels these are; without ``swap_axis`` they stay.
    """
    degrees, in_plane = _rotation(patch_size)
    return AugmentationSpec(
        rotation_degrees=degrees,
        in_plane=in_plane,
        mirror_axes=tuple(axis for axis in range(len(patch_size)) if axis not in blocked_axes),
        swap_axis=swap_axis if swapped_labels else None,
        swapped_labels=tuple(swapped_labels) if swap_axis is not None else (),
    )


def _rotation(patch_size: Sequence[int]) -> tuple[tuple[float, ...], bool]:
    """The largest angle about each axis, and whether patches are turned within their slices alone."""
    if len(patch_size) == 2:
        return (15.0 if max(patch_size) / min(patch_size) > FLAT_2D else 180.0,), False
    if max(patch_size) / patch_size[0] > FLAT_3D:
        return (180.0,), True
    return (30.0, 30.0, 30.0), False
