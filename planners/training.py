"""How long and by which optimizer a configuration is trained."""

from __future__ import annotations

from autoseg.values import TrainingSpec

__all__ = ["training"]


def training(*, as_nnunet: bool, batch_dice: bool, device: str) -> TrainingSpec:
    """nnU-Net's training, or AdamW with an average of the weights, short on a CPU.

    Args:
        as_nnunet: SGD for 1000 epochs.
        batch_dice: Dice over the whole batch.
        device: that trains.
    """
    if as_nnunet:
        return TrainingSpec(
            epochs=1000,
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
