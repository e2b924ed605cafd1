"""One training step on the CPU: layouts of memory, and keeping freed memory. Each in a process of its own."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator

from tests.benchmarks.pairs import Pair

PROGRAM = """
import sys, time, torch
from autoseg.networks import execution
from autoseg.networks.build import build_network
from autoseg.training.losses import DiceCrossEntropy, deeply_supervised
from autoseg.networks.optimizers import make_optimizer
from autoseg.values import ExecutionPath, Label, Labels, NetworkSpec, TrainingSpec

dimensions, layout, keep = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "keep"
if keep:
    execution.keep_freed_memory()
threes, twos, ones = (3,) * dimensions, (2,) * dimensions, (1,) * dimensions
spec = NetworkSpec(input_channels=1, output_channels=3, features=(32, 64, 128, 256), kernel_sizes=(threes,) * 4,
                   strides=(ones, twos, twos, twos), encoder_blocks=(2,) * 4, decoder_blocks=(2,) * 3)
training = TrainingSpec(epochs=1, validation_iterations=0, optimizer="adamw", learning_rate=1e-3, weight_decay=0.01,
                        schedule="warmup_polynomial")
path = ExecutionPath(device="cpu", channels_last=layout == "channels-last", threads=2)
network = execution.place(build_network(spec, seed=0), path, dimensions)
optimizer = make_optimizer(training, network.parameters())
loss = DiceCrossEntropy(Labels(foreground=(Label(name="a", values=(1,)), Label(name="b", values=(2,)))), batch_dice=False)
shape = (7, 40, 56, 40) if dimensions == 3 else (281, 56, 40)
image = torch.randn(shape[0], 1, *shape[1:]).contiguous(memory_format=execution.memory_format(path, dimensions))
target = torch.randint(0, 3, shape)
for run in range(3):
    begin = time.perf_counter()
    optimizer.zero_grad()
    deeply_supervised(loss, network(image), target).backward()
    optimizer.step()
    print(time.perf_counter() - begin)
"""


def run() -> Iterator[Pair]:
    """2D and 3D: contiguous against channels-last, and giving memory back against keeping it."""
    for dimensions in (2, 3):
        yield _paired(
            dimensions, "layout", ("contiguous", "contiguous", "give"), ("channels-last", "channels-last", "give")
        )
        yield _paired(dimensions, "memory", ("given back", "channels-last", "give"), ("kept", "channels-last", "keep"))


def _paired(dimensions: int, what: str, first: tuple[str, str, str], second: tuple[str, str, str]) -> Pair:
    times = [(_step_seconds(dimensions, *first[1:]), _step_seconds(dimensions, *second[1:])) for _ in range(2)]
    return Pair(
        what=f"{dimensions}D training step, {what}",
        first=first[0],
        second=second[0],
        first_seconds=statistics.median(one for one, _ in times),
        second_seconds=statistics.median(two for _, two in times),
        ratio=statistics.median(one / two for one, two in times),
    )


def _step_seconds(dimensions: int, layout: str, memory: str) -> float:
    """Median of two steps after a first one, in a fresh process."""
    command = [sys.executable, "-c", PROGRAM, str(dimensions), layout, memory]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return statistics.median(float(line) for line in lines[1:])
