"""The selection stage: all that is trained and scored by a plan, compared; the choice and its postprocessing, written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from autoseg.errors import CasesFailedError, InputError
from autoseg.executors import Executor, ThreadExecutor
from autoseg.files import read_document, write_document
from autoseg.held_out_files import SelectionFiles
from autoseg.jobs import with_first_stages
from autoseg.logs import Logger, SilentLogger
from autoseg.values import Basis, Candidate, Cost, Patients, Plan, Selection, SelectionRule, Split, digest
from autoseg.workspace import ModelFolder, Workspace

if TYPE_CHECKING:
    from autoseg.crossvalidation import FinishedFold, HeldOut

__all__ = ["select_best"]

SILENT = SilentLogger()
NEVER: Callable[[], bool] = lambda: False  # noqa: E731


def select_best(
    workspace: Workspace,
    *,
    plan_name: str | None = None,
    configurations: Sequence[str] = (),
    rule: SelectionRule | None = None,
    device: str = "cpu",
    executor: Executor | None = None,
    logger: Logger = SILENT,
    stop: Callable[[], bool] = NEVER,
) -> Selection:
    """Chooses the configuration or ensemble that predicts from now on, with its postprocessing, by the held-out cases.

    No network is run. Repeating the call computes only what is not known yet.

    Args:
        workspace: with finished folds.
        plan_name: the active plan by default.
        configurations: names; empty for all of the plan.
        rule: the regret rule with its margins if None.
        device: whose times count where predictions were timed on several.
        executor: runs the cases of which ensembles are scored.
        logger: for events; is told what is missing and which command makes it.
        stop: asked after every case.

    Returns:
        The choice, which is written into the model folder.

    Raises:
        InputError: nothing is trained and scored, or what is does not belong together.
        CasesFailedError: some cases could not be scored; the others are kept.
        InterruptedRunError: ``stop`` said so; the same call goes on.
    """
    from autoseg.crossvalidation import HeldOut, check_contents, costs_of, dice_per_case, finished_trainings
    from autoseg.selection import choose, gather_evidence

    model = workspace.existing().model(plan_name)
    plan, split = model.plan(), read_document(Split, workspace.split_path)
    names = [plan.configuration(name).name for name in configurations] or list(plan.names)
    finished = finished_trainings(model, plan, split, names)
    check_contents(workspace, plan, finished)
    _tell_missing_folds(finished, len(split), logger)
    timed = _with_first_stages(model, plan, split, finished)
    candidates = _candidates(plan, finished, costs_of(timed, device, logger))
    held_out = HeldOut(workspace, model, plan, finished, executor or ThreadExecutor(), logger, stop)
    scores = {name: dice_per_case(folds, plan.labels) for name, folds in finished.items()}
    scores |= held_out.ensemble_scores(candidates)
    patients = read_document(Patients, workspace.patients_path) if workspace.patients_path.is_file() else None
    evidence = gather_evidence(candidates, scores, patients.patient_of if patients else None, split)
    selection = choose(evidence, rule)
    postprocessing = held_out.postprocessing(selection, scores[selection.winner])
    basis = Basis(plan=plan.id, weights=_weights(model, plan, finished), postprocessing=digest(postprocessing))
    selection = msgspec.structs.replace(selection, basis=basis)
    files = SelectionFiles(model)
    write_document(files.postprocessing, postprocessing)
    write_document(files.selection, selection)  # after it: it tells which postprocessing is its own
    _calibrate(held_out, plan, finished, selection, scores, patients, files, logger)
    return selection


def _calibrate(
    held_out: HeldOut,
    plan: Plan,
    finished: Mapping[str, Mapping[str, FinishedFold]],
    selection: Selection,
    scores: Mapping[str, Mapping[str, dict[str, float | None]]],
    patients: Patients | None,
    files: SelectionFiles,
    logger: Logger,
) -> None:
    """Calibrates the predicted Dice of the winner and of every configuration; without it the selection stands."""
    from autoseg.crossvalidation import calibrations

    def patient_of(case: str) -> str:
        return patients.patient_of.get(case, case) if patients else case

    candidates = {selection.winner: selection.members} | {name: (name,) for name, folds in finished.items() if folds}
    try:
        found = calibrations(held_out, plan, finished, candidates, scores, patient_of)
    except CasesFailedError as error:
        files.calibration.unlink(missing_ok=True)
        logger.event("message", text=f"no Dice will be predicted of new images: {error}")
        return
    write_document(files.calibration, found)
    for name in candidates:
        if name not in found.candidates:
            text = f"no Dice will be predicted by {name}, as not all probabilities of its held-out cases are kept"
            logger.event("message", text=text)


def _weights(
    model: ModelFolder, plan: Plan, finished: Mapping[str, Mapping[str, FinishedFold]]
) -> dict[str, dict[str, str]]:
    """Configuration to fold to weights: of all that was compared, and of the stages before that it needs."""
    from autoseg.earlier_stages import weights_of_earlier

    weights = {name: {fold: each.weights for fold, each in folds.items()} for name, folds in finished.items()}
    for name in [name for name, folds in finished.items() if folds]:
        for stage, of in weights_of_earlier(model, plan, name).items():
            weights[stage] = {**of, **weights.get(stage, {})}
    return weights


def _tell_missing_folds(finished: Mapping[str, Mapping[str, FinishedFold]], count: int, logger: Logger) -> None:
    for name, folds in finished.items():
        missing = [str(number) for number in range(count) if str(number) not in folds]
        if missing and folds:
            text = f"{name} lacks {'folds' if len(missing) > 1 else 'fold'} {', '.join(missing)}"
            logger.event("message", text=f"{text}: autoseg train {name} {missing[0]}")
        elif missing:
            text = f"no fold of {name} is trained and scored, so it is not compared: autoseg train {name} 0"
            logger.event("message", text=text)


def _with_first_stages(
    model: ModelFolder, plan: Plan, split: Split, finished: Mapping[str, Mapping[str, FinishedFold]]
) -> dict[str, Mapping[str, FinishedFold]]:
    """The same, and the first stages that are not compared: whoever uses a second stage pays for them, too.

    What one costs that does not go with the plan or the split is not known.
    """
    from autoseg.crossvalidation import finished_trainings

    stages, timed = {each.name: each.previous_stage for each in plan.configurations}, dict(finished)
    for name in with_first_stages(list(finished), stages):
        if name not in timed:
            with contextlib.suppress(InputError):
                timed |= finished_trainings(model, plan, split, [name])
    return timed


def _candidates(
    plan: Plan, finished: Mapping[str, Mapping[str, FinishedFold]], costs: Mapping[str, Cost]
) -> list[Candidate]:
    """All of the configurations with a finished fold; then those without, which only are told to be missing.

    ``costs`` may name more: first stages.
    """
    from autoseg.selection import all_candidates

    stages = {each.name: each.previous_stage for each in plan.configurations}
    begun = {name: costs[name] for name, folds in finished.items() if folds}
    waiting = {name: costs[name] for name, folds in finished.items() if not folds}
    alone = [each for each in all_candidates(waiting, stages, costs) if len(each.members) == 1]
    return [*all_candidates(begun, stages, costs), *alone]
