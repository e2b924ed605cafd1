"""Optimizers: the plug, the built-in ones, and what memory one takes."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import nn

from autoseg import plugins
from autoseg.values import TrainingSpec

__all__ = ["AdamW", "NesterovSGD", "OptimizerFactory", "make_optimizer", "set_learning_rate", "state_copies"]

#: Numbers per weight that an optimizer is taken to keep if it neither tells nor can be tried.
USUAL_COPIES = 2


class OptimizerFactory(Protocol):
    """The optimizer plug; it may tell with ``state_copies(spec)`` how many numbers it keeps for every weight."""

    def __call__(self, spec: TrainingSpec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer of these parameters. What it keeps per parameter are tensors and numbers, in its ``state``.

        The learning rate of every iteration is the schedule's, times ``lr_scale`` in groups that have this key.
        """
        ...


class AdamW(torch.optim.AdamW):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter, ICLR 2019)."""

    def __init__(self, spec: TrainingSpec, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)

    @staticmethod
    def state_copies(spec: TrainingSpec) -> int:
        """Means of the gradients and of their squares."""
        return 2


class NesterovSGD(torch.optim.SGD):
    """Gradient descent with Nesterov momentum; without momentum plain."""

    def __init__(self, spec: TrainingSpec, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(
            parameters,
            lr=spec.learning_rate,
            momentum=spec.momentum,
            nesterov=spec.momentum > 0,
            weight_decay=spec.weight_decay,
        )

    @staticmethod
    def state_copies(spec: TrainingSpec) -> int:
        """The velocity, if there is momentum."""
        return int(spec.momentum > 0)


def make_optimizer(spec: TrainingSpec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that the plan names."""
    factory: OptimizerFactory = plugins.load("optimizer", spec.optimizer)
    return factory(spec, parameters)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The schedule's rate in all groups of parameters, times the ``lr_scale`` of those that have one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


@functools.lru_cache(32)
def state_copies(spec: TrainingSpec) -> int:
    """How many numbers the plan's optimizer keeps per weight: as it tells, else as one step of a small weight shows.

    It makes room for them in its first step only.
    """
    factory = plugins.load("optimizer", spec.optimizer)
    tell = getattr(factory, "state_copies", None)
    try:
        return int(tell(spec)) if tell else _tried_copies(factory, spec)
    except Exception:  # whatever somebody's own optimizer raises: told when the training begins
        return USUAL_COPIES


def _tried_copies(factory: OptimizerFactory, spec: TrainingSpec) -> int:
    weight = nn.Parameter(torch.zeros(16, 16))
    optimizer = factory(spec, [weight])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    tensors = [value for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor)]
    kept = sum(tensor.numel() for tensor in tensors if tensor.numel() > 1)  # a counter does not count
    return -(-kept // weight.numel())
