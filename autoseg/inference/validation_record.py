"""The record of a fold's validation: which weights made it, where, and how long each case took."""

from __future__ import annotations

import contextlib

import msgspec
import torch

from autoseg.errors import DocumentError, InputError
from autoseg.files import discard, read_document, sweep, write_document
from autoseg.held_out_files import ValidationFiles
from autoseg.inference.predict import Predictor
from autoseg.inference.probabilities import KeptProbabilities
from autoseg.networks.weights import weights_id
from autoseg.values import Plan, Validation
from autoseg.workspace import FoldFolder

__all__ = ["begin_validation", "has_probabilities", "timed"]


def begin_validation(predictor: Predictor, plan: Plan, folder: FoldFolder) -> Validation:
    """The record of the validation that stands in the folder, or of a new one; what other weights left there goes.

    Times that another device took are dropped: they are not those of the others.
    """
    files, execution = ValidationFiles(folder), predictor.execution
    wanted = Validation(
        plan=plan.id,
        configuration=predictor.configuration.name,
        weights=weights_id(folder.model) if folder.model.is_file() else "",
        device=execution.device,
        threads=execution.threads,
        device_name=torch.cuda.get_device_name() if execution.device == "cuda" else "",
    )
    if files.record.is_file():
        before = None
        with contextlib.suppress(DocumentError):  # a damaged one tells nothing of what stands beside it
            before = read_document(Validation, files.record)
        if before is None or (before.plan, before.weights) != (wanted.plan, wanted.weights):
            discard(folder.validation)
        elif (before.device, before.threads) == (wanted.device, wanted.threads):
            wanted = before if before.device_name in ("", wanted.device_name) else wanted
    sweep(files.all_probabilities, older_than_seconds=0)  # nobody else writes here
    write_document(files.record, wanted)
    return wanted


def timed(validation: Validation, folder: FoldFolder, case_id: str, seconds: float) -> Validation:
    """The record with the time of one more case, which is on the disk now."""
    validation = msgspec.structs.replace(validation, seconds={**validation.seconds, case_id: round(seconds, 4)})
    write_document(ValidationFiles(folder).record, validation)
    return validation


def has_probabilities(folder: FoldFolder, case_id: str, weights: str) -> bool:
    """Whether the probabilities of a held-out case are kept, as these weights made them."""
    try:
        return KeptProbabilities(ValidationFiles(folder).probabilities(case_id)).weights == weights
    except InputError:
        return False
