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
from autoseg.errors import InputError, UnknownNameError
from autoseg.executors import Executor, SerialExecutor, ThreadExecutor
from autoseg.files import content_hash, read_document, sweep, write_document
from autoseg.logs import Logger, SilentLogger, WithFields
from autoseg.plan_check import USED_IN_PREDICTION, check_no_foreign_code, check_single_stage, usable_plan
from autoseg.planning import GIBIBYTE, Budget
from autoseg.values import Case, Dataset, Finding, Labels, Patients, Plan, Split, Summary, TrainJob, digest, select_fold
from autoseg.values.json_form import require_file_name
from autoseg.workspace import FoldFolder, ModelFolder, Workspace

if TYPE_CHECKING:
    from autoseg.inference.model import Choice
    from autoseg.io.case_store import CaseStore

__all__ = ["Planned", "Predicted", "Trained", "evaluate", "plan_dataset", "predict", "preprocess", "train"]

SILENT = SilentLogger()
NEVER: Callable[[], bool] = lambda: False  # noqa: E731
DEFAULT_BUDGET = 8 * GIBIBYTE
MOST_MEMORY_GIB = 10_000


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What ``plan_dataset`` made: the plan, where it is, the folds, whose cases are whose and what was noticed."""

    plan: Plan
    folder: ModelFolder
    dataset: Dataset
    split: Split
    patients: Patients
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What ``train`` made: the folder of a fold, and its score on the held-out cases (None without any)."""

    configuration: str
    fold: str
    folder: FoldFolder
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
    device: str | None = None,
    configurations: Sequence[str] = (),
    seed: int = 12345,
    group_by: str | None = None,
    executor: Executor | None = None,
    logger: Logger = SILENT,
) -> Planned:
    """Looks at a data set, checks it, and plans how to segment it.

    Args:
        folder: of the data set; never written to.
        workspace: to keep everything in.
        preset: the planner plug.
        name: of the plan; the preset's by default.
        memory_gib: of the training device; None for what the planner usually plans for, or the GPU has free, or 8 GiB.
        device: that will train (cpu, cuda or mps; it need not be here). None: cuda if ``memory_gib`` is given, else
            this machine's.
        configurations: wanted ones; empty for all.
        seed: of the experiment.
        group_by: which cases are of one patient: a table's path, or a pattern. None: as before, else by their names.
        executor: runs the cases.
        logger: for events.

    Raises:
        InputError: the data set cannot be used as it is; everything that is wrong is listed.
    """
    from autoseg.fingerprinting import fingerprint_dataset
    from autoseg.io.dataset import read_dataset
    from autoseg.networks.execution import free_memory, resolve_device, training_backend
    from autoseg.networks.memory import process_bytes
    from autoseg.patients import current_patients
    from autoseg.splitting import current_split, division_findings

    make_planner = plugins.load("planner", preset)
    made = getattr(make_planner, "func", make_planner)  # a preset is a planner's class with its first argument given
    if not hasattr(made, "plan"):
        raise UnknownNameError(f"{preset!r} is no planner: it has no method plan")
    planner = make_planner()
    if memory_gib is not None and not 1 <= memory_gib <= MOST_MEMORY_GIB:
        raise InputError("the memory to plan for is out of range", found=memory_gib, expected="1 to 10000 GiB")
    name = name or preset.replace(":", "-")
    try:
        require_file_name("plan", name)
    except ValueError as error:
        raise InputError(str(error), remedy="Name it otherwise with --name.") from error
    dataset, known = read_dataset(folder)
    workspace.check_dataset(dataset)
    patients = current_patients(workspace, dataset, group_by)
    fingerprint, findings = fingerprint_dataset(dataset, known, workspace, executor or ThreadExecutor(), logger)
    split = current_split(workspace, dataset, patients)
    here = resolve_device("auto")
    trains_on = resolve_device(device, here=False) if device else "cuda" if memory_gib else here
    usual = getattr(planner, "default_memory_bytes", None) or free_memory(trains_on) or DEFAULT_BUDGET
    budget = Budget(
        memory_bytes=int(memory_gib * GIBIBYTE) if memory_gib else usual,
        device=trains_on,
        configurations=tuple(configurations),
        seed=seed,
    )
    cost = functools.partial(process_bytes, backend=training_backend(trains_on))
    plan = planner.plan(fingerprint, budget, cost, name=name)
    model = workspace.save(dataset, fingerprint, split, plan, patients)
    logger.event("planned", plan=plan.id, file=str(model.path / "plan.json"))
    seen = (*findings, *division_findings(split, patients))
    return Planned(plan=plan, folder=model, dataset=dataset, split=split, patients=patients, findings=seen)


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
    from autoseg.preprocessing.cases import preprocess_cases

    plan, dataset = usable_plan(workspace.model(plan_name)), workspace.dataset()
    if (plan.labels, plan.channels) != (dataset.labels, dataset.channels):
        raise InputError(
            f"the labels or channels of the data set have changed since the plan {plan.name!r} was made",
            file=workspace.path,
            remedy="Make a new plan: autoseg plan DATASET --name NEW. What is trained can still be predicted with.",
        )
    wanted = [case for case in dataset.annotated_cases if not cases or case.id in cases]
    keys = {}
    for name in [plan.configuration(name).name for name in configurations] or plan.names:
        store, configuration = _case_store(workspace, plan, name), plan.configuration(name)
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
    epochs: int | None = None,
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
        epochs: length in the plan's epochs; None for the plan's length, or that of the training to go on with.
        iterations: length in iterations, instead of ``epochs``.
        device: cpu, cuda, mps or auto.
        executor: runs the preprocessing.
        logger: for events.
        stop: asked often; True saves and stops.

    Raises:
        UnknownNameError: no such configuration or fold.
        InterruptedRunError: ``stop`` said so.
    """
    from autoseg.networks.execution import resolve_device

    model = workspace.model(plan_name)
    check_single_stage([model], configuration)
    plan = model.plan()
    training = plan.configuration(configuration).training
    length = epochs * training.iterations_per_epoch if epochs else iterations
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
            iterations=length or training.iterations,
            seed=plan.seed,
            cases=cases,
            case_keys={case: keys[case] for case in sorted((*cases.train, *cases.val))},
        )
        events = WithFields(logger, configuration=configuration, fold=each)
        results.append(
            _train_one(
                workspace, model, plan, wanted, resolve_device(device), events, stop, exact_length=length is not None
            )
        )
    return results


def _train_one(
    workspace: Workspace,
    model: ModelFolder,
    plan: Plan,
    wanted: TrainJob,
    device: str,
    logger: Logger,
    stop: Callable[[], bool],
    *,
    exact_length: bool,
) -> Trained:
    from filelock import FileLock, Timeout

    from autoseg.inference.cases import validate_cases
    from autoseg.inference.model import Choice, load_predictor
    from autoseg.training.job import job_to_do
    from autoseg.training.loop import train_fold

    store = _case_store(workspace, plan, wanted.configuration)
    folder = model.fold(wanted.configuration, wanted.fold)
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.lock, timeout=0):
            sweep(folder.path, older_than_seconds=0)  # nobody else writes here
            job = job_to_do(folder.job, wanted, exact_length=exact_length)
            write_document(folder.job, job)
            if not folder.model.is_file():
                train_fold(job, plan, store, folder, logger, device=device, stop=stop)
            summary = None
            if job.cases.val:
                choice = Choice(configuration=job.configuration, folds=(job.fold,), dice=None)
                predictor = load_predictor(model, choice, device=device)
                keys = {case: job.case_keys[case] for case in job.cases.val}
                summary = validate_cases(predictor, plan, store, keys, folder, logger, stop)
    except Timeout as error:
        raise InputError("another process is training this fold", file=folder.path, remedy="Wait for it.") from error
    return Trained(configuration=job.configuration, fold=job.fold, folder=folder, summary=summary)


def _case_store(workspace: Workspace, plan: Plan, configuration: str) -> CaseStore:
    from autoseg.io.case_store import CaseStore
    from autoseg.preprocessing.forward import parameters_key

    key = parameters_key(plan, plan.configuration(configuration))
    # equal parameters give equal cases, which are kept once: in the folder of the first configuration that has them
    first = next(each.name for each in plan.configurations if parameters_key(plan, each) == key)
    return CaseStore(workspace.preprocessed(first, key))


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
        check_no_foreign_code(model)
    models = [model] if model else (workspace or Workspace()).models()
    check_single_stage(models, configuration)
    model, choice = choose_model(models, configuration, folds)
    plan = usable_plan(model, configurations=[choice.configuration], kinds=USED_IN_PREDICTION)
    cases: tuple[Case, ...] = read_inputs(source, plan.channels)
    folder = source if source.is_dir() else source.parent
    _check_outside(target, folder, whole=source.is_dir())
    logger.event("model", plan=plan.name, configuration=choice.configuration, folds=choice.folds, dice=choice.dice)
    predictor = load_predictor(model, choice, device=resolve_device(device), mirroring=mirroring)
    weights = [content_hash(model.fold(choice.configuration, fold).model) for fold in choice.folds]
    files = predict_files(predictor, plan, digest(weights), cases, folder, target, logger)
    return Predicted(files=files, choice=choice, model=model)


def _check_outside(target: Path, source: Path, *, whole: bool) -> None:
    """Refuses to write among the input images, where a label map could take the name of an image."""
    target, source = target.resolve(), source.resolve()
    for existing in (target, *target.parents):
        if existing.is_file():
            raise InputError(
                "the output folder is a file, or lies in one", file=existing, remedy="Name a folder with -o."
            )
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
) -> Summary:
    """Scores label maps against references and writes ``summary.json`` beside the predictions.

    Args:
        predictions: folder of label maps.
        references: folder of label maps of the same names.
        labels: what the integers mean; None to look in the predictions' record, the references' data set, the workspace.
        workspace: to look in last.
        executor: runs the cases.
        logger: for events.

    Returns:
        The summary; it names the cases that stand in one of the folders only.
    """
    from autoseg.evaluation.evaluate import evaluate_folders, find_labels

    labels = labels or find_labels(predictions, references, workspace)
    summary = evaluate_folders(predictions, references, labels, executor or SerialExecutor(), logger)
    write_document(predictions / "summary.json", summary)
    return summary
