"""Where the work on many cases runs: one after another, in threads, or in worker processes (``autoseg.processes``).

One bad case costs one case. Where the memory that each case needs is known, only so many run at once as fit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from autoseg.admission import Admission
from autoseg.errors import TooLargeError
from autoseg.logs import Logger, SilentLogger
from autoseg.machine import Memory, machine_memory, processor_quota

__all__ = [
    "Executor",
    "Outcome",
    "SerialExecutor",
    "ThreadExecutor",
    "announce",
    "bounded",
    "name_of",
    "stage_of",
    "usable_cpus",
]

#: A cost from here on is only "more than there is".
MOST_BYTES = 2**60

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: a result, or the error that its work raised."""

    item: Item
    result: Result | None = None
    error: Exception | None = None


class Executor(Protocol):
    """Runs one task over many items."""

    def run(
        self, task: Callable[[Item], Result], items: Sequence[Item], *, costs: Sequence[int] | None = None
    ) -> Iterator[Outcome[Item, Result]]:
        """Yields one outcome per item, as each is done. An error of one item does not stop the others.

        Args:
            task: any callable; one that is also a ``Value`` can run in another process.
            items: what it is called with.
            costs: bytes that the work on each item needs, so that no more run at once than memory allows.
        """
        ...


def usable_cpus() -> int:
    """Processors that this process may use: those it is bound to, and no more than its control groups give time for."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = processor_quota()
    return bound if quota is None else max(1, min(bound, int(quota)))


def name_of(item: object) -> str:
    """What an item is called in messages: its id, if it has one."""
    return str(getattr(item, "id", item))


def stage_of(task: object) -> str:
    """What a task is called in messages: its stage, if it tells one."""
    return str(getattr(task, "stage", None) or getattr(task, "__name__", type(task).__name__))


def bounded(cost: float) -> int:
    """Bytes that can be counted with, however large or senseless the number is that a file's header led to."""
    return max(0, int(cost)) if cost < MOST_BYTES else MOST_BYTES


def announce(
    logger: Logger, stage: str, admission: Admission, workers: int, budget: int | None, *, needed: int | None = None
) -> None:
    """Tells how many of the largest cases will run at once, and why.

    Args:
        logger: that hears it.
        stage: what is done.
        admission: the cases.
        workers: that there may be.
        budget: bytes for all of them, if known.
        needed: workers that the work is worth, if that is known.
    """
    allowed, cpus = admission.at_once(), usable_cpus()
    at_once = max(1, min(allowed, workers, needed or workers))
    limits = [f"memory allows {allowed}"] if budget is not None and allowed < admission.waiting else []
    limits.append(f"processors {cpus}" if workers == cpus else f"workers {workers}")
    if needed is not None and needed < min(allowed, workers):
        limits.append("there is no work for more")
    logger.event(
        "cases_at_once",
        stage=stage,
        text=f"{at_once} {'case' if at_once == 1 else 'cases'} at once: {', '.join(limits)}",
        at_once=at_once,
        memory_allows=allowed,
        workers=workers,
        budget=budget,
    )


def _attempt(task: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item=item, result=task(item))
    except Exception as error:  # handed on with its item: the caller decides
        return Outcome(item=item, error=error)


class SerialExecutor:
    """One item after another, in order."""

    def run(
        self, task: Callable[[Item], Result], items: Sequence[Item], *, costs: Sequence[int] | None = None
    ) -> Iterator[Outcome[Item, Result]]:
        """Yields one outcome per item, in order; ``costs`` do not matter."""
        for item in items:
            yield _attempt(task, item)


class ThreadExecutor:
    """Several items at once in threads; the array work of NumPy, SciPy and SimpleITK mostly runs outside the GIL.

    Args:
        workers: threads; None for one per usable processor.
        logger: hears how many cases run at once.
        memory: tells the machine's memory.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        logger: Logger | None = None,
        memory: Callable[[], Memory | None] = machine_memory,
    ) -> None:
        self.workers = workers or usable_cpus()
        self.logger: Logger = logger or SilentLogger()
        self.memory = memory

    def run(
        self, task: Callable[[Item], Result], items: Sequence[Item], *, costs: Sequence[int] | None = None
    ) -> Iterator[Outcome[Item, Result]]:
        """Yields outcomes in the order in which they are done; at most ``2 * workers`` items wait at a time."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="autoseg")
        try:
            if costs is None:
                yield from self._freely(pool, task, items)
            else:
                yield from self._admitted(pool, task, items, costs)
        finally:  # on Ctrl-C: what has not begun does not begin
            pool.shutdown(wait=True, cancel_futures=True)

    def _freely(
        self, pool: ThreadPoolExecutor, task: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[Outcome[Item, Result]]:
        pending: set[Future[Outcome[Item, Result]]] = set()
        for item in items:
            if len(pending) >= 2 * self.workers:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
            pending.add(pool.submit(_attempt, task, item))
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)

    def _admitted(
        self, pool: ThreadPoolExecutor, task: Callable[[Item], Result], items: Sequence[Item], costs: Sequence[int]
    ) -> Iterator[Outcome[Item, Result]]:
        costs = [bounded(cost) for cost in costs]
        known = self.memory()
        budget = None if known is None else known.room
        admission = Admission(costs, budget)
        for index in admission.refused(None if known is None else known.whole):
            too_large = TooLargeError(name_of(items[index]), stage_of(task), costs[index], known.whole if known else 0)
            yield Outcome(item=items[index], error=too_large)
        if admission.waiting > 1:
            announce(self.logger, stage_of(task), admission, self.workers, budget, needed=admission.waiting)
        pending: dict[Future[Outcome[Item, Result]], int] = {}
        while pending or admission.waiting:
            while len(pending) < self.workers and (place := admission.next()) is not None:
                pending[pool.submit(_attempt, task, items[place])] = place
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                admission.finished(pending.pop(future))
            yield from (future.result() for future in done)
