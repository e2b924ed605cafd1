"""Held-out cases on their own grids, from what is stored of them: one way for the truth while training and for the end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import numpy as np
import torch

from autoseg.errors import AutosegError, DamagedCaseError, InterruptedRunError
from autoseg.evaluation.measure import label_scores
from autoseg.executors import usable_cpus
from autoseg.inference.export import label_map
from autoseg.inference.model import Choice, predictor_of_weights
from autoseg.inference.predict import Predictor
from autoseg.inference.window import padding_to
from autoseg.io.case_store import CaseStore, StoredCase
from autoseg.io.formats import label_ending
from autoseg.networks.execution import available_memory, resolve_device, training_memory
from autoseg.planning import GIBIBYTE
from autoseg.values import CaseScore, Configuration, Measuring, Plan, PreprocessRecord, TrainJob, Volume
from autoseg.volume.spline import between_bytes
from autoseg.workspace import ModelFolder

__all__ = ["case_score", "logits_of", "prediction_bytes", "prediction_of", "running_scorer", "with_whole_case"]

T = TypeVar("T")
#: Tells how many tiles are done, of how many.
Advance = Callable[[int, int], None]
FLOAT = 4
OVERLAP_ONLY = Measuring(metrics=())


def prediction_of(predictor: Predictor, plan: Plan, stored: StoredCase, advance: Advance) -> Volume:
    """The label map ``(1, *spatial)`` of a stored case, on the grid and in the order of its files."""
    return label_map(logits_of(predictor, stored, advance), stored.record, predictor.configuration, plan.labels)


def logits_of(predictor: Predictor, stored: StoredCase, advance: Advance) -> np.ndarray:
    """Logits ``(outputs, *spatial)`` float32 of a stored case, on the grid of its configuration."""
    return predictor.logits(stored.image, advance)


def case_score(
    stored: StoredCase,
    prediction: Volume,
    plan: Plan,
    annotated: Collection[str] | None = None,
    measuring: Measuring = OVERLAP_ONLY,
) -> CaseScore:
    """Scores against the stored reference, on the grid of the case's files; only ``annotated`` labels if not all were."""
    case_id = stored.record.case_id
    return CaseScore(
        metrics=label_scores(
            *(np.asarray(stored.reference), prediction.array[0], plan.labels, prediction.geometry, measuring),
            annotated=annotated,
            threads=usable_cpus(),
        ),
        prediction_file=f"{case_id}{label_ending(plan.file_ending)}",
        reference_file=f"{case_id}{plan.file_ending}",
    )


def with_whole_case(store: CaseStore, key: str, work: Callable[[], T]) -> T:
    """What the work on a stored case gives; if the case turns out damaged, it is made anew, and the work repeated."""
    try:
        return work()
    except DamagedCaseError as damage:
        store.mend(damage, key)
        return work()


def prediction_bytes(record: PreprocessRecord, configuration: Configuration) -> int:
    """The most memory that predicting and scoring a stored case takes beside the network and one group of tiles."""
    padding = padding_to(record.shape, configuration.full_patch_size)
    padded = int(np.prod([size + sum(each) for size, each in zip(record.shape, padding, strict=True)]))
    network = configuration.network
    tiling = FLOAT * padded * (network.output_channels + network.input_channels + 1)
    # the values of one output and the best so far, and label maps: winner, uncropped, reordered, reference
    own, between = int(np.prod(record.source.shape)), between_bytes(record.shape, record.crop_shape)
    exporting = FLOAT * padded * network.output_channels + (2 * FLOAT + 4) * own + between
    return max(tiling, exporting)


def running_scorer(
    model: ModelFolder, plan: Plan, job: TrainJob, store: CaseStore, device: str, stop: Callable[[], bool]
) -> Callable[[Mapping[str, torch.Tensor], bool], Callable[[str, Advance], CaseScore]]:
    """What training is handed for its truth: opened with weights, it gives a function that scores a case with them.

    The function's path is that of the final validation; only that it writes no label maps.

    Args:
        model: folder that the training belongs to.
        plan: its plan.
        job: the training.
        store: of the preprocessed cases, with their references.
        device: cpu, cuda or mps.
        stop: asked after every few tiles.

    Returns:
        Weights and whether to mirror, to a function of a case id and of what is told of tiles. That raises
        InterruptedRunError if ``stop`` said so, AutosegError if the case would take more memory than training may.
    """
    configuration = plan.configuration(job.configuration)
    choice = Choice(configuration=job.configuration, folds=(job.fold,), dice=None)

    def opened(weights: Mapping[str, torch.Tensor], mirroring: bool) -> Callable[[str, Advance], CaseScore]:
        predictor = predictor_of_weights(model, choice, weights, device=device, mirroring=mirroring)

        def score(case_id: str, advance: Advance) -> CaseScore:
            def advance_or_stop(done: int, total: int) -> None:
                if stop():
                    raise InterruptedRunError(
                        f"stopped while {case_id} was scored; the same command goes on from the end of this epoch"
                    )
                advance(done, total)

            def scored() -> CaseScore:
                stored = store.open(case_id, job.case_keys[case_id])
                _check_room(stored.record, plan, configuration, device)
                prediction = prediction_of(predictor, plan, stored, advance_or_stop)
                return case_score(stored, prediction, plan, job.annotated.get(case_id))

            return with_whole_case(store, job.case_keys[case_id], scored)

        return score

    return opened


def _check_room(record: PreprocessRecord, plan: Plan, configuration: Configuration, device: str) -> None:
    """Refuses a case whose arrays take more than there is for them, before the system ends the process for it."""
    available = available_memory()
    if available is None:
        return
    room = available
    if device == "cpu":  # what a step takes is free between steps, whether the process keeps it or not
        room = max(training_memory(configuration, resolve_device(device)), min(available, plan.budget_bytes))
    needed = prediction_bytes(record, configuration)
    if needed > room:
        raise AutosegError(
            f"predicting {record.case_id} takes {needed / GIBIBYTE:.1f} GiB of memory, and beside the training there are "
            f"{room / GIBIBYTE:.1f} GiB for it: its score is left to the final validation"
        )
