"""The model of a training that has ended: its weights under nnU-Net's names, with the job they come from."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import msgspec

from autoseg.errors import DiskFullError
from autoseg.files import discard, write_document
from autoseg.networks.weights import save_tensors
from autoseg.training.checkpoints import not_written
from autoseg.training.state import TrainState
from autoseg.values import TrainJob
from autoseg.workspace import FoldFolder

__all__ = ["write_model"]


def write_model(folder: FoldFolder, job: TrainJob, state: TrainState, skipped: Sequence[str]) -> None:
    """Writes the model; what only the training needed goes.

    The scores of a model that stood here before it was extended go with that.

    Args:
        folder: of the training.
        job: the training.
        state: at its end.
        skipped: training cases that could not be read.

    Raises:
        DiskFullError: the model cannot be written.
    """
    metadata: dict[str, Any] = {"plan": job.plan_id, "fold": job.fold}
    if job.parts:  # what prediction elsewhere needs besides autoseg
        metadata["parts"] = msgspec.to_builtins(job.parts)
    if job.previous_weights:  # the stage before has to be the same when both predict
        metadata["previous_weights"] = job.previous_weights
    if skipped:
        metadata["skipped"] = list(skipped)
    try:
        save_tensors(folder.model, state.model_weights(), metadata, functools.partial(discard, folder.validation))
        write_document(folder.length, msgspec.structs.replace(state.length, trained=state.length.end))
    except OSError as error:
        raise DiskFullError(folder.path, not_written(folder.model, error)) from error
    for used_up in (folder.stop_file, folder.previous_checkpoint):
        used_up.unlink(missing_ok=True)
