"""Geometry of augmentation: how far a patch may be turned, and along which axes it may be mirrored."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg.values import AugmentationSpec

__all__ = ["augmentation"]

#: Beyond these ratios of patch edges, rotation is kept small (2D) or within slices (3D).
FLAT_2D, FLAT_3D = 1.5, 3
#: Turned by half a circle and mirrored from front to back, a patient is mirrored from left to right. So where labels have
#: sides or a fixed order, slices are turned only this far.
WITH_SIDES = 30.0


def augmentation(
    patch_size: Sequence[int],
    *,
    left_right_axis: int | None = None,
    forbid_mirroring: bool = False,
    swapped_labels: Sequence[tuple[int, int]] = (),
    fixed_axes: Sequence[int] = (),
) -> AugmentationSpec:
    """What may be done to patches of that size.

    Args:
        patch_size: voxels per axis.
        left_right_axis: the axis of the patch from the patient's right to left; None if the patch has no such axis.
        forbid_mirroring: along that axis, since labels have sides and it is not known how to exchange them.
        swapped_labels: labels that change places when that axis is mirrored.
        fixed_axes: axes of the patch along which labels lie in a fixed order, so that nothing is mirrored along them.
    """
    if left_right_axis is None:
        forbid_mirroring, swapped_labels = False, ()
    degrees, in_plane = _rotation(patch_size, has_sides=forbid_mirroring or bool(swapped_labels) or bool(fixed_axes))
    blocked = {*fixed_axes, *([left_right_axis] if forbid_mirroring else [])}
    if left_right_axis in blocked:
        swapped_labels = ()
    return AugmentationSpec(
        rotation_degrees=degrees,
        in_plane=in_plane,
        mirror_axes=tuple(axis for axis in range(len(patch_size)) if axis not in blocked),
        swap_axis=left_right_axis if swapped_labels else None,
        swapped_labels=tuple(swapped_labels),
    )


def _rotation(patch_size: Sequence[int], *, has_sides: bool) -> tuple[tuple[float, ...], bool]:
    """The largest angle about each axis, and whether patches are turned within their slices alone."""
    most = WITH_SIDES if has_sides else 180.0
    if len(patch_size) == 2:
        return (15.0 if max(patch_size) / min(patch_size) > FLAT_2D else most,), False
    if max(patch_size) / patch_size[0] > FLAT_3D:
        return (most,), True
    return (30.0, 30.0, 30.0), False
