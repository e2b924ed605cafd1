"""Room on the disk: what preprocessed cases take, and whether it is there before the work begins."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection
from pathlib import Path

from autoseg.errors import DiskFullError
from autoseg.values import AxisMap, Configuration, Fingerprint, Plan
from autoseg.volume.resample import target_shape

__all__ = ["GIBIBYTE", "check_room", "free_bytes", "mapped_bytes"]

GIBIBYTE = 2**30
#: Bytes of a preprocessed voxel beside its channels, its label.
FLOAT_BYTES, LABEL_BYTES = 4, 1
#: Of the bytes of memory maps, what compressed cases take at least where images hold anything: 8 of 32 bits, mostly less.
SHARE_OF_COMPRESSED = 0.25


def mapped_bytes(plan: Plan, configuration: Configuration, fingerprint: Fingerprint) -> dict[str, int]:
    """Bytes that each case takes as memory maps; compressed at most about half of that."""
    axes, found = AxisMap(order=plan.axis_order), {}
    for case, spacing, shape in zip(
        fingerprint.cases,
        fingerprint.spacings(plan.orientation),
        fingerprint.shapes_after_crop(plan.orientation),
        strict=True,
    ):
        edges = target_shape(axes.reorder(shape), axes.reorder(spacing), configuration.spacing)
        found[case.id] = math.prod(edges) * (len(plan.channels) * FLOAT_BYTES + LABEL_BYTES)
    return found


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder, which need not exist yet."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


def check_room(
    folder: Path,
    plan: Plan,
    configuration: Configuration,
    fingerprint: Fingerprint,
    cases: Collection[str],
    *,
    compressed: bool,
) -> None:
    """Sees to it that cases can be preprocessed into a folder.

    Args:
        folder: that will hold them.
        plan: orientation and channels.
        configuration: the grid.
        fingerprint: sizes of the cases.
        cases: ids of those that will be made.
        compressed: how they will be stored.

    Raises:
        DiskFullError: there is clearly too little room; nothing was written.
    """
    sizes = mapped_bytes(plan, configuration, fingerprint)
    needed = sum(sizes.get(case, 0) for case in cases)
    if compressed:
        needed = int(needed * SHARE_OF_COMPRESSED)
    free = free_bytes(folder)
    if needed > free:
        raise DiskFullError(
            folder,
            f"{len(cases)} cases of {configuration.name} take at least {needed / GIBIBYTE:.2f} GiB there, and "
            f"{free / GIBIBYTE:.2f} GiB are free",
        )
