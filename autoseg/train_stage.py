"""The training stage: which plan is trained, whether all that it names is there and fits, and one fold from job to score."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from filelock import FileLock, Timeout

from autoseg.cascade_stage import EarlierMaps, staged_store
from autoseg.disk import SHARE_OF_PROBABILITIES, check_room_for_probabilities, probability_bytes
from autoseg.errors import DamagedCaseError, HeldError
from autoseg.estimates import announce
from autoseg.files import read_document, sweep, write_document
from autoseg.finetuning.begin import begin_fold
from autoseg.finetuning.source import Source
from autoseg.inference.cases import validate_cases
from autoseg.inference.fast import measure_fast
from autoseg.inference.model import Choice, load_predictor
from autoseg.inference.window import scoring_batches
from autoseg.io.case_store import CaseStore
from autoseg.io.chunks import can_compress
from autoseg.leases import leased
from autoseg.logs import Logger, SilentLogger
from autoseg.networks.weights import load_metadata
from autoseg.plan_check import foreign_parts, usable_plan
from autoseg.plan_parts import derived_model
from autoseg.training.job import Wish, has_ended, job_to_do, length_to_do
from autoseg.training.loop import train_fold
from autoseg.training.ranks import ALONE, Ranks
from autoseg.training.trial import try_parts
from autoseg.truth_stage import running_truth, tell_validated
from autoseg.values import Fingerprint, Fold, Parts, Plan, Summary, TrainJob, decode, encode
from autoseg.values.json_form import Value
from autoseg.workspace import FoldFolder, ModelFolder, Workspace

__all__ = ["Trained", "announce_new", "dismiss", "follow", "job_of", "model_to_train", "train_one"]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What ``train`` made.

    Attributes:
        configuration: its name.
        fold: a number, or "full".
        folder: of the fold.
        summary: its score on the held-out cases; None without any.
        skipped: training cases that could not be read, and were left out from then on.
    """

    configuration: str
    fold: str
    folder: FoldFolder
    summary: Summary | None
    skipped: tuple[str, ...] = ()


class _Order(Value, frozen=True, kw_only=True):
    """Which training the other processes help with, now."""

    model: str
    configuration: str
    fold: str
    deterministic: bool


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
    plan = usable_plan(model, configurations=[configuration])
    try_parts(plan.configuration(configuration), plan.labels, device=device)
    return model


def announce_new(
    workspace: Workspace,
    model: ModelFolder,
    configuration: str,
    folds: Mapping[str, Fold],
    wish: Wish,
    device: str,
    logger: Logger,
    *,
    probabilities: bool = True,
) -> None:
    """Tells how long the trainings will take that have not begun, if there are any, and how much room on the disk.

    Args:
        workspace: of the model.
        model: folder to train in.
        configuration: its name.
        folds: to be trained, with their cases.
        wish: how far to train.
        device: cpu, cuda or mps.
        logger: hears it.
        probabilities: keep those of the held-out cases.

    Raises:
        DiskFullError: there is clearly too little room for these.
    """
    new = [fold for fold in folds if not model.fold(configuration, fold).job.is_file()]
    if new:
        plan = model.plan()
        planned = wish.iterations or plan.configuration(configuration).training.iterations
        length = None if wish.hours or wish.until_plateau else planned
        held_out = {case for fold in new for case in folds[fold].val}
        kept = _room_for_probabilities(workspace, plan, held_out) if probabilities else 0
        announce(
            *(workspace, plan, configuration, length, len(new), device, logger),
            hours=wish.hours,
            held_out=bool(held_out),
            probability_bytes=kept,
        )


def _room_for_probabilities(workspace: Workspace, plan: Plan, cases: Collection[str]) -> int:
    """Bytes that the kept probabilities of cases are expected to take.

    Raises:
        DiskFullError: there is clearly too little room.
    """
    fingerprint, compressed = read_document(Fingerprint, workspace.fingerprint_path()), can_compress()
    raw = probability_bytes(plan, fingerprint, cases)
    check_room_for_probabilities(workspace.path, raw, compressed=compressed)
    return int(raw * SHARE_OF_PROBABILITIES) if compressed else raw


def job_of(
    plan: Plan,
    configuration: str,
    fold: str,
    cases: Fold,
    keys: Mapping[str, str],
    iterations: int,
    annotated: Mapping[str, tuple[str, ...]],
    source: Source | None,
    earlier: EarlierMaps,
) -> TrainJob:
    """The training of a fold, fully specified.

    Args:
        plan: to train by.
        configuration: its name.
        fold: a number, or "full".
        cases: of the fold.
        keys: case id to content key of the preprocessed cases.
        iterations: planned.
        annotated: case id to the labels that were looked for, of the cases in which not all were.
        source: of the weights to begin with, if any.
        earlier: what the stage before predicted, if there is one.
    """
    used = sorted((*cases.train, *cases.val))
    return TrainJob(
        plan_id=plan.id,
        configuration=configuration,
        fold=fold,
        iterations=iterations,
        seed=plan.seed,
        cases=cases,
        case_keys={case: keys[case] for case in used},
        annotated={case: annotated[case] for case in used if case in annotated},
        parts=foreign_parts(plan, configuration),
        begins_from=source.sha256 if source else "",
        previous_keys=earlier.keys,
        previous_weights=earlier.weights,
    )


def train_one(
    model: ModelFolder,
    plan: Plan,
    wanted: TrainJob,
    store: CaseStore,
    wish: Wish,
    source: Source | None,
    device: str,
    logger: Logger,
    stop: Callable[[], bool],
    *,
    deterministic: bool,
    probabilities: bool = True,
    ranks: Ranks = ALONE,
) -> Trained:
    """Trains a fold, or goes on with it, and scores it on its held-out cases; the first of several processes calls it.

    Args:
        model: folder to train in.
        plan: its plan.
        wanted: the training.
        store: of the preprocessed cases.
        wish: how far to train.
        source: of the weights to begin with, if any.
        device: cpu, cuda or mps.
        logger: for events.
        stop: asked often; True saves and stops.
        deterministic: use only algorithms that give the same bits in every run.
        probabilities: keep those of the held-out cases, for ensembles.
        ranks: the processes that train together; the others ``follow``.

    Raises:
        HeldError: another process trains this fold.
        LostLeaseError: another one has taken it over meanwhile.
        InputError: another training stands there.
        InterruptedRunError: ``stop`` said so.
    """
    folder = model.fold(wanted.configuration, wanted.fold)
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        with _sole_writer(folder, logger, stop):
            sweep(folder.path, older_than_seconds=0)  # nobody else writes here
            job = job_to_do(folder.job, wanted, exact_length=wish.iterations is not None, plan=plan)
            configuration, keys = plan.configuration(job.configuration), job.case_keys
            store = staged_store(model, plan, job, store)
            has_estimates = bool(job.cases.val) and configuration.training.validation_iterations > 0
            length = length_to_do(folder, job, wish, has_estimates=has_estimates)
            if wish.extend is not None or not folder.job.is_file():  # who left it cannot have meant this training
                folder.stop_file.unlink(missing_ok=True)
            write_document(folder.plan, plan)
            write_document(folder.length, length)
            write_document(folder.job, job)
            truth, logger = running_truth(model, plan, job, store, device, logger, stop)
            if not has_ended(folder, length):
                timed = job.cases.val if length.hours is not None else ()
                batches = scoring_batches(configuration, _shapes(store, {case: keys[case] for case in timed}))
                initial = begin_fold(source, plan, job, folder, logger)
                _call(ranks, model, job, deterministic=deterministic)
                train_fold(
                    *(job, plan, store, folder, logger),
                    device=device,
                    stop=stop,
                    truth=truth,
                    initial=initial,
                    scoring_batches=batches,
                    deterministic=deterministic,
                    ranks=ranks,
                )
            summary = None
            if job.cases.val:
                choice = Choice(configuration=job.configuration, folds=(job.fold,), dice=None)
                predictor = load_predictor(model, choice, device=device)
                held_out = {case: keys[case] for case in job.cases.val}
                how = (plan, store, held_out, job.annotated, folder, logger, stop)
                summary = validate_cases(predictor, *how, probabilities=probabilities)
                measure_fast(predictor, *how)
                tell_validated(summary, truth, logger)
    except Timeout as error:
        raise HeldError(folder.path) from error
    skipped = tuple(load_metadata(folder.model).get("skipped", ()))
    return Trained(configuration=job.configuration, fold=job.fold, folder=folder, summary=summary, skipped=skipped)


def _shapes(store: CaseStore, keys: Mapping[str, str]) -> list[tuple[int, ...]]:
    """Voxels per axis of stored cases; one that is damaged is made anew, or named, when it is scored."""
    shapes: list[tuple[int, ...]] = []
    for case, key in keys.items():
        with contextlib.suppress(DamagedCaseError):
            shapes.append(store.open(case, key).record.shape)
    return shapes


@contextlib.contextmanager
def _sole_writer(folder: FoldFolder, logger: Logger, stop: Callable[[], bool]) -> Iterator[None]:
    """Sees to it that nobody else writes in the folder: by a file lock, which the system releases when a process dies, and
    by a lease, for folders that several machines share.

    Raises:
        Timeout: another process has the lock.
        HeldError: another one has the lease.
    """
    lock = FileLock(folder.lock, timeout=0)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock)
        except Timeout:
            raise
        except (OSError, NotImplementedError):  # a file system without locks: the lease alone counts
            logger.event(
                "message", text=f"{folder.path} cannot be locked: its file system knows no locks; a lease counts"
            )
        stack.enter_context(leased(folder.path, stop=stop, tell=lambda text: logger.event("message", text=text)))
        yield


def follow(
    ranks: Ranks,
    workspace: Workspace,
    store_of: Callable[[Workspace, ModelFolder, Plan, str], CaseStore],
    device: str,
    stop: Callable[[], bool],
) -> None:
    """What the other processes do: they help with every training that the first one begins, until it dismisses them.

    Plan, job and checkpoints are read from the files that it has written.

    Args:
        ranks: the processes.
        workspace: that all of them see.
        store_of: gives the store of preprocessed cases, for a model of the workspace, its plan and a configuration's name.
        device: cpu, cuda or mps.
        stop: asked often; True saves and stops all.
    """
    while text := ranks.told(lambda: ""):
        order = decode(_Order, text)
        model = workspace.model(order.model)
        plan = usable_plan(model, configurations=[order.configuration])
        folder = model.fold(order.configuration, order.fold)
        job = read_document(TrainJob, folder.job)
        store = staged_store(model, plan, job, store_of(workspace, model, plan, order.configuration))
        train_fold(
            *(job, plan, store, folder, SilentLogger()),
            device=device,
            stop=stop,
            deterministic=order.deterministic,
            ranks=ranks,
        )


def _call(ranks: Ranks, model: ModelFolder, job: TrainJob, *, deterministic: bool) -> None:
    order = _Order(model=model.path.name, configuration=job.configuration, fold=job.fold, deterministic=deterministic)
    ranks.told(lambda: encode(order).decode())


def dismiss(ranks: Ranks) -> None:
    """Nothing is left to train: ``follow`` returns."""
    ranks.told(lambda: "")
