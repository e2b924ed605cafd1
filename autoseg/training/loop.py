"""The training loop of one fold: from a job and a store of cases to a model file, resumable at any instant."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from autoseg import plugins
from autoseg.augmentation.contract import Recipe
from autoseg.augmentation.streams import TRAINING, VALIDATION
from autoseg.errors import DiskFullError, InputError, InterruptedRunError, ShortMemoryError
from autoseg.files import discard, read_document, write_document
from autoseg.io.case_store import CaseStore
from autoseg.logs import Logger
from autoseg.networks.execution import training_memory
from autoseg.networks.weights import load_weights, save_tensors
from autoseg.training.batches import PatchLoader, prefetched
from autoseg.training.checkpoints import Checkpoints, not_written
from autoseg.training.determinism import deterministic_algorithms, make_deterministic, seed_iteration
from autoseg.training.estimate import dice_of_counts, patch_counts
from autoseg.training.length import (
    asked_to_end,
    is_plateau,
    kept_from,
    learning_rate,
    out_of_time,
    with_plateau,
)
from autoseg.training.looked_for import LookedFor
from autoseg.training.optimization import WeightAverage
from autoseg.training.state import TrainState
from autoseg.training.step import TrainingStep, keep_freed_memory_if_roomy
from autoseg.training.trouble import not_a_number
from autoseg.training.truth import Truth
from autoseg.values import Configuration, Length, Plan, TrainJob
from autoseg.workspace import FoldFolder

__all__ = ["FoldTrainer", "train_fold"]

#: Shortest time between two checkpoints; with slow disks longer, so that saving costs at most a twentieth.
CHECKPOINT_SECONDS = 60.0
LOG_SECONDS = 10.0
#: A pass of a batch without gradients takes a third of an iteration; a case also has to be read, resampled and scored.
PASS_OF_SCORING = 1.5 / 3
#: The first iterations after a start are slow (memory is taken, code compiled): the pace is that of so many later ones.
FIRST_ITERATIONS, LEAST_TIMED = 2, 8


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
        )
        if initial is not None and not folder.has_checkpoint():
            trainer.begin_with(initial)
        trainer.resume()
        with deterministic_algorithms(trainer.step.execution.deterministic):
            trainer.run(stop)
        return trainer.save_model()


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
    ) -> None:
        self.truth = truth
        self.job, self.plan, self.store, self.folder, self.logger = job, plan, store, folder, logger
        self.configuration: Configuration = plan.configuration(job.configuration)
        self.spec = self.configuration.training
        self.step = TrainingStep(job, plan, folder, logger, device)
        self.schedule = plugins.load("schedule", self.spec.schedule)
        network, decay = self.step.network, self.spec.ema_decay
        average = None if decay is None else WeightAverage(network.state_dict(), decay)
        length = read_document(Length, folder.length) if folder.length.is_file() else None
        self.state = TrainState(job, network, self.step.optimizer, average, length)
        self.checkpoints = Checkpoints(folder, logger)
        self._scoring_batches, self._clock = scoring_batches, clock
        self._began, self._seconds_before = clock(), 0.0
        self._timed_from: tuple[int, float] | None = None
        self._training = self.loader(train=True)
        self._warned: float | None = None
        if deterministic and not self.step.execution.deterministic:
            make_deterministic(self.step, self.logger)

    def begin_with(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Begins with these weights and keeps them in the first checkpoint: where they came from is not needed again."""
        load_weights(self.step.network, weights, source=self.folder.path)
        if self.state.average is not None:
            self.state.average = WeightAverage(self.step.network.state_dict(), self.state.average.decay)
        self.state.save(self.folder.checkpoint)

    def resume(self) -> None:
        """Goes back to the newest checkpoint that is whole, if there is one."""
        if self.checkpoints.resume(self.state):
            self.step.load_state_dict(self.state.extra)
            self.logger.event("resumed", iteration=self.state.iteration)

    def loader(self, *, train: bool) -> PatchLoader:
        """Patches of the training cases, augmented, or of the held-out cases as they are."""
        recipe: Recipe = Recipe()
        if train:
            recipe = plugins.load("recipe", self.configuration.augmentation.recipe)(self.configuration.augmentation)
        cases = self.job.cases.train if train else self.job.cases.val
        return PatchLoader(
            self.store,
            {case: self.job.case_keys[case] for case in cases},
            self.configuration.patch_size,
            self.configuration.batch_size,
            foreground_share=self.spec.foreground_share,
            foreground_place=self.spec.foreground_place,
            recipe=recipe,
            seed=self.job.seed,
            purpose=TRAINING if train else VALIDATION,
            masked_channels=[index for index, spec in enumerate(self.plan.normalization) if spec.use_mask],
            looked_for=LookedFor(self.plan.labels, self.job.annotated),
            logger=self.logger,
        )

    def run(self, stop: Callable[[], bool]) -> None:
        """All iterations that are left."""
        self.step.network.train()
        if self.step.execution.device == "cuda" and not self.state.iteration:
            self.step.probe_memory()
        begin = last_log = last_save = time.monotonic()
        self._began, self._seconds_before = self._clock(), self.state.seconds
        saving = 0.0
        first, losses = self.state.iteration, []
        self.score_whole_images()  # what an interruption left undone
        with contextlib.closing(self._batches(first)) as batches:
            while self._goes_on():
                if stop():
                    self._interrupt()
                losses.append(self.train_step(next(batches)))
                done, now = self.state.iteration, time.monotonic()
                if done == first + FIRST_ITERATIONS:
                    self._timed_from = done, self._clock()
                detail = f"loss {losses[-1]:.3f}"
                self.logger.event("progress", stage="train", done=done, total=self._total(), detail=detail)
                end_of_epoch = done % self.spec.iterations_per_epoch == 0 or done == self.state.length.end
                if now - last_log > LOG_SECONDS or end_of_epoch:
                    self._log(losses, (now - begin) / (done - first))
                    last_log, losses = now, []
                if end_of_epoch and self.job.cases.val and self.spec.validation_iterations:
                    known = [dice for dice in self.estimate() if dice is not None]
                    self.state.curve.append((done, sum(known) / max(1, len(known))))
                if now - last_save > max(CHECKPOINT_SECONDS, 20 * saving) or end_of_epoch:
                    self.save()
                    last_save = time.monotonic()
                    saving = last_save - now
                if end_of_epoch:
                    self.score_whole_images((now - begin) / (done - first))

    def score_whole_images(self, seconds_per_iteration: float | None = None) -> None:
        """At the end of an epoch, the truth; it follows the checkpoint, so that an interruption of it loses nothing."""
        done, length = self.state.iteration, min(self.spec.iterations_per_epoch, self.job.iterations)
        if self.truth is not None and done and (done % length == 0 or done == self.state.length.end):
            self.step.optimizer.zero_grad(set_to_none=True)  # room for the predictor
            seconds = None if seconds_per_iteration is None else seconds_per_iteration * length
            self.truth.after_epoch(-(-done // length), done, self.state.model_weights(), seconds)

    def _batches(self, first: int) -> Generator[dict[str, Any]]:
        """As many as are wanted: the end may not be known yet, or be decided to be nearer."""
        return self.step.fed(prefetched(self._training, first, self.state.length.end or sys.maxsize))

    def _goes_on(self) -> bool:
        """Whether another iteration is to be done; decides, before it, whether the cooldown begins here."""
        done, length = self.state.iteration, self._decided()
        if length != self.state.length:
            try:
                write_document(self.folder.length, length)
            except OSError as error:
                self._warn(f"{not_written(self.folder.length, error)}. The cooldown has to wait")
            else:
                self.state.length = length
                text = f"the cooldown begins: {length.reason}; the training ends after {length.end} iterations"
                self.logger.event("message", text=text, iteration=done, end=length.end)
        if done == kept_from(self.state.length):
            self.state.seconds = self._seconds()
            self.state.extra = dict(self.step.state_dict())
            self.checkpoints.keep(self.state)
        return self.state.length.end is None or done < self.state.length.end

    def _decided(self) -> Length:
        """How far the training goes, by all that is known now; without an iteration done there is nothing to end yet."""
        length, done = self.state.length, self.state.iteration
        if done == 0 or length.decided:
            return length
        if self.folder.stop_file.exists():
            length = asked_to_end(length, done, "somebody asked for it")
        elif length.until_plateau and is_plateau([dice for _, dice in self.state.curve]):
            length = with_plateau(length, done)
        elif length.hours is not None and (each := self._pace()):
            scoring = PASS_OF_SCORING * self._scoring_batches * each
            length = out_of_time(
                length, done, seconds=self._seconds(), seconds_per_iteration=each, scoring_seconds=scoring
            )
        return length

    def _seconds(self) -> float:
        """That the training has taken, over all starts."""
        return self._seconds_before + self._clock() - self._began

    def _pace(self) -> float | None:
        """Seconds of an iteration since the last start, with all that goes with it; None while that is not known."""
        if self._timed_from is None:
            return None
        first, begin = self._timed_from
        timed = self.state.iteration - first
        return (self._clock() - begin) / timed if timed >= LEAST_TIMED else None

    def _total(self) -> int:
        """Iterations in total; while that is open, a guess from the hours, or the planned length, but more than are done."""
        length, done = self.state.length, self.state.iteration
        if length.end is not None:
            return length.end
        guess = self.job.iterations
        if length.hours is not None:
            guess = int(done * length.hours * 3600 / max(self._seconds(), 1e-3))
        return max(guess, done + 1)

    def save(self) -> None:
        """Writes a checkpoint; never one whose weights are not numbers.

        Raises:
            AutosegError: they are not; the last healthy checkpoint stays.
        """
        if not self.state.is_healthy():
            raise not_a_number(self.state, self._training, None, self.folder)
        self.state.seconds = self._seconds()
        self.state.extra = dict(self.step.state_dict())
        self.checkpoints.save(self.state)

    def _interrupt(self) -> None:
        done, end = self.state.iteration, self.state.length.end
        self.save()
        self.logger.event("interrupted", iteration=done)
        of = "" if end is None else f" of {end}"
        raise InterruptedRunError(f"stopped after {done}{of} iterations; the same command goes on from here")

    def _warn(self, text: str) -> None:
        """Says it at most once a minute."""
        now = time.monotonic()
        if self._warned is None or now - self._warned > CHECKPOINT_SECONDS:
            self._warned = now
            self.logger.event("message", text=f"warning: {text}", iteration=self.state.iteration)

    def learning_rate(self, iteration: int) -> float:
        """Of an iteration, counted from 0."""
        return learning_rate(self.schedule, self.spec, self.state.length, iteration)

    def train_step(self, batch: dict[str, Any]) -> float:
        """One iteration: gradients of the batch, a step of the optimizer, the average of the weights."""
        seed_iteration(self.job.seed, self.state.iteration)
        try:
            value = self.step.gradients(batch)
        except ShortMemoryError:
            if self.state.iteration:
                self.save()
            raise
        if not np.isfinite(value):
            raise not_a_number(self.state, self._training, batch, self.folder)
        self.step.update(self.learning_rate(self.state.iteration))
        if self.state.average is not None:
            self.state.average.update(self.step.network.state_dict(), self.state.iteration)
        self.state.iteration += 1
        return value

    def _log(self, losses: list[float], seconds_per_iteration: float) -> None:
        done, length = self.state.iteration, self.state.length
        known = length.end is not None or length.hours is not None
        total = self._total() if known else None
        self.logger.event(
            "iterations",
            iteration=done,
            of=total,
            loss=float(np.mean(losses)),
            learning_rate=self.learning_rate(done - 1),
            seconds_per_iteration=seconds_per_iteration,
            seconds_left=None if total is None else (total - done) * seconds_per_iteration,
        )

    def estimate(self) -> list[float | None]:
        """Dice of the averaged weights on patches of held-out cases, per foreground label, from counts over all of them.

        A rough guide while training runs: the score that counts comes from whole images at the end.
        """
        loader, weights = self.loader(train=False), self.state.model_weights()
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
            raise not_a_number(self.state, self._training, None, self.folder)
        metadata: dict[str, Any] = {"plan": self.job.plan_id, "fold": self.job.fold}
        if self.job.parts:  # what prediction elsewhere needs besides autoseg
            metadata["parts"] = msgspec.to_builtins(self.job.parts)
        try:
            discard(self.folder.validation)
            save_tensors(path, self.state.model_weights(), metadata)
            write_document(self.folder.length, msgspec.structs.replace(length, trained=length.end))
        except OSError as error:
            raise DiskFullError(self.folder.path, not_written(path, error)) from error
        for used_up in (self.folder.stop_file, self.folder.previous_checkpoint):
            used_up.unlink(missing_ok=True)
        self.logger.event("trained", iterations=self.state.iteration, file=str(path))
        return path
