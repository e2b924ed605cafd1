"""Whether to keep only the largest component of all foreground, and of each label: decided by the held-out cases.

The rule is nnU-Net's. All foreground as one object first: adopted if the mean Dice over labels rises and no label's falls.
Then, if there are several, every label or region in the order of declaration: adopted, on top of what was adopted before, if
its own mean Dice rises. Means are over the cases in which a score is defined, then over labels.

All cases are looked at once: for each, the scores under every set of steps that may come to be decided on are kept (a few
numbers, see ``CaseEffects``), so work can stop and go on after any case, and the decision at the end needs no image. There
are not many such sets: labels that share no voxel do not change each other's scores, so each counts with and without its own
step, on top of all foreground or not. Only regions that share integers multiply, and only where one falls into pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np

from autoseg.errors import InputError
from autoseg.evaluation.overlap import label_keys, overlap_scores
from autoseg.values import CaseEffects, ComponentStep, Label, Labels, LabelScore, Postprocessing, TriedStep
from autoseg.volume.components import Runs, foreground_runs, smaller_components, voxels_of

__all__ = ["case_effects", "decide_postprocessing"]

ALL_FOREGROUND = "all foreground"
#: So many labels and regions of a group that shares integers are tried; they have 64 sets of steps.
MOST_OF_GROUP = 6
#: Foreground entries (by place) of a group that are tried, and those that are not.
Group = tuple[tuple[int, ...], tuple[int, ...]]
#: From the runs that are left (bool per run) to the Dice of some foreground entries, given by place.
Scorer = Callable[[np.ndarray, Sequence[int]], list[float | None]]


def case_effects(
    reference: np.ndarray, prediction: np.ndarray, labels: Labels, annotated: Collection[str] | None = None
) -> CaseEffects:
    """What every set of steps would make of the scores of one case.

    Components are those of the prediction, also where the reference ignores it: nobody knows where that is later.

    Args:
        reference: integers ``(*spatial)``, three axes.
        prediction: of a network that was not trained on the case, same shape.
        labels: what the integers mean.
        annotated: names of the labels that were looked for in the case; None for all.
    """
    runs = foreground_runs(prediction)
    alive = np.ones(len(runs.first), bool)
    score = _scorer(reference, prediction, runs, labels, annotated)
    without = _side(runs, alive, labels, score)
    smaller = smaller_components(runs, alive, _foreground(labels))
    if not smaller.size:
        return CaseEffects(dice=(without, without))
    alive[smaller] = False
    return CaseEffects(dice=(without, _side(runs, alive, labels, score)))


def _foreground(labels: Labels) -> tuple[int, ...]:
    return tuple(sorted({value for label in labels.foreground for value in label.values} - {0}))


def _object(label: Label) -> tuple[int, ...]:
    return tuple(sorted(set(label.values) - {0}))


def _groups(labels: Labels) -> list[Group]:
    """Foreground entries that share integers, directly or through others. With one entry alone, nothing is tried of it.

    What a step removes becomes background: a region that holds background shares with all.
    """
    background = {0} if any(0 in label.values for label in labels.foreground) else set()
    groups: list[tuple[set[int], list[int]]] = []
    for place, label in enumerate(labels.foreground):
        values, places = background | set(label.values), [place]
        for other in [each for each in groups if each[0] & values]:
            groups.remove(other)
            values, places = values | other[0], other[1] + places
        groups.append((values, sorted(places)))
    most = MOST_OF_GROUP if len(labels.foreground) > 1 else 0
    parted = []
    for _, places in groups:
        tried = [place for place in places if _object(labels.foreground[place])][:most]
        parted.append((tuple(tried), tuple(place for place in places if place not in tried)))
    return parted


def _scorer(
    reference: np.ndarray, prediction: np.ndarray, runs: Runs, labels: Labels, annotated: Collection[str] | None
) -> Scorer:
    """Scores by subtracting the few voxels that are removed from counts that are made once."""
    scores = overlap_scores(reference, prediction, labels, annotated)
    known, keys = labels.looked_for(annotated), label_keys(labels)
    wanted_flat = np.ascontiguousarray(reference).reshape(-1)

    def score(alive: np.ndarray, places: Sequence[int]) -> list[float | None]:
        gone = np.flatnonzero(~alive)
        wanted, predicted = wanted_flat[voxels_of(runs, gone)], np.repeat(runs.value[gone], runs.length[gone])
        if labels.ignore is not None:
            predicted = predicted[wanted != labels.ignore]
            wanted = wanted[wanted != labels.ignore]
        return [
            _dice_without(scores[keys[place]], wanted, predicted, labels.foreground[place].values)
            if known[place]
            else None
            for place in places
        ]

    return score


def _dice_without(score: LabelScore, wanted: np.ndarray, predicted: np.ndarray, values: Sequence[int]) -> float | None:
    """Dice after voxels with these references and predictions have become background."""
    change = int(0 in values) - np.isin(predicted, values).astype(np.int64)
    both = score.tp + int(change[np.isin(wanted, values)].sum())
    sizes = score.n_pred + int(change.sum()) + score.n_ref
    return 2 * both / sizes if sizes else None


def _side(runs: Runs, alive: np.ndarray, labels: Labels, score: Scorer) -> tuple[tuple[float | None, ...], ...]:
    """Scores of every entry under every set of its group's steps, on top of runs that are removed already."""
    table: dict[int, tuple[float | None, ...]] = {}
    for tried, others in _groups(labels):
        members = (*tried, *others)
        objects = [_object(labels.foreground[place]) for place in tried]
        sets = _sets(runs, alive, objects, members, score)
        table |= {place: tuple(each[number] for each in sets) for number, place in enumerate(members)}
    return tuple(table[place] for place in range(len(labels.foreground)))


def _sets(
    runs: Runs, alive: np.ndarray, objects: Sequence[tuple[int, ...]], members: Sequence[int], score: Scorer
) -> list[list[float | None]]:
    """Scores of a group's members under every set of steps; the first step is the lowest bit of a set's place."""
    if not objects:
        return [score(alive, members)]
    without = _sets(runs, alive, objects[1:], members, score)
    smaller = smaller_components(runs, alive, objects[0])
    with_it = without
    if smaller.size:
        left = alive.copy()
        left[smaller] = False
        with_it = _sets(runs, left, objects[1:], members, score)
    return [scores for pair in zip(without, with_it, strict=True) for scores in pair]


def decide_postprocessing(effects: Mapping[str, CaseEffects], labels: Labels) -> Postprocessing:
    """The steps that the held-out cases speak for; the order of cases does not matter.

    Args:
        effects: case id to what the steps do there.
        labels: that they were made with.

    Raises:
        InputError: there is no case, or effects of other labels.
    """
    groups = _groups(labels)
    sets = {place: 2 ** len(tried) for tried, others in groups for place in (*tried, *others)}
    strange = [case for case, each in effects.items() if [len(row) for row in each.dice[0]] != [*_ordered(sets)]]
    if strange or not effects:
        raise InputError(
            "the effects of postprocessing are not of these labels" if strange else "there is no case to decide by",
            case=strange[0] if strange else None,
            remedy="Compute them anew." if strange else "Train a fold first.",
        )
    bits = dict.fromkeys(sets, 0)
    whole = _try_all_foreground(effects, labels, bits)
    side = int(whole.adopted)
    tried_steps = [whole]
    steps = sorted((place, bit, tried + others) for tried, others in groups for bit, place in enumerate(tried))
    for place, bit, members in steps:
        tried_step = _try_step(effects, labels.foreground[place], side, place, bits[place], bits[place] | 1 << bit)
        tried_steps.append(tried_step)
        if tried_step.adopted:
            bits |= {member: bits[member] | 1 << bit for member in members}
    several = len(labels.foreground) > 1
    return Postprocessing(
        steps=tuple(each.step for each in tried_steps if each.adopted),
        tried=tuple(tried_steps),
        not_tried=tuple(labels.foreground[place].name for _, others in groups for place in others if several),
        cases=len(effects),
        dice_before=_mean(_means(effects, 0, dict.fromkeys(bits, 0))),
        dice_after=_mean(_means(effects, side, bits)),
    )


def _ordered(table: Mapping[int, int]) -> Iterable[int]:
    return (table[place] for place in sorted(table))


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None


def _means(effects: Mapping[str, CaseEffects], side: int, bits: Mapping[int, int]) -> list[float | None]:
    """Mean Dice of every entry under some steps."""
    return [_mean(each.dice[side][place][bits[place]] for each in effects.values()) for place in sorted(bits)]


def _rises(before: float | None, after: float | None) -> bool:
    return before is not None and after is not None and after > before


def _try_all_foreground(effects: Mapping[str, CaseEffects], labels: Labels, bits: Mapping[int, int]) -> TriedStep:
    before, after = _means(effects, 0, bits), _means(effects, 1, bits)
    fell = tuple(
        label.name for label, one, other in zip(labels.foreground, before, after, strict=True) if _rises(other, one)
    )
    first = [tuple(row[0] for row in each.dice[0]) for each in effects.values()]
    second = [tuple(row[0] for row in each.dice[1]) for each in effects.values()]
    return TriedStep(
        step=ComponentStep(name=ALL_FOREGROUND, values=_foreground(labels)),
        adopted=_rises(_mean(before), _mean(after)) and not fell,
        before=_mean(before),
        after=_mean(after),
        changed=sum(one != other for one, other in zip(first, second, strict=True)),
        fell=fell,
    )


def _try_step(
    effects: Mapping[str, CaseEffects], label: Label, side: int, place: int, present: int, wanted: int
) -> TriedStep:
    rows = [each.dice[side][place] for each in effects.values()]
    before, after = _mean(row[present] for row in rows), _mean(row[wanted] for row in rows)
    return TriedStep(
        step=ComponentStep(name=label.name, values=_object(label)),
        adopted=_rises(before, after),
        before=before,
        after=after,
        changed=sum(row[present] != row[wanted] for row in rows),
    )
