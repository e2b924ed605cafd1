"""A plan around a trained model: its grid, patch, network and normalization for other data, so that its weights fit."""

from __future__ import annotations

import math
import statistics

import msgspec

from autoseg import __version__
from autoseg.errors import InputError, UnknownNameError
from autoseg.planning import GIBIBYTE, Budget, MemoryCost
from autoseg.values import AugmentationSpec, Configuration, Fingerprint, NormalizationSpec, Plan
from autoseg.values.adoption import Template, TemplateConfiguration
from planners.augmentation import augmentation
from planners.intensity import normalization
from planners.memory import FittedPatch, Room, fit_batch
from planners.order import fixed_axes, sides_and_order
from planners.presets import Preset
from planners.reasons import label_reasons, over_budget
from planners.sides import LEFT_RIGHT_AXIS
from planners.spacing import median_shape
from planners.topology import Topology
from planners.training import Length, largest_batch, length, training

__all__ = ["plan_around"]

Triple = tuple[float, float, float]


def plan_around(
    preset: Preset, template: Template, fingerprint: Fingerprint, budget: Budget, cost: MemoryCost, *, name: str
) -> Plan:
    """The plan of the model's configurations, or those that are wanted; training and batch are this planner's own.

    Args:
        preset: of the planner.
        template: the model.
        fingerprint: of the data to fine-tune on.
        budget: memory and wishes.
        cost: predicted bytes.
        name: of the plan.

    Raises:
        InputError: the model does not suit the images, or wishes contradict it.
        UnknownNameError: a configuration is wanted that the model has not.
    """
    _check(template, fingerprint, budget)
    planning = _Around(preset, template, fingerprint, budget, cost)
    wanted = budget.configurations or [each.name for each in template.configurations]
    configurations = tuple(planning.configuration(each) for each in template.configurations if each.name in wanted)
    reasons = {"model": f"made around {template.source}: grid, patch, network and normalization are those of the model"}
    reasons |= label_reasons(preset, planning.sides, planning.order)
    return Plan(
        name=name,
        planner=preset.name,
        autoseg_version=__version__,
        dataset=fingerprint.dataset,
        channels=fingerprint.channels,
        labels=fingerprint.labels,
        file_ending=fingerprint.file_ending,
        orientation=template.orientation,
        axis_order=template.axis_order,
        normalization=_normalization(template, fingerprint, budget),
        seed=budget.seed,
        budget_bytes=budget.memory_bytes,
        device=budget.device,
        configurations=configurations,
        reasons=reasons,
        warnings=(*template.unlike, *planning.sides.warnings, *over_budget(preset, budget, configurations)),
    )


def _check(template: Template, fingerprint: Fingerprint, budget: Budget) -> None:
    names = [each.name for each in template.configurations]
    for missing in sorted(set(budget.configurations).difference(names)):
        raise UnknownNameError(f"the model has no configuration {missing!r}", expected=" or ".join(names))
    if budget.wishes.patch_sizes or budget.wishes.spacing:
        raise InputError(
            "a plan around a model has the model's patch and spacing, and others are asked for",
            remedy="Leave out --patch-size and --spacing, or --from.",
        )
    shapes = fingerprint.shapes_after_crop(template.orientation)
    flat = [axis for axis in range(3) if all(shape[axis] == 1 for shape in shapes)]
    if flat and (
        template.axis_order[0] not in flat or any(len(each.patch_size) == 3 for each in template.configurations)
    ):
        raise InputError(
            "the model does not suit the images: they are single slices",
            found=", ".join(
                f"{each.name} with patches of {len(each.patch_size)} axes" for each in template.configurations
            ),
            expected="a model of 2D images",
        )


def _normalization(template: Template, fingerprint: Fingerprint, budget: Budget) -> tuple[NormalizationSpec, ...]:
    """The model's for the channels that it knows by name, unless the user wants another; this planner's for others."""
    known = {name.casefold(): spec for name, spec in zip(template.channels, template.normalization, strict=True)}
    wished = {name.casefold() for name, _ in budget.wishes.normalization}
    own = normalization(fingerprint, budget.wishes.normalization)
    specs = []
    for place, (name, spec) in enumerate(zip(fingerprint.channels, own, strict=True)):
        of_model = known.get(name.casefold())
        if of_model is None or wished & {name.casefold(), str(place)}:
            specs.append(spec)
        else:
            specs.append(msgspec.structs.replace(of_model, reason=f"as {template.source} was trained"))
    return tuple(specs)


class _Around:
    """What the configurations of one plan share."""

    def __init__(
        self, preset: Preset, template: Template, fingerprint: Fingerprint, budget: Budget, cost: MemoryCost
    ) -> None:
        self.preset, self.template, self.fingerprint, self.budget, self.cost = (
            preset,
            template,
            fingerprint,
            budget,
            cost,
        )
        self.sides, self.order = sides_and_order(preset, fingerprint, template.orientation)

    def configuration(self, of_model: TemplateConfiguration) -> Configuration:
        """The model's configuration for these data: other inputs, outputs, batch and training."""
        labels = self.fingerprint.labels
        inputs = len(self.fingerprint.channels)
        network = msgspec.structs.replace(of_model.network, input_channels=inputs, output_channels=labels.output_count)
        flat = len(of_model.patch_size) == 2
        as_nnunet, device = self.preset.as_nnunet, self.budget.device
        spec = training(as_nnunet=as_nnunet, batch_dice=flat, device=device, epochs=1)
        spacing, shape = self._grid(of_model)
        first, dataset_voxels = 1 if flat else 0, math.prod(shape) * len(self.fingerprint.cases)

        def predicted(topology: Topology, batch_size: int) -> int:
            return self.cost(network, topology.patch_size, batch_size, spec)

        room = Room(
            spacing=spacing[first:],
            shape=shape[first:],
            dataset_voxels=dataset_voxels,
            largest_share=self.preset.largest_share,
            largest_batch=largest_batch(as_nnunet=as_nnunet, device=device, axes=3 - first),
            memory_bytes=self.budget.memory_bytes,
            patch_size=of_model.patch_size,
            batch_size=self.budget.wishes.batch_size(of_model.name),
        )
        fitted = fit_batch(room, _topology(of_model), predicted)
        duration = length(
            as_nnunet=as_nnunet,
            device=device,
            dataset_voxels=dataset_voxels,
            patch_size=of_model.patch_size,
            batch_size=fitted.batch_size,
        )
        return Configuration(
            name=of_model.name,
            spacing=of_model.spacing,
            median_shape=shape,
            patch_size=of_model.patch_size,
            batch_size=fitted.batch_size,
            network=network,
            training=msgspec.structs.replace(spec, epochs=duration.epochs),
            augmentation=self._augmentation(of_model),
            resampling=of_model.resampling,
            expected_memory_bytes=predicted(fitted.topology, fitted.batch_size),
            reasons=self._reasons(fitted, duration),
        )

    def _grid(self, of_model: TemplateConfiguration) -> tuple[Triple, Triple]:
        """Spacing in millimetres, where the model has none the median of the cases, and their median size on that grid."""
        order, orientation = self.template.axis_order, self.template.orientation
        spacings = self.fingerprint.spacings(orientation)
        own = [float(statistics.median(spacing[axis] for spacing in spacings)) for axis in order]
        first, second, third = (
            mine if step is None else step for step, mine in zip(of_model.spacing, own, strict=True)
        )
        target = dict(zip(order, (first, second, third), strict=True))
        shapes = self.fingerprint.shapes_after_crop(orientation)
        shape = median_shape(spacings, shapes, (target[0], target[1], target[2]))
        return (first, second, third), (shape[order[0]], shape[order[1]], shape[order[2]])

    def _augmentation(self, of_model: TemplateConfiguration) -> AugmentationSpec:
        """As the presets do it; where labels have sides and arrays lie as stored, it is not known along which axis: none."""
        patch, sides = of_model.patch_size, self.sides
        if self.preset.as_nnunet:
            return augmentation(patch)
        fixed = fixed_axes(self.order, self.template.axis_order, len(patch))
        if self.template.orientation == "as_stored":
            with_sides = sides.forbid_mirroring or bool(sides.swapped_labels)
            spec = augmentation(patch, left_right_axis=0, forbid_mirroring=with_sides, fixed_axes=fixed)
            return msgspec.structs.replace(spec, mirror_axes=() if with_sides else spec.mirror_axes)
        axis = self.template.axis_order.index(LEFT_RIGHT_AXIS) - (3 - len(patch))
        return augmentation(
            patch,
            left_right_axis=axis if axis >= 0 else None,
            forbid_mirroring=sides.forbid_mirroring,
            swapped_labels=sides.swapped_labels,
            fixed_axes=fixed,
        )

    def _reasons(self, fitted: FittedPatch, duration: Length) -> dict[str, str]:
        return {
            "purpose": f"goes on from {self.template.source}",
            "spacing": "the model's",
            "patch size": "the model's",
            "pooling": "the model's",
            "batch size": fitted.batch_reason,
            "memory": f"predicted for training; planned for {self.budget.memory_bytes / GIBIBYTE:.3g} GiB",
            "length": duration.reason,
        }


def _topology(of_model: TemplateConfiguration) -> Topology:
    network = of_model.network
    axes = range(len(of_model.patch_size))
    return Topology(
        patch_size=of_model.patch_size,
        pools=tuple(sum(stride[axis] > 1 for stride in network.strides) for axis in axes),
        kernel_sizes=network.kernel_sizes,
        strides=network.strides,
    )
