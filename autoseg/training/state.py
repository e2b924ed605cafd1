"""Where a training is: weights, their average, the optimizer and the iteration. All of it fits in one safe file.

Nothing else is needed to go on exactly: batches and learning rates are functions of the iteration.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from autoseg.errors import InputError, UnreadableFileError
from autoseg.networks.weights import load_tensors, load_weights, save_tensors
from autoseg.training.optimization import WeightAverage
from autoseg.values import digest
from autoseg.values.training import TrainJob

__all__ = ["TrainState"]

T = TypeVar("T")
NETWORK, AVERAGE, OPTIMIZER = "network/", "average/", "optimizer/"


class TrainState:
    """The state of one training.

    Args:
        job: what was asked; a checkpoint of another job is refused.
        network: on its device.
        optimizer: of the network's parameters.
        average: of the weights, or None.
    """

    def __init__(
        self, job: TrainJob, network: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None
    ) -> None:
        self.job, self.network, self.optimizer, self.average = job, network, optimizer, average
        self.iteration = 0

    def model_weights(self) -> dict[str, torch.Tensor]:
        """The weights that make the model: the average if there is one."""
        return self.average.weights if self.average is not None else dict(self.network.state_dict())

    def save(self, path: Path) -> None:
        """Writes a checkpoint, atomically."""
        tensors = _prefixed(NETWORK, self.network.state_dict())
        if self.average is not None:
            tensors |= _prefixed(AVERAGE, self.average.weights)
        numbers = {}
        for index, state in self.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                key = f"{OPTIMIZER}{index}/{name}"
                if isinstance(value, torch.Tensor):
                    tensors[key] = value
                else:
                    numbers[key] = value
        metadata = {"iteration": self.iteration, "job": digest(self.job), "optimizer_numbers": numbers}
        save_tensors(path, tensors, metadata)

    def load(self, path: Path) -> None:
        """Goes back to a checkpoint.

        Raises:
            InputError: the file is damaged, or belongs to another job.
        """
        try:
            tensors, metadata = load_tensors(path)
        except UnreadableFileError as error:
            remedy = "Remove the file to begin this training anew."
            raise UnreadableFileError(error.what, file=path, remedy=remedy) from error
        try:
            iteration, job, numbers = int(metadata["iteration"]), metadata["job"], dict(metadata["optimizer_numbers"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is not a checkpoint of a training: {error}", file=path) from error
        if job != digest(self.job):
            raise InputError(
                "the checkpoint belongs to another training",
                file=path,
                remedy="Move its folder away to train anew.",
            )
        load_weights(self.network, _without_prefix(NETWORK, tensors), source=path)
        if self.average is not None:
            weights = _without_prefix(AVERAGE, tensors)
            self.average.weights = {
                name: weights[name].to(own.device).clone() for name, own in self.average.weights.items()
            }
        self._load_optimizer({**_without_prefix(OPTIMIZER, tensors), **_without_prefix(OPTIMIZER, numbers)})
        self.iteration = iteration

    def _load_optimizer(self, flat: Mapping[str, object]) -> None:
        state: dict[int, dict[str, object]] = {}
        for key, value in flat.items():
            index, _, name = key.partition("/")
            state.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _without_prefix(prefix: str, tensors: Mapping[str, T]) -> dict[str, T]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
