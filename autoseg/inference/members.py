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
    keep_mean,
    keep_probabilities,
    levels_of,
)
from autoseg.inference.stages import logits_of
from autoseg.values import Plan, Volume

__all__ = ["Answer", "answered", "held_prediction"]

Advance = Callable[[int, int], None]
#: Puts the probabilities of a member where all of them wait for each other: its place, and its logits.
Keep = Callable[[int, np.ndarray], Probabilities]


class Answer:
    """What the networks answered to an image: the label map is decided from it, while they may be at the next image.

    A context manager: what it keeps in files goes with its end.

    Args:
        members: a predictor for each configuration.
        plan: of all of them.
        inputs: the image on their grids.
        watch: sees how far the label map can be trusted.
        logits: of the only member; None of several.
        kept: of several members, configuration to its probabilities.
        folders: of these.
    """

    def __init__(
        self,
        members: Sequence[Predictor],
        plan: Plan,
        inputs: Sequence[OnGrid],
        watch: Watch,
        logits: np.ndarray | None,
        kept: dict[str, Probabilities],
        folders: Sequence[Path] = (),
    ) -> None:
        self._members, self._plan, self._inputs, self._watch = members, plan, inputs, watch
        self._logits, self._kept, self._folders = logits, kept, folders

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self._logits = None
        self._kept.clear()
        for folder in self._folders:
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)

    @property
    def bytes(self) -> int:
        """Memory that it takes; what lies in files takes none."""
        return 0 if self._logits is None or isinstance(self._logits, np.memmap) else self._logits.nbytes

    def label_map(self) -> Volume:
        """The label map ``(1, *spatial)``, on the grid and in the order of the image's files.

        One configuration decides by its logits. Of several, the probabilities went through the same files as those of
        held-out cases, so that an ensemble answers exactly as it did when it was chosen.
        """
        if self._logits is None:
            return ensemble_label_maps(self._kept, [list(self._kept)], self._plan.labels)[0]
        self._watch.see_logits(self._logits)
        return label_map(self._logits, self._inputs[0].record, self._members[0].configuration, self._plan.labels)

    def keep(self, folder: Path, weights: str) -> None:
        """Writes the probabilities that decided, of several members their mean.

        Args:
            folder: to make, see ``keep_probabilities``.
            weights: digest of all that predicted.
        """
        if self._logits is None:
            keep_mean(folder, list(self._kept.values()), self._plan.labels, weights)
        else:
            how = (self._inputs[0].record, self._members[0].configuration, self._plan.labels, weights)
            keep_probabilities(folder, self._logits, *how)


def answered(
    members: Sequence[Predictor], plan: Plan, prepared: PreparedMembers, advance: Advance, watch: Watch
) -> Answer:
    """What the networks answer to an image; of several configurations one is in memory at a time.

    Args:
        members: a predictor for each configuration, with those of the stages before it.
        plan: of all of them.
        prepared: the image on their grids.
        advance: told how many tiles are done, of how many.
        watch: sees how far the label map can be trusted.
    """
    inputs = prepared.members
    if len(members) == 1:
        return Answer(members, plan, inputs, watch, _watched_logits(members, 0, plan, inputs[0], advance, watch), {})
    folders = [Path(f"{one.file}-probabilities") for one in inputs]

    def keep(number: int, logits: np.ndarray) -> Probabilities:
        how = (inputs[number].record, members[number].configuration, plan.labels, "")
        keep_probabilities(folders[number], logits, *how)
        return KeptProbabilities(folders[number])

    with contextlib.ExitStack() as if_it_fails:
        answer = if_it_fails.enter_context(Answer(members, plan, inputs, watch, None, {}, folders))
        answer._kept |= _probabilities(members, plan, inputs, advance, keep, watch)
        if_it_fails.pop_all()
    return answer


def held_prediction(
    members: Sequence[Predictor], plan: Plan, inputs: Sequence[OnGrid], watch: Watch, *, probabilities: bool
) -> tuple[Volume, tuple[Probabilities, ...]]:
    """As ``answered``, without a file: what waits, waits in memory.

    Args:
        members: a predictor for each configuration, with those of the stages before it.
        plan: of all of them.
        inputs: the image on their grids.
        watch: sees how far the label map can be trusted.
        probabilities: wanted, too.

    Returns:
        The label map, equal to that of an ``Answer``, and the probabilities of every member if they are wanted.
    """

    def nothing(done: int, total: int) -> None:
        pass

    def keep(number: int, logits: np.ndarray) -> Probabilities:
        record = inputs[number].record
        levels = levels_of(logits, record, members[number].configuration, plan.labels)
        return HeldProbabilities(record, np.stack(list(levels)))

    if len(members) == 1:
        logits = _watched_logits(members, 0, plan, inputs[0], nothing, watch)
        with Answer(members, plan, inputs, watch, logits, {}) as answer:
            return answer.label_map(), (keep(0, logits),) if probabilities else ()
    kept = _probabilities(members, plan, inputs, nothing, keep, watch)
    volume = ensemble_label_maps(kept, [list(kept)], plan.labels)[0]
    return volume, tuple(kept.values()) if probabilities else ()


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
