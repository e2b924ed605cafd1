"""Room on the disk: what preprocessed cases take, and whether it is there before the work begins."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from autoseg.errors import DiskFullError, counted
from autoseg.networks.tape import FLOAT_BYTES
from autoseg.values import AxisMap, Configuration, Fingerprint, Plan
from autoseg.volume.resample import target_shape

__all__ = ["GIBIBYTE", "check_room", "free_bytes", "mapped_bytes"]

GIBIBYTE = 2**30
#: Bytes of a preprocessed voxel beside its channels, its label.
LABEL_BYTES = 1
#: Of the bytes of memory maps, what compressed cases take at least where images hold anything: 8 of 32 bits, mostly less.
SHARE_OF_COMPRESSED = 0.25


def mapped_bytes(plan: Plan, configuration: Configuration, fingerprint: Fingerprint) -> dict[str, int]:
    """Bytes that each case takes as memory maps; compressed at most about half of that."""
    sizes = zip(
        fingerprint.cases,
        fingerprint.spacings(plan.orientation),
        fingerprint.shapes_after_crop(plan.orientation),
        strict=True,
    )
    axes, bytes_per_voxel = AxisMap(order=plan.axis_order), len(plan.channels) * FLOAT_BYTES + LABEL_BYTES
    return {
        case.id: math.prod(target_shape(axes.reorder(shape), axes.reorder(spacing), configuration.spacing))
        * bytes_per_voxel
        for case, spacing, shape in sizes
    }


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder, which need not exist yet."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


def check_room(
    folder: Path,
    plan: Plan,
    missing: Mapping[str, Collection[str]],
    fingerprint: Fingerprint,
    *,
    compressed: Callable[[], bool],
) -> None:
    """Sees to it that cases can be preprocessed into a folder.

    Args:
        folder: that will hold them.
        plan: orientation and channels.
        missing: by configuration the ids of the cases that will be made.
        fingerprint: sizes of the cases.
        compressed: tells how they will be stored; asked only where that decides.

    Raises:
        DiskFullError: there is clearly too little room; nothing was written.
    """
    needed, free = 0, free_bytes(folder)
    for name, cases in missing.items():
        sizes = mapped_bytes(plan, plan.configuration(name), fingerprint)
        needed += sum(sizes.get(case, 0) for case in cases)
    if needed > free and compressed():
        needed = int(needed * SHARE_OF_COMPRESSED)
    if needed > free:
        made = ", ".join(f"{counted(len(cases), 'case')} of {name}" for name, cases in missing.items())
        raise DiskFullError(
            folder,
            f"{made} take at least {needed / GIBIBYTE:.2f} GiB there, and {free / GIBIBYTE:.2f} GiB are free",
        )
