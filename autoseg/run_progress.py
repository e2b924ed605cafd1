"""How far a run is: what its jobs took, how long the rest will take, and one line for all of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoseg.errors import DocumentError
from autoseg.files import read_document, write_document
from autoseg.jobs import Job, makespan
from autoseg.logs import Logger
from autoseg.status_stage import last_iterations
from autoseg.values.json_form import Value

__all__ = ["RunProgress", "RunRecord", "read_record"]

#: Seconds between two writings of the record, and between two looks at the log.
KEPT_SECONDS, LOOK_SECONDS = 10.0, 5.0


class RunRecord(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.run/2"):
    """What runs of a plan have taken so far, over all their starts.

    Attributes:
        seconds: what was wished for, to the time that runs for it took; of a run that has come to its end it is forgotten.
        jobs: name of a training that was worked on to its seconds.
    """

    seconds: dict[str, float] = {}
    jobs: dict[str, float] = {}


def read_record(path: Path) -> RunRecord:
    """The record; an empty one if there is none, or a damaged one: it only serves estimates."""
    if path.is_file():
        try:
            return read_document(RunRecord, path)
        except DocumentError:
            pass
    return RunRecord()


class RunProgress:
    """Listens to the jobs of a run, and tells how far all of it is.

    Args:
        jobs: all of them, in order.
        costs: of each training at its planned length, in one unit for all.
        lanes: how many run at once.
        path: of the record.
        wish: what the run is for, in words; time that was spent on another wish does not count.
        log: of trainings in processes of their own.
        logger: hears everything, and the progress of the run in place of that of a training.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        costs: Mapping[str, float],
        lanes: int,
        path: Path,
        wish: str,
        log: Path,
        logger: Logger,
    ) -> None:
        self.jobs, self.costs, self.lanes, self.path, self.log, self.logger = jobs, costs, lanes, path, log, logger
        before, self._begun, self.wish, self._over = read_record(path), time.monotonic(), wish, False
        self._before = before.seconds.get(wish, 0.0)
        self._took: dict[str, float] = dict(before.jobs)
        self._own: set[str] = set()
        self._done: set[str] = set()
        self._running: dict[str, float] = {}
        self._left: dict[str, float] = {}
        self._hours: dict[str, float] = {}
        self._expected: dict[str, float] = {}
        self._kept, self._looked = 0.0, 0.0

    def event(self, kind: str, **fields: Any) -> None:
        """Hands an event on; the progress of a training becomes that of the run."""
        name = f"train {fields.get('configuration')} {fields.get('fold')}"
        if kind == "progress" and name in self._running:
            self.tell(f"{name}: {fields['stage']} {int(fields['done'])} of {fields['total']}", fields)
            return
        if kind == "expected" and fields["seconds"] is not None:
            self._expected[str(fields["configuration"])] = fields["seconds"] / fields["folds"]
        if kind == "iterations" and name in self._running:
            self._note_left(name, fields)
        self.logger.event(kind, **fields)

    def close(self) -> None:
        """Closes the logger."""
        self.logger.close()

    def began(self, job: Job, hours: float | None) -> None:
        """A training begins or goes on, for so many hours if that is how its length is given."""
        self._running[job.name] = time.monotonic()
        if hours is not None:
            self._hours[job.name] = hours
        self.logger.event("message", text=f"{job.name} begins", job=job.name, hours=hours)
        self.tell(job.name)

    def ended(self, job: Job, *, done: bool, seconds: float | None = None) -> None:
        """A job is done, here or before, or has stopped; ``seconds`` are those that it took now."""
        self._running.pop(job.name, None)
        self._left.pop(job.name, None)
        if seconds is not None and job.kind == "train":
            self._took[job.name] = self._took.get(job.name, 0.0) + seconds
            self._own.add(job.name)
        if done:
            self._done.add(job.name)
        self.keep()
        self.tell(f"{job.name} {'is done' if done else 'has stopped'}")

    def seconds(self) -> float:
        """That the run has taken, over all starts with the same wish."""
        return self._before + time.monotonic() - self._begun

    def over(self) -> None:
        """The run has come to its end: the same wish begins anew."""
        self._over = True
        self.keep()

    def keep(self) -> None:
        """Adds what was taken so far to what others may have written; that it cannot be written ends nothing."""
        self._kept = time.monotonic()
        try:
            there, now = read_record(self.path), time.monotonic()
            # what runs counts, too: this process may be killed
            running = {name: self._took.get(name, 0.0) + now - begun for name, begun in self._running.items()}
            own = {name: self._took[name] for name in self._own if name in self._took}
            jobs = {**self._took, **there.jobs, **own, **running}
            seconds = {wish: taken for wish, taken in there.seconds.items() if wish != self.wish}
            if not self._over:
                seconds[self.wish] = max(self.seconds(), there.seconds.get(self.wish, 0.0))
            write_document(self.path, RunRecord(seconds=dict(sorted(seconds.items())), jobs=dict(sorted(jobs.items()))))
        except OSError as error:
            self.logger.event("message", text=f"warning: {self.path} could not be written: {error.strerror or error}")

    def look(self) -> None:
        """Tells how far the trainings are that run in processes of their own, by their log."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        told = []
        for job in self.jobs:
            if job.name in self._running:
                fields = last_iterations([self.log], job.configuration, job.fold)
                self._note_left(job.name, fields)
                of = f" of {fields['of']}" if fields.get("of") else ""
                told.append(f"{job.name}: iteration {fields['iteration']}{of}" if fields else job.name)
        self.tell("; ".join(told))

    def tell(self, detail: str, fields: Mapping[str, Any] | None = None) -> None:
        """Hands on the progress of the run.

        Args:
            detail: what is done now.
            fields: of a training's own progress, whose part of a job counts.
        """
        if time.monotonic() - self._kept > KEPT_SECONDS:
            self.keep()
        part = 0.0
        if fields is not None and fields["total"]:
            part = min(0.99, float(fields["done"]) / float(fields["total"]))
        left = self.seconds_left()
        self.logger.event(
            "progress",
            stage="run",
            done=len(self._done) + part,
            total=len(self.jobs),
            detail=detail,
            seconds_left=left,
        )

    def left_of(self, job: Job, hours: float | None) -> float:
        """Seconds that a training still takes that has begun, with the hours that it was given; 0 where nothing is known."""
        if hours is None:
            return self._estimate(job) or 0.0
        return max(0.0, 3600 * hours - self._spent(job))

    def seconds_left(self) -> float | None:
        """Until all is done; None while that cannot be told."""
        waiting = [job for job in self.jobs if job.kind == "train" and job.name not in self._done]
        estimates = {job.name: self._estimate(job) for job in waiting}
        known = {name: seconds for name, seconds in estimates.items() if seconds is not None}
        return makespan(waiting, known, self.lanes) if len(known) == len(estimates) else None

    def _estimate(self, job: Job) -> float | None:
        """Seconds that a training still takes: as it tells itself, by those that are done, or as it was announced."""
        if job.name in self._left:
            return self._left[job.name]
        whole: float | None = None
        if job.name in self._hours:
            whole = 3600 * self._hours[job.name]
        else:
            alike = [each for each in self.jobs if each.name in self._done and each.configuration == job.configuration]
            measured = [self._took[each.name] for each in alike if each.name in self._took]
            if measured:
                whole = sum(measured) / len(measured)
            elif job.configuration in self._expected:
                whole = self._expected[job.configuration]
            else:
                whole = self._by_others(job)
        return None if whole is None else max(0.0, whole - self._spent(job))

    def _spent(self, job: Job) -> float:
        now = time.monotonic() - self._running[job.name] if job.name in self._running else 0.0
        return self._took.get(job.name, 0.0) + now

    def _by_others(self, job: Job) -> float | None:
        """In the ratio of the costs, from any training whose time is known."""
        for each in self.jobs:
            took = self._took.get(each.name) if each.name in self._done else self._expected.get(each.configuration)
            if took is not None and each.kind == "train":
                return took * self.costs[job.name] / self.costs[each.name]
        return None

    def _note_left(self, name: str, fields: Mapping[str, Any]) -> None:
        if fields.get("seconds_left") is not None:
            self._left[name] = float(fields["seconds_left"])
