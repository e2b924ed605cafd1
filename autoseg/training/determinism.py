"""The same bits in every run: torch's deterministic algorithms, and random draws that are functions of the iteration.

On a CPU training is deterministic as it is. On a GPU some algorithms add in any order; without them a step takes longer.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

import msgspec
import torch

from autoseg.augmentation.streams import stream
from autoseg.logs import Logger
from autoseg.training.step import TrainingStep

__all__ = ["deterministic_algorithms", "make_deterministic", "prepare_deterministic", "seconds_of", "seed_iteration"]

#: First part of the keys of streams from which networks draw (dropout), beside those of ``augmentation.streams``.
NETWORK = 1000
TIMED_STEPS = 5


def prepare_deterministic() -> None:
    """Tells cuBLAS to be deterministic; it listens only before its first use in a process."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextlib.contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Torch uses only algorithms that give the same bits in every run, and raises RuntimeError where it has none."""
    if not wanted:
        yield
        return
    prepare_deterministic()
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


def make_deterministic(step: TrainingStep, logger: Logger) -> None:
    """From now on, and whenever this training is gone on with; on a GPU tells what that costs."""
    if step.execution.device == "cuda":
        plain = seconds_of(step.trial)
        with deterministic_algorithms(True):
            exact = seconds_of(step.trial)
        text = f"deterministic: a step takes {exact:.3f} s instead of {plain:.3f} s ({exact / plain:.2f} times as long)"
        logger.event("message", text=text, seconds=exact, seconds_otherwise=plain)
    step.execution = msgspec.structs.replace(step.execution, deterministic=True)
    step.keep_execution()


def seed_iteration(seed: int, iteration: int, rank: int = 0) -> None:
    """Sets torch's random state for what a network draws in an iteration (dropout): resuming needs no saved state.

    Args:
        seed: of the plan.
        iteration: counted from 0.
        rank: of the process, if several train together: their samples draw independently.
    """
    key = (iteration, rank) if rank else (iteration,)
    torch.manual_seed(int(stream(seed, NETWORK, *key).integers(2**63)))


def seconds_of(step: Callable[[], object]) -> float:
    """Seconds of a step on the GPU, the fastest of some after a first one."""
    times = []
    for _ in range(1 + TIMED_STEPS):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times[1:])
