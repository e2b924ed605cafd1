"""How long and by which optimizer a configuration is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoseg.values import TrainingSpec
from autoseg.values.json_form import Value

__all__ = ["Length", "largest_batch", "length", "training"]

#: On a CPU a batch costs as much time as its patches together, so more iterations of a small one learn faster than fewer
#: of a large one (docs/benchmarks.md, shorter trainings); by dimension.
LARGEST_BATCH_ON_CPU = {2: 16, 3: 2}
EPOCH = 250
NNUNET_EPOCHS = 1000


class Length(Value, frozen=True, kw_only=True):
    """How long a configuration is trained by default.

    Attributes:
        epochs: of ``EPOCH`` iterations.
        reason: why so many.
    """

    epochs: int
    reason: str


class _Rule(Value, frozen=True, kw_only=True):
    """A length that grows with the data.

    Attributes:
        passes: how many times as many voxels as the data set has are seen, within the limits.
        fewest: epochs.
        most: epochs.
        limits: what both are, in words.
    """

    passes: int
    fewest: int
    most: int
    limits: str


ON_CPU = _Rule(passes=30, fewest=4, most=12, limits="1000 to 3000 iterations, for a CPU")
ON_GPU = _Rule(passes=10, fewest=50, most=200, limits="12,500 to 50,000 iterations")


def largest_batch(*, as_nnunet: bool, device: str, axes: int) -> int | None:
    """The most patches of a batch that the device computes faster together than one after the other, if there is a limit."""
    return LARGEST_BATCH_ON_CPU[axes] if device == "cpu" and not as_nnunet else None


def length(
    *, as_nnunet: bool, device: str, dataset_voxels: float, patch_size: Sequence[int], batch_size: int
) -> Length:
    """The default length of a training, from the data and the plan.

    Args:
        as_nnunet: 1000 epochs, whatever the data.
        device: that trains.
        dataset_voxels: of all cases together, on the configuration's grid.
        patch_size: voxels per axis.
        batch_size: patches per iteration.
    """
    if as_nnunet:
        return Length(epochs=NNUNET_EPOCHS, reason="nnU-Net's length")
    rule = ON_CPU if device == "cpu" else ON_GPU
    per_pass = dataset_voxels / (batch_size * math.prod(patch_size))
    wanted = math.ceil(rule.passes * per_pass / EPOCH)
    epochs = min(max(wanted, rule.fewest), rule.most)
    seen = epochs * EPOCH / per_pass
    reason = f"sees {seen:.0f} times the voxels of the data set ({rule.limits}); --epochs or --iterations change it"
    return Length(epochs=epochs, reason=reason)


def training(*, as_nnunet: bool, batch_dice: bool, device: str, epochs: int) -> TrainingSpec:
    """nnU-Net's training, or AdamW with an average of the weights.

    Args:
        as_nnunet: SGD, its rate lowered every epoch.
        batch_dice: Dice over the whole batch.
        device: that trains.
        epochs: see ``length``.
    """
    if as_nnunet:
        return TrainingSpec(
            iterations_per_epoch=EPOCH,
            epochs=epochs,
            validation_iterations=50,
            optimizer="sgd",
            learning_rate=0.01,
            weight_decay=3e-5,
            momentum=0.99,
            schedule="polynomial_per_epoch",
            batch_dice=batch_dice,
            foreground_place="centre",
        )
    return TrainingSpec(
        iterations_per_epoch=EPOCH,
        epochs=epochs,
        validation_iterations=5 if device == "cpu" else 20,
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=0.01,
        schedule="warmup_polynomial",
        warmup_iterations=50,
        ema_decay=0.999,
        batch_dice=batch_dice,
    )
