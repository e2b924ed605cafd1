"""Plan: everything that makes an experiment, in one document. ``plan.json`` alone reproduces it."""

from __future__ import annotations

import math
import operator
from typing import ClassVar, Literal

import msgspec

from autoseg.errors import UnknownNameError
from autoseg.values.dataset import Labels
from autoseg.values.fingerprint import Orientation
from autoseg.values.inheritance import INHERITANCE, require_links
from autoseg.values.json_form import FileForm, Value, digest, require, require_file_name
from autoseg.values.network import NetworkSpec, Sizes
from autoseg.values.processing import AugmentationSpec, NormalizationSpec, ResamplingSpec

__all__ = ["PART_FIELDS", "Configuration", "Plan", "TrainingSpec"]

#: Where a configuration names a plug of each kind.
PART_FIELDS = {
    "network": "network.architecture",
    "resampler": "resampling.resampler",
    "recipe": "augmentation.recipe",
    "loss": "training.loss",
    "optimizer": "training.optimizer",
    "schedule": "training.schedule",
}


class TrainingSpec(Value, frozen=True, kw_only=True):
    """How a network is trained.

    Attributes:
        iterations_per_epoch: after how many iterations there is an estimate on validation patches.
        epochs: how many of these make a training.
        validation_iterations: batches of validation patches per estimate.
        optimizer: the optimizer plug.
        learning_rate: its largest value.
        weight_decay: of the optimizer.
        momentum: of SGD (Nesterov's); unused by AdamW.
        schedule: the schedule plug.
        warmup_iterations: linear increase of the learning rate at the start.
        gradient_clip_norm: largest global norm of the gradient.
        ema_decay: decay of the moving average of the weights that becomes the model; None keeps the last weights.
        loss: the loss plug.
        batch_dice: Dice from sums over the whole batch instead of each sample.
        foreground_share: share of a batch that is forced to hold foreground.
        foreground_place: where in its patch the voxel lies that is forced: anywhere, all places with equal chance, or in
            the centre; both as far as the borders of the image allow.
    """

    iterations_per_epoch: int = 250
    epochs: int
    validation_iterations: int
    optimizer: str
    learning_rate: float
    weight_decay: float
    momentum: float = 0.0
    schedule: str
    warmup_iterations: int = 0
    gradient_clip_norm: float = 12.0
    ema_decay: float | None = None
    loss: str = "dice_cross_entropy"
    batch_dice: bool = False
    foreground_share: float = 0.33
    foreground_place: Literal["anywhere", "centre"] = "anywhere"

    def __post_init__(self) -> None:
        for field, holds, expected in (
            ("iterations_per_epoch", self.iterations_per_epoch > 0, "1 or more"),
            ("epochs", self.epochs > 0, "1 or more"),
            ("validation_iterations", self.validation_iterations >= 0, "0 or more"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "a number over 0"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or a number over it"),
            ("momentum", 0 <= self.momentum < 1, "0 to below 1"),
            ("warmup_iterations", self.warmup_iterations >= 0, "0 or more"),
            ("gradient_clip_norm", self.gradient_clip_norm > 0, "a number over 0"),
            ("ema_decay", self.ema_decay is None or 0 < self.ema_decay < 1, "null, or a number between 0 and 1"),
            ("foreground_share", 0 <= self.foreground_share <= 1, "0 to 1"),
        ):
            require(holds, f"{field} is out of range", field=field, found=getattr(self, field), expected=expected)

    @property
    def iterations(self) -> int:
        """Length of the training."""
        return self.epochs * self.iterations_per_epoch


class Configuration(Value, frozen=True, kw_only=True):
    """One way to look at the data: a grid, a patch, a network and its training.

    Attributes:
        name: ``2d``, ``3d_fullres`` or the user's own.
        inherits_from: another configuration of the plan, of which the file repeats nothing; in memory all is complete.
        previous_stage: a configuration of the plan whose prediction is an extra input (of a cascade).
        spacing: target spacing in millimetres per array axis after ``Plan.axis_order``; None keeps the case's own
            (the slice axis of ``2d``).
        median_shape: median size of a case on this grid, in voxels (may end in .5).
        patch_size: per axis; two entries make a 2D configuration, which works on slices of axis 0.
        batch_size: patches per iteration.
        expected_memory_bytes: predicted peak of a training step.
        reasons: choice to reason, for the reader.
    """

    name: str
    inherits_from: str | None = None
    previous_stage: str | None = None
    spacing: tuple[float | None, float | None, float | None]
    median_shape: tuple[float, float, float]
    patch_size: Sizes
    batch_size: int
    network: NetworkSpec
    training: TrainingSpec
    augmentation: AugmentationSpec
    resampling: ResamplingSpec
    expected_memory_bytes: int = 0
    reasons: dict[str, str] = {}

    def __post_init__(self) -> None:
        require_file_name("configuration", self.name, field="name")
        found, steps = self.batch_size, self.spacing
        require(
            found >= 1, f"{self._title}: a batch needs a patch", field="batch_size", found=found, expected="1 or more"
        )
        require(
            all(step is None or 1e-6 < step < 1e6 for step in steps),
            f"{self._title}: spacing is out of range",
            field="spacing",
            found=steps,
            expected="1e-6 to 1e6 mm per axis, or null for the case's own",
        )
        self._check_patch()
        self._check_augmentation()

    @property
    def _title(self) -> str:
        """For messages."""
        base = f", which inherits from {self.inherits_from!r}" if self.inherits_from else ""
        return f"configuration {self.name!r}{base}"

    def _check_patch(self) -> None:
        patch, divisor = self.patch_size, self.network.divisor
        require(
            len(patch) == len(divisor),
            f"{self._title}: patch size and network differ in dimension",
            field="patch_size",
            found=patch,
            expected=f"{len(divisor)} edges, as the network's kernels have axes",
        )
        legal = [_nearest_multiples(*pair) for pair in zip(patch, divisor, strict=True)]
        require(
            all(edge in near for edge, near in zip(patch, legal, strict=True)),
            f"{self._title}: the patch is not divisible by the network's strides",
            field="patch_size",
            found=patch,
            expected=f"multiples of {divisor}, the nearest of which are "
            + ", ".join(f"{' or '.join(map(str, near))} on axis {axis}" for axis, near in enumerate(legal)),
        )
        found, expected = math.prod(patch), f"at most {2**30}"
        require(found <= 2**30, f"{self._title}: too many voxels", field="patch_size", found=found, expected=expected)

    def _check_augmentation(self) -> None:
        axes, angles = self.augmentation.mirror_axes, self.augmentation.rotation_degrees
        require(
            all(0 <= axis < self.dimensions for axis in axes),
            f"{self._title}: mirror_axes are not axes of the patch",
            field="augmentation.mirror_axes",
            found=axes,
            expected=f"some of {tuple(range(self.dimensions))}",
        )
        wanted = 1 if self.dimensions == 2 or self.augmentation.in_plane else 3
        require(
            len(angles) == wanted,
            f"{self._title}: rotation_degrees does not suit the patch",
            field="augmentation.rotation_degrees",
            found=angles,
            expected=f"{wanted} of them: one in 2D or with in_plane, else three",
        )

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.patch_size)

    @property
    def parts(self) -> dict[str, str]:
        """Kind to name of the plugs that it is made of."""
        return {kind: operator.attrgetter(path)(self) for kind, path in PART_FIELDS.items()}

    @property
    def full_patch_size(self) -> tuple[int, int, int]:
        """The patch with all three array axes: a 2D patch is one slice."""
        first, second, third = (1,) * (3 - self.dimensions) + self.patch_size
        return (first, second, third)


class Plan(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.plan/1"):
    """Everything that makes an experiment; with weights beside it, everything that prediction needs.

    Attributes:
        name: of the plan; names its model folder.
        planner: the planner plug that made it.
        autoseg_version: that made it.
        dataset: name of the data set.
        channels: their names, in order.
        labels: names and integers.
        file_ending: of the training files.
        orientation: of the arrays; see ``values.fingerprint.Orientation``.
        axis_order: oriented array axes in the order of all further work: coarsest first.
        normalization: one entry per channel.
        seed: the one seed from which all random streams derive.
        budget_bytes: device memory that was planned for.
        device: kind of device that was planned for: cpu, cuda or mps.
        configurations: in order of planning.
        reasons: choice to reason, for the reader.
        warnings: what the reader should know before training.
        orientations: where the axes of the training files run to (``LPS``, …); empty if it is not known, or all are planar.
        spacing_range: smallest and largest spacing of the training images, in millimetres per array axis after
            ``axis_order``; empty if it is not known.
    """

    name: str
    planner: str
    autoseg_version: str
    dataset: str
    channels: tuple[str, ...]
    labels: Labels
    file_ending: str
    orientation: Orientation
    axis_order: tuple[int, int, int]
    normalization: tuple[NormalizationSpec, ...]
    seed: int
    budget_bytes: int
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    configurations: tuple[Configuration, ...]
    reasons: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    orientations: tuple[str, ...] = ()
    spacing_range: tuple[tuple[float, float], ...] = ()

    file_form: ClassVar[FileForm | None] = INHERITANCE

    def __post_init__(self) -> None:
        require_file_name("plan", self.name, field="name")
        what, order = "axis_order must name each axis once", self.axis_order
        require(sorted(order) == [0, 1, 2], what, field="axis_order", found=order, expected="0, 1, 2 in some order")
        require(
            len(self.normalization) == len(self.channels),
            "normalization and channels differ in number",
            field="normalization",
            found=len(self.normalization),
            expected=f"{len(self.channels)}, one for each of {', '.join(self.channels)}",
        )
        require(len(self.spacing_range) in (0, 3), "spacing_range must name three axes, or none", field="spacing_range")
        require(self.seed >= 0, "seed must not be negative", field="seed", found=self.seed, expected="0 or more")
        require(len(self.configurations) > 0, "a plan needs at least one configuration", field="configurations")
        for index, name in enumerate(self.names):
            where = f"configurations[{index}].name"
            require(
                name not in self.names[:index], f"configuration names repeat: {self.names}", field=where, found=name
            )
        require_links(self.names, [each.inherits_from for each in self.configurations], "inherits_from")
        require_links(self.names, [each.previous_stage for each in self.configurations], "previous_stage")
        for index, configuration in enumerate(self.configurations):
            self._check_channels(configuration, f"configurations[{index}].network")
            self._check_sides(configuration, f"configurations[{index}].augmentation.swapped_labels")

    def _check_channels(self, configuration: Configuration, path: str) -> None:
        network = configuration.network
        inputs, because = len(self.channels), f"as there are channels ({', '.join(self.channels)})"
        if configuration.previous_stage:
            inputs += len(self.labels.foreground)
            because += f" and labels predicted by {configuration.previous_stage!r}"
        predicted, stated = inputs - len(self.channels), configuration.augmentation.predicted_channels
        require(
            stated in (msgspec.UNSET, predicted),
            f"configuration {configuration.name!r}: its augmentation counts other channels than an earlier stage predicts",
            field=f"{path.removesuffix('network')}augmentation.predicted_channels",
            found=stated,
            expected=predicted or "no such field",
        )
        require(
            network.input_channels == inputs,
            f"configuration {configuration.name!r}: the network does not take what it is given",
            field=f"{path}.input_channels",
            found=network.input_channels,
            expected=f"{inputs}, {because}",
        )
        require(
            network.output_channels == self.labels.output_count,
            f"configuration {configuration.name!r}: the network's outputs are not those of the labels",
            field=f"{path}.output_channels",
            found=network.output_channels,
            expected=f"{self.labels.output_count} for these labels",
        )

    def _check_sides(self, configuration: Configuration, path: str) -> None:
        swapped = [label for pair in configuration.augmentation.swapped_labels for label in pair]
        require(
            not swapped or not self.labels.has_regions,
            f"configuration {configuration.name!r}: outputs that are regions cannot be exchanged",
            field=path,
            found=swapped,
            expected="none",
        )
        require(
            all(label < len(self.labels.integers) for label in swapped),
            f"configuration {configuration.name!r}: swapped_labels name a label that is not there",
            field=path,
            found=swapped,
            expected=f"indices from 1 to {len(self.labels.integers) - 1}",
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the configurations."""
        return tuple(configuration.name for configuration in self.configurations)

    @property
    def main_configuration(self) -> str:
        """The one to train first: full resolution in 3D, else the last that stands on its own."""
        alone = [each.name for each in self.configurations if each.previous_stage is None]
        return "3d_fullres" if "3d_fullres" in alone else (alone or list(self.names))[-1]

    @property
    def essence(self) -> Plan:
        """The plan with what makes the experiment alone: arrays, networks and training, not its name, maker or reasons.

        Nor who inherits from whom: plans that mean the same have the same essence.
        """
        return msgspec.structs.replace(
            self,
            name="-",
            dataset="",
            planner="",
            autoseg_version="",
            budget_bytes=0,
            device="cpu",
            reasons={},
            warnings=(),
            orientations=(),
            spacing_range=(),
            normalization=tuple(msgspec.structs.replace(spec, reason="") for spec in self.normalization),
            configurations=tuple(
                msgspec.structs.replace(each, inherits_from=None, expected_memory_bytes=0, reasons={})
                for each in self.configurations
            ),
        )

    @property
    def id(self) -> str:
        """Hash of the essence."""
        return digest(self.essence)[:16]

    @property
    def code_paths(self) -> tuple[str, ...]:
        """Names in the plan that are no entry points but ``module:name``: code that comes with somebody's files."""
        names = {spec.scheme for spec in self.normalization}
        for each in self.configurations:
            names |= set(each.parts.values())
        return tuple(sorted(name for name in names if ":" in name))

    def stages(self, name: str) -> tuple[str, ...]:
        """The configurations that predict one after another, that of the name last: of a cascade several."""
        before = self.configuration(name).previous_stage
        return (name,) if before is None else (*self.stages(before), name)

    def configuration(self, name: str) -> Configuration:
        """The configuration of that name; that of a cascade's next stage tells its augmentation of the predicted channels.

        Raises:
            UnknownNameError: the plan has no such configuration.
        """
        for configuration in self.configurations:
            if configuration.name == name:
                if configuration.previous_stage is None:
                    return configuration
                count = len(self.labels.foreground)
                augmentation = msgspec.structs.replace(configuration.augmentation, predicted_channels=count)
                return msgspec.structs.replace(configuration, augmentation=augmentation)
        raise UnknownNameError(
            f"the plan {self.name!r} has no configuration {name!r}",
            expected=" or ".join(self.names),
            remedy="To have others, plan anew: autoseg plan DATASET --name NEW -c CONFIGURATION",
        )


def _nearest_multiples(edge: int, divisor: int) -> tuple[int, ...]:
    """The edge itself if it can be divided, else the multiples below and above; never nothing."""
    below = edge // divisor * divisor
    return tuple(size for size in dict.fromkeys((below, -(-edge // divisor) * divisor)) if size > 0) or (divisor,)
