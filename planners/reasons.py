"""Why a plan is as it is, in phrases for its reader, and what the reader should know before using it."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg.planning import GIBIBYTE, Budget
from autoseg.values import Configuration
from planners.memory import FittedPatch
from planners.order import FixedOrder, told
from planners.presets import Preset
from planners.sides import Sides
from planners.spacing import Grid

__all__ = ["configuration_reasons", "label_reasons", "over_budget", "plan_reasons"]

PURPOSES = {
    "2d": "learns from slices: the cheapest, and often best where slices are thick",
    "3d_fullres": "sees all axes at full resolution; a patch covers {share} of the median image",
    "3d_lowres": "sees more of a large image at once, more coarsely: a patch covers {share} of the median image",
    "3d_cascade_fullres": "refines the prediction of 3d_lowres at full resolution",
}


def plan_reasons(preset: Preset, sides: Sides, order: Sequence[FixedOrder]) -> dict[str, str]:
    """Reasons of what all configurations share.

    Args:
        preset: of the planner.
        sides: labels that are the two sides of the patient.
        order: labels that always lie the same way round.
    """
    return {
        "orientation": "arrays are brought to one orientation by their geometry: superior, posterior, left"
        if preset.orientation == "canonical"
        else "arrays are taken as stored, as nnU-Net does",
        "axis order": "the coarsest axis first; 2d looks at its slices",
        **label_reasons(preset, sides, order),
    }


def label_reasons(preset: Preset, sides: Sides, order: Sequence[FixedOrder]) -> dict[str, str]:
    """What follows from where labels lie, if anything does; the arguments are those of ``plan_reasons``."""
    reasons = {"left and right": sides.reason(mirrored_anyway=preset.as_nnunet), "order of labels": told(order)}
    return {name: text for name, text in reasons.items() if text}


def configuration_reasons(
    preset: Preset,
    name: str,
    grid: Grid,
    spacing: Sequence[float],
    fitted: FittedPatch,
    budget: Budget,
    *,
    length: str,
    features: str,
) -> dict[str, str]:
    """Reasons of one configuration.

    Args:
        preset: of the planner.
        name: of the configuration.
        grid: of full resolution.
        spacing: of the configuration, in millimetres.
        fitted: its patch and batch.
        budget: that it keeps.
        length: why it is trained for so long.
        features: why its network has so many feature maps.
    """
    topology = fitted.topology
    smallest = [edge // step for edge, step in zip(topology.patch_size, topology.divisor, strict=True)]
    share, first = 1.0, 3 - len(fitted.topology.patch_size)
    sizes = zip(topology.patch_size, spacing[first:], grid.shape[first:], grid.spacing[first:], strict=True)
    for edge, step, size, full in sizes:
        share *= min(1.0, edge * step / (size * full))
    return {
        "purpose": PURPOSES[name].format(share=f"{share:.0%}"),
        "spacing": _spacing_reason(name, grid, spacing),
        "anisotropy": _anisotropy_reason(name, grid, spacing),
        "patch size": fitted.patch_reason,
        "pooling": f"times that each axis is halved; the smallest feature map has {_sizes(smallest)} voxels",
        "batch size": fitted.batch_reason,
        "features": features,
        "memory": f"predicted for training; planned for {budget.memory_bytes / GIBIBYTE:.3g} GiB"
        + (" by nnU-Net's count, which supposes 16-bit training" if preset.count_rule else ""),
        "length": length,
    }


def _sizes(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def _spacing_reason(name: str, grid: Grid, spacing: Sequence[float]) -> str:
    if name != "3d_lowres":
        return grid.spacing_reason
    times = max(step / full for step, full in zip(spacing, grid.spacing, strict=True))
    return f"up to {times:.2g} times coarser than full resolution, until a patch covers a quarter of the median image"


def _anisotropy_reason(name: str, grid: Grid, spacing: Sequence[float]) -> str:
    coarse = max(spacing) / min(spacing)
    if name == "2d":
        return (
            "the images are 2D" if grid.shape[0] == 1 else "slices of the coarsest axis; each keeps its own thickness"
        )
    if coarse > 3:
        return f"spacings differ by a factor of {coarse:.2g}: the coarse axis is resampled apart and pooled later"
    return f"spacings differ by a factor of {coarse:.2g}: all axes are treated alike"


def over_budget(preset: Preset, budget: Budget, configurations: Sequence[Configuration]) -> list[str]:
    """A warning for every configuration that takes more memory than planned for: nnU-Net's count does not see bytes."""
    return [
        f"{each.name} will take about {each.expected_memory_bytes / GIBIBYTE:.1f} GiB to train, more than the "
        f"{budget.memory_bytes / GIBIBYTE:.3g} GiB planned for: the preset {preset.name} counts feature maps as nnU-Net "
        f"does. The preset default keeps its budget."
        for each in configurations
        if each.expected_memory_bytes > budget.memory_bytes
    ]
