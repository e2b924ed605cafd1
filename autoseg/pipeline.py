"""The whole story: plan, preprocess, train, predict, evaluate. Only this module knows the order.

Every stage takes values and gives values; where two rooms must meet, this module hands one to the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg import plugins
from autoseg.errors import InputError
from autoseg.executors import Executor, SerialExecutor, ThreadExecutor
from autoseg.logs import Logger, SilentLogger
from autoseg.planning import GIBIBYTE, Budget
from autoseg.values import Case, Dataset, Finding, Labels, Plan, Split, Summary, TrainJob, digest, select_fold
from autoseg.workspace import ModelFolder, Workspace, content_hash, read_document, write_document

if TYPE_CHECKING:
    from autoseg.inference.model import Choice

__all__ = ["Planned", "Predicted", "Trained", "evaluate", "plan_dataset", "predict", "preprocess", "train"]

SILENT = SilentLogger()
NEVER: Callable[[], bool] = lambda: False  # noqa: E731
DEFAULT_BUDGET = 8 * GIBIBYTE


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What ``plan_dataset`` made: the plan, where it is, the folds and what was noticed about the data."""

    plan: Plan
    folder: ModelFolder
    dataset: Dataset
    split: Split
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What ``train`` made: the folder of a fold, and its score on the held-out cases (None without any)."""

    configuration: str
    fold: str
    folder: Path
    summary: Summary | None


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What ``predict`` made: label files by case, and the model that was used."""

    files: dict[str, Path]
    choice: Choice
    model: ModelFolder


def plan_dataset(
    folder: Path,
    workspace: Workspace,
    *,
    preset: str = "default",
    name: str | None = None,
    memory_gib: float | None = None,
    configurations: Sequence[str] = (),
    seed: int = 12345,
    executor: Executor | None = None,
    logger: Logger = SILENT,
) -> Planned:
    """Looks at a data set, checks it, and plans how to segment it.

    Args:
        folder: of the data set; never written to.
        workspace: to keep everything in.
        preset: the planner plug.
        name: of the plan; the preset's by default.
        memory_gib: of the training device; None for what the GPU has free, or 8 GiB without one.
        configurations: wanted ones; empty for all.
        seed: of the experiment.
        executor: runs the cases.
        logger: for events.

    Raises:
        InputError: the data set cannot be used as it is; everything that is wrong is listed.
    """
    from autoseg.fingerprinting import fingerprint_dataset
    from autoseg.io.dataset import read_dataset
    from autoseg.networks.execution import free_memory, resolve_device
    from autoseg.networks.memory import FLOAT_BYTES, HALF_BYTES, training_bytes
    from autoseg.splitting import current_split

    planner = plugins.load("planner", preset)()
    dataset, known = read_dataset(folder)
    _check_same_dataset(workspace, dataset)
    fingerprint, findings = fingerprint_dataset(dataset, known, workspace, executor or ThreadExecutor(), logger)
    split = current_split(workspace, dataset)
    device = resolve_device("auto")
    budget = Budget(
        memory_bytes=int(memory_gib * GIBIBYTE) if memory_gib else free_memory(device) or DEFAULT_BUDGET,
        device=device,
        configurations=tuple(configurations),
        seed=seed,
    )
    cost = functools.partial(training_bytes, activation_bytes=HALF_BYTES if device == "cuda" else FLOAT_BYTES)
    plan = planner.plan(fingerprint, budget, cost, name=name or preset.replace(":", "-"))
    model = workspace.save(dataset, fingerprint, split, plan)
    logger.event("planned", plan=plan.id, file=str(model.path / "plan.json"))
    return Planned(plan=plan, folder=model, dataset=dataset, split=split, findings=tuple(findings))


def _check_same_dataset(workspace: Workspace, dataset: Dataset) -> None:
    if workspace.dataset_path.is_file() and workspace.dataset().name != dataset.name:
        raise InputError(
            "the workspace belongs to another data set",
            file=workspace.path,
            found=workspace.dataset().name,
            expected=dataset.name,
            remedy="Name another workspace with -w.",
        )


def preprocess(
    workspace: Workspace,
    configurations: Sequence[str] = (),
    *,
    plan_name: str | None = None,
    cases: Sequence[str] = (),
    executor: Executor | None = None,
    logger: Logger = SILENT,
    stop: Callable[[], bool] = NEVER,
) -> dict[str, dict[str, str]]:
    """Brings cases to the grids of the configurations; what is there and has not changed is left alone.

    Args:
        workspace: with a plan.
        configurations: names; empty for all of the plan.
        plan_name: the active plan by default.
        cases: ids; empty for all annotated ones.
        executor: runs the cases.
        logger: for events.
        stop: asked after every case; True stops.

    Returns:
        Per configuration: case id to content key.
    """
    from autoseg.io.case_store import CaseStore
    from autoseg.preprocessing.cases import preprocess_cases
    from autoseg.preprocessing.forward import parameters_key

    plan, dataset = workspace.model(plan_name).plan(), workspace.dataset()
    wanted = [case for case in dataset.annotated_cases if not cases or case.id in cases]
    keys = {}
    for name in [plan.configuration(name).name for name in configurations] or plan.names:
        configuration = plan.configuration(name)
        store = CaseStore(workspace.preprocessed(name, parameters_key(plan, configuration)))
        keys[name] = preprocess_cases(
            dataset, wanted, plan, configuration, store, workspace.contents, executor or ThreadExecutor(), logger, stop
        )
    return keys


def train(
    workspace: Workspace,
    configuration: str,
    fold: str,
    *,
    plan_name: str | None = None,
    iterations: int | None = None,
    device: str = "auto",
    executor: Executor | None = None,
    logger: Logger = SILENT,
    stop: Callable[[], bool] = NEVER,
) -> list[Trained]:
    """Trains a fold and scores it on its held-out cases; repeating the call goes on where it stopped.

    Args:
        workspace: with a plan.
        configuration: its name.
        fold: a number, "all" for every fold in turn, or "full" for one model on all cases.
        plan_name: the active plan by default.
        iterations: in total; None for the plan's length, or that of the training to go on with.
        device: cpu, cuda, mps or auto.
        executor: runs the preprocessing.
        logger: for events.
        stop: asked often; True saves and stops.

    Raises:
        UnknownNameError: no such configuration or fold.
        InterruptedRunError: ``stop`` said so.
    """
    from autoseg.networks.execution import resolve_device
    from autoseg.training.job import job_to_do

    model = workspace.model(plan_name)
    plan = model.plan()
    plan.configuration(configuration)
    split: Split = read_document(Split, workspace.split_path)
    folds = [str(index) for index in range(len(split))] if fold == "all" else [fold]
    jobs = [(each, select_fold(split, each)) for each in folds]
    used = sorted({case for _, cases in jobs for case in (*cases.train, *cases.val)})
    keys = preprocess(
        workspace, [configuration], plan_name=plan_name, cases=used, executor=executor, logger=logger, stop=stop
    )[configuration]
    results = []
    for each, cases in jobs:
        wanted = TrainJob(
            plan_id=plan.id,
            configuration=configuration,
            fold=each,
            iterations=iterations or _planned_iterations(plan, configuration),
            seed=plan.seed,
            cases=cases,
            case_keys={case: keys[case] for case in sorted((*cases.train, *cases.val))},
        )
        folder = model.fold(configuration, each)
        job = job_to_do(folder / "job.json", wanted, exact_length=iterations is not None)
        results.append(_train_one(workspace, model, plan, job, folder, resolve_device(device), logger, stop))
    return results


def _planned_iterations(plan: Plan, configuration: str) -> int:
    training = plan.configuration(configuration).training
    return training.epochs * training.iterations_per_epoch


def _train_one(
    workspace: Workspace,
    model: ModelFolder,
    plan: Plan,
    job: TrainJob,
    folder: Path,
    device: str,
    logger: Logger,
    stop: Callable[[], bool],
) -> Trained:
    from filelock import FileLock, Timeout

    from autoseg.inference.cases import validate_cases
    from autoseg.inference.model import Choice, load_predictor
    from autoseg.io.case_store import CaseStore
    from autoseg.preprocessing.forward import parameters_key
    from autoseg.training.loop import train_fold

    configuration = plan.configuration(job.configuration)
    store = CaseStore(workspace.preprocessed(job.configuration, parameters_key(plan, configuration)))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            write_document(folder / "job.json", job)
            if not (folder / "model.safetensors").is_file():
                train_fold(job, plan, store, folder, logger, device=device, stop=stop)
            summary = None
            if job.cases.val:
                choice = Choice(configuration=job.configuration, folds=(job.fold,), dice=None)
                predictor = load_predictor(model, choice, device=device)
                keys = {case: job.case_keys[case] for case in job.cases.val}
                summary = validate_cases(predictor, plan, store, keys, folder / "validation", logger, stop)
    except Timeout as error:
        raise InputError("another process is training this fold", file=folder, remedy="Wait for it.") from error
    return Trained(configuration=job.configuration, fold=job.fold, folder=folder, summary=summary)


def predict(
    source: Path,
    target: Path,
    *,
    workspace: Workspace | None = None,
    model: ModelFolder | None = None,
    configuration: str | None = None,
    folds: Sequence[str] = (),
    device: str = "auto",
    mirroring: bool = True,
    trust_code: bool = False,
    logger: Logger = SILENT,
) -> Predicted:
    """Predicts new images with a trained model: the best of the workspace, or the one that is named.

    Args:
        source: a folder of images, or one image file.
        target: folder for the label maps; made if missing.
        workspace: with a trained model.
        model: a model folder, instead of a workspace.
        configuration: None to choose the one with the best validation Dice.
        folds: to average; empty for all that are trained.
        device: cpu, cuda, mps or auto.
        mirroring: average over flips.
        trust_code: let a model folder that is named, and so may come from elsewhere, run code that is no installed plug.
        logger: for events.

    Raises:
        InputError: nothing to predict, or no model.
        CasesFailedError: some cases failed; the others are written.
    """
    from autoseg.inference.cases import predict_files
    from autoseg.inference.model import choose_model, load_predictor
    from autoseg.io.dataset import read_inputs
    from autoseg.networks.execution import resolve_device

    if model is not None and not trust_code:
        _check_no_foreign_code(model)
    model = model or (workspace or Workspace()).model()
    plan = model.plan()
    choice = choose_model(model, configuration, folds)
    cases: tuple[Case, ...] = read_inputs(source, plan.channels)
    folder = source if source.is_dir() else source.parent
    _check_outside(target, folder, whole=source.is_dir())
    logger.event("model", configuration=choice.configuration, folds=choice.folds, dice=choice.dice)
    predictor = load_predictor(model, choice, device=resolve_device(device), mirroring=mirroring)
    weights = [content_hash(model.fold(choice.configuration, fold) / "model.safetensors") for fold in choice.folds]
    files = predict_files(predictor, plan, digest(weights), cases, folder, target, logger)
    return Predicted(files=files, choice=choice, model=model)


def _check_no_foreign_code(model: ModelFolder) -> None:
    names = model.plan().code_paths
    if names:
        raise InputError(
            "the model wants to run code that is not an installed plug",
            file=model.path,
            found=", ".join(names),
            remedy="If you know this code and trust it, repeat the command with --trust-code.",
        )


def _check_outside(target: Path, source: Path, *, whole: bool) -> None:
    """Refuses to write among the input images, where a label map could take the name of an image."""
    target, source = target.resolve(), source.resolve()
    if target == source or (whole and target.is_relative_to(source)):
        raise InputError(
            "the output folder is the input folder, or lies inside it",
            file=target,
            remedy="Name a folder outside of it with -o.",
        )


def evaluate(
    predictions: Path,
    references: Path,
    *,
    labels: Labels | None = None,
    workspace: Workspace | None = None,
    executor: Executor | None = None,
    logger: Logger = SILENT,
) -> tuple[Summary, list[str]]:
    """Scores label maps against references and writes ``summary.json`` beside the predictions.

    Args:
        predictions: folder of label maps.
        references: folder of label maps of the same names.
        labels: what the integers mean; None to look in the predictions' record, the references' data set, the workspace.
        workspace: to look in last.
        executor: runs the cases.
        logger: for events.

    Returns:
        The summary, and the ids that stand in one of the folders only.
    """
    from autoseg.evaluation.evaluate import evaluate_folders, find_labels

    labels = labels or find_labels(predictions, references, workspace)
    summary, alone = evaluate_folders(predictions, references, labels, executor or SerialExecutor(), logger)
    write_document(predictions / "summary.json", summary)
    return summary, alone
