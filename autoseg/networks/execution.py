"""How a network runs on this device: precision, memory format, compilation. Measured once, then kept.

Fast paths differ between machines and versions of torch, and some are wrong on some machines. So candidates are timed on
the planned network, and bf16 is used only if its output agrees with fp32.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

import msgspec
import torch
from torch import nn

from autoseg.errors import InputError
from autoseg.executors import usable_cpus
from autoseg.networks.memory import multiply_adds, process_bytes
from autoseg.networks.tape import Backend
from autoseg.values import Configuration, ExecutionPath

__all__ = [
    "autocast",
    "available_memory",
    "choose_execution",
    "compiled",
    "default_execution",
    "free_memory",
    "keep_freed_memory",
    "likely_execution",
    "memory_format",
    "place",
    "release_memory",
    "resolve_device",
    "training_backend",
    "training_memory",
    "usable_here",
]

Device = Literal["cpu", "cuda", "mps"]
#: Largest difference of bf16 and fp32 logits that is taken for rounding, relative to the largest logit.
AGREEMENT = 0.1
#: Multiply-adds of a whole training from which measuring pays (some minutes on two cores), and compiling, which takes
#: about a minute itself (an hour). Counted, not timed, so that equal trainings are treated alike on a busy machine.
WORTH_MEASURING, WORTH_COMPILING = 5e12, 1e14
#: Measuring itself takes as long as some iterations; a training of fewer than these is not measured.
FEWEST_ITERATIONS = 100
#: Another way than the default must take less than this share of its time, so that chance does not decide.
CLEAR_GAIN, COMPILED_GAIN = 0.8, 0.95
#: Runs that are timed, after a first one; the fastest counts.
TIMED_RUNS = 3


def resolve_device(wanted: str, *, here: bool = True) -> Device:
    """The device to use: "auto" takes a GPU if there is one.

    Args:
        wanted: cpu, cuda, mps or auto.
        here: False for a device that need not be in this machine.

    Raises:
        InputError: no such device, or none here.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return "cuda" if present["cuda"] else "mps" if present["mps"] else "cpu"
    if wanted not in present or (here and not present[wanted]):
        raise InputError(
            f"the device {wanted!r} is not available here",
            expected=" or ".join(device for device, is_here in present.items() if is_here),
        )
    return cast(Device, wanted)


def free_memory(device: str) -> int | None:
    """Bytes that this machine's GPU has free; None for other devices, or without one."""
    return int(torch.cuda.mem_get_info()[0]) if device == "cuda" and torch.cuda.is_available() else None


def available_memory() -> int | None:
    """Bytes that this machine, or the container that we run in, can still give to a process; None where it is not told."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit ("max")
            group = Path("/sys/fs/cgroup")
            available = min(available, int((group / limit).read_text()) - int((group / used).read_text()))
    return max(0, available)


def release_memory(device: str) -> None:
    """Gives memory that torch keeps for later back to the GPU; needed after a shortage, when it lies in pieces."""
    if device == "cuda":
        torch.cuda.empty_cache()


def training_backend(device: Device) -> Backend:
    """How a training on a device of that kind is planned: an absent GPU is taken for a new one, a CPU for an old one."""
    half = device == "cuda" and (not torch.cuda.is_available() or _gpu_has_bf16())
    return Backend(device=device, precision="bf16" if half else "fp32", threads=usable_cpus())


def likely_execution(device: Device) -> ExecutionPath:
    """How a training will probably run, where nothing was measured yet: in 16 bits where the device has them in hardware."""
    half = _gpu_has_bf16() if device == "cuda" else device == "cpu" and _has_fast_bf16()
    return msgspec.structs.replace(default_execution(device), precision="bf16" if half else "fp32")


def training_memory(configuration: Configuration, device: Device) -> int:
    """Predicted bytes of training a configuration here, whatever device it was planned for."""
    return process_bytes(
        configuration.network,
        configuration.patch_size,
        configuration.batch_size,
        configuration.training,
        backend=training_backend(device),
    )


def _gpu_has_bf16() -> bool:
    """Whether the GPU multiplies bf16 in hardware (Ampere and newer); before, torch emulates it."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def memory_format(path: ExecutionPath, dimensions: int) -> torch.memory_format:
    """Layout of activations and weights."""
    if not path.channels_last:
        return torch.contiguous_format
    return torch.channels_last_3d if dimensions == 3 else torch.channels_last


def place(network: nn.Module, path: ExecutionPath, dimensions: int) -> nn.Module:
    """Moves a network to the path's device and layout, and sets torch's threads."""
    if path.device == "cpu":
        torch.set_num_threads(path.threads)
    return network.to(path.device).to(memory_format=memory_format(path, dimensions))  # type: ignore[call-overload]


def keep_freed_memory() -> None:
    """Lets the C library keep freed memory for the next step instead of giving it back to the system.

    Large tensors are otherwise mapped and zeroed anew in every step, which took a seventh of a step on the CPU.
    The price is that the process stays as large as its largest step. Only glibc has this switch; elsewhere nothing happens.
    """
    mmap_max, trim_threshold, never = -4, -1, 2**31 - 1  # from malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, never)


def autocast(path: ExecutionPath) -> contextlib.AbstractContextManager[object]:
    """The precision of the path as a context."""
    if path.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(path.device, torch.bfloat16)


def compiled(network: nn.Module, path: ExecutionPath) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """The network's forward, compiled if the path says so."""
    return torch.compile(network, dynamic=False) if path.compiled else network


def default_execution(device: str) -> ExecutionPath:
    """A path that is right everywhere, for where nothing was measured: fp32, channels-last on a CPU."""
    return ExecutionPath(device=device, channels_last=device == "cpu", threads=usable_cpus(), reason="not measured")


def usable_here(path: ExecutionPath) -> bool:
    """Whether this machine runs that path, and at speed; a path may come from another machine."""
    if path.compiled and not _compiler_found():
        return False
    if path.precision == "fp32":
        return True
    return _has_fast_bf16() if path.device == "cpu" else _gpu_has_bf16()


def choose_execution(
    network: nn.Module, configuration: Configuration, *, device: str, iterations: int
) -> ExecutionPath:
    """Times the candidates on the planned network and takes the fastest that is right.

    A GPU is not measured: it gets bf16 where it has that in hardware.

    Args:
        network: with fresh weights, on the CPU; it is not changed.
        configuration: the network's; an eighth of its batch is timed.
        device: cpu, cuda or mps.
        iterations: of the training; decides whether measuring and compiling are worth their time.
    """
    threads = usable_cpus()
    if device != "cpu":
        bf16 = device == "cuda" and _gpu_has_bf16()
        return ExecutionPath(
            device=device, precision="bf16" if bf16 else "fp32", threads=threads, reason="by the device's kind"
        )
    spec, patch_size, dimensions = configuration.network, configuration.patch_size, configuration.dimensions
    default = default_execution(device)
    work = 3 * multiply_adds(spec, patch_size, configuration.batch_size) * iterations
    if work < WORTH_MEASURING or iterations < FEWEST_ITERATIONS:
        return msgspec.structs.replace(default, reason="too short a training to measure")
    part = max(1, configuration.batch_size // 8)
    example = torch.randn(part, spec.input_channels, *patch_size, generator=torch.Generator().manual_seed(0))
    default_seconds, reference = _time_step(network, default, example, dimensions)
    # tensors that are not channels-last were never clearly faster, and take up to a quarter more memory than is planned for
    others = [msgspec.structs.replace(default, precision="bf16")] if _has_fast_bf16() else []
    seconds, notes, right = {default: default_seconds}, [], {default: default_seconds * CLEAR_GAIN}
    for path in others:
        seconds[path], logits = _time_step(network, path, example, dimensions)
        if (difference := _difference(logits, reference)) < AGREEMENT:
            right[path] = seconds[path]
        else:
            notes.append(f"{_name(path)} disagrees with fp32 by {difference:.2g} and is not used")
    best = min(right, key=lambda path: right[path])
    if _compiler_found() and work > WORTH_COMPILING:
        best, note = _try_compiled(network, best, example, dimensions, seconds[best], reference)
        notes.append(note)
    timings = ", ".join(f"{_name(path)} {took:.2f} s" for path, took in seconds.items())
    reason = "; ".join([f"{timings} for forward and backward of {part} patches", *notes])
    return msgspec.structs.replace(best, reason=reason)


def _difference(logits: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest difference relative to the largest logit; NaN if there is one."""
    return float((logits - reference).abs().max() / reference.abs().max().clamp_min(1e-6))


def _has_fast_bf16() -> bool:
    """Whether the processor multiplies bf16 in hardware; elsewhere it is emulated, many times slower than fp32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def _compiler_found() -> bool:
    return any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl"))


def _name(path: ExecutionPath) -> str:
    return path.precision + (" channels-last" if path.channels_last else "")


def _time_step(
    network: nn.Module, path: ExecutionPath, example: torch.Tensor, dimensions: int
) -> tuple[float, torch.Tensor]:
    """Seconds of a forward and backward pass, the fastest of some, and the logits."""
    trial = place(copy.deepcopy(network), path, dimensions)
    forward = compiled(trial, path)
    batch = example.to(memory_format=memory_format(path, dimensions))
    seconds = []
    for _ in range(1 + TIMED_RUNS):
        begin = time.perf_counter()
        with autocast(path):
            outputs = forward(batch)
        sum(output.float().square().mean() for output in outputs).backward()  # type: ignore[union-attr]
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:]), outputs[0].detach().float()


def _try_compiled(
    network: nn.Module,
    path: ExecutionPath,
    example: torch.Tensor,
    dimensions: int,
    eager_seconds: float,
    reference: torch.Tensor,
) -> tuple[ExecutionPath, str]:
    fast = msgspec.structs.replace(path, compiled=True)
    try:
        took, logits = _time_step(network, fast, example, dimensions)
    except Exception as error:  # no working compiler: whatever it raises, the eager path works
        return path, f"torch.compile does not work here ({type(error).__name__})"
    finally:
        torch.compiler.reset()
    if not (difference := _difference(logits, reference)) < AGREEMENT:
        return path, f"compiled disagrees with fp32 by {difference:.2g} and is not used"
    if took < eager_seconds * COMPILED_GAIN:
        return fast, f"compiled {took:.2f} s"
    return path, f"compiled {took:.2f} s, not enough to be worth it"
