"""Scoring a large case: 512 x 512 x 300 voxels, 14 labels; Dice, HD95, ASSD and NSD.

Also run alone: ``python -m tests.benchmarks.evaluation`` tells seconds, processor seconds and memory.
"""

from __future__ import annotations

import os
import statistics
import time
import tracemalloc
from collections.abc import Iterator

import numpy as np

from autoseg.evaluation.measure import label_scores
from autoseg.values import Geometry, Label, Labels, LabelScore, Measuring
from tests.benchmarks.pairs import Pair, measure

GEOMETRY = Geometry(shape=(300, 512, 512), spacing=(1.5, 0.8, 0.8))
#: Centres and half axes as parts of the image: organs of an abdomen, from the aorta to the adrenal glands.
ORGANS = (
    ((0.55, 0.45, 0.30), (0.13, 0.16, 0.17)),
    ((0.55, 0.50, 0.72), (0.09, 0.09, 0.08)),
    ((0.45, 0.60, 0.30), (0.10, 0.06, 0.06)),
    ((0.45, 0.60, 0.70), (0.10, 0.06, 0.06)),
    ((0.50, 0.35, 0.62), (0.12, 0.10, 0.10)),
    ((0.50, 0.40, 0.42), (0.05, 0.04, 0.04)),
    ((0.50, 0.55, 0.50), (0.45, 0.03, 0.03)),
    ((0.50, 0.52, 0.45), (0.40, 0.03, 0.03)),
    ((0.50, 0.45, 0.55), (0.05, 0.03, 0.12)),
    ((0.60, 0.55, 0.40), (0.03, 0.02, 0.02)),
    ((0.60, 0.55, 0.60), (0.03, 0.02, 0.02)),
    ((0.42, 0.42, 0.50), (0.06, 0.05, 0.08)),
    ((0.80, 0.40, 0.50), (0.12, 0.13, 0.14)),
    ((0.15, 0.45, 0.50), (0.10, 0.10, 0.10)),
)
LABELS = Labels(foreground=tuple(Label(name=f"organ {index}", values=(index,)) for index in range(1, len(ORGANS) + 1)))
ASKED = Measuring(metrics=("hd95", "assd", "nsd"))


def abdomen(*, displaced: float, seed: int = 0) -> np.ndarray:
    """A label map; every organ is displaced and stretched by chance, by so many voxels and times three percent."""
    random = np.random.default_rng(seed)
    labels = np.zeros(GEOMETRY.shape, np.uint8)
    for label, (middle, half) in enumerate(ORGANS, start=1):
        centre = np.array(middle) * GEOMETRY.shape + random.normal(0, 2, 3) * displaced
        radius = np.array(half) * GEOMETRY.shape * (1 + random.normal(0, 0.03, 3) * displaced)
        low = np.maximum(0, centre - 1.2 * radius).astype(int)
        high = np.minimum(GEOMETRY.shape, centre + 1.2 * radius + 1).astype(int)
        axes = [
            ((np.arange(first, last) - at) / by).astype(np.float32)
            for first, last, at, by in zip(low, high, centre, radius, strict=True)
        ]
        waves = [0.08 * np.sin(9 * axis + random.uniform(0, 6)) for axis in axes]
        inside = sum(np.meshgrid(*(axis**2 - wave for axis, wave in zip(axes, waves, strict=True)), indexing="ij")) < 1
        labels[tuple(slice(first, last) for first, last in zip(low, high, strict=True))][inside] = label
    return labels


def score(
    reference: np.ndarray, prediction: np.ndarray, threads: int, asked: Measuring = ASKED
) -> dict[str, LabelScore]:
    """What is timed."""
    return label_scores(reference, prediction, LABELS, GEOMETRY, asked, threads=threads)


def run() -> Iterator[Pair]:
    """One thread against two."""
    reference, prediction = abdomen(displaced=0), abdomen(displaced=1)
    yield measure(
        "Dice, HD95, ASSD and NSD of 14 labels, 512 x 512 x 300",
        ("one thread", lambda: score(reference, prediction, 1)),
        ("two threads", lambda: score(reference, prediction, 2)),
        runs=3,
    )


def main() -> None:
    """Seconds by the clock and of the processor, for a good and a poor prediction; memory beside the label maps."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    reference = abdomen(displaced=0)
    score(reference, reference, threads)
    for name, displaced in (("good", 1.0), ("poor", 6.0)):
        prediction = abdomen(displaced=displaced)
        for what, asked in (("HD95, ASSD, NSD", ASKED), ("all metrics", Measuring())):
            clock, processor = [], []
            for _ in range(3):
                begin, busy = time.perf_counter(), time.process_time()
                scores = score(reference, prediction, threads, asked)
                clock.append(time.perf_counter() - begin)
                processor.append(time.process_time() - busy)
            tracemalloc.start()
            score(reference, prediction, threads, asked)
            peak = tracemalloc.get_traced_memory()[1] / 2**20
            tracemalloc.stop()
            dice = statistics.fmean(each.dice or 0 for each in scores.values())
            print(
                f"{name} (Dice {dice:.3f}), {what}, {threads} threads: {statistics.median(clock):.2f} s, "
                f"processor {statistics.median(processor):.2f} s, {peak:.0f} MiB"
            )


if __name__ == "__main__":
    main()
