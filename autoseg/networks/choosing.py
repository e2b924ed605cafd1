"""How a network shall run on this device: candidates are timed on the planned network once, and the choice is kept.

Fast paths differ between machines and versions of torch, and some are wrong on some machines. So another way than the
default is taken only if its output and its gradients agree with fp32, if it takes no more memory than is planned for, and
if it is clearly faster.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import torch
from torch import nn

from autoseg.networks.execution import (
    autocast,
    compiled,
    compiler_found,
    default_execution,
    gpu_precision,
    has_fast_bf16,
    laid_out,
    memory_format,
    place,
    release_memory,
    synchronize,
)
from autoseg.networks.memory import multiply_adds
from autoseg.values import Configuration, ExecutionPath

__all__ = ["Trial", "candidates", "choose_execution", "decide", "threads_to_spare"]

#: Largest difference from fp32 logits that is taken for rounding, relative to the largest logit.
AGREEMENT = 0.1
#: Smallest cosine between the gradients of a weight and those of fp32 that is taken for rounding. Rounding to bf16 leaves
#: 0.987 in five stages and less in more of them (measured); a wrong kernel leaves anything.
GRADIENT_AGREEMENT = 0.9
#: Weights whose gradient is, in the mean, this much smaller than the largest one have none but rounding, as biases before a
#: norm have; measured are at most 5e-7 for these, and 4e-4 for the smallest that count.
NEGLIGIBLE = 1e-5
#: What losses are multiplied with before a pass back in fp16, so that small gradients are not lost.
FP16_SCALE = 2.0**12
#: Multiply-adds of a whole training from which measuring pays (some minutes on two cores, half a minute of a GPU), and
#: compiling: half a minute of a core, twice, and it takes a fifth to a half off (measured). Counted, not timed: a busy
#: machine treats equal trainings alike.
WORTH_MEASURING = {"cpu": 5e12, "cuda": 1e15, "mps": math.inf}
WORTH_COMPILING = {"cpu": 1e13, "cuda": 2e16, "mps": math.inf}
#: Measuring itself takes as long as some iterations; a training of fewer than these is not measured.
FEWEST_ITERATIONS = 100
#: Another way than the default must take less than this share of its time, so that chance does not decide.
CLEAR_GAIN, COMPILED_GAIN = 0.8, 0.95
#: Another way may take this much of the default's memory on a GPU, for which the plan was made.
MOST_MEMORY = 1.02
#: Runs that are timed, after a first one; the fastest counts.
TIMED_RUNS = 3


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What became of one candidate.

    Attributes:
        path: how it ran.
        seconds: of a forward and backward pass; infinite if it does not work here.
        difference: of its logits from those of fp32, relative to the largest; NaN if they are.
        cosine: smallest of those between the gradients of a weight and the ones of fp32; NaN if one holds NaN or infinity.
        peak_bytes: of its tensors on a GPU; 0 on other devices, where all candidates take the same.
        failure: what it raised, empty if it works.
    """

    path: ExecutionPath
    seconds: float
    difference: float = 0.0
    cosine: float = 1.0
    peak_bytes: int = 0
    failure: str = ""

    @property
    def agrees(self) -> bool:
        """Whether it works, and gives what fp32 gives."""
        return not self.failure and self.difference < AGREEMENT and self.cosine > GRADIENT_AGREEMENT


def candidates(default: ExecutionPath) -> list[ExecutionPath]:
    """The eager ways to run a network beside the default.

    On a CPU all are channels-last: tensors that are not were never clearly faster, and take up to a quarter more memory
    than is planned for. Half the threads are faster where other programs want the processors, or where two threads share
    a core: all threads of a step wait for the one that is not given a processor.
    """
    change = msgspec.structs.replace
    if default.device == "cuda":
        return [change(default, channels_last=True)]
    if default.device != "cpu":
        return []
    others = [change(default, precision="bf16")] if has_fast_bf16() else []
    return others + [change(each, threads=each.threads // 2) for each in (default, *others) if each.threads > 1]


def decide(trials: Sequence[Trial]) -> tuple[ExecutionPath, str]:
    """The fastest trial that is right, fits and is clearly faster than the first, which is the default; and why.

    Args:
        trials: in the order they were made; those that are compiled last.
    """
    default, *others = trials
    best, mark, notes = default, default.seconds, []
    for trial in others:
        reference = best if trial.path.compiled and not best.path.compiled else default
        gain = COMPILED_GAIN if trial.path.compiled else CLEAR_GAIN
        name = _name(trial.path)
        if trial.failure:
            notes.append(f"{name} does not work here ({trial.failure})")
        elif not trial.difference < AGREEMENT:
            notes.append(f"{name} disagrees with fp32 by {trial.difference:.2g} and is not used")
        elif not trial.agrees:
            notes.append(f"{name} has gradients that disagree with fp32 (cosine {trial.cosine:.2g}) and is not used")
        elif trial.peak_bytes > MOST_MEMORY * default.peak_bytes:
            notes.append(f"{name} takes more memory than is planned for and is not used")
        elif trial.seconds < min(mark, gain * reference.seconds):
            best, mark = trial, trial.seconds
    timings = ", ".join(f"{_name(trial.path)} {trial.seconds:.3g} s" for trial in trials if not trial.failure)
    return best.path, "; ".join([timings, *notes])


def choose_execution(
    network: nn.Module,
    configuration: Configuration,
    *,
    device: str,
    iterations: int,
    making: Callable[[], float] | None = None,
) -> ExecutionPath:
    """Times the candidates on the planned network and takes the fastest that is right.

    Args:
        network: with fresh weights, on the CPU; it is not changed.
        configuration: the network's; an eighth of its batch is timed.
        device: cpu, cuda or mps.
        iterations: of the training; decides whether measuring and compiling are worth their time.
        making: gives the seconds that a thread takes to make a batch; a CPU leaves it as many processors as it needs.
    """
    default = default_execution(device)
    spec, patch_size = configuration.network, configuration.patch_size
    work = 3 * multiply_adds(spec, patch_size, configuration.batch_size) * iterations
    if work < WORTH_MEASURING[device] or iterations < FEWEST_ITERATIONS:
        by_kind = gpu_precision() if device == "cuda" else "fp32"
        reason = "too short a training to measure" + ("; the precision by the GPU's kind" if device == "cuda" else "")
        return msgspec.structs.replace(default, precision=by_kind, reason=reason)
    part = max(1, configuration.batch_size // 8)
    example = torch.randn(part, spec.input_channels, *patch_size, generator=torch.Generator().manual_seed(0))
    run = _runner(network, example, configuration.dimensions)
    try:
        first, reference = run(default, None)
        trials = [first]
        if device == "cuda" and gpu_precision() != "fp32":
            half, _ = run(msgspec.structs.replace(default, precision=gpu_precision()), reference)
            # what the plan counts on, whatever the clock says: fp32 would take twice the memory
            trials = [half] if half.agrees else [first, half]
        trials += [run(path, reference)[0] for path in candidates(trials[0].path)]
        if compiler_found() and work > WORTH_COMPILING[device]:
            best, _ = decide(trials)
            trials += [run(path, reference)[0] for path in _compiled_ways(best)]
    except torch.OutOfMemoryError:  # the probe of memory tells it, and splits the batch
        release_memory(device)
        precision = gpu_precision() if device == "cuda" else "fp32"
        return msgspec.structs.replace(default, precision=precision, reason="too little memory to measure")
    best, told = decide(trials)
    told = f"{told}; forward and backward of {part} patches"
    if device == "cpu" and making is not None:
        seconds = next(trial.seconds for trial in trials if trial.path is best)
        spared = threads_to_spare(default.threads, making() / (seconds * configuration.batch_size / part))
        if best.threads > default.threads - spared:
            best = msgspec.structs.replace(best, threads=default.threads - spared)
            told += f"; {spared} of {default.threads} processors are left to making batches"
    return msgspec.structs.replace(best, reason=told)


def threads_to_spare(processors: int, load: float) -> int:
    """How many processors the making of batches needs for itself, so that neither waits long for the other.

    Where the training has T of n processors, an iteration takes n / T times as long as on all of them; a batch is made in
    load / (n - T) of an iteration's time on all. Both are equal at n - T = n * load / (n + load). Less than one is not
    worth a thread of the training.

    Args:
        processors: that there are.
        load: seconds to make a batch in one thread, in those of an iteration on all processors.
    """
    return int(processors * load / (processors + load))


def _compiled_ways(best: ExecutionPath) -> list[ExecutionPath]:
    """The best eager way compiled; on a GPU also replayed as CUDA graphs."""
    fast = msgspec.structs.replace(best, compiled=True)
    return [fast, msgspec.structs.replace(fast, graphs=True)] if best.device == "cuda" else [fast]


def _name(path: ExecutionPath) -> str:
    parts = [path.precision, *(["channels-last"] if path.channels_last else [])]
    parts += [f"in {path.threads} threads"] if path.device == "cpu" else []
    parts += [("compiled with CUDA graphs" if path.graphs else "compiled")] if path.compiled else []
    return " ".join(parts)


@dataclass(frozen=True)
class _Computed:
    """What a pass gives, in fp32 on the CPU: logits of full resolution, and the gradient of every weight that has one."""

    logits: torch.Tensor
    gradients: Sequence[torch.Tensor]


Run = Callable[[ExecutionPath, _Computed | None], tuple[Trial, _Computed]]


def _runner(network: nn.Module, example: torch.Tensor, dimensions: int) -> Run:
    """What tries a path against what a reference computed: gives the trial, and what it computed itself."""

    def run(path: ExecutionPath, reference: _Computed | None) -> tuple[Trial, _Computed]:
        try:
            seconds, computed, peak = _time_step(network, path, example, dimensions)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no working compiler, no kernel of that kind: whatever it raises, the default works
            if reference is None:
                raise
            return Trial(path=path, seconds=math.inf, failure=type(error).__name__), reference
        finally:
            if path.compiled:
                torch.compiler.reset()
        if reference is None:
            return Trial(path=path, seconds=seconds, peak_bytes=peak), computed
        difference = _difference(computed.logits, reference.logits)
        cosine = _least_cosine(computed.gradients, reference.gradients)
        return Trial(path=path, seconds=seconds, difference=difference, cosine=cosine, peak_bytes=peak), computed

    return run


def _difference(logits: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest difference relative to the largest logit; NaN if there is one."""
    return float((logits - reference).abs().max() / reference.abs().max().clamp_min(1e-6))


def _least_cosine(gradients: Sequence[torch.Tensor], reference: Sequence[torch.Tensor]) -> float:
    """Between the gradients of a weight, in those weights that have one; NaN if any is, or is infinite."""
    if len(gradients) != len(reference) or not all(bool(gradient.isfinite().all()) for gradient in gradients):
        return math.nan
    means = [float(gradient.square().mean().sqrt()) for gradient in reference]
    return min(
        (
            float(nn.functional.cosine_similarity(mine.flatten(), other.flatten(), 0))
            for mine, other, mean in zip(gradients, reference, means, strict=True)
            if mean > NEGLIGIBLE * max(means)
        ),
        default=1.0,
    )


def _time_step(
    network: nn.Module, path: ExecutionPath, example: torch.Tensor, dimensions: int
) -> tuple[float, _Computed, int]:
    """Seconds of a forward and backward pass, the fastest of some, what it computed, and the peak of a GPU's memory."""
    trial = place(copy.deepcopy(network), path, dimensions)
    forward = compiled(trial, path)
    batch = laid_out(example.to(path.device), memory_format(path, dimensions))
    on_gpu, scale, seconds = path.device == "cuda", FP16_SCALE if path.precision == "fp16" else 1.0, []
    for run in range(1 + TIMED_RUNS):
        trial.zero_grad(set_to_none=True)  # as training does: a replayed graph cannot add to gradients that it owns
        if on_gpu and run == 1:
            torch.cuda.reset_peak_memory_stats()
        synchronize(path.device)
        begin = time.perf_counter()
        if path.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        with autocast(path):
            outputs = forward(batch)
        loss = torch.stack([output.float().square().mean() for output in outputs]).sum()
        (scale * loss).backward()
        synchronize(path.device)
        seconds.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    gradients = [weight.grad.float().cpu() for weight in trial.parameters() if weight.grad is not None]
    return min(seconds[1:]), _Computed(outputs[0].detach().float().cpu(), gradients), peak
