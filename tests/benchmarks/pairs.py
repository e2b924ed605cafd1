"""Paired timing: two ways of the same work in turn, so that the ratio holds while the machine's speed drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Median seconds of two ways, and the median of their ratios run by run."""

    what: str
    first: str
    second: str
    first_seconds: float
    second_seconds: float
    ratio: float

    def __str__(self) -> str:
        return (
            f"| {self.what} | {self.first} {self.first_seconds:.3g} s | {self.second} {self.second_seconds:.3g} s "
            f"| {self.ratio:.2f} |"
        )


def measure(
    what: str, first: tuple[str, Callable[[], object]], second: tuple[str, Callable[[], object]], runs: int = 5
) -> Pair:
    """Runs both once to warm up, then in turn; the ratio is first over second."""
    for _, work in (first, second):
        work()
    times: list[tuple[float, float]] = []
    for _ in range(runs):
        times.append((_seconds(first[1]), _seconds(second[1])))
    return Pair(
        what=what,
        first=first[0],
        second=second[0],
        first_seconds=statistics.median(one for one, _ in times),
        second_seconds=statistics.median(two for _, two in times),
        ratio=statistics.median(one / two for one, two in times),
    )


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
