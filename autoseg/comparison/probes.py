"""What trained networks use: probes of through-plane context, and of the field of view in plane, as experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from autoseg.comparison.contrasts import corrected
from autoseg.comparison.fields import field_in_plane
from autoseg.comparison.paired import PatientOf, paired_contrasts, patients_of
from autoseg.comparison.probing import Dice, Found, Probe, ProbedCase, ProbeRuns, drawn_cases
from autoseg.comparison.sentences import listed, loss_answer
from autoseg.comparison.slices import FEWEST_SLICES, chosen_slices, copies, exchanged_order, inverse, shuffled_order
from autoseg.crossvalidation import FinishedFold
from autoseg.errors import counted
from autoseg.executors import Executor
from autoseg.inference.predict import Predictor
from autoseg.logs import Logger
from autoseg.values import Configuration, Contrast, Experiment, Plan
from autoseg.workspace import ModelFolder, Workspace

__all__ = ["measure_slices", "probe_experiments", "skipped_probes"]

#: Slices of a case that are predicted alone, each from a whole patch of its copies.
CHOSEN_SLICES = 8
#: Dice that a 2D network may differ by when its slices come in another order: the order of additions, no more.
ROUNDING = 1e-3
SHUFFLED, REPEATED, FIELD = "shuffled_slices", "repeated_slices", "field_of_view"
QUESTIONS = {
    SHUFFLED: "Does the 3D network use the slices around the one that it segments?",
    REPEATED: "What does the 3D network lose if it sees one slice alone?",
    FIELD: "What would the 2D network lose if it saw as little in plane as the 3D network?",
}


def probe_experiments(
    workspace: Workspace,
    model: ModelFolder,
    plan: Plan,
    finished: Mapping[str, Mapping[str, FinishedFold]],
    pair: tuple[str, str],
    *,
    cases: int,
    device: str,
    logger: Logger,
    stop: Callable[[], bool],
    executor: Executor,
) -> tuple[Experiment, ...]:
    """Runs the trained networks on held-out cases that were changed on purpose; what is known is not run again.

    Args:
        workspace: of the plan.
        model: its folder; keeps what is found.
        plan: with both configurations.
        finished: configuration to its finished folds.
        pair: names of the 3D configuration and of the 2D configuration.
        cases: at most so many, drawn evenly from the folds that both have.
        device: cpu, cuda or mps.
        logger: for progress, and for the names of cases that failed.
        stop: asked after every few tiles.
        executor: makes preprocessed cases anew that are missing or damaged.

    Raises:
        InputError: weights cannot be used.
        InterruptedRunError: ``stop`` said so; the same call goes on.
    """
    first, second = (plan.configuration(name) for name in pair)
    drawn = drawn_cases(finished[first.name], finished[second.name], cases)
    reason = "" if drawn else f"no fold of both {first.name} and {second.name} is trained and scored: train one of each"
    runs = ProbeRuns(workspace, model, plan, device, logger, stop, executor)
    patient_of = patients_of(workspace)
    if first.dimensions != 3:
        reason = reason or f"{first.name} is no 3D configuration: it sees one slice at a time"
    if reason:
        through = tuple(_missing(name, reason) for name in (SHUFFLED, REPEATED))
    else:
        through = _through_plane(runs, finished, first, second, drawn, patient_of)
    return (*through, _field_of_view(runs, finished, first, second, drawn, patient_of, reason))


def _missing(name: str, reason: str, failures: Mapping[str, str] = {}) -> Experiment:
    return Experiment(name=name, question=QUESTIONS[name], method="Not made.", missing=reason, failures=dict(failures))


def skipped_probes(reason: str) -> tuple[Experiment, ...]:
    """All probes, not made for this reason."""
    return tuple(_missing(name, reason) for name in QUESTIONS)


def measure_slices(predictor: Predictor, case: ProbedCase) -> dict[str, Dice]:
    """A case as it is, with its slices in other orders, and slices of it alone; see ``_through_plane``."""
    image, count = case.image, case.image.shape[1]
    intact = case.predicted(predictor, image)
    found = {"intact": case.dice(intact)}
    if count >= FEWEST_SLICES:
        orders = {"shuffled": shuffled_order(count, case.seed), "exchanged": exchanged_order(count)}
        for way, order in orders.items():
            found[way] = case.dice(case.predicted(predictor, image[:, order])[inverse(order)])
    places = chosen_slices(case.reference, CHOSEN_SLICES)
    depth = predictor.configuration.full_patch_size[0]
    alone = [case.predicted(predictor, copies(image, place, depth))[depth // 2] for place in places]
    return {**found, "chosen": case.dice(intact[places], places), "alone": case.dice(np.stack(alone), places)}


THROUGH_PLANE = Probe(name="slices", measure=measure_slices, settings=f"{CHOSEN_SLICES} slices alone")


def _through_plane(
    runs: ProbeRuns,
    finished: Mapping[str, Mapping[str, FinishedFold]],
    first: Configuration,
    second: Configuration,
    drawn: Sequence[tuple[str, str]],
    patient_of: PatientOf,
) -> tuple[Experiment, ...]:
    """What the 3D network loses without the slices around, after the 2D network has lost nothing by the same."""
    found = runs.found(THROUGH_PLANE, finished[first.name], drawn)
    told = _told(found, "Without mirroring, scored on the grid that the network sees.")
    if second.dimensions == 2 and found.dice:
        reason, failures = _not_controlled(runs, finished[second.name], second, drawn, found)
        if reason:
            reason += f", so nothing can be said of {first.name}"
            return tuple(_missing(name, reason, {**failures, **found.failures}) for name in (SHUFFLED, REPEATED))
        told += f" The same done to {second.name}, which sees one slice at a time, changed nothing, as it must."
    if first.previous_stage is not None:
        told += (
            f" What {first.previous_stage} had predicted, with all slices in their place, is an input of {first.name} and "
            "moved along with the slices: the whole cascade uses more of the slices around than this shows."
        )
    name, then = first.name, "it relies on the slices around"
    if second.dimensions == 2:
        then += f". What these are worth is another question, for {second.name} has learned to do without them"
    shuffled = _experiment(
        SHUFFLED,
        f"The slices of a case were put into another order, in which none or hardly any has a neighbour of before, {name} "
        "predicted them, and the label map was put back into order. Then, only slices side by side changed places. A case "
        f"of fewer than {FEWEST_SLICES} slices has no such order. {told}",
        [
            *_losses(found, ("intact", "shuffled"), f"Dice of {name} minus that with shuffled slices", patient_of),
            *_losses(
                found, ("intact", "exchanged"), f"Dice of {name} minus that with exchanged neighbours", patient_of
            )[:1],
        ],
        lambda measured: loss_answer(
            f"With its slices in another order, {name}",
            measured,
            then=then,
            not_shown="that it relies on the slices around is not shown",
        ),
        found,
    )
    repeated = _experiment(
        REPEATED,
        f"Up to {CHOSEN_SLICES} slices of a case, evenly spread over those with foreground, were predicted alone: as the "
        f"middle of a whole patch ({first.patch_size[0]} slices) of copies, so that nothing else is seen along the axis. "
        f"Both Dice are of these slices. {told}",
        _losses(found, ("chosen", "alone"), f"Dice of {name} minus that with copies of one slice", patient_of),
        lambda measured: loss_answer(
            f"When it sees copies of one slice alone, {name}",
            measured,
            then=then,
            not_shown="that it relies on the slices around is not shown",
        ),
        found,
    )
    return shuffled, repeated


def _field_of_view(
    runs: ProbeRuns,
    finished: Mapping[str, Mapping[str, FinishedFold]],
    first: Configuration,
    second: Configuration,
    drawn: Sequence[tuple[str, str]],
    patient_of: PatientOf,
    reason: str,
) -> Experiment:
    """What the 2D network loses when its tiles are as small as the 3D network's patch is in plane."""
    if not reason and second.dimensions != 2:
        reason = f"{second.name} is no 2D configuration"
    if reason:
        return _missing(FIELD, reason)
    wanted = field_in_plane(first, second)
    tile = (min(wanted[0], second.patch_size[0]), min(wanted[1], second.patch_size[1]))
    own, small = (f"{edges[0]} x {edges[1]}" for edges in (second.patch_size, tile))
    if tile == second.patch_size:
        return _missing(FIELD, f"the patch of {first.name} is not smaller in plane than that of {second.name} ({own})")

    def measure(predictor: Predictor, case: ProbedCase) -> dict[str, Dice]:
        configuration = msgspec.structs.replace(predictor.configuration, patch_size=tile)
        narrow = Predictor(predictor.networks, configuration, predictor.execution, mirroring=False)
        ways = {"own": predictor, "narrow": narrow}
        return {way: case.dice(case.predicted(each, case.image)) for way, each in ways.items()}

    name = second.name
    found = runs.found(Probe(name="field", measure=measure, settings=small), finished[name], drawn)
    told = _told(found, "Without mirroring, scored on the grid that the network sees.")
    return _experiment(
        FIELD,
        f"{name} predicted with tiles of {small} voxels, the nearest to the field of {first.name} in plane that its network "
        f"takes, and with its own of {own}. It was not trained with such tiles; the comparison that trains it anew tells "
        f"what it could learn to do with them. {told}",
        _losses(found, ("own", "narrow"), f"Dice of {name} minus that with tiles of {small}", patient_of),
        lambda measured: loss_answer(
            f"With tiles of {small} instead of {own} voxels, {name}",
            measured,
            then=f"it relies on what lies further away in plane than {first.name} sees",
            not_shown="that it relies on what lies further away is not shown",
        ),
        found,
    )


def _told(found: Found, how: str) -> str:
    """How it was measured, and what could not be."""
    text = f"Each case was predicted by the network that had not been trained on it. {how}"
    if found.failures:
        text += f" {counted(len(found.failures), 'case')} could not be predicted: {listed(sorted(found.failures))}."
    return text


def _not_controlled(
    runs: ProbeRuns,
    finished: Mapping[str, FinishedFold],
    second: Configuration,
    drawn: Sequence[tuple[str, str]],
    found: Found,
) -> tuple[str, dict[str, str]]:
    """Why the same done to the 2D network does not show that nothing but the order changed, empty if it does; and failures.

    The control is the first case that was probed in every way, for with fewer slices some ways say nothing.
    """
    probed = [each for each in drawn if each[0] in found.dice]
    control = ([each for each in probed if "shuffled" in found.dice[each[0]]] or probed)[:1]
    controlled = runs.found(THROUGH_PLANE, finished, control)
    case = control[0][0]
    if set(controlled.dice.get(case, {})) != set(found.dice[case]):
        why = controlled.failures.get(case, "not every way was measured")
        return (
            f"the control, the same done to {second.name}, could not be made with {case} ({why})",
            controlled.failures,
        )
    moved = _largest_change(controlled)
    if moved > ROUNDING:
        reason = (
            f"{second.name} sees one slice at a time, and its Dice changed by {moved:.3g} when they came in another "
        )
        return f"{reason}order: something else than the order was changed", {}
    return "", {}


def _largest_change(found: Found) -> float:
    """By which any Dice of a control differs from that of the intact slices; infinite where one is not defined."""
    largest = 0.0
    for ways in found.dice.values():
        for before, after in (("intact", "shuffled"), ("intact", "exchanged"), ("chosen", "alone")):
            for label, dice in ways.get(after, {}).items():
                other = ways[before][label]
                if (dice is None) != (other is None):
                    return float("inf")
                largest = max(largest, abs(dice - other) if dice is not None and other is not None else 0.0)
    return largest


def _losses(found: Found, ways: tuple[str, str], quantity: str, patient_of: PatientOf) -> list[Contrast]:
    """Dice in the first way minus that in the second one, of the cases that were predicted in both."""
    before, after = ({case: dice[way] for case, dice in found.dice.items() if way in dice} for way in ways)
    return paired_contrasts(before, after, quantity, patient_of)


def _experiment(
    name: str, method: str, contrasts: Sequence[Contrast], answer: Callable[[Contrast], str], found: Found
) -> Experiment:
    """With an answer, or with the reason why nothing was measured."""
    if contrasts:
        whole = corrected(contrasts)
        return Experiment(
            name=name,
            question=QUESTIONS[name],
            method=method,
            contrasts=whole,
            answer=answer(whole[0]),
            failures=found.failures,
        )
    reason = "no case has slices enough, or a label whose Dice is defined"
    if found.failures:
        case, why = min(found.failures.items())
        reason = f"no case could be predicted; {case}, for one: {why}"
    return _missing(name, reason, found.failures)
