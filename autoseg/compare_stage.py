"""The comparison stage: is one configuration better than another, how sure is that, what does it cost, what goes with it?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import msgspec

from autoseg.errors import InputError
from autoseg.executors import Executor, ThreadExecutor
from autoseg.files import read_document, write_atomically, write_document
from autoseg.held_out_files import ComparisonFiles
from autoseg.logs import Logger, SilentLogger
from autoseg.values import (
    ALL_LABELS,
    Candidate,
    Comparison,
    Configuration,
    Cost,
    Evidence,
    Experiment,
    Length,
    Patients,
    Plan,
    Split,
)
from autoseg.workspace import ModelFolder, Workspace

if TYPE_CHECKING:
    from autoseg.crossvalidation import FinishedFold

    Finished = Mapping[str, Mapping[str, FinishedFold]]

__all__ = ["Question", "compare"]

SILENT = SilentLogger()
NEVER: Callable[[], bool] = lambda: False  # noqa: E731
GIBIBYTE = 2**30
#: Cases that are predicted again, in the experiments that run the networks.
PROBE_CASES = 20


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, with all that experiments may need.

    Attributes:
        workspace: of the plan.
        model: folder of the plan.
        plan: of both configurations.
        finished: configuration to the folds that both have finished.
        pair: names of the first and the second.
        evidence: scores of both.
        probe_cases: to predict again; 0 for none.
        retrain: also train what a fair comparison needs.
        device: cpu, cuda, mps or auto.
        executor: runs cases.
        logger: for events.
        stop: asked often.
        left_out: case to why its label maps were not looked at; experiments add to it.
    """

    workspace: Workspace
    model: ModelFolder
    plan: Plan
    finished: Finished
    pair: tuple[str, str]
    evidence: Evidence
    probe_cases: int
    retrain: bool
    device: str
    executor: Executor
    logger: Logger
    stop: Callable[[], bool]
    left_out: dict[str, str]


def compare(
    workspace: Workspace,
    configurations: Sequence[str] = (),
    *,
    plan_name: str | None = None,
    probe_cases: int = PROBE_CASES,
    retrain: bool = False,
    device: str = "auto",
    executor: Executor | None = None,
    logger: Logger = SILENT,
    stop: Callable[[], bool] = NEVER,
) -> Comparison:
    """Compares two configurations on the held-out cases of the folds that both have finished.

    Repeating the call computes only what is not known yet.

    Args:
        workspace: with finished folds.
        configurations: two names; by default the best 3D configuration against the 2D one.
        plan_name: the active plan by default.
        probe_cases: to predict again, in the experiments that run the networks; 0 for none.
        retrain: also train what a fair comparison needs.
        device: where networks run, and whose times count where predictions were timed on several.
        executor: runs the cases.
        logger: for events; is told what is missing and which command makes it.
        stop: asked after every case.

    Returns:
        The answer with all numbers, which is written into the model folder.

    Raises:
        InputError: there are not two configurations with a finished fold in common, or what is trained does not belong
            together.
        InterruptedRunError: ``stop`` said so; the same call goes on.
    """
    from autoseg.comparison.report import report_of
    from autoseg.crossvalidation import check_contents, finished_trainings
    from autoseg.networks.execution import resolve_device

    model = workspace.existing().model(plan_name)
    plan, split = model.plan(), read_document(Split, workspace.split_path)
    finished = finished_trainings(model, plan, split, _needed(plan, configurations))
    pair, notes = _pair(plan, finished, split, configurations)
    if retrain and _deep_and_flat(plan, pair) is None:
        raise InputError(
            "--retrain puts a 3D and a 2D configuration on equal terms",
            found=" and ".join(pair),
            remedy="Name one of each, or leave --retrain out.",
        )
    shared = _shared_folds(finished, pair, logger)
    check_contents(workspace, plan, shared)
    patients = read_document(Patients, workspace.patients_path) if workspace.patients_path.is_file() else None
    question = Question(
        workspace=workspace,
        model=model,
        plan=plan,
        finished=shared,
        pair=pair,
        evidence=_evidence(plan, shared, pair, split, patients),
        probe_cases=probe_cases,
        retrain=retrain,
        device=resolve_device(device),
        executor=executor or ThreadExecutor(),
        logger=logger,
        stop=stop,
        left_out={},
    )
    comparison = _answered(question, gather_experiments(question), _costs(question, finished), notes)
    files = ComparisonFiles(model)
    write_atomically(files.report, report_of(comparison).encode())
    write_document(files.comparison, comparison)  # last: it tells that all is there
    return comparison


def gather_experiments(question: Question) -> tuple[Experiment, ...]:
    """All reasons, those that run no network first, those that train some last."""
    makers: tuple[Callable[[Question], tuple[Experiment, ...]], ...] = (
        _of_kept_label_maps,
        _of_networks,
        _of_new_trainings,
    )
    return tuple(experiment for make in makers for experiment in make(question))


def _of_kept_label_maps(question: Question) -> tuple[Experiment, ...]:
    """What needs no network; a case without label maps is left out and named."""
    from autoseg.comparison import Compared, compared_dice, kept_experiments, measured_cases
    from autoseg.crossvalidation import HeldOut, dice_per_case

    how = (question.executor, question.logger, question.stop)
    held_out = HeldOut(question.workspace, question.model, question.plan, question.finished, *how)
    cases = []
    for case in question.evidence.cases:
        try:
            cases += [held_out.case(name, case) for name in question.pair]
        except InputError as error:
            question.left_out[case] = str(error)
    labels, files = question.plan.labels, ComparisonFiles(question.model)
    dice = {name: dice_per_case(question.finished[name], labels) for name in question.pair}
    measured, left_out = measured_cases(files, cases, dice, labels, held_out.attempts)
    question.left_out.update(left_out)
    return kept_experiments(Compared.of(question.evidence, compared_dice(question.evidence), measured))


def _of_networks(question: Question) -> tuple[Experiment, ...]:
    """What the trained networks make of images that were changed on purpose."""
    from autoseg.comparison.probes import probe_experiments, skipped_probes

    pair = _deep_and_flat(question.plan, question.pair)
    if pair is None:
        return skipped_probes(f"{' and '.join(question.pair)} are not a 3D configuration and a 2D one")
    if not question.probe_cases:
        return skipped_probes("no cases were to be predicted again: --probe-cases 0")
    return probe_experiments(
        *(question.workspace, question.model, question.plan, question.finished, pair),
        cases=question.probe_cases,
        device=question.device,
        logger=question.logger,
        stop=question.stop,
        executor=question.executor,
    )


def _of_new_trainings(question: Question) -> tuple[Experiment, ...]:
    """What is left of the difference on equal terms."""
    from autoseg.comparison.fair import retrained_experiments, skipped_trainings
    from autoseg.pipeline import train

    pair = _deep_and_flat(question.plan, question.pair)
    if pair is None:
        return skipped_trainings(f"{' and '.join(question.pair)} are not a 3D configuration and a 2D one")
    if not question.retrain:
        return skipped_trainings("that needs new trainings: autoseg compare --retrain")
    return retrained_experiments(
        *(question.workspace, question.model, question.plan, question.finished, pair),
        device=question.device,
        logger=question.logger,
        stop=question.stop,
        train=train,
    )


def _deep_and_flat(plan: Plan, pair: tuple[str, str]) -> tuple[str, str] | None:
    """The 3D configuration and the 2D one; None if these are not one of each."""
    by_dimensions = {plan.configuration(name).dimensions: name for name in pair}
    return (by_dimensions[3], by_dimensions[2]) if set(by_dimensions) == {2, 3} else None


def _answered(
    question: Question,
    experiments: tuple[Experiment, ...],
    costs: dict[str, dict[str, float | None]],
    notes: Sequence[str],
) -> Comparison:
    from autoseg.comparison import answer_of, difference_of, mean_dice

    first, second = question.pair
    folds = sorted(question.finished[first], key=int)
    dimensions = {name: question.plan.configuration(name).dimensions for name in question.pair}
    comparison = Comparison(
        plan=question.plan.id,
        first=first,
        second=second,
        weights={
            name: {fold: each.weights for fold, each in question.finished[name].items()} for name in question.pair
        },
        dice=mean_dice(question.evidence),
        difference=difference_of(question.evidence, folds, dimensions),
        experiments=experiments,
        costs=costs,
        left_out=question.left_out,
        answer="",
    )
    trained = f"Each was trained once for {'this fold' if len(folds) == 1 else f'each of {len(folds)} folds'}"
    basis = f"{trained}; what another training would change stands in no interval."
    notes = [*notes, *_shortened(question, costs), basis]
    return msgspec.structs.replace(comparison, answer=answer_of(comparison, notes))


def _needed(plan: Plan, configurations: Sequence[str]) -> list[str]:
    """Configurations whose trainings are looked at: those that may be compared, and the earlier stages that they cost."""
    if not configurations:
        return list(plan.names)
    names = list(dict.fromkeys(plan.configuration(name).name for name in configurations))
    if len(names) != 2 or len(configurations) != 2:
        raise InputError(
            "two different configurations are compared", found=", ".join(configurations), expected="two names"
        )
    for name in names:
        earlier = plan.configuration(name).previous_stage
        if earlier is not None and earlier not in names:
            names.append(earlier)
    return names


def _pair(
    plan: Plan, finished: Finished, split: Split, configurations: Sequence[str]
) -> tuple[tuple[str, str], list[str]]:
    """The two to compare; and, if one was chosen of several, a sentence that says so."""
    if configurations:
        first, second = configurations
        return (first, second), []
    flat = [name for name in plan.names if plan.configuration(name).dimensions == 2]
    solid = [name for name in plan.names if plan.configuration(name).dimensions == 3]
    if not flat or not solid:
        raise InputError(
            "the plan does not hold a 2D and a 3D configuration",
            found=", ".join(plan.names),
            remedy="Name the two to compare: --configurations A,B.",
        )
    second = next((name for name in flat if finished[name]), flat[0])
    possible = [name for name in solid if set(finished[name]) & set(finished[second])]
    if len(possible) < 2:
        return (next(iter(possible), solid[0]), second), []
    leads = {name: _lead(plan, finished, (name, second), split) for name in possible}
    best = max(possible, key=leads.__getitem__)
    note = f"{best} is the best of {len(possible)} 3D configurations by these cases, which flatters it a little."
    return (best, second), [note]


def _lead(plan: Plan, finished: Finished, pair: tuple[str, str], split: Split) -> float:
    """Mean Dice of the first minus that of the second, on the folds that both have."""
    from autoseg.comparison import mean_dice

    means = mean_dice(_evidence(plan, _of_both(finished, pair), pair, split, None))
    first, second = (means[name][ALL_LABELS] for name in pair)
    return -1.0 if first is None or second is None else first - second


def _of_both(finished: Finished, pair: tuple[str, str]) -> dict[str, dict[str, FinishedFold]]:
    folds = set(finished[pair[0]]) & set(finished[pair[1]])
    return {name: {fold: each for fold, each in finished[name].items() if fold in folds} for name in pair}


def _shared_folds(finished: Finished, pair: tuple[str, str], logger: Logger) -> dict[str, dict[str, FinishedFold]]:
    """What both have finished; folds that one alone has are told.

    Raises:
        InputError: there is none.
    """
    shared = _of_both(finished, pair)
    missing = [
        f"autoseg train {name} {fold}"
        for name, other in (pair, pair[::-1])
        for fold in sorted(set(finished[other]) - set(finished[name]), key=int)
    ]
    if not shared[pair[0]]:
        have = "; ".join(f"{name}: {', '.join(finished[name]) or 'none'}" for name in pair)
        raise InputError(
            f"{pair[0]} and {pair[1]} have no finished fold in common, so they cannot be compared",
            found=f"finished folds of {have}",
            expected="one fold at least that both have",
            remedy=f"Train it: {missing[0] if missing else f'autoseg train {pair[0]} 0; autoseg train {pair[1]} 0'}",
        )
    if missing:
        logger.event("message", text=f"compared by the folds that both have; for more: {'; '.join(missing)}")
    return shared


def _evidence(
    plan: Plan, finished: Finished, pair: tuple[str, str], split: Split, patients: Patients | None
) -> Evidence:
    from autoseg.crossvalidation import dice_per_case
    from autoseg.selection import gather_evidence

    unknown = Cost(seconds_per_case=None, training_hours=None)  # costs have no part in the difference
    candidates = [Candidate(name=name, members=(name,), cost=unknown) for name in pair]
    scores = {name: dice_per_case(finished[name], plan.labels) for name in pair}
    return gather_evidence(candidates, scores, patients.patient_of if patients else None, split)


def _costs(question: Question, finished: Finished) -> dict[str, dict[str, float | None]]:
    """Of both, with the earlier stages that they need; what was not measured is None."""
    from autoseg.crossvalidation import costs_of
    from autoseg.networks.memory import parameter_count
    from autoseg.selection import all_candidates

    plan = question.plan
    stages = {each.name: each.previous_stage for each in plan.configurations}
    measured = costs_of(finished, question.device, question.logger)
    of = {each.name: each.cost for each in all_candidates(measured, stages)}
    costs: dict[str, dict[str, float | None]] = {}
    for name in question.pair:
        used: list[Configuration] = []
        stage: str | None = name
        while stage is not None:
            used.append(plan.configuration(stage))
            stage = stages[stage]
        costs[name] = {
            "seconds per case": of[name].seconds_per_case,
            "hours of training a fold": of[name].training_hours,
            "GiB planned for training": max(each.expected_memory_bytes for each in used) / GIBIBYTE,
            "iterations of training a fold": _iterations(question, name),
            "million parameters": sum(parameter_count(each.network) for each in used) / 1e6,
        }
    return costs


def _iterations(question: Question, name: str) -> float | None:
    """Mean over folds of what was trained; None if one of them does not tell."""
    files = [fold.folder.length for fold in question.finished[name].values()]
    if not all(file.is_file() for file in files):
        return None
    return fmean(read_document(Length, file).trained for file in files)


def _shortened(question: Question, costs: Mapping[str, Mapping[str, float | None]]) -> Iterator[str]:
    """A sentence for each of the two that was not trained for as long as its plan says."""
    for name in question.pair:
        planned = question.plan.configuration(name).training.iterations
        trained = costs[name]["iterations of training a fold"]
        if trained is not None and trained < planned:
            yield (
                f"{name} was trained for {trained:.0f} of the {planned} iterations that are planned for it, so this says "
                "nothing about the whole training."
            )
