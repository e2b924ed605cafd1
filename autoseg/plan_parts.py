"""A plan with parts of the user's own in place of the planner's, as a plan of its own: plans do not change.

``default`` with the loss ``my_losses:focal`` is ``default+loss=focal``; the same wish gives the same plan again, so that a
repeated command goes on with its training.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import msgspec

from autoseg import plugins
from autoseg.files import write_document
from autoseg.logs import Logger
from autoseg.networks.execution import training_backend
from autoseg.networks.memory import process_bytes
from autoseg.planning import GIBIBYTE, MemoryCost
from autoseg.values import NetworkSpec, Parts, Plan, TrainingSpec
from autoseg.workspace import ModelFolder, Workspace

__all__ = ["cost_with", "derived_model", "with_parts"]


def cost_with(parts: Parts, cost: MemoryCost) -> MemoryCost:
    """What memory trainings take that have these parts: planners do not know of them."""

    def predicted(network: NetworkSpec, patch_size: tuple[int, ...], batch_size: int, training: TrainingSpec) -> int:
        if parts.network:
            network = msgspec.structs.replace(network, architecture=parts.network)
        if parts.optimizer:
            training = msgspec.structs.replace(training, optimizer=parts.optimizer)
        return cost(network, patch_size, batch_size, training)

    return predicted if parts.chosen else cost  # type: ignore[return-value]


def with_parts(plan: Plan, parts: Parts) -> Plan:
    """The plan with these parts in every configuration; the reasons name them."""
    if not parts.chosen:
        return plan
    return msgspec.structs.replace(parts.in_plan(plan), reasons={**plan.reasons, "parts": f"asked for: {parts.title}"})


def derived_model(workspace: Workspace, model: ModelFolder, parts: Parts, logger: Logger) -> ModelFolder:
    """The model folder of the plan with these parts instead: made once, found again later; the active plan stays.

    Args:
        workspace: that keeps the plans.
        model: of the plan to derive from.
        parts: instead of its own.
        logger: told which plan it is.

    Raises:
        UnknownNameError: a part that does not exist.
        MissingPartError: the code of one cannot be imported.
    """
    plugins.require(parts.chosen)
    base = model.plan()
    wanted = with_parts(base, parts)
    if wanted.id == base.id:
        return model
    for name in _names(base, parts):
        folder = ModelFolder(workspace.path / "models" / name)
        new = not (folder.path / "plan.json").is_file()
        if new or folder.plan().id == wanted.id:
            if new:
                write_document(folder.path / "plan.json", _with_memory(msgspec.structs.replace(wanted, name=name)))
            logger.event(
                "message",
                text=f"{'made' if new else 'going on with'} the plan {name}: {base.name} with {parts.title}; "
                f"it stands beside {base.name}, which stays the active one",
                plan=name,
            )
            return folder
    raise AssertionError("there is always another name")


def _names(base: Plan, parts: Parts) -> Iterator[str]:
    """Readable first; where that is another plan's name already, numbered."""
    first = f"{base.name}+{parts.title}"
    yield first
    yield from (f"{first}-{number}" for number in itertools.count(2))


def _with_memory(plan: Plan) -> Plan:
    """The plan with the memory that its trainings take now, and a warning where that is more than was planned for."""
    cost = functools.partial(process_bytes, backend=training_backend(plan.device))
    configurations = tuple(
        msgspec.structs.replace(
            each, expected_memory_bytes=cost(each.network, each.patch_size, each.batch_size, each.training)
        )
        for each in plan.configurations
    )
    over = tuple(
        f"{each.name} will take about {each.expected_memory_bytes / GIBIBYTE:.1f} GiB to train, more than the "
        f"{plan.budget_bytes / GIBIBYTE:.3g} GiB planned for: plan anew with these parts for another patch and batch."
        for each, before in zip(configurations, plan.configurations, strict=True)
        if each.expected_memory_bytes > max(plan.budget_bytes, before.expected_memory_bytes)
    )
    return msgspec.structs.replace(plan, configurations=configurations, warnings=(*plan.warnings, *over))
