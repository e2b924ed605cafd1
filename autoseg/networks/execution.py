"""How a network runs on a device: precision, memory format, compilation, threads, and what memory there is."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

import msgspec
import torch
from torch import nn

from autoseg.errors import InputError
from autoseg.executors import usable_cpus
from autoseg.networks.memory import process_bytes
from autoseg.networks.tape import Backend
from autoseg.values import Configuration, ExecutionPath

__all__ = [
    "autocast",
    "available_memory",
    "compiled",
    "compiler_found",
    "default_execution",
    "free_memory",
    "gpu_count",
    "gpu_precision",
    "has_fast_bf16",
    "keep_freed_memory",
    "laid_out",
    "likely_execution",
    "memory_format",
    "place",
    "release_memory",
    "resolve_device",
    "synchronize",
    "training_backend",
    "training_memory",
    "usable_here",
]

Device = Literal["cpu", "cuda", "mps"]
#: The 16-bit types of the precisions.
HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
#: CUDA capability from which fp16 is multiplied by tensor cores (Volta), so that it is faster than fp32.
TENSOR_CORES = (7, 0)


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


def gpu_count() -> int:
    """CUDA devices that this process may see."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


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
    half = device == "cuda" and (not torch.cuda.is_available() or gpu_precision() != "fp32")
    return Backend(device=device, precision="bf16" if half else "fp32", threads=usable_cpus())


def likely_execution(device: Device) -> ExecutionPath:
    """How a training will probably run, where nothing was measured yet: in 16 bits where the device has them in hardware."""
    fast = device == "cpu" and has_fast_bf16()
    precision = gpu_precision() if device == "cuda" else "bf16" if fast else "fp32"
    return msgspec.structs.replace(default_execution(device), precision=precision)


def training_memory(configuration: Configuration, device: Device) -> int:
    """Predicted bytes of training a configuration here, whatever device it was planned for."""
    return process_bytes(
        configuration.network,
        configuration.patch_size,
        configuration.batch_size,
        configuration.training,
        backend=training_backend(device),
    )


def gpu_precision() -> Literal["fp32", "bf16", "fp16"]:
    """What the GPU multiplies fastest: bf16 from Ampere on, which torch emulates before; fp16 where it has tensor cores."""
    if not torch.cuda.is_available():
        return "fp32"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return "fp16" if torch.cuda.get_device_capability() >= TENSOR_CORES else "fp32"


def memory_format(path: ExecutionPath, dimensions: int) -> torch.memory_format:
    """Layout of activations and weights."""
    if not path.channels_last:
        return torch.contiguous_format
    return torch.channels_last_3d if dimensions == 3 else torch.channels_last


def place(network: nn.Module, path: ExecutionPath, dimensions: int) -> nn.Module:
    """Moves a network to the path's device and layout, and sets what torch has for the whole process.

    A GPU multiplies fp32 in TF32 where it can (10 bits of mantissa, those of fp16), and takes for each convolution the
    kernel that is fastest in a trial, unless only deterministic ones are allowed.
    """
    if path.device == "cpu":
        torch.set_num_threads(path.threads)
    elif path.device == "cuda":
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    return network.to(path.device).to(memory_format=memory_format(path, dimensions))  # type: ignore[call-overload]


def laid_out(image: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    """The image in that layout, in its strides as well.

    Of an image of one channel torch takes either layout for the other, and a convolution of it would give the contiguous
    one, which the next convolution copies.
    """
    wanted = torch.empty(image.shape, dtype=image.dtype, device="meta", memory_format=layout)
    image = image.contiguous(memory_format=layout)
    return image.as_strided(image.shape, wanted.stride())


def synchronize(device: str) -> None:
    """Waits until a GPU has done what it was given, so that its time can be taken."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


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
    return torch.autocast(path.device, HALF_TYPES[path.precision])


def compiled(network: nn.Module, path: ExecutionPath) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """The network's forward, compiled if the path says so."""
    if not path.compiled:
        return network
    return torch.compile(network, dynamic=False, mode="reduce-overhead" if path.graphs else None)


def default_execution(device: str) -> ExecutionPath:
    """A path that is right everywhere, for where nothing was measured: fp32, channels-last on a CPU."""
    return ExecutionPath(device=device, channels_last=device == "cpu", threads=usable_cpus(), reason="not measured")


def usable_here(path: ExecutionPath) -> bool:
    """Whether this machine runs that path, and at speed; a path may come from another machine."""
    if path.compiled and not compiler_found():
        return False
    if path.precision == "fp32":
        return True
    if path.device == "cpu":
        return path.precision == "bf16" and has_fast_bf16()
    return path.precision == gpu_precision()


def has_fast_bf16() -> bool:
    """Whether the processor multiplies bf16 in hardware; elsewhere it is emulated, many times slower than fp32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def compiler_found() -> bool:
    """Whether there is a C++ compiler, which torch.compile needs on a CPU, and for its launchers on a GPU."""
    return any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl"))
