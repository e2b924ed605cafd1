"""Which plan a run uses: the one that stands in the workspace, if it is one of the data and as wished; else a new one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from autoseg import pipeline, plugins
from autoseg.errors import InputError
from autoseg.executors import Executor
from autoseg.logs import Logger
from autoseg.plan_stage import Understood
from autoseg.planning import GIBIBYTE
from autoseg.values import Labels
from autoseg.workspace import ModelFolder, Workspace

__all__ = ["PlanWishes", "check_data", "model_to_run"]


@dataclass(frozen=True, kw_only=True)
class PlanWishes:
    """Which plan is to be used, and how it is made if it is not there; None: whatever there is, else as ``autoseg plan``."""

    name: str | None = None
    preset: str | None = None
    memory_gib: float | str | None = None
    device: str | None = None


def model_to_run(
    dataset: Path,
    workspace: Workspace,
    wishes: PlanWishes,
    understood: Understood | None,
    executor: Executor | None,
    logger: Logger,
) -> ModelFolder:
    """The plan that stands here, if it fits; else a new one, which never takes the place of one with trainings."""
    name = wishes.name or (wishes.preset.replace(":", "-") if wishes.preset else None)
    model: ModelFolder | None = None
    if workspace.dataset_path.is_file():
        with contextlib.suppress(InputError):  # no plan yet, or none of that name: made now
            model = workspace.model(name)
    if model is None:
        return pipeline.plan_dataset(
            dataset,
            workspace,
            preset=wishes.preset or "default",
            name=wishes.name,
            memory_gib=wishes.memory_gib,
            device=wishes.device,
            understood=understood,
            executor=executor,
            logger=logger,
        ).folder
    check_data(dataset, workspace, executor, logger)
    plan, memory = model.plan(), wishes.memory_gib
    if wishes.preset is not None and not _may_have_planned(wishes.preset, plan.planner):
        raise InputError(
            f"the plan {plan.name!r} that stands here was made by another preset",
            file=model.path / "plan.json",
            found=plan.planner,
            expected=wishes.preset,
            remedy="Leave --preset out to use it; or make another one: autoseg run DATASET --plan NEW --preset …",
        )
    other = isinstance(memory, int | float) and int(memory * GIBIBYTE) != plan.budget_bytes
    if other:
        raise InputError(
            f"the plan {plan.name!r} that stands here was made for other memory",
            file=model.path / "plan.json",
            found=f"{plan.budget_bytes / GIBIBYTE:.3g} GiB",
            expected=f"{memory} GiB",
            remedy="Leave --gpu-memory out to use it; or make another one: autoseg run DATASET --plan NEW --gpu-memory …",
        )
    logger.event("message", text=f"the plan {model.path.name!r} is used as it stands here")
    return model


def _may_have_planned(preset: str, planner: str) -> bool:
    """Whether a plan that names this planner may be of the preset; what a planner from elsewhere writes is its affair."""
    ours = set(plugins.available("planner"))
    return preset == planner if preset in ours else planner not in ours


def check_data(dataset: Path, workspace: Workspace, executor: Executor | None, logger: Logger) -> None:
    """Sees to it that the workspace is one of this data set, and tells of cases that its plan does not know.

    Raises:
        InputError: it was planned for data elsewhere.
    """
    from autoseg.io.layouts import read_dataset
    from autoseg.io.layouts.description import read_description, stated_channels

    known = workspace.dataset()
    if not dataset.exists():  # a machine that has the workspace, and not the data
        logger.event("message", text=f"{dataset} is not here; what is preprocessed is used")
        return
    now, _ = read_dataset(dataset, channel_names=known.channels, workspace=workspace, executor=executor)
    if Path(now.root).resolve() != Path(known.root).resolve():
        raise InputError(
            "the workspace was planned for another data set, or for one in another folder",
            file=workspace.path,
            found=now.root,
            expected=known.root,
            remedy="Plan it again: autoseg plan DATASET. Or name another workspace with -w.",
        )
    if known.labels != now.labels:
        raise InputError(
            "the labels of the data set are not those that the workspace was planned for",
            file=workspace.path,
            found=_told(now.labels),
            expected=_told(known.labels),
            remedy="Restore them; or plan the data as they are now in another workspace: -w.",
        )
    channels = stated_channels(read_description(Path(now.root)))
    if channels and channels != known.channels:  # they may have been overruled when it was planned
        text = f"warning: the data set states the channels {', '.join(channels)}; planned for, and used, are "
        logger.event("message", text=f"{text}{', '.join(known.channels)}")
    old = {case.id: case for case in known.annotated_cases}
    for field, what in (("images", "files"), ("annotated", "labels that were looked for"), ("patient", "patients")):
        both = [(case, old[case.id]) for case in now.annotated_cases if case.id in old]
        changed = [case.id for case, before in both if getattr(case, field) != getattr(before, field)]
        if changed:
            text = f"warning: the {what} of some cases are not those that were planned for, which are used: "
            logger.event("message", text=f"{text}{', '.join(changed[:5])}. To use those of now, plan again.")
    before, there = {case.id for case in known.annotated_cases}, {case.id for case in now.annotated_cases}
    for cases, what in ((there - before, "are not known to the plan"), (before - there, "are gone")):
        if cases:
            named = ", ".join(sorted(cases)[:5]) + (" …" if len(cases) > 5 else "")
            text = f"warning: annotated cases {what}: {named}. To train on the data as it is now, make another plan: "
            logger.event("message", text=f"{text}autoseg plan {dataset} --name NEW")


def _told(labels: Labels) -> str:
    names = [f"{label.name} = {', '.join(map(str, label.values))}" for label in labels.foreground]
    return "; ".join([*names, *([f"ignore = {labels.ignore}"] if labels.ignore is not None else [])])
