"""ProcessExecutor: every case in a worker process, so that whatever happens to one costs that case, named, and no other.

Workers are kept from case to case and from run to run. Which cases run together is decided by what memory they need. A
worker that dies is noticed by the end of its pipe. A case whose worker was killed because memory ran out, as it seems, is
tried again a few times, one whose worker crashed once; alone both times. Then it fails, by name. A kill while memory was
plenty says nothing about the case: it is tried again among the others, very often.
"""

from __future__ import annotations

import math
import queue
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from autoseg.admission import Admission
from autoseg.errors import AutosegError, TooLargeError
from autoseg.executors import Outcome, announce, bounded, name_of, stage_of, usable_cpus
from autoseg.logs import Logger, SilentLogger
from autoseg.machine import Memory, machine_memory
from autoseg.processes.child import Child, Ended, Inbox, Limits
from autoseg.processes.losses import FALSE_STARTS, RETRIES, TOGETHER, case_lost, not_started
from autoseg.processes.wire import Begin, Done, Ready, Work, encoded, rebuilt, task_name, types_of
from autoseg.values.json_form import decode

__all__ = ["ProcessExecutor"]

Item = TypeVar("Item")
Result = TypeVar("Result")

#: What a worker holds before any case: Python, NumPy, SciPy and an image library.
WORKER_BYTES = 160 * 2**20
#: One more worker pays from so many bytes that its cases need in all: starting one takes a second.
WORK_PER_WORKER = 256 * 2**20
#: Cases below this size are handed out two at a time, so that a worker never waits for the next.
SMALL_BYTES = 64 * 2**20
#: An item may take so much more than predicted before it is taken for a runaway; alone, all that there is.
MEMORY_FACTOR, MEMORY_SLACK = 1.5, 256 * 2**20
#: Seconds that an item may take, and more for every so many bytes of its cost.
SECONDS, BYTES_PER_SECOND = 900.0, 2**20
#: How often workers are looked at, how often the machine; how long a worker may idle.
WATCH_SECONDS, ROOM_SECONDS, IDLE_SECONDS = 0.1, 0.5, 60.0


class ProcessExecutor:
    """Several items at once, each in a process of its own.

    A task must be a ``Value`` whose ``__call__`` states the types of its item and its result.

    Args:
        workers: processes at most; None for one per usable processor.
        logger: hears how many cases run at once, and of every lost worker.
        memory: tells the machine's memory.
        preload: modules that a worker imports before it is asked to.
        warm: workers to start at once.
        seconds: that an item may take at least; the larger, the more.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        logger: Logger | None = None,
        memory: Callable[[], Memory | None] = machine_memory,
        preload: Sequence[str] = (),
        warm: int = 0,
        seconds: float = SECONDS,
    ) -> None:
        self.workers = workers or usable_cpus()
        self.logger: Logger = logger or SilentLogger()
        self.memory, self.seconds = memory, seconds
        self._preload = tuple(preload)
        self._children: list[Child] = []
        self._idle: list[Child] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None
        self._end = weakref.finalize(self, _end_all, self._children, self._lock, self._closed)
        for _ in range(min(warm, self.workers)):
            self.give_back(self.take(queue.SimpleQueue()))

    def __enter__(self) -> ProcessExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers, whatever they do."""
        self._end()

    def run(
        self, task: Callable[[Item], Result], items: Sequence[Item], *, costs: Sequence[int] | None = None
    ) -> Iterator[Outcome[Item, Result]]:
        """Yields one outcome per item, as each is done.

        Args:
            task: a ``Value``.
            items: what it is done on; values, too, or what JSON knows.
            costs: bytes that the work on each item needs beside the worker itself; None if nobody knows.

        Raises:
            TypeError: the task cannot go to another process.
            AutosegError: workers cannot be started.
        """
        run = _Run(self, task, list(items), costs)
        try:
            yield from run.outcomes()
        finally:
            run.close()

    def take(self, inbox: Inbox) -> Child:
        """A worker that has nothing in hand: one that is there, or a new one."""
        while (idle := self._pop_idle()) is not None:
            if idle.adopt(inbox):
                return idle
            self.lost(idle)
        with self._lock:
            if self._closed.is_set():
                raise AutosegError("the executor is closed")
            child = Child(max(1, usable_cpus() // self.workers), self._preload, inbox)
            self._children.append(child)
        if self._watcher is None:
            this = weakref.ref(self)
            self._watcher = threading.Thread(target=_watch, args=(this, self._closed), daemon=True)
            self._watcher.start()
        return child

    def _pop_idle(self) -> Child | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def give_back(self, child: Child) -> None:
        """The worker has nothing in hand any more."""
        with self._lock:
            child.idle_since = time.monotonic()
            self._idle.append(child)

    def lost(self, child: Child) -> None:
        """The worker is dead or to be ended."""
        with self._lock:
            if child in self._children:
                self._children.remove(child)
        child.end()

    def look(self) -> None:
        """Looks at every worker once; ends those that take too much, and those that nobody needs."""
        with self._lock:
            children = list(self._children)
            unused = [child for child in self._idle if time.monotonic() - child.idle_since > IDLE_SECONDS]
            for child in unused:
                self._idle.remove(child)
        for child in unused:
            self.lost(child)
        for child in children:
            child.watch()


def _watch(executor: weakref.ref[ProcessExecutor], closed: threading.Event) -> None:
    while not closed.wait(WATCH_SECONDS):
        this = executor()
        if this is None:
            return
        this.look()
        del this


def _end_all(children: list[Child], lock: threading.Lock, closed: threading.Event) -> None:
    closed.set()
    with lock:
        taken = list(children)
        children.clear()
    for child in taken:  # all of them first, so that they end at the same time
        child.process.kill()
    for child in taken:
        child.end()


def _explained(cost: int) -> int:
    """Bytes up to which a worker is no runaway."""
    return int(MEMORY_FACTOR * (cost or WORKER_BYTES)) + MEMORY_SLACK


class _Run:
    """One task on its items."""

    def __init__(
        self, executor: ProcessExecutor, task: Callable[[Any], Any], items: list[Any], costs: Sequence[int] | None
    ) -> None:
        self.executor, self.task, self.items = executor, task, items
        self.begin = Begin(name=task_name(task), task=encoded(task, stage_of(task)))
        _, self.result = types_of(task)
        self.stage = stage_of(task)
        self.known = executor.memory()
        self.budget = None if self.known is None else self.known.room
        self.priced = costs is not None
        if costs is None:
            self.admission = Admission([0] * len(items), None)
            self.worth = len(items)
            most = len(items) if self.budget is None else self.budget // WORKER_BYTES
        else:
            costs = [bounded(cost) for cost in costs]
            self.admission = Admission([WORKER_BYTES + cost for cost in costs], self.budget)
            self.worth = max(1, min(len(items), math.ceil(sum(costs) / WORK_PER_WORKER)))
            most = self.admission.at_once(smallest=True)
        self.workers = max(1, min(executor.workers, self.worth, most))
        self.inbox: Inbox = queue.SimpleQueue()
        self.children: list[Child] = []
        self.left = len(items)
        self.failures: Counter[tuple[int, str]] = Counter()
        self.false_starts: Counter[str] = Counter()
        self._unsent: list[Outcome[Any, Any]] = []
        self._room, self._asked = self.budget, time.monotonic()

    def outcomes(self) -> Iterator[Outcome[Any, Any]]:
        """All outcomes, as they come."""
        whole = None if self.known is None else self.known.whole
        for index in self.admission.refused(whole):
            self.left -= 1
            error = TooLargeError(name_of(self.items[index]), self.stage, self.admission.cost(index), whole or 0)
            yield Outcome(item=self.items[index], error=error)
        if self.priced and self.left > 1:
            self._announce()
        while self.left:
            self._hand_out()
            while self._unsent:
                self.left -= 1
                yield self._unsent.pop()
            if not self.left:
                return
            try:
                child, message = self.inbox.get(timeout=ROOM_SECONDS)
            except queue.Empty:
                continue
            outcome = self._heard(child, message)
            if outcome is not None:
                self.left -= 1
                yield outcome

    def _announce(self) -> None:
        wished, told = self.executor.workers, self.executor.logger
        announce(told, self.stage, self.admission, wished, self.budget, needed=self.worth)

    def close(self) -> None:
        """Workers that still have something in hand, or load the task, are ended; the others are kept."""
        for child in self.children:
            if child.in_hand or not child.ready:  # what it answers yet is no answer to the next run
                self.executor.lost(child)
            else:
                self.executor.give_back(child)
        self.children.clear()

    def _hand_out(self) -> None:
        """Starts all that may start now."""
        while self.admission.may_start(self._room_now()):
            self._grow()
            child = self._free()
            if child is None:
                return
            index = self.admission.next(self._room_now())
            assert index is not None
            self._give(child, index)

    def _grow(self) -> None:
        """As many workers as there is work for."""
        starting = sum(not child.ready or not child.in_hand for child in self.children)
        for _ in range(min(self.workers - len(self.children), self.admission.waiting - starting)):
            child = self.executor.take(self.inbox)
            self.children.append(child)
            child.begin(self.begin)

    def _free(self) -> Child | None:
        """A worker with nothing in hand; else one with a single small item, so that it does not wait for the next."""
        able = [child for child in self.children if child.ready]
        for child in able:
            if not child.in_hand:
                return child
        for child in able if self.priced else ():
            if len(child.in_hand) == 1 and self.admission.cost(child.in_hand[0]) < WORKER_BYTES + SMALL_BYTES:
                return child
        return None

    def _give(self, child: Child, index: int) -> None:
        item = self.items[index]
        try:
            work = Work(index=index, item=encoded(item, name_of(item)))
        except AutosegError as error:
            self.admission.finished(index)
            self._unsent.append(Outcome(item=item, error=error))
            return
        cost, allowed = self.admission.cost(index), self.budget
        if allowed is not None:
            explained = _explained(cost)
            free = not self.priced or self.failures[index, "memory"]
            allowed = max(allowed, explained) if free else explained
        limits = Limits(seconds=self.executor.seconds + cost / BYTES_PER_SECOND, memory=allowed)
        child.give(work, limits)

    def _room_now(self) -> int | None:
        """Bytes for all workers at work, as other programs leave it now."""
        if time.monotonic() - self._asked > ROOM_SECONDS:
            known, self._asked = self.executor.memory(), time.monotonic()
            own = sum(child.memory for child in self.children if child.in_hand)
            self._room = None if known is None else known.room + own
        return self._room

    def _heard(self, child: Child, message: Ready | Done | None) -> Outcome[Any, Any] | None:
        if child not in self.children:
            return None
        if isinstance(message, Ready):
            if message.error is not None:
                raise rebuilt(message.error)
            self.false_starts.clear()
            return None
        if isinstance(message, Done):
            child.done(message.index, message.peak)
            self.admission.finished(message.index)
            return self._outcome(message)
        return self._mourned(child)

    def _outcome(self, done: Done) -> Outcome[Any, Any]:
        item = self.items[done.index]
        if done.error is not None:
            return Outcome(item=item, error=rebuilt(done.error))
        try:
            return Outcome(item=item, result=decode(self.result, bytes(done.result)))
        except AutosegError as error:
            return Outcome(item=item, error=error)

    def _mourned(self, child: Child) -> Outcome[Any, Any] | None:
        """A worker has died: who is to blame, and what is tried again."""
        ended, hand = child.ended(), list(child.in_hand)
        self.children.remove(child)
        self.executor.lost(child)
        blamed = hand.pop(0) if hand else None
        for index in reversed(hand):
            self.admission.again(index)
        if blamed is None:
            if not child.ready:
                self._false_start(ended)
            return None
        return self._blame(blamed, child, ended)

    def _blame(self, blamed: int, child: Child, ended: Ended) -> Outcome[Any, Any] | None:
        """The item is tried again, or has failed."""
        way = "outside" if ended.reason == "killed" and self._plenty(blamed, child.memory) else ended.reason
        self.failures[blamed, way] += 1
        error = case_lost(name_of(self.items[blamed]), self.stage, ended, way, self.admission.cost(blamed))
        if self.failures[blamed, way] > RETRIES[way]:
            self.admission.finished(blamed)
            return Outcome(item=self.items[blamed], error=error)
        alone = way != "outside" or self.failures[blamed, way] > TOGETHER
        self.admission.again(blamed, alone=alone)
        self.executor.logger.event(
            "worker_lost",
            **{"case": error.case, "stage": self.stage, "signal": ended.signal, "memory": ended.peak},
            text=f"{error.what}; the case is tried again{', alone' if alone else ''}",
        )
        return None

    def _plenty(self, index: int, held: int) -> bool:
        """Whether the system had no reason to kill a worker: it held no more than foreseen, and that would fit again.

        Had memory run out, then all that is free now would be what the worker held, less the tenth that is never used.
        """
        known = self.executor.memory()
        share = self.admission.cost(index) or _explained(0)
        return known is not None and 0 < held <= share <= known.room

    def _false_start(self, ended: Ended) -> None:
        self.false_starts[ended.reason] += 1
        if self.false_starts[ended.reason] >= FALSE_STARTS[ended.reason]:
            raise not_started(ended)
