"""Where the work on many cases runs: one after another, or in threads. One bad case costs one case."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

__all__ = ["Executor", "Outcome", "SerialExecutor", "ThreadExecutor", "usable_cpus"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: a result, or the error that its work raised."""

    item: Item
    result: Result | None = None
    error: Exception | None = None


class Executor(Protocol):
    """Runs one function over many items."""

    def run(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Outcome[Item, Result]]:
        """Yields one outcome per item, as each is done. An error of one item does not stop the others."""
        ...


def usable_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _attempt(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item=item, result=function(item))
    except Exception as error:  # handed on with its item: the caller decides
        return Outcome(item=item, error=error)


class SerialExecutor:
    """One item after another, in order."""

    def run(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Outcome[Item, Result]]:
        """Yields one outcome per item, in order."""
        for item in items:
            yield _attempt(function, item)


class ThreadExecutor:
    """Several items at once in threads; the array work of NumPy, SciPy and SimpleITK mostly runs outside the GIL.

    Args:
        workers: threads; None for one per usable processor.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or usable_cpus()

    def run(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Outcome[Item, Result]]:
        """Yields outcomes in the order in which they are done; at most ``2 * workers`` items wait at a time."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="autoseg")
        pending: set[Future[Outcome[Item, Result]]] = set()
        try:
            for item in items:
                if len(pending) >= 2 * self.workers:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
                pending.add(pool.submit(_attempt, function, item))
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:  # on Ctrl-C: what has not begun does not begin
            pool.shutdown(wait=True, cancel_futures=True)
