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

__all__ = [
    "GIBIBYTE",
    "SHARE_OF_PROBABILITIES",
    "check_room",
    "check_room_for_probabilities",
    "free_bytes",
    "mapped_bytes",
    "probability_bytes",
]

GIBIBYTE = 2**30
#: Bytes of a preprocessed voxel beside its channels, its label.
LABEL_BYTES = 1
#: Of the bytes of memory maps, what compressed cases take at least where images hold anything: 8 of 32 bits, mostly less.
SHARE_OF_COMPRESSED = 0.25
#: Bytes of a probability; see ``autoseg.inference.probabilities``.
LEVEL_BYTES = 2
#: Of these bytes, what compressed probabilities are counted as: measured are 0.23 to 0.29 in cases of 35 x 51 x 35 voxels,
#: of which hardly any is far from a surface. Only a network that has hardly been trained takes more.
SHARE_OF_PROBABILITIES = 0.5
#: What they take at least: 0.017 was seen in large cases that are certain almost everywhere.
LEAST_OF_PROBABILITIES = 0.01


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


def probability_bytes(plan: Plan, fingerprint: Fingerprint, cases: Collection[str]) -> int:
    """Bytes that the kept probabilities of held-out cases take before they are compressed.

    They lie on each case's own grid: every configuration takes the same.

    Args:
        plan: orientation and labels.
        fingerprint: sizes of the cases.
        cases: ids.
    """
    shapes = zip(fingerprint.cases, fingerprint.shapes_after_crop(plan.orientation), strict=True)
    return sum(math.prod(shape) for case, shape in shapes if case.id in cases) * plan.labels.output_count * LEVEL_BYTES


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


def check_room_for_probabilities(folder: Path, raw_bytes: int, *, compressed: bool) -> None:
    """Sees to it that probabilities of held-out cases can be kept, before the training begins that predicts them.

    Args:
        folder: that will hold them.
        raw_bytes: of all of them before they are compressed.
        compressed: whether they will be.

    Raises:
        DiskFullError: there is clearly too little room; nothing was written.
    """
    needed, free = int(raw_bytes * (LEAST_OF_PROBABILITIES if compressed else 1)), free_bytes(folder)
    if needed > free:
        raise DiskFullError(
            folder,
            f"the probabilities of the held-out cases take at least {needed / GIBIBYTE:.2f} GiB there, and "
            f"{free / GIBIBYTE:.2f} GiB are free (--no-probabilities keeps none, and no ensembles can be compared)",
        )
