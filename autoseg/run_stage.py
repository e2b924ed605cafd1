"""Everything from a folder to a selected model: plans, preprocesses, trains all folds, selects. Repeated, it goes on.

What is done is known by its results alone, so that it does not matter who made them, or when: this command, ``autoseg
train``, or another machine that shares the workspace.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg import pipeline
from autoseg.errors import AutosegError, CasesFailedError, InputError, InterruptedRunError
from autoseg.executors import Executor
from autoseg.files import read_document
from autoseg.job_processes import Ended, JobRunner, Processes, ThisProcess, TrainOptions, cpu_places, gpu_places
from autoseg.jobs import LEAST_HOURS, Job, blocked, hours_for, job_graph, ready
from autoseg.leases import PERIOD, PERIODS, Seen, look
from autoseg.logs import Logger, SilentLogger, reported
from autoseg.plan_stage import Understood
from autoseg.run_plan import PlanWishes, model_to_run
from autoseg.run_progress import RunProgress
from autoseg.status_stage import fold_status, holder
from autoseg.values import Length, Plan, Selection, Split, TrainJob, fold_names, select_fold
from autoseg.workspace import FoldFolder, ModelFolder, Workspace

__all__ = ["PlanWishes", "RunResult", "run_all"]

SILENT = SilentLogger()
NEVER: Callable[[], bool] = lambda: False  # noqa: E731
#: Between two looks at a training that another process does.
LOOK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run came to.

    Attributes:
        model: folder of the plan.
        done: names of the jobs that are.
        failures: name of each job that failed to its reason.
        blocked: name of each job that was not begun to the one that it needs, which failed.
        selection: the choice; None if it failed, or only full models were wanted.
    """

    model: ModelFolder
    done: tuple[str, ...]
    failures: dict[str, str]
    blocked: dict[str, str]
    selection: Selection | None


def run_all(
    dataset: Path,
    workspace: Workspace,
    *,
    wishes: PlanWishes | None = None,
    configurations: Sequence[str] = (),
    folds: str = "all",
    epochs: int | None = None,
    iterations: int | None = None,
    hours: float | None = None,
    gpus: Sequence[int] = (),
    processes: int | None = None,
    device: str = "auto",
    understood: Understood | None = None,
    executor: Executor | None = None,
    logger: Logger = SILENT,
    stop: Callable[[], bool] = NEVER,
) -> RunResult:
    """Plans if there is no plan that fits, preprocesses, trains and scores all folds, and selects.

    A job that fails does not stop those that do not need it.

    Args:
        dataset: its folder or table.
        workspace: to keep everything in.
        wishes: which plan.
        configurations: names; empty for all of the plan. The first stage of a cascade is added.
        folds: see ``fold_names``.
        epochs: length of each training in the plan's epochs.
        iterations: length of each training in iterations.
        hours: for all that is left, without the selection.
        gpus: one process for each; empty for none.
        processes: so many at once that share the processors; None: all trainings in this process, one after the other.
        device: cpu, cuda, mps or auto.
        understood: sees what was understood of a data set that is planned for, and may raise to stop.
        executor: runs the cases of plan, preprocessing and selection.
        logger: for events.
        stop: asked often; True saves and stops.

    Raises:
        InputError: nothing can be begun: the data, a name or a number is wrong.
        InterruptedRunError: ``stop`` said so; the same call goes on.
    """
    if len([length for length in (epochs, iterations, hours) if length is not None]) > 1:
        raise InputError("a training has one length", expected="one of epochs, iterations and hours")
    _require_devices(gpus, device)
    model = model_to_run(dataset, workspace, wishes or PlanWishes(), understood, executor, logger)
    plan, split = model.plan(), read_document(Split, workspace.split_path)
    names = [plan.configuration(name).name for name in configurations]
    stages = {each.name: each.previous_stage for each in plan.configurations}
    jobs = job_graph(names, stages, fold_names(folds, len(split)), fold_names("all", len(split)))
    places = gpu_places(gpus) if gpus else cpu_places(processes) if processes else []
    costs = _costs(plan, jobs)
    record = workspace.path / "runs" / f"{model.path.name}.json"
    lanes = len(places) or 1
    wish = f"hours {hours}, folds {folds}, configurations {' '.join(names) or 'all'}"
    progress = RunProgress(jobs, costs, lanes, record, wish, workspace.log_path("train"), logger)
    runner: JobRunner = Processes(workspace, places) if places else ThisProcess(workspace, progress, stop)
    options = TrainOptions(
        plan_name=model.path.name, device="cuda" if gpus else device, epochs=epochs, iterations=iterations
    )
    run = _Run(workspace, model, split, jobs, costs, runner, options, progress, hours, executor, stop)
    return run.result()


def _require_devices(gpus: Sequence[int], device: str) -> None:
    """Before anything is planned: whether the trainings can run here at all.

    Raises:
        InputError: a GPU, or the device, is not here.
    """
    from autoseg.networks.execution import gpu_count, resolve_device

    count = gpu_count()
    if gpus and max(gpus) >= count:
        raise InputError(
            "these GPUs are not here",
            found=f"--gpus {','.join(map(str, gpus))}",
            expected=f"numbers from 0 to {count - 1}" if count else "no --gpus, for torch finds no GPU on this machine",
            remedy=None
            if count
            else "Leave --gpus out to train on the processor; --jobs 2 trains two folds at once there.",
        )
    resolve_device("cuda" if gpus else device)


def _costs(plan: Plan, jobs: Sequence[Job]) -> dict[str, float]:
    """Of each training at its planned length: multiplications and additions."""
    from autoseg.networks.memory import multiply_adds

    each = {}
    for spec in plan.configurations:
        step = multiply_adds(spec.network, spec.patch_size, spec.batch_size)
        each[spec.name] = float(step) * spec.training.iterations
    return {job.name: each[job.configuration] for job in jobs if job.kind == "train"}


class _Run:
    """One run of a graph of jobs; see ``run_all``."""

    def __init__(
        self,
        workspace: Workspace,
        model: ModelFolder,
        split: Split,
        jobs: Sequence[Job],
        costs: Mapping[str, float],
        runner: JobRunner,
        options: TrainOptions,
        progress: RunProgress,
        hours: float | None,
        executor: Executor | None,
        stop: Callable[[], bool],
    ) -> None:
        self.workspace, self.model, self.split, self.plan = workspace, model, split, model.plan()
        self.dataset = workspace.dataset()
        self.jobs, self.costs, self.runner, self.options = jobs, costs, runner, options
        self.progress, self.hours, self.executor, self.stop = progress, hours, executor, stop
        self.done: list[str] = []
        self.failures: dict[str, str] = {}
        self.selection: Selection | None = None
        self._running: set[str] = set()
        self._trained_now: set[str] = set()
        self._told: set[str] = set()
        self._held: dict[str, tuple[Seen | None, float]] = {}
        self._keys: Mapping[str, Mapping[str, str]] = {}

    def result(self) -> RunResult:
        """Does all that can be done.

        Raises:
            InterruptedRunError: it was stopped.
        """
        over = False
        try:
            while not over and not self.stop():
                over = not self._step()
                self._take_ended()
        finally:
            if not over:
                self.runner.stop()
            self.progress.keep()
        while self._running:
            self._take_ended()
        if not over:
            told = f"{len(self.done)} of {len(self.jobs)} jobs are done"
            raise InterruptedRunError(f"stopped; {told}, the same command goes on from here")
        if len(self.done) == len(self.jobs):
            self.progress.over()
        return RunResult(
            model=self.model,
            done=tuple(self.done),
            failures=self.failures,
            blocked=blocked(self.jobs, self.failures),
            selection=self.selection,
        )

    def _step(self) -> bool:
        """Does or begins the first job that can be; False if nothing is left that could still come about."""
        waiting = [job for job in ready(self.jobs, self.done, self.failures) if job.name not in self._running]
        for job in waiting:
            if job.kind != "train":
                self._here(job)
                return True
            if not self.runner.free():
                break
            folder = self.model.fold(job.configuration, job.fold)
            if self._is_done(job, folder):
                self._finish(job)
                return True
            if not (who := holder(folder) or self._held_by(job, folder)):
                self._begin(job, folder)
                return True
            self._wait_for(job, who)
        if waiting and not self._running and self.runner.free():
            time.sleep(LOOK_SECONDS)
        self.progress.look()
        return bool(waiting or self._running)

    def _here(self, job: Job) -> None:
        """Preprocesses, or selects, in this process."""
        begun = time.monotonic()
        try:
            if job.kind == "preprocess":
                self._preprocess()
            else:
                self._select()
        except InterruptedRunError:
            return  # ``stop`` says so, too
        except (CasesFailedError, InputError) as error:
            self._fail(job, str(error))
        except Exception as error:  # what is trained stays, and is told
            self.progress.event("job_error", job=job.name, **reported(error))
            self._fail(job, str(error) if isinstance(error, AutosegError) else f"{type(error).__name__}: {error}")
        else:
            self._finish(job, time.monotonic() - begun)

    def _preprocess(self) -> None:
        names = list(dict.fromkeys(job.configuration for job in self.jobs if job.kind == "train"))
        self._keys = pipeline.preprocess(
            self.workspace,
            names,
            plan_name=self.model.path.name,
            executor=self.executor,
            logger=self.progress,
            stop=self.stop,
        )

    def _select(self) -> None:
        from autoseg.networks.execution import resolve_device

        names = list(dict.fromkeys(job.configuration for job in self.jobs if job.kind == "train"))
        self.selection = pipeline.select_best(
            self.workspace,
            plan_name=self.model.path.name,
            configurations=names,
            device=resolve_device(self.options.device),
            executor=self.executor,
            logger=self.progress,
            stop=self.stop,
        )

    def _is_done(self, job: Job, folder: FoldFolder) -> bool:
        """Whether the training that stands there has ended, is scored, and is the one that is wanted now.

        One that is not the wanted one is left to ``autoseg train``, which refuses and tells what has changed.
        """
        status = fold_status(folder, job.configuration, job.fold, [], [])
        if status.state != "validated" or self._trained_now.intersection(job.needs):
            return False
        there = read_document(TrainJob, folder.job)
        keys = self._keys.get(job.configuration)
        same_cases = keys is None or all(keys.get(case) == key for case, key in there.case_keys.items())
        looked_for = {case.id: case.annotated for case in self.dataset.partly_annotated if case.id in there.case_keys}
        per_epoch = self.plan.configuration(job.configuration).training.iterations_per_epoch
        wanted = self.options.iterations or (self.options.epochs or 0) * per_epoch or there.iterations
        same = (there.plan_id, there.cases, there.iterations, there.annotated)
        return same_cases and same == (self.plan.id, select_fold(self.split, job.fold), wanted, looked_for)

    def _begin(self, job: Job, folder: FoldFolder) -> None:
        hours = self._hours_of(job, folder)
        if hours is not None and hours <= LEAST_HOURS and job.configuration not in self._told:
            self._told.add(job.configuration)
            text = f"warning: the hours do not suffice: {job.name} gets the least that there is, {LEAST_HOURS * 60:.0f} min"
            self.progress.event("message", text=text)
        self._running.add(job.name)
        self.progress.began(job, hours)
        self.runner.start(job, dataclasses.replace(self.options, hours=hours))

    def _hours_of(self, job: Job, folder: FoldFolder) -> float | None:
        """What a training that has not begun gets; one that has begun keeps what it got."""
        if self.hours is None or folder.job.is_file():
            return None
        over = {*self.done, *self.failures, *blocked(self.jobs, self.failures)}
        left = [each for each in self.jobs if each.kind == "train" and each.name not in over]
        known: dict[str, float] = {}
        for each in left:
            other = self.model.fold(each.configuration, each.fold)
            if other.job.is_file() or each.name in self._running:
                known[each.name] = self.progress.left_of(each, _stored_hours(other))
        costs = {each.name: self.costs[each.name] for each in left if each.name not in known}
        seconds = 3600 * self.hours - self.progress.seconds()
        return round(hours_for(left, known, costs, self.runner.lanes, seconds)[job.name], 4)

    def _take_ended(self) -> None:
        for ended in self.runner.ended():
            self._running.discard(ended.job.name)
            self._account(ended)

    def _account(self, ended: Ended) -> None:
        job = ended.job
        if not ended.error and not ended.interrupted:
            self._trained_now.add(job.name)
            self._finish(job, ended.seconds)
            return
        self.progress.ended(job, done=False, seconds=ended.seconds)
        folder = self.model.fold(job.configuration, job.fold)
        if ended.held:  # it was watched, so this holds whatever the clocks say
            self._held[job.name] = (look(folder.path), time.monotonic())
        who = holder(folder) or ("another process" if ended.held else "")
        if who:
            self._wait_for(job, who)
        elif not ended.interrupted or not self.stop():
            self._fail(job, ended.error or "it was stopped from elsewhere; the same command goes on")

    def _held_by(self, job: Job, folder: FoldFolder) -> str:
        """Who was found training there, for as long as the lease goes on changing by our own clock; empty for nobody."""
        if job.name not in self._held:
            return ""
        before, since = self._held[job.name]
        seen = look(folder.path)
        if seen != before:
            self._held[job.name] = (seen, time.monotonic())
        elif time.monotonic() - since > PERIODS * PERIOD:
            seen = None
        if seen is None or seen.free:
            del self._held[job.name]
            return ""
        return "another process"

    def _wait_for(self, job: Job, who: str) -> None:
        if job.name not in self._told:
            self._told.add(job.name)
            self.progress.event("message", text=f"{job.name} is being done by {who}; its end is waited for")

    def _finish(self, job: Job, seconds: float | None = None) -> None:
        self.done.append(job.name)
        self.progress.ended(job, done=True, seconds=seconds)

    def _fail(self, job: Job, reason: str) -> None:
        self.failures[job.name] = reason
        self.progress.event("message", text=f"{job.name} failed: {reason}", job=job.name)


def _stored_hours(folder: FoldFolder) -> float | None:
    with contextlib.suppress(InputError):
        return read_document(Length, folder.length).hours
    return None
