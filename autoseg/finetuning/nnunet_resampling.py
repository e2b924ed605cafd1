"""How plans of nnU-Net's resample, as a ``ResamplingSpec``; what that cannot say is told.

Functions, arguments and their defaults: nnU-Net 2.0 to 2.8.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from autoseg.values import ResamplingSpec

__all__ = ["StatedResampling", "read_resampling"]

SPLINE, LINEAR = "resample_data_or_seg_to_shape", "resample_torch_fornnunet"
#: Thresholds of anisotropy at which the coarsest axis is treated apart always, and never: no spacings differ so much.
ALWAYS, NEVER = 0.0, 1e12


class StatedResampling(msgspec.Struct):
    """What a configuration states of it; the usual functions where it states none."""

    resampling_fn_data: str = SPLINE
    resampling_fn_seg: str = SPLINE
    resampling_fn_probabilities: str = SPLINE
    resampling_fn_data_kwargs: dict[str, Any] = {}
    resampling_fn_seg_kwargs: dict[str, Any] = {}
    resampling_fn_probabilities_kwargs: dict[str, Any] = {}


class _Arguments(msgspec.Struct, frozen=True):
    """Of a function, with the defaults of the spline function."""

    order: int = 3
    order_z: int = 0
    force_separate_z: bool | None = False
    separate_z_anisotropy_threshold: float = 3.0

    @property
    def threshold(self) -> float:
        if self.force_separate_z is not None:
            return ALWAYS if self.force_separate_z else NEVER
        return self.separate_z_anisotropy_threshold


#: As nnU-Net's planner states them: for images, for labels and for what the network gives; and orders that autoseg has.
USUAL = {"data": 3, "seg": 1, "probabilities": 1}
ORDERS = {"data": (0, 1, 3), "seg": (0, 1), "probabilities": (0, 1)}


def read_resampling(stated: StatedResampling) -> tuple[ResamplingSpec, tuple[str, ...]]:
    """The resampling of a configuration, and sentences about what autoseg does otherwise.

    Raises:
        ValueError: arguments are of another type.
    """
    found = {what: _arguments(stated, what) for what in USUAL}
    told = [
        f"{what} by {name} in the model, by the usual function of nnU-Net here"
        for what in USUAL
        if (name := getattr(stated, f"resampling_fn_{what}")) not in (SPLINE, LINEAR)
    ]
    orders = {}
    for what, each in found.items():
        orders[what] = each.order if each.order in ORDERS[what] else USUAL[what]
        if orders[what] != each.order:
            told.append(f"{what} of order {each.order} in the model, of order {orders[what]} here")
    along, threshold = found["data"].order_z, found["data"].threshold
    if along not in (0, 1):
        told.append(f"along a coarse axis of order {along} in the model, of order 1 here")
    if not (math.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"separate_z_anisotropy_threshold is {threshold}")
    if len({(each.order_z, each.threshold) for each in found.values()}) > 1:
        told.append(
            "along a coarse axis images, labels and probabilities differ in the model, and are like images here"
        )
    spec = ResamplingSpec(
        image_order=orders["data"],  # type: ignore[arg-type]
        label_order=orders["seg"],  # type: ignore[arg-type]
        logits_order=orders["probabilities"],  # type: ignore[arg-type]
        separate_axis_order=min(max(along, 0), 1),  # type: ignore[arg-type]
        anisotropy_threshold=threshold,
    )
    return spec, tuple(f"resampling: {each}" for each in told)


def _arguments(stated: StatedResampling, what: str) -> _Arguments:
    name, arguments = (getattr(stated, f"resampling_fn_{what}{end}") for end in ("", "_kwargs"))
    if name == LINEAR:  # whose labels are the largest of linear indicators, and slices apart the nearest
        made: _Arguments = msgspec.convert(
            {"force_separate_z": None, **arguments, "order": 1, "order_z": 0}, _Arguments
        )
        return made
    usual = {"order": USUAL[what], "force_separate_z": None}
    return msgspec.convert(arguments if arguments and name == SPLINE else usual, _Arguments)
