"""The planners of the plain U-Net: the default one, and ``nnunet``, which reproduces nnU-Net's plans with their quirks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from autoseg import __version__
from autoseg.errors import InputError, UnknownNameError
from autoseg.planning import GIBIBYTE, Budget, MemoryCost
from autoseg.values import (
    Configuration,
    Fingerprint,
    NetworkSpec,
    Orientation,
    Plan,
    ResamplingSpec,
    TrainingSpec,
)
from autoseg.values.json_form import Value
from planners.augmentation import augmentation
from planners.intensity import normalization
from planners.lowres import low_resolution
from planners.memory import CONVOLUTIONS, FittedPatch, features_per_stage, fit_patch
from planners.sides import LEFT_RIGHT_AXIS, Sides, find_sides
from planners.spacing import axis_order, median_shape, target_spacing
from planners.topology import Topology, network_topology

__all__ = ["DefaultPlanner", "NnunetPlanner"]

Triple = tuple[float, float, float]


class _Grid(Value, frozen=True, kw_only=True):
    """What the configurations of one plan share, in the plan's axis order."""

    order: tuple[int, int, int]
    spacing: Triple
    shape: Triple
    dataset_voxels: float
    spacing_reason: str
    blocked_axes: tuple[int, ...]
    swap_axis: int | None
    sides: Sides


class _Style(Value, frozen=True, kw_only=True):
    """What makes one planner differ from the other."""

    name: Literal["default", "nnunet"]
    orientation: Orientation
    separate_axis_order: Literal[0, 1]
    scale_2d_elements: bool
    keeps_budget: bool
    blocks_sides: bool


_DEFAULT = _Style(
    name="default",
    orientation="canonical",
    separate_axis_order=1,
    scale_2d_elements=False,
    keeps_budget=True,
    blocks_sides=True,
)
_NNUNET = _Style(
    name="nnunet",
    orientation="as_stored",
    separate_axis_order=0,
    scale_2d_elements=True,
    keeps_budget=False,
    blocks_sides=False,
)


class DefaultPlanner:
    """nnU-Net's rules for spacing, patch and topology on canonically oriented data, without its quirks; AdamW and EMA."""

    def plan(self, fingerprint: Fingerprint, budget: Budget, cost: MemoryCost, *, name: str) -> Plan:
        """See ``autoseg.planning.Planner``."""
        return _plan(_DEFAULT, fingerprint, budget, cost, name)


class NnunetPlanner:
    """nnU-Net's plans for its plain U-Net, quirks included, and its training: SGD for 1000 epochs."""

    default_memory_bytes = 8 * GIBIBYTE

    def plan(self, fingerprint: Fingerprint, budget: Budget, cost: MemoryCost, *, name: str) -> Plan:
        """See ``autoseg.planning.Planner``."""
        return _plan(_NNUNET, fingerprint, budget, cost, name)


def _plan(style: _Style, fingerprint: Fingerprint, budget: Budget, cost: MemoryCost, name: str) -> Plan:
    grid = _grid(style, fingerprint)
    possible = ("2d",) if grid.shape[0] == 1 else ("2d", "3d_fullres")
    wanted = budget.configurations or possible
    for missing in [configuration for configuration in wanted if configuration not in possible]:
        raise UnknownNameError(f"{missing!r} cannot be planned for this data set", expected=" or ".join(possible))
    configurations = tuple(
        _configuration(style, which, grid, fingerprint, budget, cost) for which in possible if which in wanted
    )
    return Plan(
        name=name,
        planner=style.name,
        autoseg_version=__version__,
        dataset=fingerprint.dataset,
        channels=fingerprint.channels,
        labels=fingerprint.labels,
        file_ending=fingerprint.file_ending,
        orientation=style.orientation,
        axis_order=grid.order,
        normalization=normalization(fingerprint),
        seed=budget.seed,
        budget_bytes=budget.memory_bytes,
        configurations=configurations,
        reasons=_reasons(style, fingerprint, grid),
    )


def _grid(style: _Style, fingerprint: Fingerprint) -> _Grid:
    spacings = fingerprint.spacings(style.orientation)
    shapes = fingerprint.shapes_after_crop(style.orientation)
    target = target_spacing(spacings, shapes)
    order = axis_order(target.spacing)
    shape = median_shape(spacings, shapes, target.spacing)
    # nnU-Net mirrors all axes whatever the labels mean; here sides change places with the image, or stay where they are
    sides, axis = find_sides(fingerprint), order.index(LEFT_RIGHT_AXIS)
    return _Grid(
        order=order,
        spacing=_ordered(target.spacing, order),
        shape=_ordered(shape, order),
        dataset_voxels=math.prod(shape) * len(fingerprint.cases),
        spacing_reason=target.reason,
        blocked_axes=(axis,) if style.blocks_sides and sides.forbid_mirroring else (),
        swap_axis=axis if style.blocks_sides and sides.swapped_labels else None,
        sides=sides,
    )


def _ordered(values: Triple, order: Sequence[int]) -> Triple:
    return (values[order[0]], values[order[1]], values[order[2]])


def _configuration(
    style: _Style, name: str, grid: _Grid, fingerprint: Fingerprint, budget: Budget, cost: MemoryCost
) -> Configuration:
    first = 1 if name == "2d" else 0
    _check_size(grid, first)

    def predicted(topology: Topology, batch_size: int) -> int:
        return cost(_network(fingerprint, topology), topology.patch_size, batch_size)

    def fit(spacing: Sequence[float], shape: Sequence[float], dataset_voxels: float) -> FittedPatch:
        return fit_patch(
            spacing,
            shape,
            dataset_voxels=dataset_voxels,
            label_count=fingerprint.labels.declared_count,
            memory_bytes=budget.memory_bytes,
            scale_2d_elements=style.scale_2d_elements,
            cost=predicted if style.keeps_budget else None,
        )

    fitted = fit(grid.spacing[first:], grid.shape[first:], grid.dataset_voxels)
    topology = fitted.topology
    large = name != "2d" and _is_large(grid, topology.patch_size, fit, cases=len(fingerprint.cases))
    return Configuration(
        name=name,
        spacing=(None, *grid.spacing[1:]) if name == "2d" else grid.spacing,
        median_shape=grid.shape,
        patch_size=topology.patch_size,
        batch_size=fitted.batch_size,
        network=_network(fingerprint, topology),
        training=_training(style, batch_dice=name == "2d" or large, device=budget.device),
        augmentation=augmentation(
            topology.patch_size,
            blocked_axes=[axis - first for axis in grid.blocked_axes if axis >= first],
            swap_axis=None if grid.swap_axis is None or grid.swap_axis < first else grid.swap_axis - first,
            swapped_labels=grid.sides.swapped_labels,
        ),
        resampling=ResamplingSpec(separate_axis_order=style.separate_axis_order),
        expected_memory_bytes=predicted(topology, fitted.batch_size),
        reasons=_configuration_reasons(style, name, grid, fitted, budget),
    )


def _check_size(grid: _Grid, first: int) -> None:
    if len(network_topology(grid.spacing[first:], grid.shape[first:]).strides) < 2:
        raise InputError(
            "the images are too small for a U-Net",
            found=f"a median of {' x '.join(f'{size:g}' for size in grid.shape)} voxels",
            expected="at least 8 voxels along two axes",
        )


def _is_large(
    grid: _Grid,
    patch_size: Sequence[int],
    fit: Callable[[Sequence[float], Sequence[float], float], FittedPatch],
    *,
    cases: int,
) -> bool:
    """Whether a patch sees so little of an image that a low resolution makes sense.

    Patches then often hold no foreground at all, and Dice is taken over the whole batch.
    """

    def fit_coarse(spacing: Triple, shape: Triple) -> FittedPatch:
        return fit(spacing, [round(size) for size in shape], math.prod(shape) * cases)

    return low_resolution(grid.spacing, grid.shape, patch_size, fit_coarse) is not None


def _network(fingerprint: Fingerprint, topology: Topology) -> NetworkSpec:
    stages = len(topology.strides)
    return NetworkSpec(
        input_channels=len(fingerprint.channels),
        output_channels=fingerprint.labels.output_count,
        features=features_per_stage(stages, len(topology.patch_size)),
        kernel_sizes=topology.kernel_sizes,
        strides=topology.strides,
        encoder_blocks=(CONVOLUTIONS,) * stages,
        decoder_blocks=(CONVOLUTIONS,) * (stages - 1),
    )


def _training(style: _Style, *, batch_dice: bool, device: str) -> TrainingSpec:
    if style.name == "nnunet":
        return TrainingSpec(
            epochs=1000,
            validation_iterations=50,
            optimizer="sgd",
            learning_rate=0.01,
            weight_decay=3e-5,
            momentum=0.99,
            schedule="polynomial_per_epoch",
            batch_dice=batch_dice,
        )
    return TrainingSpec(
        epochs=4 if device == "cpu" else 50,
        validation_iterations=5 if device == "cpu" else 20,
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=0.01,
        schedule="warmup_polynomial",
        warmup_iterations=50,
        ema_decay=0.999,
        batch_dice=batch_dice,
    )


def _reasons(style: _Style, fingerprint: Fingerprint, grid: _Grid) -> dict[str, str]:
    reasons = {
        "orientation": "arrays are brought to one orientation by their geometry: superior, posterior, left"
        if style.orientation == "canonical"
        else "arrays are taken as stored, as nnU-Net does",
        "axis order": "the coarsest axis first; 2d looks at its slices",
    }
    sides = grid.sides.reason(mirrored_anyway=not style.blocks_sides)
    if sides:
        reasons["left and right"] = sides
    return reasons


def _configuration_reasons(
    style: _Style, name: str, grid: _Grid, fitted: FittedPatch, budget: Budget
) -> dict[str, str]:
    pools = " x ".join(str(pool) for pool in fitted.topology.pools)
    coarse = max(grid.spacing) / min(grid.spacing)
    if name == "2d" and grid.shape[0] == 1:
        isotropy = "the images are 2D"
    elif name == "2d":
        isotropy = "slices of the coarsest axis; each keeps its own thickness"
    elif coarse > 3:
        isotropy = f"spacings differ by a factor of {coarse:.2g}: the coarse axis is resampled apart and pooled later"
    else:
        isotropy = f"spacings differ by a factor of {coarse:.2g}: all axes are treated alike"
    if style.name == "nnunet":
        length = "nnU-Net's length"
    elif budget.device == "cpu":
        length = "short, for a CPU; --epochs or --iterations change it"
    else:
        length = "enough for most data sets; --epochs or --iterations change it"
    return {
        "spacing": grid.spacing_reason,
        "anisotropy": isotropy,
        "patch size": fitted.patch_reason,
        "pooling": f"{pools} times per axis, until the smallest feature map has an edge of 4 to 7 voxels",
        "batch size": fitted.batch_reason,
        "memory": f"predicted for a training step; planned for {budget.memory_bytes / GIBIBYTE:.3g} GiB"
        + (" by nnU-Net's count, which supposes 16-bit training" if style.name == "nnunet" else ""),
        "length": length,
    }
