"""What torch's allocator really gave: the largest sum of tensors that lived at one time, read from the profiler.

torch's profiler notes every allocation and every release of the CPU allocator with its size, oneDNN's workspaces included.
What lived before the profiler started (weights, optimizer, average) is added from the tensors themselves.

What this machine cannot hold or compute (a batch of 80 GiB, 16-bit convolutions on an old processor) can still be traced:
the same step runs with tensors that have a size and no numbers, and torch's own autograd decides what lives how long.
Workspaces of kernels are not in a trace.
"""

from __future__ import annotations

import gc
import itertools
import json
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoseg.inference.predict import mirrored_mean
from autoseg.networks.build import build_network
from autoseg.networks.execution import autocast, memory_format, place
from autoseg.networks.optimizers import make_optimizer
from autoseg.training.losses import DiceCrossEntropy, deeply_supervised
from autoseg.training.optimization import WeightAverage
from autoseg.values import ExecutionPath, Label, Labels, NetworkSpec, TrainingSpec

__all__ = ["labels_for", "measured_inference_bytes", "measured_training_bytes", "peak_of", "traced_training_bytes"]


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that live at most while ``work`` runs, above those that lived before.

    What earlier tests left for the garbage collector is freed before, not while ``work`` is measured.
    """
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
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


def is_fake(network: nn.Module) -> bool:
    """Whether its parameters are there in size alone; these cannot be moved to another layout, which changes no size."""
    return any(isinstance(parameter, FakeTensor) for parameter in network.parameters())


class _Training:
    def __init__(self, spec: NetworkSpec, training: TrainingSpec, path: ExecutionPath) -> None:
        self.spec, self.path = spec, path
        network = build_network(spec, seed=0)
        self.network: nn.Module = network if is_fake(network) else place(network, path, spec.dimensions)
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

    def kept(self) -> list[torch.Tensor]:
        """What lives from step to step, gradients apart."""
        states = (value for state in self.optimizer.state.values() for value in state.values())
        tensors = [*self.network.parameters(), *(value for value in states if isinstance(value, torch.Tensor))]
        return [*tensors, *(self.average.weights.values() if self.average is not None else ())]


def measured_training_bytes(
    spec: NetworkSpec, patch_size: Sequence[int], batch_size: int, training: TrainingSpec, path: ExecutionPath
) -> int:
    """Peak of real training steps on the CPU; the first makes the optimizer's state and is not counted."""
    trainer = _Training(spec, training, path)
    trainer.step([2 * step for step in spec.divisor], 1)
    trainer.optimizer.zero_grad(set_to_none=True)
    return size_of(trainer.kept()) + peak_of(lambda: trainer.step(patch_size, batch_size))


class _LiveTensors(TorchDispatchMode):
    """Adds up the memory of all tensors that are made under it, from their making to their end."""

    def __init__(self, before: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in before}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.native_group_norm_backward.default:
            # without numbers it gives float32 whatever it gets; with them, on CPU and GPU, the input's own type
            result = (torch.empty_like(args[1]), *result[1:])
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._known:
                self._begin(tensor.untyped_storage())
        return result

    def _begin(self, storage: torch.UntypedStorage) -> None:
        self._known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._end, storage._cdata, storage.nbytes())

    def _end(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _pool_as_on_a_gpu(network: nn.Module) -> None:
    """For want of a 16-bit kernel, autocast averages in float32 on a CPU; a GPU has one."""
    for module in network.modules():
        if isinstance(module, nn.AvgPool3d):

            def pool(x: torch.Tensor, size: Any = module.kernel_size) -> torch.Tensor:
                with torch.autocast("cpu", enabled=False):
                    return F.avg_pool3d(x, size, size)

            module.forward = pool  # type: ignore[method-assign]


def traced_training_bytes(
    spec: NetworkSpec,
    patch_size: Sequence[int],
    batch_size: int,
    training: TrainingSpec,
    path: ExecutionPath,
    *,
    as_on_a_gpu: bool = False,
) -> int:
    """Peak of a training step without numbers."""
    with FakeTensorMode():
        trainer = _Training(spec, training, path)
        if as_on_a_gpu:
            _pool_as_on_a_gpu(trainer.network)
        trainer.step([4 * step for step in spec.divisor], 1)
        trainer.optimizer.zero_grad(set_to_none=True)
        kept = trainer.kept()
        with _LiveTensors(kept) as tensors:
            trainer.step(patch_size, batch_size)
        return tensors.peak + sum(tensor.untyped_storage().nbytes() for tensor in kept)


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
