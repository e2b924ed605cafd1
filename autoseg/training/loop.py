"""The training loop of one fold: from a job and a store of cases to a model file, resumable at any instant."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoseg import plugins
from autoseg.errors import (
    AutosegError,
    DiskFullError,
    FollowedError,
    InputError,
    InterruptedRunError,
    ShortMemoryError,
)
from autoseg.files import read_document
from autoseg.io.case_store import CaseStore
from autoseg.logs import Logger
from autoseg.networks.execution import training_memory
from autoseg.networks.weights import load_weights
from autoseg.training.batches import PatchLoader
from autoseg.training.checkpoints import Checkpoints, not_written
from autoseg.training.course import Course
from autoseg.training.crew import seconds_to_make
from autoseg.training.determinism import deterministic_algorithms, make_deterministic, seed_iteration
from autoseg.training.estimate import dice_of_counts, patch_counts
from autoseg.training.length import kept_from, learning_rate
from autoseg.training.model_file import write_model
from autoseg.training.optimization import WeightAverage
from autoseg.training.planned_loader import planned_loader
from autoseg.training.ranks import ALONE, Ranks
from autoseg.training.records import BatchRecord
from autoseg.training.skips import SharedSkips
from autoseg.training.state import TrainState
from autoseg.training.step import TrainingStep, keep_freed_memory_if_roomy
from autoseg.training.trouble import not_a_number, tell_skipped
from autoseg.training.truth import Truth
from autoseg.values import Configuration, Length, Plan, TrainJob, decode, encode
from autoseg.workspace import FoldFolder

__all__ = ["FoldTrainer", "train_fold"]

#: Shortest time between two checkpoints; with slow disks longer, so that saving costs at most a twentieth.
CHECKPOINT_SECONDS = 60.0
LOG_SECONDS = 10.0


def train_fold(
    job: TrainJob,
    plan: Plan,
    store: CaseStore,
    folder: FoldFolder,
    logger: Logger,
    *,
    device: str,
    stop: Callable[[], bool] = lambda: False,
    truth: Truth | None = None,
    scoring_batches: float = 0.0,
    deterministic: bool = False,
    initial: Mapping[str, torch.Tensor] | None = None,
    ranks: Ranks = ALONE,
) -> Path:
    """Trains one fold, or goes on where an interrupted run of the same job stopped.

    Args:
        job: what to train.
        plan: that the job belongs to.
        store: of the preprocessed cases.
        folder: of this training; holds checkpoints, model and, where it differs from the job's, the length.
        logger: for events.
        device: cpu, cuda or mps.
        stop: asked before every iteration; True saves and stops.
        truth: scores whole images after every epoch; None for none.
        scoring_batches: batches of patches that the scoring of held-out cases will take; counts where hours are given.
        deterministic: use only algorithms that give the same bits in every run.
        initial: weights that a new training begins with; None for fresh ones.
        ranks: the processes that train together; only the first one writes.

    Returns:
        The model file.

    Raises:
        InterruptedRunError: ``stop`` said so; the same call goes on.
        DiskFullError: the model cannot be written; the same call goes on.
        AutosegError: the loss is not a number.
    """
    if device == "cpu":
        expected = training_memory(plan.configuration(job.configuration), "cpu")
        keep_freed_memory_if_roomy(expected, plan.budget_bytes, logger)
    gpus = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        trainer = FoldTrainer(
            *(job, plan, store, folder, logger, device, truth),
            scoring_batches=scoring_batches,
            deterministic=deterministic,
            ranks=ranks,
        )
        if initial is not None and not folder.has_checkpoint():
            trainer.begin_with(initial)
        ranks.wait()
        trainer.resume()
        with deterministic_algorithms(trainer.step.execution.deterministic):
            trainer.run(stop)
        return trainer.save_model() if ranks.first else folder.model


class FoldTrainer:
    """One training with all that it needs; see ``train_fold``."""

    def __init__(
        self,
        job: TrainJob,
        plan: Plan,
        store: CaseStore,
        folder: FoldFolder,
        logger: Logger,
        device: str,
        truth: Truth | None = None,
        *,
        scoring_batches: float = 0.0,
        deterministic: bool = False,
        clock: Callable[[], float] = time.monotonic,
        ranks: Ranks = ALONE,
    ) -> None:
        self.truth, self.ranks = truth, ranks
        self.job, self.plan, self.store, self.folder, self.logger = job, plan, store, folder, logger
        self.configuration: Configuration = plan.configuration(job.configuration)
        self.spec = self.configuration.training
        self._training = self.loader(train=True)
        share = len(ranks.share(self.configuration.batch_size)) / self.configuration.batch_size
        making = functools.partial(seconds_to_make, self._training.batch, share)
        self.step = TrainingStep(job, plan, folder, logger, device, making, ranks)
        self.schedule = plugins.load("schedule", self.spec.schedule)
        network, decay = self.step.network, self.spec.ema_decay
        average = None if decay is None else WeightAverage(network.state_dict(), decay)
        length = read_document(Length, folder.length) if folder.length.is_file() else None
        self.state = TrainState(job, network, self.step.optimizer, average, length)
        self.checkpoints = Checkpoints(folder, logger)
        self.course = Course(self.state, folder, scoring_batches=scoring_batches, clock=clock)
        self._recent: deque[BatchRecord] = deque(maxlen=2)
        self._skipped = SharedSkips(ranks)
        if deterministic and not self.step.execution.deterministic:
            make_deterministic(self.step, self.logger)

    def begin_with(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Begins with these weights and keeps them in the first checkpoint: where they came from is not needed again."""
        load_weights(self.step.network, weights, source=self.folder.path)
        if self.state.average is not None:
            self.state.average = WeightAverage(self.step.network.state_dict(), self.state.average.decay)
        try:
            self.state.save(self.folder.checkpoint)
        except OSError as error:
            raise DiskFullError(self.folder.path, not_written(self.folder.checkpoint, error)) from error

    def resume(self) -> None:
        """Goes back to the newest checkpoint that is whole, if there is one; several processes work together from here."""
        if self.checkpoints.resume(self.state):
            self.step.load_state_dict(self.state.extra)
            self._training = self.loader(train=True, skipped=self.state.skipped)
            self.logger.event("resumed", iteration=self.state.iteration)
        if self.truth is not None:
            self.truth.forget_after(self.state.iteration)
        self._skipped = SharedSkips(self.ranks, self.state.skipped)
        self.ranks.require_equal("checkpoints", lambda: f"iteration {self.state.iteration}")
        self.step.join()

    def loader(self, *, train: bool, skipped: Mapping[str, int] | None = None) -> PatchLoader:
        """Patches of the training cases, augmented, or of the held-out cases as they are; see ``PatchLoader.skipped``."""
        cases = self.job.cases.train if train else self.job.cases.val
        return planned_loader(
            self.plan,
            self.configuration,
            self.store,
            {case: self.job.case_keys[case] for case in cases},
            self.job.seed,
            annotated=self.job.annotated,
            train=train,
            skipped=skipped,
            positions=self.ranks.share(self.configuration.batch_size) if train else None,
            logger=self.logger,
        )

    def run(self, stop: Callable[[], bool]) -> None:
        """All iterations that are left."""
        self.step.network.train()
        if self.step.execution.device == "cuda" and not self.state.iteration:
            self.step.probe_memory()
        begin = last_log = last_save = time.monotonic()
        self.course.begin()
        saving = 0.0
        first, losses = self.state.iteration, []
        if self._epoch_ends():
            self.score_whole_images()  # what an interruption left undone
        with contextlib.closing(self._batches(first)) as batches:
            while self._goes_on(stop):
                losses.append(self.train_step(next(batches)))
                self._skipped.exchange(self._training)
                done, now = self.state.iteration, time.monotonic()
                self.course.count()
                detail = f"loss {losses[-1]:.3f}"
                self.logger.event("progress", stage="train", done=done, total=self.course.total(), detail=detail)
                end_of_epoch = self._epoch_ends()
                if now - last_log > LOG_SECONDS or end_of_epoch:
                    told = self.course.told(float(np.mean(losses)), (now - begin) / (done - first))
                    self.logger.event("iterations", **told, learning_rate=self.learning_rate(done - 1))
                    last_log, losses = now, []
                if end_of_epoch:
                    self.ranks.require_equal("weights", self.step.fingerprint)
                    self._estimate_epoch()
                if now - last_save > max(CHECKPOINT_SECONDS, 20 * saving) or end_of_epoch:
                    self.save()
                    last_save = time.monotonic()
                    saving = last_save - now
                if end_of_epoch:
                    self.score_whole_images((now - begin) / (done - first))

    def score_whole_images(self, seconds_per_iteration: float | None = None) -> None:
        """At the end of an epoch, the truth; it follows the checkpoint, so that an interruption of it loses nothing."""
        if self.truth is None:
            return
        self.step.optimizer.zero_grad(set_to_none=True)  # room for the predictor
        done, length = self.state.iteration, self.spec.iterations_per_epoch
        weights, total = self.state.model_weights(), self.course.total()
        seconds = None if seconds_per_iteration is None else seconds_per_iteration * min(length, total)
        try:
            self.truth.after_epoch(-(-done // length), done, weights, seconds, total=total)
        except InterruptedRunError as error:
            if self.checkpoints.saved != done:
                raise self.checkpoints.interrupted(self.state) from error
            raise

    def _epoch_ends(self) -> bool:
        """Whether the iterations done end an epoch, or the training."""
        done = self.state.iteration
        return done > 0 and (done % self.spec.iterations_per_epoch == 0 or done == self.state.length.end)

    def _estimate_epoch(self) -> None:
        """Adds to the curve of estimates; where no label has a Dice, there is nothing to add.

        Raises:
            AutosegError: the weights are not numbers.
        """
        if not (self.ranks.first and self.job.cases.val and self.spec.validation_iterations):
            return
        if not self.state.is_healthy():
            raise self._not_a_number()
        try:
            known = [dice for dice in self.estimate() if dice is not None]
        except InputError as error:  # the estimate is a guide only; where the end hangs on it, there is none without
            if self.state.length.until_plateau:
                raise
            text = f"warning: no estimate on held-out cases after {self.state.iteration} iterations: {error}"
            self.logger.event("message", text=text)
            return
        if not known:
            return
        self.state.curve.append((self.state.iteration, sum(known) / len(known)))
        self.course.tell_unlearned(self.logger)

    def _batches(self, first: int) -> Generator[dict[str, Any]]:
        """As many as are wanted: the end may not be known yet, or be decided to be nearer."""
        return self.step.supplied(self._training, first, self.state.length.end or sys.maxsize)

    def _goes_on(self, stop: Callable[[], bool]) -> bool:
        """Whether another iteration is to be done; decides, before it, whether the cooldown begins here.

        Raises:
            InterruptedRunError: this process was asked to stop, or another one.
        """
        done, before = self.state.iteration, self.state.length
        if self.ranks.first:
            self.course.decide(self.logger)
        going = before.end is None or done < before.end
        asked, decided = self.ranks.totals(going and bool(stop()), self.state.length != before)
        if decided:
            self.state.length = decode(Length, self.ranks.told(lambda: encode(self.state.length).decode()))
        if self.ranks.first and done == kept_from(self.state.length):
            self._note_state()
            self.checkpoints.keep(self.state)
        if asked:
            self._interrupt()
        return going

    def save(self) -> bool:
        """The first process writes a checkpoint, never of weights that are no numbers. False, with a warning, if it cannot.

        Raises:
            AutosegError: they are not; the last healthy checkpoint stays.
        """
        if not self.ranks.first:
            return True
        self._note_state()
        return self.checkpoints.save(self.state)

    def _note_state(self) -> None:
        """Brings what a checkpoint holds beside weights and optimizer up to now.

        Raises:
            AutosegError: the weights are not numbers, so this is no state to go on from.
        """
        if not self.state.is_healthy():
            raise self._not_a_number()
        self.state.seconds = self.course.seconds()
        self.state.extra = dict(self.step.state_dict())
        self.state.skipped = self._training.skipped_before(self.state.iteration)

    def _not_a_number(self) -> AutosegError:
        """The error to end with; of several processes none has all of a batch, which is drawn again for it."""
        if not self.ranks.first:
            return FollowedError()
        recent = self._recent if self.ranks.count == 1 else ()
        return not_a_number(self.state, recent, self._training, self.folder)

    def _interrupt(self) -> None:
        self.save()
        self.ranks.wait()
        self.logger.event("interrupted", iteration=self.state.iteration)
        raise self.checkpoints.interrupted(self.state)

    def learning_rate(self, iteration: int) -> float:
        """Of an iteration, counted from 0."""
        return learning_rate(self.schedule, self.spec, self.state.length, iteration)

    def train_step(self, batch: dict[str, Any]) -> float:
        """One iteration: gradients of the batch, a step of the optimizer, the average of the weights."""
        seed_iteration(self.job.seed, self.state.iteration, self.ranks.place.rank)
        self._recent.append(batch["record"])
        try:
            value = self.step.gradients(batch)
        except ShortMemoryError:
            if self.state.iteration:
                self.save()
            raise
        if not np.isfinite(value):
            raise self._not_a_number()
        self.step.update(self.learning_rate(self.state.iteration))
        if self.state.average is not None:
            self.state.average.update(self.step.network.state_dict(), self.state.iteration)
        self.state.iteration += 1
        return value

    @functools.cached_property
    def _held_out(self) -> PatchLoader:
        """One for the whole training: a case that cannot be read is told once."""
        return self.loader(train=False)

    def estimate(self) -> list[float | None]:
        """Dice of the averaged weights on patches of held-out cases, per foreground label, from counts over all of them.

        A rough guide while training runs: the score that counts comes from whole images at the end.
        """
        loader, weights = self._held_out, self.state.model_weights()
        work = functools.partial(
            patch_counts, self.step, weights, loader, self.spec.validation_iterations, self.plan.labels
        )
        dice = dice_of_counts(self.step.within_memory(work))
        self.logger.event("estimate", iteration=self.state.iteration, patch_dice=dice)
        return dice

    def save_model(self) -> Path:
        """Writes the model: the weights under nnU-Net's names, with the job they come from.

        The scores of a model that stood here before it was extended go with that.

        Raises:
            InputError: the training has not ended.
            AutosegError: the weights are not numbers.
            DiskFullError: the model cannot be written.
        """
        length, path = self.state.length, self.folder.model
        if length.end is None or self.state.iteration < length.end:
            raise InputError("the training has not ended", file=self.folder.path)
        if not self.state.is_healthy():
            raise self._not_a_number()
        skipped = sorted(self._training.skipped_before(self.state.iteration))
        write_model(self.folder, self.job, self.state, skipped)
        tell_skipped(skipped, len(self.job.cases.train), self.logger)
        self.logger.event("trained", iterations=self.state.iteration, file=str(path), skipped=skipped)
        return path
