"""The label map of a new image by one configuration, or by several together, as held-out cases were predicted by them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from autoseg.inference.confidence import Watch
from autoseg.inference.ensembles import ensemble_label_maps
from autoseg.inference.export import label_map
from autoseg.inference.inputs import OnGrid, PreparedMembers
from autoseg.inference.predict import Predictor
from autoseg.inference.probabilities import (
    HeldProbabilities,
    KeptProbabilities,
    Probabilities,
    keep_probabilities,
    levels_of,
)
from autoseg.inference.stages import logits_of
from autoseg.values import Plan, Volume

__all__ = ["held_prediction", "predicted_label_map"]

Advance = Callable[[int, int], None]
#: Puts the probabilities of a member where all of them wait for each other: its place, and its logits.
Keep = Callable[[int, np.ndarray], Probabilities]


def predicted_label_map(
    members: Sequence[Predictor], plan: Plan, prepared: PreparedMembers, advance: Advance, watch: Watch
) -> Volume:
    """The label map ``(1, *spatial)`` of an image, on the grid and in the order of its files.

    One configuration decides by its logits. Of several, the probabilities go through the same files as those of held-out
    cases, so that an ensemble answers exactly as it did when it was chosen, and one of them is in memory at a time.

    Args:
        members: a predictor for each configuration, with those of the stages before it.
        plan: of all of them.
        prepared: the image on their grids.
        advance: told how many tiles are done, of how many.
        watch: sees how far the label map can be trusted.
    """
    inputs = prepared.members
    if len(members) == 1:
        return _by_logits(members[0], plan, inputs[0], advance, watch)
    folders = [Path(f"{one.file}-probabilities") for one in inputs]

    def keep(number: int, logits: np.ndarray) -> Probabilities:
        how = (inputs[number].record, members[number].configuration, plan.labels, "")
        keep_probabilities(folders[number], logits, *how)
        return KeptProbabilities(folders[number])

    try:
        kept = _probabilities(members, plan, inputs, advance, keep, watch)
        return ensemble_label_maps(kept, [list(kept)], plan.labels)[0]
    finally:
        for folder in folders:
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)


def held_prediction(
    members: Sequence[Predictor], plan: Plan, inputs: Sequence[OnGrid], watch: Watch, *, probabilities: bool
) -> tuple[Volume, tuple[Probabilities, ...]]:
    """As ``predicted_label_map``, without a file: what waits, waits in memory.

    Args:
        members: a predictor for each configuration, with those of the stages before it.
        plan: of all of them.
        inputs: the image on their grids.
        watch: sees how far the label map can be trusted.
        probabilities: wanted, too.

    Returns:
        The label map, equal to that of ``predicted_label_map``, and the probabilities of every member if they are wanted.
    """

    def nothing(done: int, total: int) -> None:
        pass

    def keep(number: int, logits: np.ndarray) -> Probabilities:
        record = inputs[number].record
        levels = levels_of(logits, record, members[number].configuration, plan.labels)
        return HeldProbabilities(record, np.stack(list(levels)))

    if len(members) == 1 and not probabilities:
        return _by_logits(members[0], plan, inputs[0], nothing, watch), ()
    if len(members) == 1:
        logits = _watched_logits(members, 0, plan, inputs[0], nothing, watch)
        watch.see_logits(logits)
        return label_map(logits, inputs[0].record, members[0].configuration, plan.labels), (keep(0, logits),)
    kept = _probabilities(members, plan, inputs, nothing, keep, watch)
    volume = ensemble_label_maps(kept, [list(kept)], plan.labels)[0]
    return volume, tuple(kept.values()) if probabilities else ()


def _by_logits(predictor: Predictor, plan: Plan, one: OnGrid, advance: Advance, watch: Watch) -> Volume:
    logits = _watched_logits([predictor], 0, plan, one, advance, watch)
    watch.see_logits(logits)
    return label_map(logits, one.record, predictor.configuration, plan.labels)


def _watched_logits(
    members: Sequence[Predictor], number: int, plan: Plan, one: OnGrid, advance: Advance, watch: Watch
) -> np.ndarray:
    logits = logits_of(members[number], plan, one, advance, watch.folds[number])
    watch.member_done(number, one.record)
    return logits


def _probabilities(
    members: Sequence[Predictor], plan: Plan, inputs: Sequence[OnGrid], advance: Advance, keep: Keep, watch: Watch
) -> dict[str, Probabilities]:
    """Configuration to its probabilities, one member after the other."""
    kept: dict[str, Probabilities] = {}
    for number, (predictor, one) in enumerate(zip(members, inputs, strict=True)):

        def member_advance(done: int, total: int, number: int = number) -> None:
            advance(number * total + done, len(members) * total)

        logits = _watched_logits(members, number, plan, one, member_advance, watch)
        kept[predictor.configuration.name] = keep(number, logits)
        del logits  # the next member needs the room
    watch.see_members(list(kept.values()))
    return kept
