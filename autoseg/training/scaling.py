"""Gradients larger than they are, for fp16: its smallest number is 6e-8, and a mean over voxels has smaller gradients.

The loss keeps its value; only what flows back from it is multiplied, before it meets a 16-bit number. So parts of a batch,
sums over it and deep supervision work as without a scale.
"""

from __future__ import annotations

from typing import Any, cast

import torch

from autoseg.training.losses import AdditiveLoss, Loss

__all__ = ["amplified"]


def amplified(loss: Loss, scaler: torch.amp.GradScaler) -> Loss:
    """The loss with the same values, and gradients times the scaler's scale; further arguments are handed on."""
    return _AmplifiedSums(loss, scaler) if isinstance(loss, AdditiveLoss) else _Amplified(loss, scaler)


class _Amplified:
    def __init__(self, loss: Loss, scaler: torch.amp.GradScaler) -> None:
        self.loss, self.scaler = loss, scaler

    def __call__(self, logits: torch.Tensor, target: torch.Tensor, **told: Any) -> torch.Tensor:
        return self._larger(self.loss(logits, target, **told))

    def _larger(self, value: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, _LargerGradient.apply(value, self.scaler))


class _AmplifiedSums(_Amplified):
    loss: AdditiveLoss

    @property
    def couples_samples(self) -> bool:
        return self.loss.couples_samples

    def sums(self, logits: torch.Tensor, target: torch.Tensor, **told: Any) -> torch.Tensor:
        return self.loss.sums(logits, target, **told)

    def value(self, sums: torch.Tensor) -> torch.Tensor:
        return self._larger(self.loss.value(sums))


class _LargerGradient(torch.autograd.Function):
    """The identity; its gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, scaler: torch.amp.GradScaler) -> torch.Tensor:
        ctx.scaler = scaler
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.scaler.scale(gradient), None
