"""The course of a training: the time that it took so far, and by all that is known now, how far it goes."""

from __future__ import annotations

import time
from collections.abc import Callable

from autoseg.files import write_document
from autoseg.logs import Logger
from autoseg.training.checkpoints import not_written
from autoseg.training.length import (
    LEARNED,
    asked_to_end,
    begins_unlearned,
    has_learned,
    is_plateau,
    out_of_time,
    with_plateau,
)
from autoseg.training.state import TrainState
from autoseg.values import Length
from autoseg.workspace import FoldFolder

__all__ = ["Course"]

#: A pass of a batch without gradients takes a third of an iteration; a case also has to be read, resampled and scored.
PASS_OF_SCORING = 1.5 / 3
#: What is tried before every iteration, and cannot be written, is told so often.
SECONDS_OF_SILENCE = 60.0
#: Where hours are given, a training that will take more than so many times as long tells so.
LATE = 1.1
#: The first iterations after a start are slow (memory is taken, code compiled): the pace is that of so many later ones.
FIRST_ITERATIONS, LEAST_TIMED = 2, 8


class Course:
    """Decides, from the clock, the estimates and what somebody asked for.

    Args:
        state: of the training.
        folder: of the training, in which a file may ask for its end.
        scoring_batches: batches of patches that the scoring of held-out cases will take; counts where hours are given.
        clock: gives seconds.
    """

    def __init__(
        self,
        state: TrainState,
        folder: FoldFolder,
        *,
        scoring_batches: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state, self.folder = state, folder
        self._scoring_batches, self._clock = scoring_batches, clock
        self._began, self._seconds_before, self._first = clock(), 0.0, 0
        self._timed_from: float | None = None
        self._warned: float | None = None

    def begin(self) -> None:
        """From here on time counts, beside what the state tells of earlier starts."""
        self._began, self._seconds_before, self._first = self._clock(), self.state.seconds, self.state.iteration

    def count(self) -> None:
        """An iteration was done."""
        if self.state.iteration == self._first + FIRST_ITERATIONS:
            self._timed_from = self._clock()

    def seconds(self) -> float:
        """That the training has taken, over all starts."""
        return self._seconds_before + self._clock() - self._began

    def told(self, loss: float, seconds_per_iteration: float) -> dict[str, float | int | None]:
        """For the log: how far the training is, of how much, and the time left where that is known."""
        done, length = self.state.iteration, self.state.length
        total = self.total() if length.end is not None or length.hours is not None else None
        left = None if total is None else (total - done) * seconds_per_iteration
        return {
            "iteration": done,
            "of": total,
            "loss": loss,
            "seconds_per_iteration": seconds_per_iteration,
            "seconds_left": left,
        }

    def decided(self) -> Length:
        """How far the training goes, by all that is known now; without an iteration done there is nothing to end yet."""
        length, done, planned = self.state.length, self.state.iteration, self.state.job.iterations
        if done == 0 or length.decided:
            return length
        if self.folder.stop_file.exists():
            length = asked_to_end(length, done, "somebody asked for it")
        elif length.until_plateau and is_plateau(self.state.estimates):
            length = with_plateau(length, done)
        elif length.until_plateau and done >= planned and not has_learned(self.state.estimates):
            length = asked_to_end(length, done, f"nothing was learned in the planned {planned} iterations")
        elif length.hours is not None and (each := self._pace()):
            scoring = self._scoring_seconds(each)
            length = out_of_time(
                length, done, seconds=self.seconds(), seconds_per_iteration=each, scoring_seconds=scoring
            )
        return length

    def decide(self, logger: Logger) -> None:
        """Takes what is decided now as the length of the training, if it can be written; else that has to wait."""
        length, done = self.decided(), self.state.iteration
        if length == self.state.length:
            return
        try:
            write_document(self.folder.length, length)
        except OSError as error:
            now = time.monotonic()
            if self._warned is None or now - self._warned > SECONDS_OF_SILENCE:
                self._warned = now
                text = f"warning: {not_written(self.folder.length, error)}. The cooldown has to wait"
                logger.event("message", text=text, iteration=done)
        else:
            self.state.length = length
            text = (
                f"the cooldown begins: {length.reason}; the training ends after {length.end} iterations{self._late()}"
            )
            logger.event("message", text=text, iteration=done, end=length.end)

    def _scoring_seconds(self, seconds_per_iteration: float) -> float:
        return PASS_OF_SCORING * self._scoring_batches * seconds_per_iteration

    def _late(self) -> str:
        """That the hours do not suffice, where the shortest cooldown and the scoring outlast them by more than a tenth."""
        length, each = self.state.length, self._pace()
        if length.hours is None or length.end is None or each is None:
            return ""
        left = (length.end - self.state.iteration) * each + self._scoring_seconds(each)
        needed = (self.seconds() + left) / 3600
        if needed <= LATE * length.hours:
            return ""
        return f". That is late: with the scoring, about {needed:.2g} h in all"

    def tell_unlearned(self, logger: Logger) -> None:
        """Tells, where a plateau is waited for, that this is none: nothing was learned yet."""
        if self.state.length.until_plateau and begins_unlearned(self.state.estimates):
            text = "nothing was learned yet: Dice on held-out cases neither rises nor is above "
            text += f"{LEARNED}; the training goes on, at least to the planned {self.state.job.iterations} iterations"
            logger.event("message", text=text, iteration=self.state.iteration)

    def total(self) -> int:
        """Iterations in total; while that is open, a guess from the hours, or the planned length, but more than are done."""
        length, done = self.state.length, self.state.iteration
        if length.end is not None:
            return length.end
        guess = self.state.job.iterations
        if length.hours is not None:
            guess = int(done * length.hours * 3600 / max(self.seconds(), 1e-3))
        return max(guess, done + 1)

    def _pace(self) -> float | None:
        """Seconds of an iteration since the last start, with all that goes with it; None while that is not known."""
        if self._timed_from is None:
            return None
        timed = self.state.iteration - self._first - FIRST_ITERATIONS
        return (self._clock() - self._timed_from) / timed if timed >= LEAST_TIMED else None
