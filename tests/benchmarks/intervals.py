"""How often bounds of each method miss the truth, for scores and for differences with rare failures.

``python -m tests.benchmarks.intervals`` prints the table of docs/explanation/selection.md; it takes minutes.
"""

from __future__ import annotations

import numpy as np

from autoseg.statistics import bootstrap_means, tail_bounds
from autoseg.values import IntervalMethod

METHODS: tuple[IntervalMethod, ...] = ("percentile", "expanded", "bca")


def dice(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Mostly around 0.9; in 6 % of cases a failure."""
    failures = random.random(shape) < 0.06
    return np.where(failures, 0.6 * random.random(shape), random.beta(18, 2, shape))


def regret(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Mostly within a point; in a tenth of cases one of the two fails, more often the second."""
    failures = random.random(shape) < 0.1
    signs = np.where(random.random(shape) < 0.7, 1, -1)
    return random.normal(0, 0.01, shape) + np.where(failures, signs * random.exponential(0.08, shape), 0)


def run(trials: int = 2000, draws: int = 2000) -> None:
    """Prints, per number of patients, how many lower and upper bounds at 5 % each miss the true mean, in percent."""
    random = np.random.default_rng(0)
    print(f"| scores | patients | {' | '.join(METHODS)} |\n|---|---|{'---|' * len(METHODS)}")
    for kind in (dice, regret):
        truth = kind(random, (4_000_000,)).mean()
        for patients in (5, 10, 20, 50, 200):
            missed = np.zeros((len(METHODS), 2))
            for values in kind(random, (trials, patients)):
                means = bootstrap_means(values[None, :, None], draws=draws, seed=int(random.integers(2**31)))
                for place, method in enumerate(METHODS):
                    bounds = tail_bounds(means, 0.05, method)
                    assert bounds is not None
                    missed[place] += (bounds[0] > truth, bounds[1] < truth)
            cells = " | ".join(f"{low:.1f}, {high:.1f}" for low, high in 100 * missed / trials)
            print(f"| {kind.__name__} | {patients} | {cells} |", flush=True)


if __name__ == "__main__":
    run()
