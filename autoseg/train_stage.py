"""The begin of the training stage: which plan is trained, and whether all that it names is there and fits."""

from __future__ import annotations

from autoseg.logs import Logger
from autoseg.plan_check import check_single_stage, usable_plan
from autoseg.plan_parts import derived_model
from autoseg.training.trial import try_parts
from autoseg.values import Parts
from autoseg.workspace import ModelFolder, Workspace

__all__ = ["model_to_train"]


def model_to_train(
    workspace: Workspace, configuration: str, plan_name: str | None, parts: Parts | None, device: str, logger: Logger
) -> ModelFolder:
    """The model folder to train in, after all that can be checked before anything long begins.

    Args:
        workspace: with a plan.
        configuration: its name.
        plan_name: the active plan by default.
        parts: plugs instead of the plan's: a plan with them is derived.
        device: cpu, cuda or mps.
        logger: for events.

    Raises:
        InputError: the plan, or a part of the user's own, cannot be used.
    """
    model = workspace.model(plan_name)
    if parts is not None and parts.chosen:
        model = derived_model(workspace, model, parts, logger)
    check_single_stage([model], configuration)
    plan = usable_plan(model, configurations=[configuration])
    try_parts(plan.configuration(configuration), plan.labels, device=device)
    return model
