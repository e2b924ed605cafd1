"""Where a training is: weights, their average, the optimizer and the iteration. All of it fits in one safe file.

Nothing else is needed to go on exactly: batches, learning rates and all random draws are functions of the iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
from torch import nn

from autoseg.errors import InputError, UnreadableFileError
from autoseg.files import replacing
from autoseg.networks.weights import load_tensors, load_weights, tensor_bytes
from autoseg.training.length import fixed_length
from autoseg.training.optimization import WeightAverage
from autoseg.values import Length, TrainJob, digest

__all__ = ["SavedState", "TrainState", "read_state"]

T = TypeVar("T")
NETWORK, AVERAGE, OPTIMIZER, EXTRA = "network/", "average/", "optimizer/", "extra/"


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """What a checkpoint holds, read and found whole.

    Attributes:
        path: of the file.
        tensors: name with its prefix to tensor.
        numbers: of the optimizer.
        iteration: that comes next.
        length: how far the training was to go when it was saved.
        seconds: that the training had taken.
        curve: iteration and mean Dice of every estimate.
        extra: name to number.
        skipped: case that could not be read to the iteration in which that was found.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    numbers: dict[str, Any]
    iteration: int
    length: Length
    seconds: float
    curve: list[tuple[int, float]]
    extra: dict[str, Any]
    skipped: dict[str, int]


def read_state(path: Path, job: TrainJob) -> SavedState:
    """What a checkpoint of a job holds.

    Raises:
        UnreadableFileError: the file is damaged, or no checkpoint.
        InputError: it is that of another job.
    """
    try:
        tensors, metadata = load_tensors(path)
    except UnreadableFileError as error:
        remedy = "Remove the file to begin this training anew."
        raise UnreadableFileError(error.what, file=path, remedy=remedy) from error
    try:
        saved = SavedState(
            path=path,
            tensors=tensors,
            numbers=dict(metadata["optimizer_numbers"]),
            iteration=int(metadata["iteration"]),
            length=msgspec.convert(metadata["length"], Length),
            seconds=float(metadata["seconds"]),
            curve=[(int(at), float(dice)) for at, dice in metadata["curve"]],
            extra=dict(metadata["extra"]),
            skipped={str(case): int(at) for case, at in metadata.get("skipped", {}).items()},  # older ones do not tell
        )
        stated = metadata["job"]
    except (AttributeError, KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise UnreadableFileError(f"this is not a checkpoint of a training: {error}", file=path) from error
    if stated != digest(job):
        raise InputError(
            "the checkpoint belongs to another training",
            file=path,
            remedy="Move its folder away to train anew.",
        )
    return saved


class TrainState:
    """The state of one training.

    Args:
        job: what was asked; a checkpoint of another job is refused.
        network: on its device.
        optimizer: of the network's parameters.
        average: of the weights, or None.
        length: how far the training goes; as the job says by default.

    Attributes:
        iteration: how many are done.
        seconds: that they took, over all starts.
        curve: iteration and mean Dice of every estimate on held-out cases.
        extra: tensors and numbers that a step keeps beside the optimizer, such as the scale of its gradients.
        skipped: case that could not be read, in any of the starts, to the iteration in which that was found.
    """

    def __init__(
        self,
        job: TrainJob,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
        length: Length | None = None,
    ) -> None:
        self.job, self.network, self.optimizer, self.average = job, network, optimizer, average
        self.length = length or fixed_length(job.iterations)
        self.iteration, self.seconds = 0, 0.0
        self.curve: list[tuple[int, float]] = []
        self.extra: dict[str, torch.Tensor | float | int] = {}
        self.skipped: dict[str, int] = {}

    @property
    def estimates(self) -> list[float]:
        """Mean Dice of every estimate so far."""
        return [dice for _, dice in self.curve]

    def model_weights(self) -> dict[str, torch.Tensor]:
        """The weights that make the model: the average if there is one."""
        return self.average.weights if self.average is not None else dict(self.network.state_dict())

    def is_healthy(self) -> bool:
        """Whether all weights are numbers, and those of their average."""
        weights = [*self.network.state_dict().values(), *self.model_weights().values()]
        return all(bool(tensor.isfinite().all()) for tensor in weights)

    def save(self, path: Path, before: Callable[[], None] = lambda: None) -> None:
        """Writes a checkpoint, atomically.

        Args:
            path: of the file.
            before: done when the new file is safe on the disk, just before it takes its place.

        Raises:
            OSError: it cannot be written; what stood there still does.
        """
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
        tensors |= _prefixed(EXTRA, {key: each for key, each in self.extra.items() if isinstance(each, torch.Tensor)})
        metadata = {
            "iteration": self.iteration,
            "job": digest(self.job),
            "optimizer_numbers": numbers,
            "length": msgspec.to_builtins(self.length),
            "seconds": self.seconds,
            "curve": self.curve,
            "extra": {key: each for key, each in self.extra.items() if not isinstance(each, torch.Tensor)},
            "skipped": self.skipped,
        }
        data = tensor_bytes(tensors, metadata)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, before) as beside:
            beside.write_bytes(data)

    def load(self, path: Path) -> None:
        """Goes back to a checkpoint.

        Raises:
            InputError: the file is damaged, or belongs to another job.
        """
        self.take(read_state(path, self.job))

    def take(self, saved: SavedState) -> None:
        """Goes back to a saved state; how far the training goes stays as it is.

        Raises:
            InputError: its weights do not fit the network.
        """
        load_weights(self.network, _without_prefix(NETWORK, saved.tensors), source=saved.path)
        if self.average is not None:
            weights = _without_prefix(AVERAGE, saved.tensors)
            self.average.weights = {
                name: weights[name].to(own.device).clone() for name, own in self.average.weights.items()
            }
        self._load_optimizer({**_without_prefix(OPTIMIZER, saved.tensors), **_without_prefix(OPTIMIZER, saved.numbers)})
        self.extra = {**saved.extra, **_without_prefix(EXTRA, saved.tensors)}
        self.iteration, self.seconds, self.curve = saved.iteration, saved.seconds, list(saved.curve)
        self.skipped = dict(saved.skipped)

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
