"""The second stage of a cascade, where the rooms meet: which predictions of the first stage it is trained with.

Every case comes with the label map that the first stage predicted of it without having been trained on it: that of the
fold that holds it out. Otherwise the second stage would learn to trust predictions that are better than those to come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.errors import CasesFailedError, DiskFullError, InputError, InterruptedRunError
from autoseg.files import content_hash, read_document
from autoseg.held_out_files import ValidationFiles
from autoseg.values import Length, Plan, Split, TrainJob, Validation, select_fold
from autoseg.workspace import FoldFolder, ModelFolder, Workspace

if TYPE_CHECKING:
    from autoseg.executors import Executor
    from autoseg.io.case_store import CaseStore
    from autoseg.io.earlier_store import EarlierStore
    from autoseg.logs import Logger

__all__ = [
    "EarlierMaps",
    "first_stage_missing",
    "holding_folds",
    "prepare_earlier",
    "require_first_stage",
    "staged_store",
]


@dataclass(frozen=True, kw_only=True)
class EarlierMaps:
    """What a training gets to see of the stage before; nothing if there is none.

    Attributes:
        keys: case id to content key of its label map.
        weights: fold of the stage before to the SHA-256 of the weights that predicted.
    """

    keys: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)


def holding_folds(split: Split, fold: str) -> dict[str, str]:
    """For every case of a fold, the fold that holds it out: for held-out cases this one, where it can be chosen.

    Args:
        split: the folds.
        fold: a number, or "full".

    Raises:
        InputError: a case is held out nowhere.
    """
    own = select_fold(split, fold)
    cases = sorted((*own.train, *own.val))
    held: dict[str, str] = dict.fromkeys(own.val, fold)
    for index, each in enumerate(split):
        for case in each.val:
            held.setdefault(case, str(index))
    nowhere = [case for case in cases if case not in held]
    if nowhere:
        raise InputError(
            "the second stage of a cascade is trained with predictions by models that were not trained on the case, and "
            "some cases are held out in no fold",
            found=", ".join(nowhere[:5]) + (" …" if len(nowhere) > 5 else ""),
            expected="every case held out in some fold",
            remedy="Change the folds in the workspace's splits_final.json, or train a configuration of one stage.",
        )
    return {case: held[case] for case in cases}


def first_stage_missing(model: ModelFolder, plan: Plan, configuration: str, split: Split, fold: str) -> tuple[str, ...]:
    """Folds of the stage before that still have to be trained and validated before a fold of a configuration can be.

    Args:
        model: folder of both stages.
        plan: its plan.
        configuration: to be trained; one without a stage before misses nothing.
        split: the folds.
        fold: to be trained: a number, or "full".

    Raises:
        InputError: a training of the stage before is one of another plan, or of other cases.
    """
    first = plan.configuration(configuration).previous_stage
    if first is None:
        return ()
    by_fold: dict[str, list[str]] = {}
    for case, by in holding_folds(split, fold).items():
        by_fold.setdefault(by, []).append(case)
    return tuple(by for by in sorted(by_fold, key=int) if not _is_ready(model, plan, first, split, by, by_fold[by]))


def _is_ready(model: ModelFolder, plan: Plan, first: str, split: Split, fold: str, cases: list[str]) -> bool:
    """Whether a fold of the first stage has ended, with a label map of each of these cases."""
    folder = model.fold(first, fold)
    if not folder.job.is_file():
        return False
    job, wanted = read_document(TrainJob, folder.job), select_fold(split, fold)
    anew = f"Move this folder away and train it anew: autoseg train {first} {fold}"
    if job.plan_id != plan.id:
        raise InputError(
            f"the first stage {first!r}, fold {fold}, was trained under another plan",
            file=folder.path,
            found=job.plan_id,
            expected=plan.id,
            remedy=anew,
        )
    if (set(job.cases.train), set(job.cases.val)) != (set(wanted.train), set(wanted.val)):
        changed = sorted(set(job.cases.val) ^ set(wanted.val)) or sorted(set(job.cases.train) ^ set(wanted.train))
        raise InputError(
            f"the first stage {first!r}, fold {fold}, was trained with other folds than those of now",
            file=folder.path,
            found=f"{', '.join(changed[:5])}{' …' if len(changed) > 5 else ''} in another place",
            expected="the folds of the workspace's splits_final.json",
            remedy=anew,
        )
    return _has_ended(folder) and all(_map_file(folder, plan, case).is_file() for case in cases)


def _has_ended(folder: FoldFolder) -> bool:
    """Whether the model that stands there is trained to its end, and scored; one that is being extended is not."""
    if not (folder.model.is_file() and folder.summary.is_file()):
        return False
    length = read_document(Length, folder.length) if folder.length.is_file() else None
    return length is None or length.trained == length.end


def _map_file(folder: FoldFolder, plan: Plan, case: str) -> Path:
    from autoseg.io.formats import label_ending

    return folder.validation / f"{case}{label_ending(plan.file_ending)}"


def require_first_stage(model: ModelFolder, plan: Plan, configuration: str, split: Split, fold: str) -> None:
    """Sees to it that all is there that the second stage of a cascade is trained with.

    Args:
        model: folder of both stages.
        plan: its plan.
        configuration: to be trained.
        split: the folds.
        fold: to be trained: a number, or "full".

    Raises:
        InputError: folds of the stage before are missing, or are of another plan or of other cases.
    """
    missing = first_stage_missing(model, plan, configuration, split, fold)
    if missing:
        first = plan.configuration(configuration).previous_stage
        commands = [f"autoseg train {first} {each}" for each in missing]
        every = len(missing) == len(split) and len(split) > 1
        raise InputError(
            f"{configuration!r}, fold {fold}, needs what {first!r} predicts of its cases, and these folds of that are not "
            f"trained and validated yet: {', '.join(missing)}",
            file=model.path / str(first),
            remedy=f"Train them first: {f'autoseg train {first} all' if every else '; '.join(commands)}",
        )


def prepare_earlier(
    workspace: Workspace,
    model: ModelFolder,
    configuration: str,
    split: Split,
    fold: str,
    keys: Mapping[str, str],
    store: CaseStore,
    executor: Executor,
    logger: Logger,
    stop: Callable[[], bool],
) -> EarlierMaps:
    """Brings what the first stage predicted of a fold's cases to the grid of the second; what is stored whole is left alone.

    Args:
        workspace: of the model.
        model: folder of both stages.
        configuration: to be trained; for one without a stage before there is nothing to do.
        split: the folds.
        fold: to be trained: a number, or "full".
        keys: case id to content key of the preprocessed cases.
        store: of these.
        executor: runs the cases.
        logger: for progress.
        stop: asked after every case.

    Raises:
        InputError: folds of the first stage are missing, do not go with this training, or were given other weights since
            they predicted.
        CasesFailedError: some label maps cannot be used; the others are stored.
        InterruptedRunError: ``stop`` said so; what is stored stays.
    """
    plan = model.plan()
    first = plan.configuration(configuration).previous_stage
    if first is None:
        return EarlierMaps()
    from autoseg.io.case_work import run_admitted
    from autoseg.preprocessing.earlier import EarlierMap, StoreEarlier, earlier_key

    require_first_stage(model, plan, configuration, split, fold)
    held = holding_folds(split, fold)
    _require_same_content(workspace, model, plan, first, held)
    weights = {by: _weights_behind(model, first, by) for by in sorted(set(held.values()), key=int)}
    maps, wanted, items = _maps_of(store, first), dict[str, str](), []
    for case, by in held.items():
        file = _map_file(model.fold(first, by), plan, case)
        wanted[case] = earlier_key(content_hash(file), keys[case])
        if not maps.is_whole(case, wanted[case]):
            record = store.open(case, keys[case]).record
            items.append(EarlierMap(id=case, file=str(file), record=record, key=wanted[case]))
    spared = tuple(sorted(workspace.keys_in_use()))
    task = StoreEarlier(plan=plan, configuration=configuration, folder=str(maps.folder), spared=spared)
    failures: dict[str, BaseException] = {}
    for done, outcome in enumerate(run_admitted(executor, task, items, task.bytes) if items else (), start=1):
        logger.event("progress", stage=task.stage, done=done, total=len(items))
        if isinstance(outcome.error, DiskFullError):
            raise outcome.error
        if outcome.error is not None:
            failures[outcome.item.id] = outcome.error
        if stop():
            raise InterruptedRunError(f"stopped after {done} of {len(items)} predictions of {first}; they are kept")
    if failures:
        raise CasesFailedError(task.stage, dict(sorted(failures.items())), len(items) - len(failures))
    return EarlierMaps(keys=wanted, weights=weights)


def _weights_behind(model: ModelFolder, first: str, fold: str) -> str:
    """SHA-256 of the weights of a fold of the first stage, which made the label maps of its validation.

    Raises:
        InputError: others did.
    """
    from autoseg.networks.weights import weights_id

    folder = model.fold(first, fold)
    record, weights = ValidationFiles(folder).record, weights_id(folder.model)
    made_by = read_document(Validation, record).weights if record.is_file() else weights
    if made_by != weights:
        raise InputError(
            f"the label maps of the first stage {first!r}, fold {fold}, were made by other weights than those that stand "
            "there",
            file=folder.validation,
            found=f"weights {made_by[:12]}",
            expected=f"weights {weights[:12]}",
            remedy=f"Repeat the training's command, which makes them anew: autoseg train {first} {fold}",
        )
    return weights


def _require_same_content(
    workspace: Workspace, model: ModelFolder, plan: Plan, first: str, held: Mapping[str, str]
) -> None:
    """Sees to it that the first stage was trained with the images and references that are there now.

    Raises:
        InputError: it was not.
    """
    from autoseg.io.case_work import CaseFiles
    from autoseg.preprocessing.forward import case_key, parameters_key

    dataset, parameters = workspace.dataset(), parameters_key(plan, plan.configuration(first))
    known = {case.id: CaseFiles.of(case, dataset.root, workspace.contents).hashes for case in dataset.annotated_cases}
    now = {case: case_key(parameters, hashes) for case, hashes in known.items() if hashes is not None}
    for fold in sorted(set(held.values()), key=int):
        folder = model.fold(first, fold)
        then = read_document(TrainJob, folder.job).case_keys
        changed = sorted(case for case, key in then.items() if now.get(case, key) != key)
        if changed:
            raise InputError(
                f"the first stage {first!r}, fold {fold}, was trained with another content of some cases",
                file=folder.path,
                found=f"{', '.join(changed[:5])}{' …' if len(changed) > 5 else ''} changed since",
                expected="the same as then",
                remedy=f"Move this folder away and train it anew: autoseg train {first} {fold}",
            )


def staged_store(model: ModelFolder, plan: Plan, job: TrainJob, store: CaseStore) -> CaseStore:
    """The store that a training reads its cases from: with what the stage before predicted, if there is one.

    Args:
        model: folder of both stages.
        plan: its plan.
        job: the training.
        store: of the preprocessed cases.
    """
    first = plan.configuration(job.configuration).previous_stage
    if first is None:
        return store
    from autoseg.io.earlier_store import StagedStore
    from autoseg.preprocessing.earlier import EarlierMap, StoreEarlier, earlier_key

    maps = _maps_of(store, first)

    def remake(case: str) -> None:
        task = StoreEarlier(
            plan=plan, configuration=job.configuration, folder=str(maps.folder), spared=(*job.previous_keys.values(),)
        )
        for fold in model.trained(first):
            file, key = _map_file(model.fold(first, fold), plan, case), job.previous_keys[case]
            if file.is_file() and earlier_key(content_hash(file), job.case_keys[case]) == key:
                record = store.open(case, job.case_keys[case]).record
                return task(EarlierMap(id=case, file=str(file), record=record, key=key))

    return StagedStore(store, maps, job.previous_keys, len(plan.labels.foreground), remake)


def _maps_of(store: CaseStore, first: str) -> EarlierStore:
    from autoseg.io.earlier_store import EarlierStore

    return EarlierStore(store.folder / f"predicted_by_{first}")
