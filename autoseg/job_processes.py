"""Who does the trainings of a run: this process, one after the other, or processes of their own, each pinned to a place.

The unit of work is one command: ``autoseg train CONFIGURATION FOLD -w WORKSPACE …``. It can be repeated at any time, and who
else does the same at the same time is kept out by the fold's lease, so that nothing here has to be remembered.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from autoseg import pipeline
from autoseg.errors import AutosegError, HeldError, InputError, InterruptedRunError
from autoseg.executors import usable_cpus
from autoseg.jobs import Job
from autoseg.logs import Logger, WithFields, reported
from autoseg.workspace import Workspace

__all__ = ["Ended", "JobRunner", "Place", "Processes", "ThisProcess", "TrainOptions", "cpu_places", "gpu_places"]

INTERRUPTED = InterruptedRunError.exit_code
LOOK_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What every training of a run is told; ``hours`` those of one training."""

    plan_name: str
    device: str = "auto"
    epochs: int | None = None
    iterations: int | None = None
    hours: float | None = None

    def command(self, job: Job, workspace: Path) -> list[str]:
        """What would be typed, without the program's name."""
        lengths = {"--epochs": self.epochs, "--iterations": self.iterations, "--hours": self.hours}
        given = [part for name, length in lengths.items() if length is not None for part in (name, f"{length}")]
        place = ["-w", str(workspace), "--plan", self.plan_name, "--device", self.device]
        return ["train", job.configuration, job.fold, *place, *given]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job ended: done if neither an error nor interrupted; ``held``: another process was there before."""

    job: Job
    seconds: float
    error: str = ""
    interrupted: bool = False
    held: bool = False


class JobRunner(Protocol):
    """Does trainings, so many at once."""

    lanes: int

    def free(self) -> bool:
        """Whether another job can be started."""
        ...

    def start(self, job: Job, options: TrainOptions) -> None:
        """Begins a job."""
        ...

    def ended(self) -> list[Ended]:
        """Waits a moment; the jobs that have ended since the last call."""
        ...

    def stop(self) -> None:
        """Asks all jobs to save and stop; they are still waited for."""
        ...


class ThisProcess:
    """Trains here, one job after the other; ``start`` returns when the job has ended.

    Args:
        workspace: of the trainings.
        logger: hears their events.
        stop: asked often; True saves and stops.
    """

    lanes = 1

    def __init__(self, workspace: Workspace, logger: Logger, stop: Callable[[], bool]) -> None:
        self.workspace, self.logger, self._stop = workspace, logger, stop
        self._ended: list[Ended] = []

    def free(self) -> bool:
        """See ``JobRunner``."""
        return not self._ended

    def start(self, job: Job, options: TrainOptions) -> None:
        """See ``JobRunner``; whatever error ends the job costs that job only."""
        begun, error, interrupted, held = time.monotonic(), "", False, False
        try:
            pipeline.train(
                self.workspace,
                job.configuration,
                job.fold,
                plan_name=options.plan_name,
                epochs=options.epochs,
                iterations=options.iterations,
                hours=options.hours,
                device=options.device,
                logger=WithFields(self.logger, configuration=job.configuration, fold=job.fold),
                stop=self._stop,
            )
        except InterruptedRunError as problem:
            interrupted, error = True, str(problem)
        except HeldError as problem:
            held, error = True, str(problem)
        except Exception as problem:  # one failed job costs one job
            self.logger.event("job_error", job=job.name, **reported(problem))
            error = str(problem) if isinstance(problem, AutosegError) else f"{type(problem).__name__}: {problem}"
        seconds = time.monotonic() - begun
        self._ended.append(Ended(job=job, seconds=seconds, error=error, interrupted=interrupted, held=held))

    def ended(self) -> list[Ended]:
        """See ``JobRunner``."""
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        """See ``JobRunner``: nothing runs when this is called."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one process runs.

    Attributes:
        environment: what it sees otherwise than this one.
        processors: that it is bound to, where the system can do that; empty for all.
    """

    environment: Mapping[str, str]
    processors: tuple[int, ...] = ()


def gpu_places(gpus: Sequence[int]) -> list[Place]:
    """A place for each GPU, by its number among those that this process may see.

    Raises:
        InputError: a number stands twice, or is not among those.
    """
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in seen.split(",") if name.strip()]
    if len(set(gpus)) < len(gpus) or (names and max(gpus) >= len(names)):
        raise InputError(
            "these GPUs cannot be used, one training each",
            found=", ".join(map(str, gpus)),
            expected=f"different numbers, 0 to {len(names) - 1} (CUDA_VISIBLE_DEVICES is {seen})"
            if names
            else "different numbers",
        )
    groups = _groups(len(gpus))
    return [
        Place(environment={"CUDA_VISIBLE_DEVICES": names[gpu] if names else str(gpu)}, processors=group)
        for gpu, group in zip(gpus, groups, strict=True)
    ]


def cpu_places(count: int) -> list[Place]:
    """Places that share the processors of this machine evenly."""
    each = max(1, usable_cpus() // count)
    threads = {name: str(each) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return [Place(environment=threads, processors=group) for group in _groups(count)]


def _groups(count: int) -> list[tuple[int, ...]]:
    """The processors that this process is bound to in so many groups; empty ones where there are fewer, or none are told."""
    if not hasattr(os, "sched_getaffinity"):
        return [()] * count
    processors = sorted(os.sched_getaffinity(0))
    each = len(processors) // count
    return [tuple(processors[place * each : (place + 1) * each]) for place in range(count)]


@dataclass(kw_only=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    output: Path
    begun: float = field(default_factory=time.monotonic)


class Processes:
    """Trains in processes of their own, one at each place.

    A process is in a session of its own: Ctrl-C comes to this process alone, which asks the others to stop, once. Its output
    goes into a file, so that it goes on to the end of its training even if this process is killed.

    Args:
        workspace: of the trainings.
        places: where they run.
    """

    def __init__(self, workspace: Workspace, places: Sequence[Place]) -> None:
        self.workspace, self.lanes = workspace, len(places)
        self._free, self._running = list(places), list[tuple[Place, _Running]]()
        self._asked = False

    def free(self) -> bool:
        """See ``JobRunner``."""
        return bool(self._free) and not self._asked

    def start(self, job: Job, options: TrainOptions) -> None:
        """See ``JobRunner``."""
        place = self._free.pop(0)
        output = self.workspace.path / "logs" / "jobs" / f"{job.configuration}-{job.fold}.txt"
        output.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "autoseg", *options.command(job, self.workspace.path)]
        with output.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **place.environment},
                start_new_session=True,
            )
        if place.processors:  # at once, before it starts threads, which inherit this
            with contextlib.suppress(OSError):
                os.sched_setaffinity(process.pid, place.processors)
        self._running.append((place, _Running(job=job, process=process, output=output)))

    def ended(self) -> list[Ended]:
        """See ``JobRunner``."""
        time.sleep(LOOK_SECONDS)
        over = [(place, each) for place, each in self._running if each.process.poll() is not None]
        self._running = [pair for pair in self._running if pair not in over]
        self._free.extend(place for place, _ in over)
        return [_how_it_ended(each) for _, each in over]

    def stop(self) -> None:
        """See ``JobRunner``; asked again, ends them at once."""
        for _, each in self._running:
            with contextlib.suppress(ProcessLookupError):
                each.process.send_signal(signal.SIGTERM)
        self._asked = True


def _how_it_ended(running: _Running) -> Ended:
    code, error = running.process.returncode, ""
    if code not in (0, INTERRUPTED):
        said = running.output.read_text(errors="replace").strip()
        _, _, error = said.rpartition("error: ")
        if code < 0:
            error = f"the process was ended by {signal.Signals(-code).name}"
        elif "Traceback" in said:
            error = said.splitlines()[-1]
        error = f"{error or 'it tells no reason'} (all that it said: {running.output})"
    seconds = time.monotonic() - running.begun
    held = HeldError.what in error
    return Ended(job=running.job, seconds=seconds, error=error, interrupted=code == INTERRUPTED, held=held)
