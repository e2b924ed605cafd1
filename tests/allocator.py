"""What torch's allocator really gave: the largest sum of tensors that lived at one time, read from the profiler.

torch's profiler notes every allocation and every release of the CPU allocator with its size, oneDNN's workspaces included.
What lived before the profiler started (weights, optimizer, average) is added from the tensors themselves.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import nn

from autoseg.inference.predict import mirrored_mean
from autoseg.networks.build import build_network
from autoseg.networks.execution import autocast, memory_format, place
from autoseg.training.losses import DiceCrossEntropy, deeply_supervised
from autoseg.training.optimization import WeightAverage, make_optimizer
from autoseg.values import ExecutionPath, Label, Labels, NetworkSpec, TrainingSpec

__all__ = ["labels_for", "measured_inference_bytes", "measured_training_bytes", "peak_of"]


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that live at most while ``work`` runs, above those that lived before."""
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler,
        tempfile.TemporaryDirectory() as folder,
    ):
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"])
    return max(itertools.accumulate((event["args"]["Bytes"] for event in changes), initial=0))


def size_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors, each memory once."""
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())


def labels_for(outputs: int) -> Labels:
    """Labels of a network with that many outputs."""
    return Labels(foreground=tuple(Label(name=f"label {value}", values=(value,)) for value in range(1, outputs)))


class _Training:
    def __init__(self, spec: NetworkSpec, training: TrainingSpec, path: ExecutionPath) -> None:
        self.spec, self.path = spec, path
        self.network: nn.Module = place(build_network(spec, seed=0), path, spec.dimensions)
        self.optimizer = make_optimizer(training, self.network.parameters())
        self.average = None if training.ema_decay is None else WeightAverage(self.network.state_dict(), 0.9)
        self.loss = DiceCrossEntropy(labels_for(spec.output_channels), batch_dice=training.batch_dice)

    def step(self, patch_size: Sequence[int], batch_size: int) -> None:
        layout = memory_format(self.path, self.spec.dimensions)
        image = torch.rand(batch_size, self.spec.input_channels, *patch_size).contiguous(memory_format=layout)
        target = torch.randint(0, self.spec.output_channels, (batch_size, *patch_size))
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.path):
            outputs = self.network(image)
        deeply_supervised(self.loss, outputs, target).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 12.0)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.network.state_dict(), 0)

    def kept(self) -> int:
        """Bytes of what lives from step to step, gradients apart."""
        states = (value for state in self.optimizer.state.values() for value in state.values())
        tensors = [*self.network.parameters(), *(value for value in states if isinstance(value, torch.Tensor))]
        return size_of([*tensors, *(self.average.weights.values() if self.average is not None else ())])


def measured_training_bytes(
    spec: NetworkSpec, patch_size: Sequence[int], batch_size: int, training: TrainingSpec, path: ExecutionPath
) -> int:
    """Peak of real training steps on the CPU; the first makes the optimizer's state and is not counted."""
    trainer = _Training(spec, training, path)
    trainer.step([2 * step for step in spec.divisor], 1)
    trainer.optimizer.zero_grad(set_to_none=True)
    return trainer.kept() + peak_of(lambda: trainer.step(patch_size, batch_size))


@torch.inference_mode()
def measured_inference_bytes(
    spec: NetworkSpec, patch_size: Sequence[int], batch_size: int, path: ExecutionPath, *, networks: int = 1
) -> int:
    """Peak of predicting one batch of tiles with flips and several networks, as ``Predictor`` does."""
    members = [place(build_network(spec, seed=seed), path, spec.dimensions).eval() for seed in range(networks)]
    for member in members:
        member.deep_supervision = False  # type: ignore[assignment]

    def predict() -> None:
        layout = memory_format(path, spec.dimensions)
        x = torch.rand(batch_size, spec.input_channels, *patch_size).contiguous(memory_format=layout)
        with autocast(path):
            outputs = [mirrored_mean(member, x, (0, 1)) for member in members]
        torch.stack(outputs).mean(0).numpy()

    return size_of(parameter for member in members for parameter in member.parameters()) + peak_of(predict)
