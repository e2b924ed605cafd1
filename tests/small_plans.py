"""Plans in a few words: a network of a few features, one configuration, and whatever a test wants otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg import __version__
from autoseg.values import (
    AugmentationSpec,
    Configuration,
    Label,
    Labels,
    NetworkSpec,
    NormalizationSpec,
    Plan,
    ResamplingSpec,
    TrainingSpec,
)

ONE_LABEL = Labels(foreground=(Label(name="organ", values=(1,)),))
SHORT = TrainingSpec(
    epochs=1,
    validation_iterations=0,
    optimizer="adamw",
    learning_rate=0.01,
    weight_decay=0.0,
    schedule="warmup_polynomial",
)


def small_network(
    dimensions: int = 3, *, inputs: int = 1, outputs: int = 2, features: Sequence[int] = (4, 8)
) -> NetworkSpec:
    """A plain U-Net of ``len(features)`` stages with one convolution each; every stage halves all axes."""
    stages = len(features)
    return NetworkSpec(
        input_channels=inputs,
        output_channels=outputs,
        features=tuple(features),
        kernel_sizes=((3,) * dimensions,) * stages,
        strides=((1,) * dimensions, *((2,) * dimensions,) * (stages - 1)),
        encoder_blocks=(1,) * stages,
        decoder_blocks=(1,) * (stages - 1),
    )


def small_configuration(
    name: str = "tiny",
    patch: Sequence[int] = (8, 8, 8),
    *,
    inputs: int = 1,
    outputs: int = 2,
    features: Sequence[int] = (4, 8),
    mirror_axes: Sequence[int] = (),
    **changes: object,
) -> Configuration:
    """A configuration with a patch of 2 or 3 axes; ``changes`` are further fields of ``Configuration``."""
    dimensions = len(patch)
    parts = {
        "spacing": (1.0, 1.0, 1.0),
        "median_shape": (8.0, 8.0, 8.0),
        "batch_size": 2,
        "network": small_network(dimensions, inputs=inputs, outputs=outputs, features=features),
        "training": SHORT,
        "augmentation": AugmentationSpec(
            rotation_degrees=(0.0,) * (3 if dimensions == 3 else 1), mirror_axes=tuple(mirror_axes)
        ),
        "resampling": ResamplingSpec(),
    }
    return Configuration(name=name, patch_size=tuple(patch), **{**parts, **changes})


def small_plan(*configurations: Configuration, labels: Labels = ONE_LABEL, **changes: object) -> Plan:
    """A plan of ``configurations``, else of one small one; ``changes`` are further fields of ``Plan``."""
    parts = {
        "name": "tiny",
        "planner": "none",
        "autoseg_version": __version__,
        "dataset": "D",
        "channels": ("MRI",),
        "file_ending": ".nii.gz",
        "orientation": "canonical",
        "axis_order": (0, 1, 2),
        "normalization": (NormalizationSpec(scheme="zscore"),),
        "seed": 7,
        "budget_bytes": 2**30,
        "configurations": configurations or (small_configuration(outputs=labels.output_count),),
    }
    return Plan(labels=labels, **{**parts, **changes})
