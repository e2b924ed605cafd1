"""The truth of a training, where the rooms meet: training asks for scores that inference and evaluation make."""

from __future__ import annotations

from collections.abc import Callable

from autoseg.inference.held_out import running_scorer
from autoseg.io.case_store import CaseStore
from autoseg.logs import Logger, Loggers
from autoseg.training.curve import CurveLogger
from autoseg.training.truth import Truth
from autoseg.values import Plan, Summary, TrainJob
from autoseg.workspace import ModelFolder

__all__ = ["running_truth", "tell_validated"]


def running_truth(
    model: ModelFolder,
    plan: Plan,
    job: TrainJob,
    store: CaseStore,
    device: str,
    logger: Logger,
    stop: Callable[[], bool],
) -> tuple[Truth | None, Logger]:
    """The truth of a training, and its logger with the learning curve behind it; neither without held-out cases.

    Args:
        model: folder that the training belongs to.
        plan: its plan.
        job: the training.
        store: of the preprocessed cases.
        device: cpu, cuda or mps.
        logger: for events.
        stop: asked after every few tiles.
    """
    configuration, folder = plan.configuration(job.configuration), model.fold(job.configuration, job.fold)
    if not job.cases.val or not configuration.training.validation_iterations:
        return None, logger
    events = Loggers(logger, CurveLogger(folder, plan.labels, len(job.cases.val), logger))
    scorer = running_scorer(model, plan, job, store, device, stop)
    mirror_axes = len(configuration.augmentation.mirror_axes)
    return Truth(job, plan.labels, mirror_axes, folder, events, device, scorer), events


def tell_validated(summary: Summary, truth: Truth | None, logger: Logger) -> None:
    """The final score beside the last truth, so that everybody sees whether the curve told what came."""
    last = truth.latest() if truth is not None else None
    logger.event(
        "validated",
        dice=summary.foreground_mean.dice,
        cases=len(summary.metric_per_case),
        last_truth=last.dice if last else None,
        last_truth_cases=last.cases if last else 0,
    )
