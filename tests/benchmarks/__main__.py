"""``make bench``: runs the benchmarks and prints a table of ratios. Absolute times mean little on shared machines."""

from __future__ import annotations

import os
import platform

import torch

from tests.benchmarks import batches, cache, evaluation, resampling, training_step

if __name__ == "__main__":
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, load before {load:.1f}")
    print(f"CPU capability {torch.backends.cpu.get_cpu_capability()}\n")
    print("| what | first | second | first / second |\n|---|---|---|---|")
    for module in (resampling, cache, evaluation, batches, training_step):
        for pair in module.run():
            print(pair, flush=True)
