"""What a plan will cost, told before anything is trained: memory to plan for, time of a training, room on the disk.

Time is measured, not guessed: a short training step of the planned network on the device, scaled by the counted arithmetic.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg.disk import free_bytes, mapped_bytes
from autoseg.errors import InputError
from autoseg.files import read_document
from autoseg.logs import Logger
from autoseg.networks.build import build_network
from autoseg.networks.execution import (
    autocast,
    available_memory,
    free_memory,
    laid_out,
    likely_execution,
    memory_format,
    place,
    resolve_device,
    training_memory,
)
from autoseg.networks.memory import multiply_adds, parameter_count
from autoseg.networks.tape import FLOAT_BYTES
from autoseg.planning import GIBIBYTE
from autoseg.values import Configuration, ExecutionPath, Fingerprint, Plan
from autoseg.workspace import Workspace

__all__ = [
    "SCORING_SHARE",
    "Expectation",
    "Explanation",
    "announce",
    "disk_warning",
    "expectation",
    "is_here",
    "larger_budget",
    "memory_to_plan_for",
    "seconds_per_iteration",
    "worth_timing",
]

DEFAULT_MEMORY = 8 * GIBIBYTE
LEAST_GIB, MOST_GIB = 0.1, 10_000
#: Of the memory that a CPU's machine has available now, the part that a training may take.
SHARE_OF_CPU_MEMORY = 0.75
#: Multiply-adds of the step that is timed: a third of a second on one core, a blink on a GPU.
PROBE_MULTIPLY_ADDS = {"cpu": 2.5e9, "mps": 6e10, "cuda": 6e11}
#: No batch of fewer is timed where more are trained: on a CPU two patches take no longer than one (measured).
LEAST_BATCH = 2
TIMED_STEPS = 3
#: Multiply-adds of a training that is not worth timing first: a few minutes on two cores.
SHORT_TRAINING = 5e12
#: Share of a training's time that the scoring of whole images may take while it runs, about.
SCORING_SHARE = 0.1
DAY = 86400.0
#: Longer trainings are warned about.
MANY_DAYS = 2.0
#: What people can buy, in GiB; the next larger one is what "more memory" means.
USUAL_GIB = (4, 6, 8, 11, 12, 16, 24, 32, 40, 48, 80, 141)
#: A checkpoint holds weights, two moments and the average; there are two generations, the one that is being written, and the
#: one from which the training can be extended; then the model.
COPIES_OF_WEIGHTS_ON_DISK = 4 * 4 + 1


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What training one fold of a configuration takes.

    Attributes:
        seconds_per_iteration: on the device; None where it was not measured.
        seconds: of a whole training with all that it scores while it runs, without the scoring of all held-out cases at its
            end; None where it was not measured.
        case_bytes: of all preprocessed cases as memory maps; compressed they take less.
        fold_bytes: of checkpoints and model of one fold.
    """

    seconds_per_iteration: float | None
    seconds: float | None
    case_bytes: int
    fold_bytes: int


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What one configuration costs, and what more memory would give.

    Attributes:
        configuration: that is explained.
        expected: of one fold.
        device: that trains.
        larger_bytes: a larger budget.
        larger: the same configuration planned for that; None if it would not exist then.
    """

    configuration: Configuration
    expected: Expectation
    device: str
    larger_bytes: int
    larger: Configuration | None


def larger_budget(memory_bytes: int) -> int:
    """The next larger budget that people have: at least half as much again."""
    usual = (size * GIBIBYTE for size in USUAL_GIB if size * GIBIBYTE >= 1.5 * memory_bytes)
    return next(usual, 2 * memory_bytes)


def worth_timing(configuration: Configuration, iterations: int) -> bool:
    """Whether a training is long enough for its time to be of interest."""
    work = 3 * multiply_adds(configuration.network, configuration.patch_size, configuration.batch_size) * iterations
    return work > SHORT_TRAINING


def memory_to_plan_for(wanted: float | str | None, usual: int | None, device: str) -> int:
    """Bytes to plan for.

    Args:
        wanted: GiB, or "auto" for what the device has free, or None for the usual: what the planner is made for, else what
            the GPU has free, else 8 GiB.
        usual: bytes that the planner is made for; None if it has no such number.
        device: that will train.

    Raises:
        InputError: out of range, or "auto" for a device that is not here.
    """
    if wanted is None:
        return usual or free_memory(device) or DEFAULT_MEMORY
    if wanted == "auto":
        available = available_memory()
        here = free_memory(device) if device == "cuda" else int(SHARE_OF_CPU_MEMORY * available) if available else None
        if here is None:
            raise InputError(
                f"it cannot be told how much memory the device {device!r} has free: it is not here, or does not say",
                remedy="Name the memory to plan for in GiB: --gpu-memory 8",
            )
        return here
    if not isinstance(wanted, int | float) or not LEAST_GIB <= wanted <= MOST_GIB:
        raise InputError(
            "the memory to plan for is out of range", found=wanted, expected=f"{LEAST_GIB} to {MOST_GIB} GiB, or auto"
        )
    return int(wanted * GIBIBYTE)


def is_here(device: str) -> bool:
    """Whether a device of that kind is in this machine."""
    try:
        return bool(resolve_device(device))
    except InputError:
        return False


def seconds_per_iteration(
    configuration: Configuration, path: ExecutionPath, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of one training iteration, from a short step of the same network on a part of its patch or its batch.

    The patch is cut before the batch, for a batch of one can take longer than one of two.

    Args:
        configuration: patch, batch and network.
        path: how the network runs.
        clock: gives seconds.
    """
    spec = configuration.network
    most = PROBE_MULTIPLY_ADDS[path.device]
    patch = _probe_patch(configuration, most)
    batch = int(most / multiply_adds(spec, patch, 1))
    batch = min(configuration.batch_size, max(LEAST_BATCH, batch))
    network = place(build_network(spec, seed=0), path, configuration.dimensions)
    image = torch.randn(batch, spec.input_channels, *patch, generator=torch.Generator().manual_seed(0))
    image = laid_out(image.to(path.device), memory_format(path, configuration.dimensions))
    times = []
    for _ in range(1 + TIMED_STEPS):
        network.zero_grad(set_to_none=True)  # as training does
        begin = clock()
        with autocast(path):
            outputs = network(image)
        sum(output.float().square().mean() for output in outputs).backward()
        if path.device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - begin)
    whole = multiply_adds(spec, configuration.patch_size, configuration.batch_size)
    return min(times[1:]) * whole / multiply_adds(spec, patch, batch)


def _probe_patch(configuration: Configuration, most: float) -> tuple[int, ...]:
    """The patch, halved along its longest axis until a step is short; at least two voxels at the lowest resolution."""
    spec, patch = configuration.network, list(configuration.patch_size)
    least, batch = [2 * step for step in spec.divisor], min(LEAST_BATCH, configuration.batch_size)
    while multiply_adds(spec, patch, batch) > most:
        axes = [axis for axis in range(len(patch)) if patch[axis] // 2 >= least[axis]]
        if not axes:
            break
        axis = max(axes, key=lambda each: patch[each])
        patch[axis] = max(least[axis], patch[axis] // 2 // spec.divisor[axis] * spec.divisor[axis])
    return tuple(patch)


def expectation(
    plan: Plan,
    configuration: Configuration,
    fingerprint: Fingerprint,
    device: str,
    *,
    iterations: int,
    timed: bool,
    held_out: bool = True,
) -> Expectation:
    """Time and disk of one fold.

    Args:
        plan: orientation and channels.
        configuration: what is trained.
        fingerprint: sizes of the cases.
        device: that trains.
        iterations: length of the training.
        timed: measure the time, if the device is here.
        held_out: whether there are held-out cases, which are scored while it runs.
    """
    per_iteration = None
    if timed and is_here(device):
        per_iteration = seconds_per_iteration(configuration, likely_execution(resolve_device(device)))
    spec, worth = configuration.training, float(iterations)
    if held_out and spec.validation_iterations:
        # an estimate on held-out patches has no backward pass: a third of an iteration
        estimates = -(-iterations // spec.iterations_per_epoch) * spec.validation_iterations / 3
        worth = iterations * (1 + SCORING_SHARE) + estimates
    return Expectation(
        seconds_per_iteration=per_iteration,
        seconds=None if per_iteration is None else per_iteration * worth,
        case_bytes=sum(mapped_bytes(plan, configuration, fingerprint).values()),
        fold_bytes=COPIES_OF_WEIGHTS_ON_DISK * FLOAT_BYTES * parameter_count(configuration.network),
    )


def announce(
    workspace: Workspace,
    plan: Plan,
    name: str,
    iterations: int | None,
    folds: int,
    device: str,
    logger: Logger,
    *,
    hours: float | None = None,
    held_out: bool = True,
    probability_bytes: int = 0,
) -> None:
    """Tells, before a training starts, how long it will take and how much room on the disk, and warns where that is much.

    Args:
        workspace: that will hold it.
        plan: of the training.
        name: of the configuration.
        iterations: of each fold; None for as long as ``hours`` or a plateau allow.
        folds: how many will be trained.
        device: that trains.
        logger: for the event ``expected`` and the warnings.
        hours: of each fold, if that is what was asked for.
        held_out: whether the folds have held-out cases.
        probability_bytes: that the kept probabilities of all held-out cases are expected to take.
    """
    configuration = plan.configuration(name)
    fingerprint = read_document(Fingerprint, workspace.fingerprint_path())
    timed = iterations is not None and worth_timing(configuration, iterations)
    expected = expectation(
        plan, configuration, fingerprint, device, iterations=iterations or 1, timed=timed, held_out=held_out
    )
    disk = expected.case_bytes + folds * expected.fold_bytes + probability_bytes
    each = expected.seconds if hours is None else hours * 3600
    seconds = None if each is None else folds * each
    logger.event(
        "expected",
        configuration=name,
        folds=folds,
        device=device,
        iterations=iterations,
        iterations_per_epoch=configuration.training.iterations_per_epoch,
        seconds=seconds,
        disk_bytes=disk,
    )
    warnings = [disk_warning(workspace.path, disk), memory_warning(plan, configuration, device)]
    if seconds is not None and hours is None and seconds > MANY_DAYS * DAY:
        warnings.append(
            f"this will take about {seconds / DAY:.1f} days on this device ({device}); it can be stopped and gone on with "
            "at any time. --hours, --epochs or --iterations make it shorter, a GPU faster"
        )
    for warning in filter(None, warnings):
        logger.event("message", text=f"warning: {warning}")


def memory_warning(plan: Plan, configuration: Configuration, device: str) -> str | None:
    """A warning if a training takes more here than was planned for: on another kind of device, or edited by hand."""
    needed = training_memory(configuration, resolve_device(device))
    if needed <= plan.budget_bytes:
        return None
    free = free_memory(device) or available_memory()
    told = "" if free is None else f"; {free / GIBIBYTE:.1f} GiB are free here"
    return (
        f"{configuration.name} takes about {needed / GIBIBYTE:.1f} GiB to train on this device ({device}), more than the "
        f"{plan.budget_bytes / GIBIBYTE:.3g} GiB planned for ({plan.device}){told}. To keep them, plan for this device: "
        f"autoseg plan DATASET --name NEW --device {device} --gpu-memory {plan.budget_bytes / GIBIBYTE:.3g}"
    )


def disk_warning(path: Path, needed: int) -> str | None:
    """A warning if the disk of a folder, which need not exist yet, has too little room."""
    free = free_bytes(path)
    if needed <= free:
        return None
    return (
        f"this needs up to {needed / GIBIBYTE:.1f} GiB of disk at {path}, and {free / GIBIBYTE:.1f} GiB are free: make "
        "room, or name a workspace elsewhere with -w"
    )
