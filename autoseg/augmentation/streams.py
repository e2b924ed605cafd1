"""Random streams: every sample of every iteration has its own, derived from the one seed of the plan."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator

import numpy as np

__all__ = ["TRAINING", "VALIDATION", "global_state", "stream"]

#: First part of a key: what the stream is for.
TRAINING, VALIDATION = 0, 1

_one_at_a_time = threading.Lock()


def stream(seed: int, *key: int) -> np.random.Generator:
    """The generator of a key such as (purpose, iteration, sample): independent of all others, the same in every run."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


@contextlib.contextmanager
def global_state(generator: np.random.Generator) -> Iterator[None]:
    """Runs code that draws from NumPy's and Python's global state under a state from ``generator``; restored afterwards.

    One thread at a time: the global state is shared.
    """
    seed = int(generator.integers(2**32))
    with _one_at_a_time:
        numpy_state, python_state = np.random.get_state(), random.getstate()
        try:
            np.random.seed(seed)
            random.seed(seed)
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
