"""Geometry of augmentation: how far a patch may be turned, and along which axes it may be mirrored."""

from __future__ import annotations

import re
from collections.abc import Sequence

from autoseg.values import AugmentationSpec, Labels

__all__ = ["augmentation", "left_right_pairs"]

#: Where a word begins within ``LeftKidney`` or ``KidneyL``.
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[LR])(?=[A-Z][a-z])")
_SIDE = re.compile(r"(?<![a-z])(left|right|l|r|lt|rt)(?![a-z])")
_OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l", "lt": "rt", "rt": "lt"}
#: Beyond these ratios of patch edges, rotation is kept small (2D) or within slices (3D).
FLAT_2D, FLAT_3D = 1.5, 3


def augmentation(patch_size: Sequence[int], *, blocked_axes: Sequence[int] = ()) -> AugmentationSpec:
    """What may be done to patches of that size.

    Args:
        patch_size: voxels per axis.
        blocked_axes: axes of the patch that must not be mirrored.
    """
    mirror_axes = tuple(axis for axis in range(len(patch_size)) if axis not in blocked_axes)
    if len(patch_size) == 2:
        angle = 15.0 if max(patch_size) / min(patch_size) > FLAT_2D else 180.0
        return AugmentationSpec(rotation_degrees=(angle,), mirror_axes=mirror_axes)
    if max(patch_size) / patch_size[0] > FLAT_3D:
        return AugmentationSpec(rotation_degrees=(180.0,), in_plane=True, mirror_axes=mirror_axes)
    return AugmentationSpec(rotation_degrees=(30.0, 30.0, 30.0), mirror_axes=mirror_axes)


def left_right_pairs(labels: Labels) -> list[tuple[str, str]]:
    """Pairs of labels whose names differ only in the side: ``left kidney`` and ``right kidney``, ``lung_L``, ``lung_R``."""
    names = {_CAMEL.sub(" ", label.name).casefold(): label.name for label in labels.foreground}
    pairs = []
    for name in sorted(names):
        if _side(name) in ("left", "l", "lt"):
            partner = _SIDE.sub(lambda match: _OTHER_SIDE[match[0]], name)
            if partner in names:
                pairs.append((names[name], names[partner]))
    return pairs


def _side(name: str) -> str | None:
    match = _SIDE.search(name)
    return match[0] if match else None
