"""Threads that make batches before they are wanted, and how many.

As many as keep the device busy, while there are processors and memory for them. Batches do not depend on it, so it may
change at any time; it begins with one.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from autoseg.errors import AutosegError
from autoseg.executors import usable_cpus
from autoseg.logs import Logger
from autoseg.machine import machine_memory
from autoseg.networks.memory import making_bytes
from autoseg.values import Configuration, ExecutionPath

__all__ = ["Crew", "most_threads", "prefetched", "seconds_to_make"]

T = TypeVar("T")
#: More threads are wanted if a larger share of the time is spent waiting.
MOST_WAITING = 0.05
#: Threads beyond those that would do if all batches took equally long.
RESERVE = 1.25
#: Batches after which the first decision is made; the others come after every epoch.
FIRST_DECISION = 10
#: Batches that wait while as many threads make others.
WAITING = 2
#: Of a GPU's machine: the training itself, and what brings batches to the GPU.
OTHER_THREADS = 2
#: Share of the machine's free memory that batches may take.
SHARE_OF_MEMORY = 0.5


def most_threads(configuration: Configuration, path: ExecutionPath, processes: int = 1) -> tuple[int, str]:
    """How many threads may make batches beside a training, at least one, and what limits them.

    Args:
        configuration: that is trained.
        path: how it runs; on a CPU its threads keep their processors.
        processes: of this training on this machine, which share its processors and memory.
    """
    cores = usable_cpus() // processes
    by_cores = cores - (path.threads if path.device == "cpu" else OTHER_THREADS)
    memory = machine_memory()
    each = making_bytes(configuration.network, configuration.patch_size, configuration.batch_size)
    by_memory = by_cores if memory is None else int(SHARE_OF_MEMORY * memory.room / processes / each) - WAITING
    limit = max(1, min(by_cores, by_memory))
    return limit, f"free memory allows {limit}" if by_memory < by_cores else f"{cores} processors allow {limit}"


def seconds_to_make(make: Callable[[int], object], share: float = 1.0) -> float:
    """Seconds that one thread takes to make a batch; the faster of two, as the first one opens files.

    Args:
        make: the batch of an iteration, or this process's part of it.
        share: of the batch that is made.
    """
    threads, times = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for iteration in range(2):
            begin = time.perf_counter()
            make(iteration)
            times.append(time.perf_counter() - begin)
    finally:
        torch.set_num_threads(threads)
    return min(times) / share


class Crew:
    """The threads that make batches.

    Args:
        most: there may be, and what limits them.
        epoch: batches after which their number is reconsidered.
        logger: hears when it changes.
        clock: gives seconds.

    Attributes:
        workers: how many work at once.
        limit: the largest number.
    """

    def __init__(
        self, most: tuple[int, str], epoch: int, logger: Logger, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.workers, (self.limit, self._why) = 1, most
        self._epoch, self._logger, self._clock = epoch, logger, clock
        self._turns = threading.Semaphore(self.workers)
        self._making: deque[float] = deque(maxlen=epoch)
        self._count = 0
        self._computing: list[float] = []
        self._waiting: list[float] = []

    @property
    def ahead(self) -> int:
        """Batches that are being made, or wait, at most."""
        return self.workers + WAITING

    def make(self, work: Callable[[int], T], iteration: int) -> T:
        """The batch of an iteration, when it is its thread's turn."""
        with self._turns:
            begin = self._clock()
            made = work(iteration)
            self._making.append(self._clock() - begin)
            return made

    def hear(self, seconds: float, waited: float) -> None:
        """Hears, after every batch, the seconds since the batch before, and how many of them were spent waiting."""
        self._computing.append(seconds - waited)
        self._waiting.append(waited)
        self._count += 1
        if self._count == FIRST_DECISION or self._count % self._epoch == 0:
            self._reconsider()
            self._computing, self._waiting = [], []

    def _reconsider(self) -> None:
        # medians, so that neither compiling nor what is done between epochs counts
        computing, making = statistics.median(self._computing), statistics.median(self._making or [0.0])
        waiting = statistics.fmean(self._waiting)
        share = waiting / max(waiting + computing, 1e-9)
        if share <= MOST_WAITING or self.workers == self.limit:
            return
        needed = math.ceil(min(RESERVE * making / max(computing, 1e-9), self.limit))
        workers = min(self.limit, max(needed, self.workers + 1))
        self._turns.release(workers - self.workers)
        self.workers = workers
        text = f"{workers} threads make batches from here on: a batch takes {making:.2g} s, an iteration {computing:.2g} s, "
        text += f"and {share:.0%} of the time was spent waiting ({self._why})"
        self._logger.event("message", text=text, workers=workers, limit=self.limit)


def prefetched(
    make: Callable[[int], T], first: int, last: int, *, ahead: int = 3, workers: int = 1, crew: Crew | None = None
) -> Generator[T]:
    """The batches of iterations ``first`` to ``last - 1``, in order, made in threads before they are wanted.

    Args:
        make: gives the batch of an iteration, or what becomes one, such as ``PatchLoader.prepare``.
        first: iteration.
        last: the iteration after the last one.
        ahead: how many are made or waiting at most.
        workers: threads; torch works in each of them with one thread, so that they take nothing from the training's.
        crew: decides over both instead.

    Raises:
        AutosegError: making a batch raised it; where that batch is wanted.
    """
    threads, iterations, pending = torch.get_num_threads(), iter(range(first, last)), deque[Future[T]]()
    workers = workers if crew is None else crew.limit
    begun = threading.Barrier(workers + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        begun.wait()

    def submit(pool: ThreadPoolExecutor) -> None:
        room = (ahead if crew is None else crew.ahead) - len(pending)
        for iteration in itertools.islice(iterations, max(0, room)):
            pending.append(pool.submit(make, iteration) if crew is None else pool.submit(crew.make, make, iteration))

    with _ended(ThreadPoolExecutor(workers, thread_name_prefix="autoseg-batches")) as pool:
        for _ in range(workers):
            pool.submit(begin)
        begun.wait()
        torch.set_num_threads(threads)  # the number is kept for each thread, and for those to come
        submit(pool)
        while pending:
            try:
                batch = pending.popleft().result()
            except AutosegError:
                raise
            except Exception as error:
                raise RuntimeError("making a training batch failed") from error
            submit(pool)
            yield batch


@contextlib.contextmanager
def _ended(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """Ends the threads afterwards; what has not begun is dropped."""
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
