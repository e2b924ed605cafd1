"""A plan in a few words, for the tests of preprocessing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

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

ORGANS = Labels(foreground=tuple(Label(name=f"organ {value}", values=(value,)) for value in (1, 2, 3)))
TRAINING = TrainingSpec(
    epochs=1, validation_iterations=0, optimizer="adamw", learning_rate=1e-3, weight_decay=0.0, schedule="polynomial"
)


def plan_of(
    *,
    labels: Labels = ORGANS,
    spacing: tuple[float | None, float | None, float | None] = (None, None, None),
    resampling: ResamplingSpec | None = None,
    **changes: object,
) -> Plan:
    """A plan of one configuration; without ``spacing`` it resamples nothing."""
    network = NetworkSpec(
        input_channels=1,
        output_channels=labels.output_count,
        features=(4, 8),
        kernel_sizes=((3, 3, 3), (3, 3, 3)),
        strides=((1, 1, 1), (2, 2, 2)),
        encoder_convolutions=(1, 1),
        decoder_convolutions=(1,),
    )
    configuration = Configuration(
        name="3d_fullres",
        spacing=spacing,
        median_shape=(8.0, 8.0, 8.0),
        patch_size=(8, 8, 8),
        batch_size=2,
        network=network,
        training=TRAINING,
        augmentation=AugmentationSpec(rotation_degrees=(0.0, 0.0, 0.0), mirror_axes=()),
        resampling=resampling or ResamplingSpec(),
    )
    parts = {
        "name": "test",
        "planner": "by hand",
        "autoseg_version": "0",
        "dataset": "D",
        "channels": ("MRI",),
        "labels": labels,
        "file_ending": ".nii.gz",
        "orientation": "canonical",
        "axis_order": (0, 1, 2),
        "normalization": (NormalizationSpec(scheme="none"),),
        "seed": 1,
        "budget_bytes": 2**33,
        "configurations": (configuration,),
    }
    return Plan(**{**parts, **changes})


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """Makes plans; see ``plan_of``."""
    return plan_of
