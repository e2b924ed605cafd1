"""The beginning of a training with the weights of a model that was trained before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from autoseg.errors import InputError
from autoseg.files import write_document
from autoseg.finetuning.differences import differences
from autoseg.finetuning.source import Source, find_source, names_of
from autoseg.logs import Logger
from autoseg.networks.adoption import adopt
from autoseg.values import Plan, TrainJob
from autoseg.values.adoption import Adoption
from autoseg.workspace import FoldFolder

__all__ = ["begin_fold", "find_sources"]


def begin_fold(
    source: Source | None, plan: Plan, job: TrainJob, folder: FoldFolder, logger: Logger
) -> dict[str, torch.Tensor] | None:
    """The weights that a new training begins with; what became of each is told, and kept in ``adopted.json``.

    Args:
        source: of the weights.
        plan: that the job belongs to.
        job: to begin.
        folder: of the training.
        logger: told what is taken over.

    Returns:
        None where nothing is to be taken over, or the training is under way.

    Raises:
        InputError: too few of the weights fit; or the training was to begin with a model that is not named now.
    """
    if not job.begins_from or folder.has_checkpoint():
        return None
    if source is None:
        raise InputError(
            "this training was to begin with the weights of another model, and has not begun",
            file=folder.path,
            expected=f"--from with the weights of SHA-256 {job.begins_from[:12]}…",
            remedy="Name the model with --from, or move the folder away to train from fresh weights.",
        )
    tensors, adoption = _adopted(source, plan, job.configuration)
    write_document(folder.adopted, adoption)
    logger.event("message", text=adoption.text, source=str(source.file))
    if seen := _seen_cases(source, plan, job):
        named = ", ".join(seen[:5]) + (" …" if len(seen) > 5 else "")
        text = (
            f"the model was trained on {len(seen)} of the {len(job.cases.val)} cases that are held out here ({named}): "
            "their scores will say more than is true"
        )
        logger.event("message", text=text, cases=seen)
    return tensors


def find_sources(model: Path, plan: Plan, configuration: str, folds: Sequence[str]) -> dict[str, Source]:
    """Per fold the weights to begin with, after making sure that they fit, before anything long is done.

    Raises:
        InputError: there is no such model, or too few of its weights fit.
    """
    sources = {fold: find_source(model, configuration, fold) for fold in folds}
    for source in {source.file: source for source in sources.values()}.values():
        if source.second_stage_of and not plan.configuration(configuration).previous_stage:
            raise InputError(
                f"the model is the second stage of a cascade, and {configuration!r} has not its inputs",
                file=source.file,
                expected="a model that looks at images alone",
                remedy="Name the folder of another configuration: MODEL/CONFIGURATION/fold_0",
            )
        _adopted(source, plan, configuration)
    return sources


def _adopted(source: Source, plan: Plan, configuration: str) -> tuple[dict[str, torch.Tensor], Adoption]:
    tensors, adoption = adopt(
        plan.configuration(configuration).network,
        names_of(plan),
        source.tensors(),
        source.names,
        seed=plan.seed,
        title=f"{source.title} ({source.file})",
        sha256=source.sha256,
    )
    unlike = differences(source.template, plan, configuration) if source.template else ()
    return tensors, msgspec.structs.replace(adoption, differences=unlike)


def _seen_cases(source: Source, plan: Plan, job: TrainJob) -> list[str]:
    """The held-out cases that the source was trained on, as far as that is known."""
    if source.job is None or source.dataset != plan.dataset:
        return []
    return sorted(set(source.job.cases.train) & set(job.cases.val))
