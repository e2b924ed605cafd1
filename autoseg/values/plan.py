"""Plan: everything that makes an experiment, in one document. ``plan.json`` alone reproduces it."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from autoseg.errors import UnknownNameError
from autoseg.values.dataset import Labels
from autoseg.values.fingerprint import IntensityProperties, Orientation
from autoseg.values.json_form import Value, digest, require, require_file_name

__all__ = [
    "AugmentationSpec",
    "Configuration",
    "NetworkSpec",
    "NormalizationSpec",
    "Plan",
    "ResamplingSpec",
    "TrainingSpec",
]

Sizes = tuple[int, ...]


class NetworkSpec(Value, frozen=True, kw_only=True):
    """A U-Net in numbers; one entry per stage, highest resolution first.

    Attributes:
        architecture: the network plug that builds it.
        input_channels: image channels.
        output_channels: labels with background, or regions.
        features: feature maps per stage.
        kernel_sizes: of the convolutions of each stage, per axis.
        strides: on entering each stage, per axis; the first is all ones.
        encoder_blocks: blocks in each encoder stage: convolutions, or residual blocks of two convolutions each.
        decoder_blocks: convolutions in each decoder stage, one entry less.
    """

    architecture: str = "plain_unet"
    input_channels: int
    output_channels: int
    features: Sizes
    kernel_sizes: tuple[Sizes, ...]
    strides: tuple[Sizes, ...]
    encoder_blocks: Sizes
    decoder_blocks: Sizes

    def __post_init__(self) -> None:
        stages = len(self.features)
        require(2 <= stages <= 16, "a U-Net needs 2 to 16 stages")
        require(self.input_channels > 0 and self.output_channels > 0, "channel counts must be positive")
        require(len(self.kernel_sizes) == stages, f"kernel_sizes needs {stages} entries, one per stage")
        require(len(self.strides) == stages, f"strides needs {stages} entries, one per stage")
        require(len(self.encoder_blocks) == stages, f"encoder_blocks needs {stages} entries")
        require(len(self.decoder_blocks) == stages - 1, f"decoder_blocks needs {stages - 1} entries")
        require(self.dimensions in (2, 3), f"kernels must have 2 or 3 axes, not {self.dimensions}")
        sizes = (*self.kernel_sizes, *self.strides)
        require(all(len(size) == self.dimensions for size in sizes), "kernel sizes and strides differ in dimension")
        require(all(edge % 2 == 1 and edge > 0 for size in self.kernel_sizes for edge in size), "kernels must be odd")
        require(all(edge <= 31 for size in self.kernel_sizes for edge in size), "kernels must not be over 31")
        require(all(1 <= step <= 8 for size in self.strides for step in size), "strides must be within 1..8")
        require(all(0 < maps <= 2**14 for maps in self.features), "features must be within 1..16384")
        counts = (*self.encoder_blocks, *self.decoder_blocks)
        require(all(1 <= count <= 64 for count in counts), "blocks per stage must be within 1..64")
        require(all(step == 1 for step in self.strides[0]), "the first stride must be all ones")

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.kernel_sizes[0])

    @property
    def divisor(self) -> Sizes:
        """Per axis, what a patch must be a multiple of."""
        return tuple(math.prod(stride[axis] for stride in self.strides) for axis in range(self.dimensions))


class NormalizationSpec(Value, frozen=True, kw_only=True):
    """How one channel is normalized.

    Attributes:
        scheme: the normalizer plug.
        use_mask: statistics and change only inside the non-zero region.
        properties: intensity statistics of the data set, for schemes that need them.
        reason: why, in a phrase.
    """

    scheme: str
    use_mask: bool = False
    properties: IntensityProperties | None = None
    reason: str = ""


class ResamplingSpec(Value, frozen=True, kw_only=True):
    """How arrays change their grid.

    Attributes:
        resampler: the resampler plug.
        image_order: spline order for images (3: cubic).
        label_order: order for the indicator of each label, the largest of which wins.
        logits_order: order for network outputs.
        separate_axis_order: order along an axis that is much coarser than the others: 0 takes the nearest slice, 1
            interpolates (label maps by shape).
        anisotropy_threshold: ratio of largest to smallest spacing above which the coarse axis is treated apart.
    """

    resampler: str = "separable"
    image_order: Literal[0, 1, 3] = 3
    label_order: Literal[0, 1] = 1
    logits_order: Literal[0, 1] = 1
    separate_axis_order: Literal[0, 1] = 1
    anisotropy_threshold: float = 3.0


class AugmentationSpec(Value, frozen=True, kw_only=True):
    """What training may do to a patch.

    Attributes:
        recipe: the augmentation recipe plug.
        rotation_degrees: largest angle about each axis (one entry in 2D).
        in_plane: rotate and scale slices of axis 0 only, as in 2D (for anisotropic patches).
        mirror_axes: spatial axes of the patch that may be mirrored, in training and in prediction.
        swap_axis: the one of ``mirror_axes`` along which mirroring exchanges the sides of the patient, or None.
        swapped_labels: pairs of labels that are exchanged then, as positions in ``Labels.integers``: what arrays hold,
            and output channels of the network.
    """

    recipe: str = "default"
    rotation_degrees: tuple[float, ...]
    in_plane: bool = False
    mirror_axes: Sizes
    swap_axis: int | None = None
    swapped_labels: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        require(all(0 <= angle <= 180 for angle in self.rotation_degrees), "rotation must be within 0..180 degrees")
        require(len(set(self.mirror_axes)) == len(self.mirror_axes), "mirror_axes repeats an axis")
        sides = [label for pair in self.swapped_labels for label in pair]
        require((self.swap_axis is None) == (not sides), "swap_axis and swapped_labels must come together")
        require(
            self.swap_axis is None or self.swap_axis in self.mirror_axes,
            f"swap_axis {self.swap_axis} is not mirrored: mirror_axes are {self.mirror_axes}",
        )
        require(len(set(sides)) == len(sides), f"swapped_labels repeat a label: {self.swapped_labels}")
        require(all(label > 0 for label in sides), "swapped_labels must be above 0, which is background")


class TrainingSpec(Value, frozen=True, kw_only=True):
    """How a network is trained.

    Attributes:
        iterations_per_epoch: after how many iterations there is an estimate on validation patches.
        epochs: how many of these make a training.
        validation_iterations: batches of validation patches per estimate.
        optimizer: adamw or sgd (Nesterov).
        learning_rate: its largest value.
        weight_decay: of the optimizer.
        momentum: of SGD; unused by AdamW.
        schedule: the schedule plug.
        warmup_iterations: linear increase of the learning rate at the start.
        gradient_clip_norm: largest global norm of the gradient.
        ema_decay: decay of the moving average of the weights that becomes the model; None keeps the last weights.
        loss: the loss plug.
        batch_dice: Dice from sums over the whole batch instead of each sample.
        foreground_share: share of a batch that is forced to hold foreground.
    """

    iterations_per_epoch: int = 250
    epochs: int
    validation_iterations: int
    optimizer: Literal["adamw", "sgd"]
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

    def __post_init__(self) -> None:
        require(self.iterations_per_epoch > 0 and self.epochs > 0, "epochs and their iterations must be positive")
        require(self.validation_iterations >= 0, "validation_iterations must not be negative")
        require(0 < self.learning_rate < math.inf, "learning_rate must be positive")
        require(0 <= self.weight_decay < math.inf, "weight_decay must not be negative")
        require(0 <= self.momentum < 1, "momentum must be within 0..1")
        require(self.warmup_iterations >= 0, "warmup_iterations must not be negative")
        require(self.gradient_clip_norm > 0, "gradient_clip_norm must be positive")
        require(self.ema_decay is None or 0 < self.ema_decay < 1, "ema_decay must be within 0..1")
        require(0 <= self.foreground_share <= 1, "foreground_share must be within 0..1")

    @property
    def iterations(self) -> int:
        """Length of the training."""
        return self.epochs * self.iterations_per_epoch


class Configuration(Value, frozen=True, kw_only=True):
    """One way to look at the data: a grid, a patch, a network and its training.

    Attributes:
        name: ``2d``, ``3d_fullres`` or the user's own.
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
        require_file_name("configuration", self.name)
        require(len(self.patch_size) == self.network.dimensions, "patch size and network differ in dimension")
        require(self.batch_size >= 1, "batch_size must be at least 1")
        require(all(step is None or 1e-6 < step < 1e6 for step in self.spacing), "spacing must be within 1e-6..1e6 mm")
        require(math.prod(self.patch_size) <= 2**30, "a patch must not have over 2**30 voxels")
        for edge, divisor in zip(self.patch_size, self.network.divisor, strict=True):
            require(
                edge > 0 and edge % divisor == 0,
                f"patch size {self.patch_size} must be a multiple of the network's strides {self.network.divisor}",
            )
        axes = self.augmentation.mirror_axes
        require(all(0 <= axis < self.dimensions for axis in axes), f"mirror_axes {axes} are not axes of the patch")
        angles = 1 if self.dimensions == 2 or self.augmentation.in_plane else 3
        require(
            len(self.augmentation.rotation_degrees) == angles, f"rotation_degrees needs {angles} entries for this patch"
        )

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.patch_size)

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
        configurations: in order of planning.
        reasons: choice to reason, for the reader.
        warnings: what the reader should know before training.
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
    configurations: tuple[Configuration, ...]
    reasons: dict[str, str] = {}
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_file_name("plan", self.name)
        require(sorted(self.axis_order) == [0, 1, 2], f"axis_order must name each of 0, 1, 2 once: {self.axis_order}")
        require(len(self.normalization) == len(self.channels), "normalization and channels differ in number")
        require(self.seed >= 0, "seed must not be negative")
        require(len(self.configurations) > 0, "a plan needs at least one configuration")
        require(len(set(self.names)) == len(self.names), f"configuration names repeat: {self.names}")
        for configuration in self.configurations:
            outputs = configuration.network.output_channels
            require(
                outputs == self.labels.output_count,
                f"{configuration.name}: the network has {outputs} outputs for {self.labels.output_count} labels",
            )
            swapped = [label for pair in configuration.augmentation.swapped_labels for label in pair]
            require(
                not swapped or not self.labels.has_regions,
                f"{configuration.name}: swapped_labels cannot be exchanged where outputs are regions",
            )
            require(
                all(label < len(self.labels.integers) for label in swapped),
                f"{configuration.name}: swapped_labels name a label that is not there",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the configurations."""
        return tuple(configuration.name for configuration in self.configurations)

    @property
    def id(self) -> str:
        """Hash of all that makes the experiment: arrays, networks and training, not its name, its maker or its reasons."""
        essence = msgspec.structs.replace(
            self,
            name="-",
            dataset="",
            planner="",
            autoseg_version="",
            budget_bytes=0,
            reasons={},
            warnings=(),
            normalization=tuple(msgspec.structs.replace(spec, reason="") for spec in self.normalization),
            configurations=tuple(
                msgspec.structs.replace(each, expected_memory_bytes=0, reasons={}) for each in self.configurations
            ),
        )
        return digest(essence)[:16]

    @property
    def code_paths(self) -> tuple[str, ...]:
        """Names in the plan that are no entry points but ``module:name``: code that comes with somebody's files."""
        names = {spec.scheme for spec in self.normalization}
        for each in self.configurations:
            names |= {each.network.architecture, each.resampling.resampler, each.augmentation.recipe}
            names |= {each.training.loss, each.training.schedule}
        return tuple(sorted(name for name in names if ":" in name))

    def configuration(self, name: str) -> Configuration:
        """The configuration of that name.

        Raises:
            UnknownNameError: the plan has no such configuration.
        """
        for configuration in self.configurations:
            if configuration.name == name:
                return configuration
        raise UnknownNameError(
            f"the plan {self.name!r} has no configuration {name!r}",
            expected=" or ".join(self.names),
            remedy="To have others, plan anew: autoseg plan DATASET --name NEW -c CONFIGURATION",
        )
