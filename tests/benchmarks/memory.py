"""Planned against real memory: ``python -m tests.benchmarks.memory`` prints the tables of docs/memory.md.

--gpu   plans for GPUs of 4 to 80 GiB in 16 bits: predicted, and traced through torch's autograd (some minutes)
--cpu   plans for a CPU in 32 bits at the sizes named (4 by default): predicted, and measured in real steps (an hour)
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator

import torch

from autoseg import plugins
from autoseg.networks.execution import default_execution
from autoseg.networks.memory import training_bytes
from autoseg.networks.tape import Backend
from autoseg.planning import GIBIBYTE, Budget, MemoryCost
from autoseg.values import Configuration, ExecutionPath
from tests.allocator import measured_training_bytes, traced_training_bytes
from tests.planners.synthetic import CPU_COST, GPU_COST
from tests.planners.test_known_answers import DATA, data_set

GPU = Backend(device="cuda", precision="bf16")
PRESETS = {"plain": "default", "residual": "residual"}
BUDGETS = (4, 8, 11, 24, 80)


def planned(
    device: str, cost: MemoryCost, budgets: tuple[float, ...]
) -> Iterator[tuple[str, str, float, Configuration]]:
    """Data set, network, budget and configuration: full resolution, or 2d for flat images."""
    for data in DATA:
        for kind, preset in PRESETS.items():
            for gib in budgets:
                budget = Budget(memory_bytes=int(gib * GIBIBYTE), device=device)
                plan = plugins.load("planner", preset)().plan(data_set(data), budget, cost, name="memory")
                yield data, kind, gib, plan.configuration(plan.main_configuration)


def is_limited_by_data(configuration: Configuration) -> bool:
    """The patch covers the median image, or the batch is capped by the data set: more memory would be of no use."""
    reasons = configuration.reasons
    return "covers" in reasons["patch size"] or "data set" in reasons["batch size"]


def row(data: str, kind: str, gib: float, configuration: Configuration, real: int | None, predicted: int) -> str:
    """A line of the table."""
    patch = " x ".join(map(str, configuration.patch_size))
    use = configuration.expected_memory_bytes / GIBIBYTE / gib
    told = "predicted only" if real is None else f"{real / GIBIBYTE:.2f}"
    ratio = "" if real is None else f"{predicted / real:.3f}"
    limited = " (data)" if is_limited_by_data(configuration) else ""
    cells = [
        data,
        kind,
        f"{gib:g}",
        f"{patch}, {configuration.batch_size}",
        f"{configuration.expected_memory_bytes / GIBIBYTE:.2f}",
        f"{use:.0%}{limited}",
        f"{predicted / GIBIBYTE:.2f}",
        told,
        ratio,
    ]
    return f"| {' | '.join(cells)} |"


def gpu_table() -> None:
    """16-bit plans; a GPU measures what fits it, autograd alone traces the rest."""
    print(
        "| data set | network | GiB | patch, batch | planned for all, GiB | use | tensors predicted | traced | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    uses, ratios = [], []
    path = ExecutionPath(device="cpu", precision="bf16", channels_last=True)
    for data, kind, gib, each in planned("cuda", GPU_COST, BUDGETS):
        arguments = (each.network, each.patch_size, each.batch_size, each.training)
        predicted = training_bytes(*arguments, backend=GPU)
        traced = traced_training_bytes(*arguments, path, as_on_a_gpu=True)
        print(row(data, kind, gib, each, traced, predicted), flush=True)
        ratios.append(predicted / traced)
        if not is_limited_by_data(each):
            uses.append(each.expected_memory_bytes / GIBIBYTE / gib)
    print(f"\nuse where the data does not limit it: median {statistics.median(uses):.0%}, least {min(uses):.0%}")
    print(f"predicted / traced: {min(ratios):.3f} to {max(ratios):.3f}\n")


def cpu_table(budgets: tuple[float, ...]) -> None:
    """32-bit plans, each measured in a real step."""
    path = default_execution("cpu")
    backend = Backend(threads=path.threads)
    print(
        "| data set | network | GiB | patch, batch | planned for all, GiB | use | tensors predicted | measured | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    ratios = []
    for data, kind, gib, each in planned("cpu", CPU_COST, budgets):
        arguments = (each.network, each.patch_size, each.batch_size, each.training)
        predicted, real = training_bytes(*arguments, backend=backend), measured_training_bytes(*arguments, path)
        print(row(data, kind, gib, each, real, predicted), flush=True)
        ratios.append(predicted / real)
    print(f"\npredicted / measured: {min(ratios):.3f} to {max(ratios):.3f}\n")


def planning_time() -> None:
    """Seconds to plan all data sets, once per budget and network."""
    for kind, preset in PRESETS.items():
        for gib in BUDGETS:
            begin = time.perf_counter()
            for data in DATA:
                budget = Budget(memory_bytes=gib * GIBIBYTE, device="cuda")
                plugins.load("planner", preset)().plan(data_set(data), budget, GPU_COST, name="memory")
            print(f"planning all {len(DATA)} at {gib} GiB, {kind}: {time.perf_counter() - begin:.2f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--cpu", nargs="*", type=float, metavar="GIB")
    chosen = parser.parse_args()
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, load before {os.getloadavg()[0]:.1f}\n", flush=True)
    plugins.load("network", "plain_unet")
    planning_time()
    if chosen.gpu:
        gpu_table()
    if chosen.cpu is not None:
        cpu_table(tuple(chosen.cpu or (4.0,)))
