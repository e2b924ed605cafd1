"""The training loop of one fold: from a job and a store of cases to a model file, resumable at any instant."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from autoseg import plugins
from autoseg.augmentation.contract import Recipe
from autoseg.augmentation.streams import TRAINING, VALIDATION
from autoseg.errors import AutosegError, InputError, InterruptedRunError, ShortMemoryError
from autoseg.io.case_store import CaseStore
from autoseg.logs import Logger
from autoseg.networks.build import build_network
from autoseg.networks.execution import autocast, available_memory, keep_freed_memory, place, training_memory
from autoseg.networks.weights import load_weights, save_tensors
from autoseg.planning import GIBIBYTE
from autoseg.training.accumulation import parts_of
from autoseg.training.batches import PatchLoader, prefetched
from autoseg.training.estimate import dice_of_counts, voxel_counts
from autoseg.training.optimization import WeightAverage
from autoseg.training.state import TrainState
from autoseg.training.step import TrainingStep
from autoseg.values import Configuration, Plan, TrainJob
from autoseg.workspace import FoldFolder

__all__ = ["FoldTrainer", "train_fold"]

#: Shortest time between two checkpoints; with slow disks longer, so that saving costs at most a twentieth.
CHECKPOINT_SECONDS = 60.0
LOG_SECONDS = 10.0
#: Memory that is kept lies in pieces: the process grows to at most this many times what tensors take (measured: 1.2 to 1.4).
WITH_KEPT_MEMORY = 1.5


def train_fold(
    job: TrainJob,
    plan: Plan,
    store: CaseStore,
    folder: FoldFolder,
    logger: Logger,
    *,
    device: str,
    stop: Callable[[], bool] = lambda: False,
    initial: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Trains one fold, or goes on where an interrupted run of the same job stopped.

    Args:
        job: what to train.
        plan: that the job belongs to.
        store: of the preprocessed cases.
        folder: of this training; holds checkpoint and model.
        logger: for events.
        device: cpu, cuda or mps.
        stop: asked before every iteration; True saves and stops.
        initial: weights that a new training begins with; None for fresh ones.

    Returns:
        The model file.

    Raises:
        InterruptedRunError: ``stop`` said so; the same call goes on.
        AutosegError: the loss is not a number.
    """
    if device == "cpu":
        expected = training_memory(plan.configuration(job.configuration), "cpu")
        keep_freed_memory_if_roomy(expected, plan.budget_bytes, logger)
    trainer = FoldTrainer(job, plan, store, folder, logger, device)
    if initial is not None and not folder.checkpoint.is_file():
        trainer.begin_with(initial)
    trainer.resume()
    trainer.run(stop)
    return trainer.save_model()


def keep_freed_memory_if_roomy(expected_bytes: int, budget_bytes: int, logger: Logger) -> None:
    """Keeps freed memory for the next step if the half more that this can take is within the budget and available."""
    room = min(budget_bytes, available_memory() or budget_bytes)
    if expected_bytes * WITH_KEPT_MEMORY < room:
        keep_freed_memory()
        return
    logger.event(
        "message",
        text=f"the training may take {room / GIBIBYTE:.1f} GiB of memory, so freed memory is given back after every step; "
        "with half more to plan for (--gpu-memory) it would be kept, and steps about a seventh faster",
    )


class FoldTrainer:
    """One training with all that it needs; see ``train_fold``."""

    def __init__(
        self, job: TrainJob, plan: Plan, store: CaseStore, folder: FoldFolder, logger: Logger, device: str
    ) -> None:
        self.job, self.plan, self.store, self.folder, self.logger = job, plan, store, folder, logger
        self.configuration: Configuration = plan.configuration(job.configuration)
        self.spec = self.configuration.training
        self.step = TrainingStep(job, plan, folder, logger, device)
        self.schedule = plugins.load("schedule", self.spec.schedule)
        network, decay = self.step.network, self.spec.ema_decay
        average = None if decay is None else WeightAverage(network.state_dict(), decay)
        self.state = TrainState(job, network, self.step.optimizer, average)

    def begin_with(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Begins with these weights and keeps them in the first checkpoint: where they came from is not needed again."""
        load_weights(self.step.network, weights, source=self.folder.path)
        if self.state.average is not None:
            self.state.average = WeightAverage(self.step.network.state_dict(), self.state.average.decay)
        self.state.save(self.folder.checkpoint)

    def resume(self) -> None:
        """Goes back to the checkpoint, if there is one."""
        if self.folder.checkpoint.is_file():
            self.state.load(self.folder.checkpoint)
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
            recipe=recipe,
            seed=self.job.seed,
            purpose=TRAINING if train else VALIDATION,
            masked_channels=[index for index, spec in enumerate(self.plan.normalization) if spec.use_mask],
        )

    def run(self, stop: Callable[[], bool]) -> None:
        """All iterations that are left."""
        self.step.network.train()
        if self.step.execution.device == "cuda" and not self.state.iteration:
            self.step.probe_memory()
        begin = last_log = last_save = time.monotonic()
        saving = 0.0
        first, losses = self.state.iteration, []
        for batch in self._batches(first):
            if stop():
                self.state.save(self.folder.checkpoint)
                self.logger.event("interrupted", iteration=self.state.iteration)
                raise InterruptedRunError(
                    f"stopped after {self.state.iteration} of {self.job.iterations} iterations; "
                    "the same command goes on from here"
                )
            losses.append(self.train_step(batch))
            done, now = self.state.iteration, time.monotonic()
            detail = f"loss {losses[-1]:.3f}"
            self.logger.event("progress", stage="train", done=done, total=self.job.iterations, detail=detail)
            end_of_epoch = done % self.spec.iterations_per_epoch == 0 or done == self.job.iterations
            if now - last_log > LOG_SECONDS or end_of_epoch:
                rate = (now - begin) / (done - first)
                self._log(losses, rate)
                last_log, losses = now, []
            if end_of_epoch and self.job.cases.val and self.spec.validation_iterations:
                self.estimate()
            if now - last_save > max(CHECKPOINT_SECONDS, 20 * saving) or end_of_epoch:
                self.state.save(self.folder.checkpoint)
                last_save = time.monotonic()
                saving = last_save - now

    def _batches(self, first: int) -> Iterator[dict[str, Any]]:
        return prefetched(self.loader(train=True), first, self.job.iterations)

    def train_step(self, batch: dict[str, Any]) -> float:
        """One iteration: gradients of the batch, a step of the optimizer, the average of the weights."""
        try:
            value = self.step.gradients(batch)
        except ShortMemoryError:
            if self.state.iteration:
                self.state.save(self.folder.checkpoint)
            raise
        if not np.isfinite(value):
            raise AutosegError(
                f"the loss is not a number at iteration {self.state.iteration}; the batch held "
                f"{', '.join(sorted(set(batch['keys'])))}. The last healthy checkpoint is {self.folder.checkpoint}"
            )
        self.step.update(self.schedule(self.spec, self.state.iteration, self.job.iterations))
        if self.state.average is not None:
            self.state.average.update(self.step.network.state_dict(), self.state.iteration)
        self.state.iteration += 1
        return value

    def _log(self, losses: list[float], seconds_per_iteration: float) -> None:
        done, total = self.state.iteration, self.job.iterations
        rate = self.schedule(self.spec, done - 1, total)
        loss = float(np.mean(losses))
        self.logger.event(
            "iterations",
            iteration=done,
            of=total,
            loss=loss,
            learning_rate=rate,
            seconds_per_iteration=seconds_per_iteration,
            seconds_left=(total - done) * seconds_per_iteration,
        )

    @torch.no_grad()
    def estimate(self) -> list[float | None]:
        """Dice of the averaged weights on patches of held-out cases, per foreground label, from counts over all of them.

        A rough guide while training runs: the score that counts comes from whole images at the end.
        """
        dice = dice_of_counts(self.step.within_memory(self._patch_counts))
        self.logger.event("estimate", iteration=self.state.iteration, patch_dice=dice)
        return dice

    def _patch_counts(self) -> torch.Tensor:
        """``voxel_counts`` over the validation batches of an estimate."""
        execution = self.step.execution
        network = build_network(self.configuration.network, seed=0)
        load_weights(network, self.state.model_weights(), source=self.folder.checkpoint)
        network = place(network, execution, self.configuration.dimensions).eval()
        network.deep_supervision = False  # type: ignore[assignment]
        loader, counts = self.loader(train=False), torch.zeros(3, len(self.plan.labels.foreground))
        for index in range(self.spec.validation_iterations):
            batch = loader.batch(index)
            for part in parts_of(len(batch["data"]), execution.parts):
                image, target = self.step.to_device(batch, part)
                with autocast(execution):
                    logits = network(image)[0]
                counts += voxel_counts(logits, target, self.plan.labels).cpu()
        return counts

    def save_model(self) -> Path:
        """Writes the model: the weights under nnU-Net's names, with the job they come from."""
        if self.state.iteration < self.job.iterations:
            raise InputError("the training has not ended", file=self.folder.path)
        path = self.folder.model
        metadata = {"plan": self.job.plan_id, "fold": self.job.fold}
        if self.job.parts:  # what prediction elsewhere needs besides autoseg
            metadata["parts"] = msgspec.to_builtins(self.job.parts)
        save_tensors(path, self.state.model_weights(), metadata)
        self.logger.event("trained", iterations=self.state.iteration, file=str(path))
        return path
