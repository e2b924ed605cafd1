"""Fair comparisons: two configurations trained on equal terms, on one fold, where they were not already.

Each asks what is left of their difference with equal iterations, parameters, time, or an equal field of view in plane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from autoseg.comparison.contrasts import corrected
from autoseg.comparison.paired import PatientOf, paired_contrasts, patients_of
from autoseg.comparison.sentences import difference_answer
from autoseg.comparison.terms import EQUAL_WITHIN, Terms, terms_of
from autoseg.comparison.variants import ITERATIONS, PARAMETERS, TIME, VIEW, comparison_model
from autoseg.crossvalidation import FinishedFold, dice_per_case, finished_trainings
from autoseg.errors import AutosegError, DiskFullError, InputError, InterruptedRunError
from autoseg.files import read_document
from autoseg.logs import Logger, reported
from autoseg.networks.memory import multiply_adds, parameter_count
from autoseg.planning import GIBIBYTE
from autoseg.values import Experiment, Plan, Split
from autoseg.workspace import ModelFolder, Workspace

__all__ = ["Train", "retrained_experiments", "skipped_trainings"]

QUESTIONS = {
    ITERATIONS: "Which is better after equally many iterations?",
    PARAMETERS: "Which is better with equally many parameters?",
    TIME: "Which is better after an equally long training?",
    VIEW: "Which is better if both see equally much in plane?",
}


class Train(Protocol):
    """Trains a fold, or goes on with it, and scores it: ``autoseg.pipeline.train``, which stands above this room."""

    def __call__(
        self,
        workspace: Workspace,
        configuration: str,
        fold: str,
        *,
        plan_name: str | None,
        iterations: int | None,
        probabilities: bool,
        device: str,
        logger: Logger,
        stop: Callable[[], bool],
    ) -> object:
        """See there."""
        ...


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two that are compared.

    Attributes:
        configuration: that it comes from.
        variant: name of the configuration that is trained anew; None for the training that is there.
        iterations: of the training.
    """

    configuration: str
    variant: str | None
    iterations: int

    @property
    def name(self) -> str:
        """Of what was trained."""
        return self.variant or self.configuration


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A fair comparison.

    Attributes:
        name: of the experiment.
        sides: the 3D one and the 2D one.
        method: how they were made equal, in sentences.
        terms: that are equal, as a sentence begins.
        missing: why it cannot be made; then nothing else counts.
    """

    name: str
    sides: tuple[Side, ...] = ()
    method: str = ""
    terms: str = ""
    missing: str = ""


def retrained_experiments(
    workspace: Workspace,
    model: ModelFolder,
    plan: Plan,
    finished: Mapping[str, Mapping[str, FinishedFold]],
    pair: tuple[str, str],
    *,
    device: str,
    logger: Logger,
    stop: Callable[[], bool],
    train: Train,
) -> tuple[Experiment, ...]:
    """Trains what is needed by a plan of its own, on the lowest fold that both have, and compares; repeated, it goes on.

    Args:
        workspace: of the plan, which stays as it is, and stays the active one.
        model: folder of the plan.
        plan: with both configurations.
        finished: configuration to its finished folds.
        pair: names of the 3D configuration and of the 2D configuration.
        device: that trains.
        logger: for events; is told how long it will take.
        stop: asked often; True saves and stops.
        train: trains a fold.

    Raises:
        InterruptedRunError: ``stop`` said so; the same call goes on.
        DiskFullError: there is no room for more; what is trained stays.
    """
    shared = sorted(set(finished[pair[0]]) & set(finished[pair[1]]), key=int)
    if not shared:
        reason = f"no fold of both {pair[0]} and {pair[1]} is trained and scored: train one of each"
        return skipped_trainings(reason)
    split = read_document(Split, workspace.split_path)
    there = [terms_of(plan, finished[name][shared[0]], split) for name in pair]
    derived = comparison_model(workspace, plan, pair)
    trials = _trials(there[0], there[1], derived.plan())
    _announce(trials, there, derived, shared[0], logger)
    runs = _Runs(workspace, plan, derived, there, split, device, logger, stop, train)
    return tuple(runs.experiment(trial) for trial in trials)


def skipped_trainings(reason: str) -> tuple[Experiment, ...]:
    """All fair comparisons, not made for this reason."""
    return tuple(_missing(name, reason) for name in QUESTIONS)


def _other_schedule(there: Terms) -> str:
    """That trainings for the comparison have another learning rate over time than one that is there; empty if not."""
    if there.planned_schedule:
        return ""
    return (
        f"{there.name} had been trained with another course of the learning rate (--hours, --until-plateau, --finish or "
        "--extend) than what was trained anew, which follows the plan's: a part of a difference can come from that."
    )


def _missing(name: str, reason: str, failures: Mapping[str, str] = {}) -> Experiment:
    return Experiment(name=name, question=QUESTIONS[name], method="Not made.", missing=reason, failures=dict(failures))


def _trials(first: Terms, second: Terms, plan: Plan) -> list[Trial]:
    return [
        _equal_iterations(first, second),
        _equal_parameters(first, second, plan),
        _equal_time(first, second),
        _equal_view(first, second, plan),
    ]


def _side(of: Terms, what: str, iterations: int) -> Side:
    """The training that is there if it is as long, else a variant."""
    there = (
        abs(iterations - of.iterations) <= EQUAL_WITHIN * of.iterations if what == TIME else iterations == of.iterations
    )
    variant = None if there else f"{of.name}_{what}"
    return Side(configuration=of.name, variant=variant, iterations=of.iterations if there else iterations)


def _equal_iterations(first: Terms, second: Terms) -> Trial:
    count = min(first.iterations, second.iterations)
    method = f"Both were trained for {count} iterations, the shorter of the lengths that they had."
    sides = (_side(first, ITERATIONS, count), _side(second, ITERATIONS, count))
    return Trial(name=ITERATIONS, sides=sides, method=method, terms=f"After {count} iterations each")


def _equal_time(first: Terms, second: Terms) -> Trial:
    if first.seconds is None or second.seconds is None:
        lacking = first if first.seconds is None else second
        reason = f"the last checkpoint of {lacking.finished.name} is gone, and with it the time that it took"
        return Trial(name=TIME, missing=reason)
    if first.place != second.place:
        reason = (
            f"{first.name} was trained on {first.place}, {second.name} on {second.place}: times of both say nothing"
        )
        return Trial(name=TIME, missing=reason)
    longest = max(first.seconds, second.seconds)
    sides = tuple(
        _side(each, TIME, round(each.iterations * longest / seconds))
        for each, seconds in ((first, first.seconds), (second, second.seconds))
    )
    told = ", ".join(f"{each.name} {each.seconds / each.iterations:.3g} s" for each in (first, second) if each.seconds)
    method = (
        f"Both were trained for as many iterations as take the {longest / 3600:.3g} hours of the longer training, by "
    )
    method += f"the seconds that one had taken: {told}."
    return Trial(name=TIME, sides=sides, method=method, terms=f"After {longest / 3600:.3g} hours of training each")


def _equal_parameters(first: Terms, second: Terms, plan: Plan) -> Trial:
    name = f"{second.name}_{PARAMETERS}"
    if name not in plan.names:
        return Trial(name=PARAMETERS, missing=_cascade_reason(second))
    wanted, network = parameter_count(first.configuration.network), plan.configuration(name).network
    there, own = parameter_count(network), parameter_count(second.configuration.network)
    if abs(there - wanted) > 2 * EQUAL_WITHIN * wanted:
        return Trial(
            name=PARAMETERS, missing=f"no width gives {second.name} about {wanted} parameters; nearest: {there}"
        )
    change = "widened" if there > own else "narrowed"
    method = (
        f"{second.name} was {change} in all stages alike, from {own} to {there} parameters; {first.name} has {wanted}. "
        "Both were trained for as many iterations as before."
    )
    sides = (
        _side(first, PARAMETERS, first.iterations),
        Side(configuration=second.name, variant=name, iterations=second.iterations),
    )
    return Trial(name=PARAMETERS, sides=sides, method=method, terms=f"With about {wanted} parameters each")


def _equal_view(first: Terms, second: Terms, plan: Plan) -> Trial:
    name = f"{second.name}_{VIEW}"
    if name not in plan.names:
        reason = f"{first.name} and {second.name} are not a 3D configuration and a 2D one of a single stage"
        return Trial(name=VIEW, missing=reason)
    variant, own = plan.configuration(name), second.configuration
    here, before = (f"{each.patch_size[0]} x {each.patch_size[1]}" for each in (variant, own))
    if variant.patch_size == own.patch_size:
        return Trial(
            name=VIEW, missing=f"{first.name} and {second.name} see equally much in plane already: {here} voxels"
        )
    method = (
        f"{second.name} was trained with patches of {here} voxels instead of {before}, the nearest to the field of "
        f"{first.name} in plane that its network takes, and {variant.batch_size} instead of {own.batch_size} of them in a "
        "batch, so that about equally many voxels are seen. Both were trained for as many iterations as before."
    )
    sides = (
        _side(first, VIEW, first.iterations),
        Side(configuration=second.name, variant=name, iterations=second.iterations),
    )
    return Trial(name=VIEW, sides=sides, method=method, terms=f"With a field of {here} voxels in plane")


def _cascade_reason(of: Terms) -> str:
    return (
        f"{of.name} is the later stage of a cascade, and would need its first stage trained anew for every fold, too: "
        "compare with a configuration of one stage"
    )


def _announce(trials: Sequence[Trial], there: Sequence[Terms], derived: ModelFolder, fold: str, logger: Logger) -> None:
    """Tells what is not trained yet, and how long it will take by what the trainings took that are there."""
    plan, by_name, seconds, names = derived.plan(), {each.name: each for each in there}, 0.0, []
    for side in (side for trial in trials for side in trial.sides):
        if side.variant not in plan.names or derived.fold(side.name, fold).summary.is_file():
            continue
        of, new = by_name[side.configuration], plan.configuration(side.name)
        work = [multiply_adds(each.network, each.patch_size, each.batch_size) for each in (new, of.configuration)]
        names.append(side.name)
        seconds += side.iterations * (of.seconds or 0.0) / of.iterations * work[0] / work[1]
    if names:
        text = f"to be trained on fold {fold} for fair comparisons: {', '.join(names)}"
        text += f"; about {seconds / 3600:.2g} hours, if it goes as fast as before" if seconds else ""
        logger.event("message", text=f"{text}. The plan of these is {derived.path.name}; the active plan stays.")


class _Runs:
    """Makes experiments of trials: trains what is missing, and subtracts."""

    def __init__(
        self,
        workspace: Workspace,
        plan: Plan,
        derived: ModelFolder,
        there: Sequence[Terms],
        split: Split,
        device: str,
        logger: Logger,
        stop: Callable[[], bool],
        train: Train,
    ) -> None:
        self._workspace, self._plan, self._derived, self._split = workspace, plan, derived, split
        self._there = {each.name: each for each in there}
        self._device, self._logger, self._stop, self._train = device, logger, stop, train

    def experiment(self, trial: Trial) -> Experiment:
        """Trains, and compares.

        Raises:
            InterruptedRunError: ``stop`` said so.
            DiskFullError: there is no room for more.
        """
        reason = trial.missing or next(filter(None, map(self._cannot, trial.sides)), "")
        if reason:
            return _missing(trial.name, reason)
        try:
            first, second = (self._trained(side) for side in trial.sides)
        except (InterruptedRunError, DiskFullError):
            raise
        except Exception as error:  # one comparison that cannot be made, for want of memory, say, costs no other one
            told = reported(error)
            self._logger.event("message", text=f"warning: {trial.name} could not be compared: {told['error']}")
            reason = str(error) if isinstance(error, AutosegError) else told["error"]
            new = [side.variant for side in trial.sides if side.variant]
            return _missing(trial.name, reason, {f"training {' or '.join(new)}": reason})
        return self._compared(trial, first, second, patients_of(self._workspace))

    def _cannot(self, side: Side) -> str:
        """Why a side cannot be trained anew; empty if it can, or need not."""
        of = self._there[side.configuration]
        if side.variant is None:
            return ""
        if of.configuration.previous_stage is not None:
            return _cascade_reason(of)
        needed, budget = self._derived.plan().configuration(side.variant).expected_memory_bytes, self._plan.budget_bytes
        if needed > budget:
            told = f"{needed / GIBIBYTE:.1f} GiB of memory, and the plan is for {budget / GIBIBYTE:.3g} GiB"
            return f"training {side.variant} takes {told}: compare with a plan for more (autoseg plan --gpu-memory)"
        return of.unlike_now

    def _trained(self, side: Side) -> FinishedFold:
        of = self._there[side.configuration]
        if side.variant is None:
            return of.finished
        self._train(
            *(self._workspace, side.name, of.fold),
            plan_name=self._derived.path.name,
            iterations=side.iterations,
            probabilities=False,
            device=self._device,
            logger=self._logger,
            stop=self._stop,
        )
        made = finished_trainings(self._derived, self._derived.plan(), self._split, [side.name])[side.name]
        if of.fold not in made:
            raise InputError(f"fold {of.fold} of {side.name} is not trained and scored to its end")
        done = terms_of(self._derived.plan(), made[of.fold], self._split).iterations
        if done != side.iterations:
            raise InputError(
                f"{side.name} was ended or lengthened by hand: it has {done} iterations behind it, and the comparison needs "
                f"{side.iterations}",
                remedy=f"Remove {made[of.fold].folder.path}, and it is trained anew.",
            )
        return made[of.fold]

    def _compared(self, trial: Trial, first: FinishedFold, second: FinishedFold, patient_of: PatientOf) -> Experiment:
        labels = self._plan.labels
        one, other = (dice_per_case({each.fold: each}, labels) for each in (first, second))
        names = [side.name for side in trial.sides]
        contrasts = paired_contrasts(one, other, f"Dice of {names[0]} minus Dice of {names[1]}", patient_of)
        if not contrasts:
            return _missing(trial.name, f"no label is defined in any held-out case of fold {first.fold}")
        answer = [difference_answer(trial.terms, names[0], names[1], contrasts[0])]
        for side, dice in zip(trial.sides, (one, other), strict=True):
            if side.variant is not None:
                before = dice_per_case({first.fold: self._there[side.configuration].finished}, labels)
                quantity = f"Dice of {side.name} minus Dice of {side.configuration} as it was trained"
                change = paired_contrasts(dice, before, quantity, patient_of)[0]
                contrasts.append(change)
                answer.append(difference_answer("By itself", side.name, side.configuration, change))
        method = f"{trial.method} One training of each, on fold {first.fold}, with the seed of the plan, scored on its "
        method += f"{len(one)} held-out cases: intervals tell of cases, not of chance in training."
        if any(side.variant for side in trial.sides):
            method += "".join(f" {told}" for told in map(_other_schedule, self._there.values()) if told)
        return Experiment(
            name=trial.name,
            question=QUESTIONS[trial.name],
            method=method,
            contrasts=corrected(contrasts),
            answer=" ".join(answer),
        )
