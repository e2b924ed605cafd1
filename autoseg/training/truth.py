"""Truth while training: held-out cases, some after every epoch, scored on whole images with the metric of the end.

The estimate (training/estimate.py) sees patches; the truth sees what counts: the averaged weights predict a whole case by
the way of ``autoseg predict``, back to the grid of its files, and are scored there. How that is done is handed in by the
pipeline. Nothing here has any influence on the weights.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import msgspec
import torch

from autoseg.errors import InterruptedRunError
from autoseg.estimates import SCORING_SHARE
from autoseg.evaluation.overlap import label_keys
from autoseg.logs import Logger, reported
from autoseg.networks.execution import release_memory
from autoseg.training.truth_record import Pace, TruthLine, TruthRecord, TruthScore
from autoseg.values import CaseScore, Labels, TrainJob, digest
from autoseg.values.json_form import Value
from autoseg.workspace import FoldFolder

__all__ = ["Scorer", "Truth", "TruthValue", "due_cases", "pace_for", "truth_of"]

#: Share of a training within which all cases should have had their turn.
SOON = 0.1
#: A score may be old by this share of what was trained; older ones tell of another network.
RECENT = 0.5

#: Opened with weights, and whether to average over flips, it gives a function of a case id that scores the case on its
#: whole image; that function tells a second function how many tiles are done, of how many.
Scorer = Callable[[Mapping[str, torch.Tensor], bool], Callable[[str, Callable[[int, int], None]], CaseScore]]


class TruthValue(Value, frozen=True, kw_only=True):
    """The truth at an iteration: mean over labels of the means over cases, as in the final summary.

    ``cases`` is the number of cases behind it, ``labels`` the Dice by label name.
    """

    iteration: int
    dice: float | None
    labels: dict[str, float | None]
    cases: int


def due_cases(cases: Sequence[str], seed: int, epoch: int, pace: Pace) -> list[str]:
    """The cases whose turn it is after an epoch (counted from 1); a pure function, in rotation over all of them.

    Their order is that of digests, so it is random, but the same in every run, whatever other cases there are.
    """
    order = sorted(cases, key=lambda case: digest([seed, case]))
    turn, rest = divmod(epoch, pace.every)
    if rest or not order:
        return []
    count = min(pace.cases, len(order))
    return [order[((turn - 1) * count + position) % len(order)] for position in range(count)]


def pace_for(count: int, passes: int, case_seconds: float, epoch_seconds: float, epochs: float, device: str) -> Pace:
    """As many cases as cost a tenth of an epoch; with mirroring where even so all have a turn in a tenth of the training.

    Without mirroring the truth is lower than the final score, by more than a Dice point for small structures; scores that
    are older than a tenth of the training tell of another network. So mirroring comes first while it can be had in time.

    Args:
        count: held-out cases.
        passes: of the network per tile with mirroring.
        case_seconds: of scoring a case without mirroring.
        epoch_seconds: of training an epoch.
        epochs: of the training.
        device: that this was measured on.
    """
    room = max(SCORING_SHARE * epoch_seconds, 1e-9)
    mirroring = case_seconds * passes * count <= room * max(1.0, SOON * epochs)
    seconds = max(case_seconds * (passes if mirroring else 1), 1e-9)
    reason = f"{case_seconds:.2g} s for a case without mirroring, {epoch_seconds:.3g} s for an epoch"
    if seconds > room:
        return Pace(device=device, every=math.ceil(seconds / room), mirroring=mirroring, reason=reason)
    return Pace(device=device, cases=min(count, int(room / seconds)), mirroring=mirroring, reason=reason)


def truth_of(scores: Sequence[TruthScore], iteration: int, names: Sequence[str]) -> TruthValue:
    """The truth from the newest score of every case, leaving out those from the first half of what was trained.

    Args:
        scores: in the order in which they were made.
        iteration: after which; later scores do not count.
        names: of the labels.
    """
    recent = [score for score in scores if (1 - RECENT) * iteration <= score.iteration <= iteration and score.dice]
    newest = {score.case: score.dice for score in recent}
    labels = {name: _mean([dice.get(name) for dice in newest.values()]) for name in names}
    return TruthValue(iteration=iteration, dice=_mean(list(labels.values())), labels=labels, cases=len(newest))


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None


@dataclass(frozen=True)
class _Turn:
    """The scoring after one epoch with or without mirroring; the network is made for the first case.

    ``total`` is the number of iterations that the training is told to have.
    """

    epoch: int
    iteration: int
    total: int
    mirroring: bool
    weights: Mapping[str, torch.Tensor]
    scorer: Scorer

    @functools.cached_property
    def score(self) -> Callable[[str, Callable[[int, int], None]], CaseScore]:
        return self.scorer(self.weights, self.mirroring)


class Truth:
    """The running scores of one training, kept in a file of its folder.

    Args:
        job: the training; its held-out cases are scored.
        labels: of the plan.
        mirror_axes: how many axes the final validation mirrors.
        folder: of the training.
        logger: for events.
        device: that trains.
        scorer: see ``Scorer``.
    """

    def __init__(
        self,
        job: TrainJob,
        labels: Labels,
        mirror_axes: int,
        folder: FoldFolder,
        logger: Logger,
        device: str,
        scorer: Scorer,
    ) -> None:
        self.job, self.folder, self.logger, self.device, self.scorer = job, folder, logger, device, scorer
        self.passes = 2**mirror_axes
        self.names = dict(zip(label_keys(labels), (label.name for label in labels.foreground), strict=True))
        self.record = TruthRecord(folder.truth)
        if self.record.unreadable:
            text = f"warning: {self.record.unreadable} lines of {folder.truth} cannot be read and are left out"
            logger.event("message", text=text)

    def latest(self) -> TruthValue | None:
        """The truth after the last epoch that was scored; None without any score."""
        iterations = [score.iteration for score in self.record.scores if score.dice]
        return truth_of(self.record.scores, max(iterations), list(self.names.values())) if iterations else None

    def forget_after(self, iteration: int) -> None:
        """Drops the scores after later iterations: the training goes on from there, maybe on another way than before."""
        try:
            self.record.forget_after(iteration)
        except OSError as error:
            self._warn(error)

    def after_epoch(
        self,
        epoch: int,
        iteration: int,
        weights: Mapping[str, torch.Tensor],
        epoch_seconds: float | None = None,
        *,
        total: int,
    ) -> None:
        """Scores the cases whose turn it is, as far as that was not done by an interrupted run, and tells the truth.

        Args:
            epoch: that has ended, counted from 1.
            iteration: that many are done, and saved: an interruption within here goes on here.
            weights: that would make the model now.
            epoch_seconds: of training an epoch; None if it is not known, as just after resuming.
            total: iterations of the training, by what is known now.

        Raises:
            InterruptedRunError: asked to stop.
        """
        begin, threads = time.monotonic(), torch.get_num_threads()
        try:
            self._score_due(_Turn(epoch, iteration, total, False, weights, self.scorer), epoch_seconds)
        except InterruptedRunError:
            self.logger.event("interrupted", iteration=iteration)
            raise
        finally:
            torch.set_num_threads(
                threads
            )  # the predictor sets its own, and sums would be rounded otherwise from here on
            release_memory(self.device)
        value, now = truth_of(self.record.scores, iteration, list(self.names.values())), self.record.of(iteration)
        self.logger.event(
            "truth",
            epoch=epoch,
            iteration=iteration,
            dice=value.dice,
            label_dice=value.labels,
            cases=value.cases,
            held_out=len(self.job.cases.val),
            scored={score.case: score.dice for score in now},
            mirroring=any(score.mirroring for score in now),
            seconds=time.monotonic() - begin,
        )

    def _score_due(self, turn: _Turn, epoch_seconds: float | None) -> None:
        pace = self.record.pace(self.device)
        turn = replace(turn, mirroring=pace is not None and pace.mirroring)
        if pace is None:
            pace = self._measure(turn, epoch_seconds)
        if pace.mirroring != turn.mirroring:  # the first network goes before the second comes
            turn = replace(turn, mirroring=pace.mirroring)
        due = due_cases(self.job.cases.val, self.job.seed, turn.epoch, pace)
        done = {score.case for score in self.record.of(turn.iteration)}
        for case in due:
            if case not in done:
                self._append(self._scored(turn, case))

    def _measure(self, turn: _Turn, epoch_seconds: float | None) -> Pace:
        """Scores one case to find the pace; if that fails, or the time of an epoch is not known, the next epoch tells."""
        undecided = Pace()
        (case,) = due_cases(self.job.cases.val, self.job.seed, turn.epoch, undecided)
        if case in {score.case for score in self.record.of(turn.iteration)}:
            return undecided
        score = self._scored(turn, case)
        if score.dice and epoch_seconds is not None:
            seconds = score.seconds
            if seconds < SCORING_SHARE * epoch_seconds:  # short, so what only a first time takes may be most of it
                seconds = min(seconds, self._scored(turn, case).seconds)
            count, epochs = len(self.job.cases.val), turn.total * turn.epoch / turn.iteration
            pace = pace_for(count, self.passes, seconds, epoch_seconds, epochs, self.device)
            self._append(pace)
            self.logger.event("truth_pace", held_out=count, **msgspec.structs.asdict(pace))
            if pace.mirroring:  # this score is not of the kind of the others
                return pace
        else:
            pace = undecided
        self._append(score)
        return pace

    def _scored(self, turn: _Turn, case: str) -> TruthScore:
        """Scores a case; what goes wrong costs this score only."""
        begin, error, dice = time.monotonic(), "", {}
        try:
            score = turn.score(case, functools.partial(self._tell_tiles, turn, case))
            dice = {name: score.metrics[key].dice for key, name in self.names.items()}
        except InterruptedRunError:
            raise
        except Exception as problem:  # a damaged case, memory, a plug: the training goes on without this score
            error = reported(problem)["error"]
            text = f"warning: {case} could not be scored after epoch {turn.epoch}, and training goes on: {error}"
            self.logger.event("message", text=text, stage="truth", case=case, **reported(problem))
        return TruthScore(
            epoch=turn.epoch,
            iteration=turn.iteration,
            case=case,
            mirroring=turn.mirroring,
            seconds=round(time.monotonic() - begin, 4),
            dice=dice,
            error=error,
        )

    def _tell_tiles(self, turn: _Turn, case: str, done: int, total: int) -> None:
        if turn.iteration < turn.total:  # the bar of the training stays; at the end it is gone already
            detail = f"scoring {case}, tile {done} of {total}"
            self.logger.event("progress", stage="train", done=turn.iteration, total=turn.total, detail=detail)

    def _append(self, line: TruthLine) -> None:
        try:
            self.record.append(line)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        text = f"warning: {self.folder.truth.name} cannot be written ({error.strerror or error}); training goes on"
        self.logger.event("message", text=text)
