"""The whole story: plan, preprocess, train, predict, evaluate. Only this module knows the order.

Every stage takes values and gives values; where two rooms must meet, this module hands one to the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.check_stage import Checked, check_dataset
from autoseg.errors import InputError
from autoseg.executors import Executor, SerialExecutor, ThreadExecutor
from autoseg.export_stage import export_model
from autoseg.files import read_document, write_document
from autoseg.logs import Logger, SilentLogger, WithFields
from autoseg.plan_check import usable_plan
from autoseg.plan_stage import Planned, explain, plan_dataset
from autoseg.predict_stage import Predicted, predict
from autoseg.select_stage import select_best
from autoseg.stores import case_store_of
from autoseg.values import (
    Fingerprint,
    Fold,
    Labels,
    Measuring,
    Parts,
    Plan,
    Split,
    Summary,
    fold_names,
    select_fold,
)
from autoseg.workspace import ModelFolder, Workspace

if TYPE_CHECKING:
    from autoseg.io.case_store import CaseStore
    from autoseg.replay_stage import Replayed
    from autoseg.train_stage import Trained
    from autoseg.training.job import Wish
    from autoseg.training.ranks import Ranks

__all__ = [
    "Checked",
    "Planned",
    "Predicted",
    "check_dataset",
    "evaluate",
    "explain",
    "export_model",
    "plan_dataset",
    "predict",
    "preprocess",
    "replay",
    "select_best",
    "train",
]

SILENT = SilentLogger()
NEVER: Callable[[], bool] = lambda: False  # noqa: E731


def preprocess(
    workspace: Workspace,
    configurations: Sequence[str] = (),
    *,
    plan_name: str | None = None,
    cases: Sequence[str] = (),
    verify: bool = False,
    executor: Executor | None = None,
    logger: Logger = SILENT,
    stop: Callable[[], bool] = NEVER,
) -> dict[str, dict[str, str]]:
    """Brings cases to the grids of the configurations; what is there, is whole and has not changed is left alone.

    Args:
        workspace: with a plan.
        configurations: names; empty for all of the plan.
        plan_name: the active plan by default.
        cases: ids; empty for all annotated ones.
        verify: read all files again, of the data set and of what is stored, whatever their sizes and times.
        executor: runs the cases.
        logger: for events.
        stop: asked after every case; True stops.

    Returns:
        Per configuration: case id to content key.

    Raises:
        InputError: the labels or channels are not those of the plan.
        CasesFailedError: some cases failed; the others are stored.
        DiskFullError: there is too little room; what is stored stays.
    """
    from autoseg.integrity.fixes import require_current_fixes
    from autoseg.preprocessing.cases import preprocess_cases

    plan, dataset = usable_plan(workspace.model(plan_name)), workspace.dataset()
    if (plan.labels, plan.channels) != (dataset.labels, dataset.channels):
        raise InputError(
            f"the labels or channels of the data set have changed since the plan {plan.name!r} was made",
            file=workspace.path,
            remedy="Make a new plan: autoseg plan DATASET --name NEW. What is trained can still be predicted with.",
        )
    require_current_fixes(workspace, dataset, again=verify)
    wanted = [case for case in dataset.annotated_cases if not cases or case.id in cases]
    names = [plan.configuration(name).name for name in configurations] or plan.names
    stores = {name: case_store_of(workspace, plan, name) for name in names}
    _require_room(workspace, plan, stores, {case.id for case in wanted})
    return preprocess_cases(
        *(dataset, wanted, plan, stores, workspace.contents, executor or ThreadExecutor(), logger, stop),
        verify=verify,
        spared=workspace.keys_in_use(),
    )


def _require_room(workspace: Workspace, plan: Plan, stores: Mapping[str, CaseStore], wanted: set[str]) -> None:
    """Before anything is made: what is missing of all configurations must fit on the disk."""
    from autoseg.disk import check_room

    missing: dict[Path, tuple[str, set[str]]] = {}
    for name, store in stores.items():  # configurations with equal cases have one folder, which is filled once
        missing.setdefault(store.folder, (name, wanted - store.case_ids()))
    named = {name: cases for name, cases in missing.values() if cases}
    if named and workspace.fingerprint_path().is_file():
        fingerprint = read_document(Fingerprint, workspace.fingerprint_path())
        check_room(
            workspace.path / "preprocessed",
            plan,
            named,
            fingerprint,
            compressed=lambda: stores[next(iter(named))].compressed,
        )


def train(
    workspace: Workspace,
    configuration: str,
    fold: str,
    *,
    plan_name: str | None = None,
    parts: Parts | None = None,
    begin_from: Path | None = None,
    epochs: int | None = None,
    iterations: int | None = None,
    hours: float | None = None,
    until_plateau: bool = False,
    extend: int | None = None,
    finish: bool = False,
    deterministic: bool = False,
    probabilities: bool = True,
    device: str = "auto",
    executor: Executor | None = None,
    logger: Logger = SILENT,
    stop: Callable[[], bool] = NEVER,
) -> list[Trained]:
    """Trains a fold and scores it on its held-out cases; repeating the call goes on where it stopped.

    Without a length, the plan's is taken, or that of the training to go on with.

    In processes that torchrun has started together, all call it alike: each computes some samples of every batch, and the
    first one does everything else; the others return nothing.

    Args:
        workspace: with a plan.
        configuration: its name.
        fold: a number, several ("0,2", "0..4"), "all" for every fold in turn, or "full" for one model on all cases.
        plan_name: the active plan by default.
        parts: plugs instead of the plan's: a plan with them is derived, and trained beside it.
        begin_from: a model of ours or nnU-Net's, a new training begins with its weights; no code of it is run.
        epochs: length in the plan's epochs.
        iterations: length in iterations, instead of ``epochs``.
        hours: time of each fold, with the scoring, without the preprocessing, instead of ``epochs``.
        until_plateau: as long as held-out cases gain, instead of ``epochs``.
        extend: iterations to add to a training that has ended.
        finish: end a training that has begun, by a short cooldown; one that runs elsewhere is asked to, and not waited for.
        deterministic: use only algorithms that give the same bits in every run; slower on a GPU.
        probabilities: keep those of the held-out cases, for ensembles.
        device: cpu, cuda, mps or auto.
        executor: runs the preprocessing.
        logger: for events.
        stop: asked often; True saves and stops.

    Raises:
        UnknownNameError: no such configuration or fold.
        InterruptedRunError: ``stop`` said so.
    """
    from autoseg.networks.execution import resolve_device
    from autoseg.train_stage import dismiss, follow, model_to_train
    from autoseg.training.determinism import prepare_deterministic
    from autoseg.training.job import Wish
    from autoseg.training.joining import joined, use_own_gpu

    if deterministic:
        prepare_deterministic()
    with joined() as ranks, _named_model(begin_from) as begin_from:
        device = resolve_device(device)
        use_own_gpu(ranks, device)
        if not ranks.first:
            follow(ranks, workspace.existing(), _mending_store, device, stop)
            return []
        model = model_to_train(workspace.existing(), configuration, plan_name, parts, device, logger)
        planned = model.plan().configuration(configuration)
        ranks.share(planned.batch_size)  # or there are too many processes
        length = _iterations(epochs, iterations, planned.training.iterations_per_epoch)
        wish = Wish(iterations=length, hours=hours, until_plateau=until_plateau, extend=extend)
        folds = _folds(workspace, model, configuration, fold, logger, finish=finish)
        results = _train_folds(
            *(ranks, workspace, model, configuration, folds, wish, begin_from, device, executor, logger, stop),
            deterministic=deterministic,
            probabilities=probabilities,
        )
        dismiss(ranks)
        return results


@contextlib.contextmanager
def _named_model(path: Path | None) -> Iterator[Path | None]:
    """A model to begin with; one of an archive is unpacked for the while, an exported one is checked."""
    from autoseg.sharing.reading import opened_model

    if path is None:
        yield None
        return
    with opened_model(path) as model:
        yield model.path


def _folds(
    workspace: Workspace, model: ModelFolder, configuration: str, fold: str, logger: Logger, *, finish: bool
) -> dict[str, Fold]:
    """The folds to train here, with their cases."""
    from autoseg.training.job import left_to_finish

    split: Split = read_document(Split, workspace.split_path)
    names = list(fold_names(fold, len(split)))
    if finish:
        names = left_to_finish({each: model.fold(configuration, each) for each in names}, logger)
    return {each: select_fold(split, each) for each in names}


def _train_folds(
    ranks: Ranks,
    workspace: Workspace,
    model: ModelFolder,
    configuration: str,
    folds: Mapping[str, Fold],
    wish: Wish,
    begin_from: Path | None,
    device: str,
    executor: Executor | None,
    logger: Logger,
    stop: Callable[[], bool],
    *,
    deterministic: bool,
    probabilities: bool,
) -> list[Trained]:
    from autoseg.cascade_stage import prepare_earlier, require_first_stage
    from autoseg.finetuning.begin import find_sources
    from autoseg.train_stage import announce_new, job_of, train_one

    if not folds:
        return []
    plan, name = model.plan(), model.path.name
    split: Split = read_document(Split, workspace.split_path)
    for each in folds:
        require_first_stage(model, plan, configuration, split, each)
    used = sorted({case for cases in folds.values() for case in (*cases.train, *cases.val)})
    annotated = {case.id: case.annotated or () for case in workspace.dataset().partly_annotated}
    sources = find_sources(begin_from, plan, configuration, list(folds)) if begin_from else {}
    announce_new(workspace, model, configuration, folds, wish, device, logger, probabilities=probabilities)
    keys = preprocess(
        workspace, [configuration], plan_name=name, cases=used, executor=executor, logger=logger, stop=stop
    )[configuration]
    store = _mending_store(workspace, model, plan, configuration, logger)
    results, iterations = [], wish.iterations or plan.configuration(configuration).training.iterations
    for each, cases in folds.items():
        source = sources.get(each)
        needed = (keys, store, executor or ThreadExecutor(), logger, stop)
        earlier = prepare_earlier(workspace, model, configuration, split, each, *needed)
        wanted = job_of(plan, configuration, each, cases, keys, iterations, annotated, source, earlier)
        events = WithFields(logger, configuration=configuration, fold=each)
        how = (wish, source, device, events, stop)
        trained = train_one(
            *(model, plan, wanted, store, *how),
            deterministic=deterministic,
            probabilities=probabilities,
            ranks=ranks,
        )
        results.append(trained)
    return results


def _mending_store(
    workspace: Workspace, model: ModelFolder, plan: Plan, configuration: str, logger: Logger = SILENT
) -> CaseStore:
    """The store of a configuration's cases; what turns out damaged in it is made anew, by one process at a time."""
    from filelock import FileLock

    def rebuild(case: str) -> None:
        with FileLock(store.folder / ".mending.lock"):
            preprocess(workspace, [configuration], plan_name=model.path.name, cases=[case], logger=logger)

    store = case_store_of(workspace, plan, configuration, rebuild)
    return store


def replay(
    workspace: Workspace,
    configuration: str,
    fold: str,
    out: Path,
    *,
    iteration: int | None = None,
    plan_name: str | None = None,
    logger: Logger = SILENT,
) -> Replayed:
    """Makes the batch of an iteration again, as the network gets it, and writes it with a picture.

    Args:
        workspace: with a training that has begun.
        configuration: its name.
        fold: a number, or "full".
        out: a folder that is empty, or not there.
        iteration: counted from 0, done or not; None for the batch whose loss was not a number.
        plan_name: the active plan by default.
        logger: for events.

    Raises:
        InputError: no training has begun here, or ``out`` is not empty.
        DamagedCaseError: a case cannot be read, nor be made anew.
    """
    from autoseg.replay_stage import record_of, replay_batch

    model = workspace.existing().model(plan_name)
    model.plan().configuration(configuration)  # or the names are told that there are
    job, plan, record = record_of(model.fold(configuration, fold), iteration)
    wanted = iteration if record is None else record
    assert wanted is not None
    store = _mending_store(workspace, model, plan, configuration, logger)
    return replay_batch(model, store, job, plan, wanted, out, logger)


def _iterations(epochs: int | None, iterations: int | None, per_epoch: int) -> int | None:
    if epochs is not None and iterations is not None:
        raise InputError("a training has one length", found="epochs and iterations", expected="one of them")
    return iterations if epochs is None else epochs * per_epoch


def evaluate(
    predictions: Path,
    references: Path,
    *,
    labels: Labels | None = None,
    workspace: Workspace | None = None,
    measuring: Measuring | None = None,
    executor: Executor | None = None,
    logger: Logger = SILENT,
) -> Summary:
    """Scores label maps against references and writes ``summary.json`` and ``scores.csv`` beside the predictions.

    Repeating the call scores only what has changed, so that it goes on where it was stopped.

    Args:
        predictions: folder of label maps.
        references: folder of label maps of the same names.
        labels: what the integers mean; None to look in the predictions' record, the references' data set, the workspace.
        workspace: to look in last.
        measuring: what is measured beside the overlap; all that comes with autoseg by default.
        executor: runs the cases.
        logger: for events.

    Returns:
        The summary; it names the cases that stand in one of the folders only.
    """
    from autoseg.evaluation.evaluate import SCORES_FOLDER, evaluate_folders, find_annotated, find_labels
    from autoseg.evaluation.score_table import SCORE_TABLE, write_score_table
    from autoseg.io.outputs import check_no_links_out

    check_no_links_out(predictions, lambda name: name in ("summary.json", SCORE_TABLE, SCORES_FOLDER))
    measuring = measuring or Measuring()
    labels = labels or find_labels(predictions, references, workspace)
    annotated = find_annotated(references, labels, workspace)
    executor = executor or SerialExecutor()
    summary = evaluate_folders(predictions, references, labels, executor, logger, annotated, measuring)
    write_score_table(predictions / SCORE_TABLE, summary)
    write_document(predictions / "summary.json", summary)
    return summary
