"""What is to be done from a plan to a selection: jobs, what each waits for, how long all take, and how hours are divided.

Pure functions of values; who does the jobs, and how it is known that one is done, stands in ``autoseg.run_stage``.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal

from autoseg.values.json_form import Value, require

__all__ = [
    "LEAST_HOURS",
    "Job",
    "JobKind",
    "blocked",
    "hours_for",
    "job_graph",
    "makespan",
    "ready",
    "with_first_stages",
]

JobKind = Literal["preprocess", "train", "select"]
#: No training gets less: 3 minutes.
LEAST_HOURS = 0.05
HALVINGS = 50


class Job(Value, frozen=True, kw_only=True):
    """One thing to do, the same as one command.

    Attributes:
        kind: of the command.
        configuration: that is trained; empty for jobs that are about all.
        fold: that is trained.
        needs: names of the jobs that must be done before.
        after: names of the jobs that must have ended before, done or failed.
    """

    kind: JobKind
    configuration: str = ""
    fold: str = ""
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        named = bool(self.configuration) and bool(self.fold)
        require(named == (self.kind == "train"), "a training, and nothing else, is one of a configuration and a fold")

    @property
    def name(self) -> str:
        """As it would be typed: ``train 2d 0``."""
        return " ".join(filter(None, (self.kind, self.configuration, self.fold)))


def with_first_stages(wanted: Sequence[str], stages: Mapping[str, str | None]) -> tuple[str, ...]:
    """The wanted configurations and those whose prediction they take, in the plan's order.

    Args:
        wanted: names; empty for all.
        stages: all configurations of the plan, in order, and the one that each needs before.
    """
    needed: set[str] = set()
    for name in wanted or stages:
        stage: str | None = name
        while stage is not None and stage not in needed:
            needed.add(stage)
            stage = stages[stage]
    return tuple(name for name in stages if name in needed)


def job_graph(
    wanted: Sequence[str], stages: Mapping[str, str | None], folds: Sequence[str], all_folds: Sequence[str]
) -> tuple[Job, ...]:
    """The jobs in the order in which one process does them: every fold of all configurations before the next fold.

    A training's cases are checked by itself, so it does not need that the preprocessing of all has succeeded. A second stage
    learns from predictions of cases that were held out, so it needs all folds of the first one, whichever are wanted. A full
    model holds nothing out, so nothing is selected where only such are wanted.

    Args:
        wanted: configurations; empty for all.
        stages: all configurations of the plan, in order, and the one that each needs before.
        folds: that are wanted.
        all_folds: of the split.
    """
    names = with_first_stages(wanted, stages)
    behind = {stages[name] for name in names}
    trainings = []
    for depth in range(1 + max((_depth(name, stages) for name in names), default=0)):
        level = [name for name in names if _depth(name, stages) == depth]
        for fold in all_folds if "full" not in folds else (*all_folds, "full"):
            for name in level:
                if fold in folds or (name in behind and fold in all_folds):
                    first = stages[name]
                    needs = tuple(f"train {first} {each}" for each in all_folds) if first else ()
                    trainings.append(
                        Job(kind="train", configuration=name, fold=fold, needs=needs, after=("preprocess",))
                    )
    chosen = [Job(kind="select", after=tuple(job.name for job in trainings))] if {*folds} - {"full"} else []
    return (Job(kind="preprocess"), *trainings, *chosen)


def _depth(name: str, stages: Mapping[str, str | None]) -> int:
    first = stages[name]
    return 0 if first is None else 1 + _depth(first, stages)


def ready(jobs: Sequence[Job], done: Collection[str], failed: Collection[str]) -> Iterator[Job]:
    """The jobs that can begin, in order, those under way included.

    Args:
        jobs: all of them.
        done: names of those that are.
        failed: names of those that have failed.
    """
    ended = {*done, *failed, *blocked(jobs, failed)}
    for job in jobs:
        if job.name not in ended and ended.issuperset(job.after) and all(each in done for each in job.needs):
            yield job


def blocked(jobs: Sequence[Job], failed: Collection[str]) -> dict[str, str]:
    """The jobs that cannot begin, because one that they need has failed, and which one."""
    causes: dict[str, str] = {}
    for job in jobs:  # in order: what a job needs stands before it
        lacking = [each for each in job.needs if each in failed or each in causes]
        if lacking and job.name not in failed:
            causes[job.name] = causes.get(lacking[0], lacking[0])
    return causes


def makespan(jobs: Sequence[Job], seconds: Mapping[str, float], lanes: int) -> float:
    """Seconds until all jobs are done, if each begins in order as soon as it can, and so many run at once.

    Args:
        jobs: what is left to do; those that are needed and not among them are done.
        seconds: by job name; jobs that are not named take no time.
        lanes: how many at once.
    """
    free, ends = [0.0] * lanes, dict[str, float]()
    for job in jobs:
        earliest = max((ends.get(each, 0.0) for each in (*job.needs, *job.after)), default=0.0)
        ends[job.name] = max(heapq.heappop(free), earliest) + seconds.get(job.name, 0.0)
        heapq.heappush(free, ends[job.name])
    return max(ends.values(), default=0.0)


def hours_for(
    jobs: Sequence[Job], known: Mapping[str, float], costs: Mapping[str, float], lanes: int, seconds: float
) -> dict[str, float]:
    """Hours of each training that has not begun, so that all that is left ends in time.

    They are in the ratio of what the trainings cost at their planned length.

    Args:
        jobs: what is left to do.
        known: seconds of those whose length is decided.
        costs: of the trainings that have not begun, in any unit.
        lanes: how many run at once.
        seconds: that are left.

    Returns:
        By job name, at least ``LEAST_HOURS`` each.
    """
    low, high = 0.0, seconds * lanes / max(min(costs.values(), default=1.0), 1e-300)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        scaled = {name: middle * cost for name, cost in costs.items()}
        low, high = (middle, high) if makespan(jobs, {**known, **scaled}, lanes) <= seconds else (low, middle)
    return {name: max(LEAST_HOURS, low * cost / 3600) for name, cost in costs.items()}
