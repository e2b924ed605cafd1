"""Fingerprints of made-up data sets and the real cost of memory, for planner tests."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from autoseg.networks.memory import process_bytes
from autoseg.networks.tape import Backend
from autoseg.values import AxisMap, CaseFingerprint, Fingerprint, IntensityProperties, Label, Labels

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]
#: What a training takes on a CPU, and on a GPU with 16-bit numbers: the pipeline's costs.
CPU_COST = functools.partial(process_bytes, backend=Backend())
GPU_COST = functools.partial(process_bytes, backend=Backend(device="cuda", precision="bf16"))


def fingerprint(
    groups: Sequence[tuple[Triple, Shape, int]],
    *,
    labels: int = 2,
    channels: Sequence[str] = ("MRI",),
    names: Sequence[str] | None = None,
    to_canonical: AxisMap | None = None,
    crop: float = 1.0,
) -> Fingerprint:
    """A data set of groups of equal cases.

    Args:
        groups: spacing, shape after cropping, and how many cases of that kind.
        labels: with background.
        channels: their names.
        names: of the foreground labels.
        to_canonical: of all cases.
        crop: share of the first axis that cropping kept.
    """
    cases = []
    for spacing, shape, count in groups:
        for _ in range(count):
            cases.append(
                CaseFingerprint(
                    id=f"case_{len(cases):04d}",
                    spacing=spacing,
                    shape=(round(shape[0] / crop), shape[1], shape[2]),
                    shape_after_crop=shape,
                    to_canonical=to_canonical or AxisMap(),
                    planar=shape[0] == 1,
                    label_counts={},
                )
            )
    properties = IntensityProperties(mean=1, median=1, std=2, min=0, max=9, percentile_00_5=0, percentile_99_5=8)
    named = names or [f"label_{index}" for index in range(1, labels)]
    return Fingerprint(
        dataset="Dataset001_Synthetic",
        channels=tuple(channels),
        labels=Labels(foreground=tuple(Label(name=name, values=(i,)) for i, name in enumerate(named, start=1))),
        file_ending=".nii.gz",
        cases=tuple(cases),
        intensities=(properties,) * len(channels),
    )
