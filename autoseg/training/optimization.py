"""Learning-rate schedules, and the moving average of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from autoseg.values import TrainingSpec

__all__ = ["Schedule", "WeightAverage", "polynomial_per_epoch", "warmup_polynomial"]

EXPONENT = 0.9


class Schedule(Protocol):
    """The schedule plug: a pure function, so that resuming needs no state."""

    def __call__(self, spec: TrainingSpec, iteration: int, iterations: int) -> float:
        """Learning rate of an iteration of a training of that many."""
        ...


def warmup_polynomial(spec: TrainingSpec, iteration: int, iterations: int) -> float:
    """Linear increase over the warm-up (at most a tenth of the training), then polynomial decay to zero."""
    warmup = min(spec.warmup_iterations, iterations // 10)
    if iteration < warmup:
        return spec.learning_rate * (iteration + 1) / warmup
    return spec.learning_rate * (1 - (iteration - warmup) / max(1, iterations - warmup)) ** EXPONENT


def polynomial_per_epoch(spec: TrainingSpec, iteration: int, iterations: int) -> float:
    """nnU-Net's schedule: polynomial decay, constant within an epoch."""
    epochs = -(-iterations // spec.iterations_per_epoch)
    return spec.learning_rate * (1 - (iteration // spec.iterations_per_epoch) / epochs) ** EXPONENT


class WeightAverage:
    """Exponential moving average of a network's weights; short at first, so that early weights are soon forgotten.

    Args:
        weights: to start from.
        decay: in the long run.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, torch.Tensor], iteration: int) -> None:
        """Moves towards the weights after that iteration (counted from 0)."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor.detach(), 1 - decay)
            else:  # a counter, such as that of batch normalization
                self.weights[name].copy_(tensor)
