"""The replay stage: any batch of a training, made again to be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.cascade_stage import staged_store
from autoseg.errors import InputError
from autoseg.files import read_document, write_document
from autoseg.io.case_store import CaseStore
from autoseg.io.formats import format_of
from autoseg.io.outputs import check_outside
from autoseg.logs import Logger
from autoseg.plan_check import check_plugs
from autoseg.report.batch_picture import draw_batch
from autoseg.training.batches import PatchLoader
from autoseg.training.planned_loader import planned_loader
from autoseg.training.records import BatchRecord
from autoseg.training.state import read_state
from autoseg.values import Configuration, Geometry, Plan, TrainJob, Volume
from autoseg.workspace import FoldFolder, ModelFolder

__all__ = ["Replayed", "record_of", "replay_batch"]


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """A batch that was made again.

    Attributes:
        iteration: that it was made for, counted from 0.
        picture: one row per sample.
        samples: for each, its case and what was done to it, in words.
    """

    iteration: int
    picture: Path
    samples: tuple[tuple[str, str], ...]


def record_of(folder: FoldFolder, iteration: int | None) -> tuple[TrainJob, Plan, BatchRecord | None]:
    """The training of a folder with its plan as it was, and the record of its bad batch where no iteration is named.

    Raises:
        InputError: no training has begun here, or it had no bad batch.
    """
    if not folder.job.is_file():
        raise InputError(
            "no training has begun here", file=folder.path, remedy="Train first: autoseg train CONFIGURATION FOLD"
        )
    record = None
    if iteration is None:
        if not folder.bad_batch.is_file():
            raise InputError(
                "which batch is not known: none of this training had a loss that was not a number",
                file=folder.path,
                remedy="Name the iteration, counted from 0: autoseg replay CONFIGURATION FOLD ITERATION -o FOLDER",
            )
        record = read_document(BatchRecord, folder.bad_batch)
    return read_document(TrainJob, folder.job), read_document(Plan, folder.plan), record


def replay_batch(
    model: ModelFolder,
    store: CaseStore,
    job: TrainJob,
    plan: Plan,
    wanted: int | BatchRecord,
    out: Path,
    logger: Logger,
) -> Replayed:
    """Makes a batch as the training makes it on a CPU: on a GPU, the noise differs.

    Cases that the training had left out by then are left out, as far as its checkpoint knows. In ``out`` lie then
    ``batch.json`` (all that was drawn), ``batch.png``, and the channels and labels of each sample as the network gets them.

    Args:
        model: folder of the training.
        store: of the configuration's preprocessed cases.
        job: the training.
        plan: that it began with.
        wanted: an iteration, counted from 0, done or not; or what was drawn for a batch.
        out: a folder that is empty, or not there.
        logger: for events.

    Raises:
        InputError: ``out`` is not empty; the record is not of this training.
        DamagedCaseError: a case cannot be read, nor be made anew.
    """
    check_outside(out, model.path, whole=False)
    if out.is_dir() and any(out.iterdir()):
        raise InputError("the folder is not empty", file=out, remedy="Name a new one.")
    check_plugs(plan, model.path / "plan.json", configurations=[job.configuration], kinds=["recipe"])
    folder, configuration = model.fold(job.configuration, job.fold), plan.configuration(job.configuration)
    keys = {case: job.case_keys[case] for case in job.cases.train}
    loader = planned_loader(
        *(plan, configuration, staged_store(model, plan, job, store), keys, job.seed),
        annotated=job.annotated,
        skipped=_left_out(folder, job),
        logger=logger,
    )
    record = loader.draw(wanted) if isinstance(wanted, int) else wanted
    _write(out, loader.make(record), record, configuration)
    samples = tuple((sample.case, _told(loader, record, place)) for place, sample in enumerate(record.samples))
    return Replayed(iteration=record.iteration, picture=out / "batch.png", samples=samples)


def _left_out(folder: FoldFolder, job: TrainJob) -> Mapping[str, int]:
    """The cases that could not be read, with the iteration in which that was found, as the newest checkpoint knows."""
    newest = next((path for path in (folder.checkpoint, folder.previous_checkpoint) if path.is_file()), None)
    return {} if newest is None else read_state(newest, job).skipped


def _told(loader: PatchLoader, record: BatchRecord, place: int) -> str:
    """What was done to a sample, in the order in which it was done."""
    sample = record.samples[place]
    turned = [] if sample.matrix is None else ["turned or scaled"]
    acted = [name for name, drawn in zip(loader.step_names, sample.parameters, strict=True) if drawn is not None]
    corner = sample.corner if len(record.patch_size) == 3 else (sample.corner[0], *sample.corner[1:])
    return f"from voxel {', '.join(map(str, corner))}: {', '.join([*turned, *acted]) or 'as it is'}"


def _write(out: Path, batch: Mapping[str, Any], record: BatchRecord, configuration: Configuration) -> None:
    images, labels = np.asarray(batch["data"]), np.asarray(batch["seg"])[:, 0].astype(np.int16)
    flat = len(record.patch_size) == 2
    if flat:
        images, labels = images[:, :, None], labels[:, None]
    first, second, third = (step or 1.0 for step in configuration.spacing)
    spacing = (max(second, third) if flat else first, second, third)
    shape = (int(labels.shape[1]), int(labels.shape[2]), int(labels.shape[3]))
    geometry = Geometry(shape=shape, spacing=spacing, planar=flat)
    for place, sample in enumerate(record.samples):
        stem = f"sample_{place:02d}_{sample.case}"
        for channel, image in enumerate(images[place]):
            _save(out / f"{stem}_{channel:04d}.nii.gz", image, geometry)
        _save(out / f"{stem}.nii.gz", labels[place], geometry)
    draw_batch(out / "batch.png", images, labels, spacing)
    write_document(out / "batch.json", record)


def _save(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    format_of(path).write(path, Volume(array=array[None], geometry=geometry))
