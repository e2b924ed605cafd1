"""The label map of a new image by one configuration, or by several together, as held-out cases were predicted by them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from autoseg.inference.ensembles import ensemble_label_maps
from autoseg.inference.export import label_map
from autoseg.inference.inputs import PreparedMembers
from autoseg.inference.predict import Predictor
from autoseg.inference.probabilities import KeptProbabilities, keep_probabilities
from autoseg.inference.stages import logits_of
from autoseg.values import Plan, Volume

__all__ = ["predicted_label_map"]


def predicted_label_map(
    members: Sequence[Predictor], plan: Plan, prepared: PreparedMembers, advance: Callable[[int, int], None]
) -> Volume:
    """The label map ``(1, *spatial)`` of an image, on the grid and in the order of its files.

    One configuration decides by its logits. Of several, the probabilities go through the same files as those of held-out
    cases, so that an ensemble answers exactly as it did when it was chosen, and one of them is in memory at a time.

    Args:
        members: a predictor for each configuration, with those of the stages before it.
        plan: of all of them.
        prepared: the image on their grids.
        advance: told how many tiles are done, of how many.
    """
    if len(members) == 1:
        (predictor,), (one,) = members, prepared.members
        return label_map(logits_of(predictor, plan, one, advance), one.record, predictor.configuration, plan.labels)
    names = [predictor.configuration.name for predictor in members]
    folders = {name: Path(f"{one.file}-probabilities") for name, one in zip(names, prepared.members, strict=True)}
    try:
        for number, (predictor, one) in enumerate(zip(members, prepared.members, strict=True)):

            def member_advance(done: int, total: int, number: int = number) -> None:
                advance(number * total + done, len(members) * total)

            logits = logits_of(predictor, plan, one, member_advance)
            how = (one.record, predictor.configuration, plan.labels, "")
            keep_probabilities(folders[predictor.configuration.name], logits, *how)
            del logits  # the next member needs the room
        kept = {name: KeptProbabilities(folder) for name, folder in folders.items()}
        return ensemble_label_maps(kept, [names], plan.labels)[0]
    finally:
        for folder in folders.values():
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
