"""The training loop of one fold: from a job and a store of cases to a model file, resumable at any instant."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from torch import nn

from autoseg import plugins
from autoseg.augmentation.contract import Recipe
from autoseg.augmentation.streams import TRAINING, VALIDATION
from autoseg.errors import AutosegError, InputError, InterruptedRunError
from autoseg.files import keep, write_document
from autoseg.io.case_store import CaseStore
from autoseg.logs import Logger
from autoseg.networks.build import build_network
from autoseg.networks.execution import (
    autocast,
    available_memory,
    choose_execution,
    compiled,
    keep_freed_memory,
    memory_format,
    place,
    release_memory,
    training_memory,
    usable_here,
)
from autoseg.networks.weights import load_weights, save_tensors
from autoseg.planning import GIBIBYTE
from autoseg.training.accumulation import backward_in_parts, fewest_parts, parts_of
from autoseg.training.batches import PatchLoader, prefetched
from autoseg.training.losses import Loss
from autoseg.training.optimization import WeightAverage, make_optimizer, state_copies
from autoseg.training.state import TrainState
from autoseg.values import Configuration, ExecutionPath, Plan, TrainJob
from autoseg.workspace import FoldFolder

__all__ = ["FoldTrainer", "train_fold"]

T = TypeVar("T")
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
        network = build_network(self.configuration.network, seed=job.seed)
        self.execution = self._execution(network, device)
        self.network: nn.Module = place(network, self.execution, self.configuration.dimensions)
        self.forward = compiled(self.network, self.execution)
        self.loss: Loss = plugins.load("loss", self.spec.loss)(plan.labels, batch_dice=self.spec.batch_dice)
        self.schedule = plugins.load("schedule", self.spec.schedule)
        average = None if self.spec.ema_decay is None else WeightAverage(self.network.state_dict(), self.spec.ema_decay)
        self.state = TrainState(job, self.network, make_optimizer(self.spec, self.network.parameters()), average)

    def _execution(self, network: nn.Module, device: str) -> ExecutionPath:
        """How to run on this device: what an earlier run of this training chose, else measured now and kept."""

        def choose() -> ExecutionPath:
            self.logger.event("message", text=f"choosing the fastest way to run the network on {device}")
            return choose_execution(network, self.configuration, device=device, iterations=self.job.iterations)

        def valid(kept: ExecutionPath) -> bool:
            usable = kept.device == device and usable_here(kept)
            if not usable:
                text = "another kind of machine began this training: it goes on, but not to the same bits"
                self.logger.event("message", text=text)
            return usable

        path = keep(self.folder.execution, ExecutionPath, choose, valid=valid)
        self.logger.event("execution", **{name: getattr(path, name) for name in path.__struct_fields__})
        return path

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
        self.network.train()
        if self.execution.device == "cuda" and not self.state.iteration:
            self.probe_memory()
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
            if end_of_epoch:
                self._estimate()
            if now - last_save > max(CHECKPOINT_SECONDS, 20 * saving) or end_of_epoch:
                self.state.save(self.folder.checkpoint)
                last_save = time.monotonic()
                saving = last_save - now

    def _batches(self, first: int) -> Iterator[dict[str, Any]]:
        return prefetched(self.loader(train=True), first, self.job.iterations)

    def train_step(self, batch: dict[str, Any]) -> float:
        """One iteration: learning rate, forward and backward, clipping, optimizer step, weight average."""
        optimizer = self.state.optimizer
        for group in optimizer.param_groups:
            group["lr"] = self.schedule(self.spec, self.state.iteration, self.job.iterations)
        optimizer.zero_grad(set_to_none=True)
        value = self._within_memory(lambda: self.forward_backward(batch))
        if not np.isfinite(value):
            raise AutosegError(
                f"the loss is not a number at iteration {self.state.iteration}; the batch held "
                f"{', '.join(sorted(set(batch['keys'])))}. The last healthy checkpoint is {self.folder.checkpoint}"
            )
        nn.utils.clip_grad_norm_(self.network.parameters(), self.spec.gradient_clip_norm)
        optimizer.step()
        if self.state.average is not None:
            self.state.average.update(self.network.state_dict(), self.state.iteration)
        self.state.iteration += 1
        return value

    def forward_backward(self, batch: dict[str, Any]) -> float:
        """Loss of a batch, with gradients left in the network; in parts, where memory is short."""

        def forward(part: slice) -> tuple[list[torch.Tensor], torch.Tensor]:
            image, target = self._to_device(batch, part)
            with autocast(self.execution):
                return self.forward(image), target

        return backward_in_parts(forward, self.loss, len(batch["data"]), self.execution.parts)

    def _to_device(self, batch: dict[str, Any], part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        layout = memory_format(self.execution, self.configuration.dimensions)
        image = torch.from_numpy(batch["data"][part]).to(self.execution.device).contiguous(memory_format=layout)
        target = torch.from_numpy(batch["seg"][part, 0]).to(self.execution.device, torch.long)
        return image, target

    def probe_memory(self) -> None:
        """Chooses and keeps the fewest parts in which a step fits into the memory that is there now.

        Steps are real, with memory set aside for what the optimizer will hold; weights and random state stay as they are.
        """
        try:
            parts = fewest_parts(self._trial_step, self.configuration.batch_size, recover=self._recover)
        except torch.OutOfMemoryError as error:
            raise self._too_short(error) from error
        self.state.optimizer.zero_grad(set_to_none=True)
        self._use_parts(parts)
        write_document(self.folder.execution, self.execution)
        planned = training_memory(self.configuration, "cuda")
        if parts > 1:
            self._tell_parts()
        if self.execution.device == "cuda":
            peak = torch.cuda.max_memory_allocated()
            text = f"a training step takes {peak / 2**30:.2f} GiB of GPU memory, planned were {planned / 2**30:.2f} GiB"
            self.logger.event("message", text=text, measured_bytes=peak, planned_bytes=planned, parts=parts)

    def _trial_step(self, parts: int) -> None:
        """Forward and backward pass of an empty batch of the planned shape, beside memory for the optimizer's state."""
        shape = (
            self.configuration.batch_size,
            self.configuration.network.input_channels,
            *self.configuration.patch_size,
        )
        batch = {"data": np.zeros(shape, np.float32), "seg": np.zeros((shape[0], 1, *shape[2:]), np.int16)}
        self._use_parts(parts)
        on_gpu = self.execution.device == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        weights, buffers = list(self.network.parameters()), list(self.network.buffers())
        before = [buffer.clone() for buffer in buffers]
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []):
            try:
                _set_aside = [torch.empty_like(weight) for weight in weights for _ in range(state_copies(self.spec))]
                self.forward_backward(batch)
            finally:
                for buffer, old in zip(buffers, before, strict=True):
                    buffer.copy_(old)

    def _within_memory(self, step: Callable[[], T]) -> T:
        """What a step gives; when the GPU's memory is short, it is repeated in more parts, and further steps are, too."""
        while True:
            try:
                return step()
            except torch.OutOfMemoryError as error:
                if self.execution.parts >= self.configuration.batch_size:
                    raise self._too_short(error) from error
            # not within the clause: the exception holds the failed attempt's tensors
            self._recover()
            self._use_parts(min(2 * self.execution.parts, self.configuration.batch_size))
            write_document(self.folder.execution, self.execution)
            self._tell_parts()

    def _use_parts(self, parts: int) -> None:
        self.execution = msgspec.structs.replace(self.execution, parts=parts)

    def _recover(self) -> None:
        """Frees what a step that ran out of memory left behind."""
        self.state.optimizer.zero_grad(set_to_none=True)
        release_memory(self.execution.device)

    def _tell_parts(self) -> None:
        parts = self.execution.parts
        text = f"memory is shorter than planned: a batch is now computed in {parts} parts, with equal results"
        self.logger.event("message", text=text, parts=parts, iteration=self.state.iteration)

    def _too_short(self, error: torch.OutOfMemoryError) -> AutosegError:
        """The error of a step that does not even fit sample by sample; nothing of the training is lost."""
        if self.state.iteration:
            self.state.save(self.folder.checkpoint)
        patch = " x ".join(map(str, self.configuration.patch_size))
        return AutosegError(
            f"the GPU's memory is too short for even one patch of {patch} at a time "
            f"({str(error).splitlines()[0]}). Close other programs that use the GPU and repeat the command: it goes on "
            f"from iteration {self.state.iteration}. Or make a smaller plan: "
            "`autoseg plan DATASET --gpu-memory GIB --name NEW`"
        )

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
    def _estimate(self) -> None:
        """Dice of the averaged weights on patches of held-out cases, from counts over all of them together.

        A rough guide while training runs: the score that counts comes from whole images at the end.
        """
        if not self.job.cases.val or not self.spec.validation_iterations:
            return
        both, predicted, wanted = self._within_memory(self._patch_counts)
        dice = torch.where(predicted + wanted > 0, 2 * both / (predicted + wanted).clamp_min(1), torch.nan)
        values = [None if np.isnan(value) else round(value, 4) for value in dice.tolist()]
        self.logger.event("estimate", iteration=self.state.iteration, patch_dice=values)

    def _patch_counts(self) -> torch.Tensor:
        """Voxels of patches of held-out cases ``(3, foreground labels)``: in both, predicted, wanted."""
        network = build_network(self.configuration.network, seed=0)
        load_weights(network, self.state.model_weights(), source=self.folder.checkpoint)
        network = place(network, self.execution, self.configuration.dimensions).eval()
        network.deep_supervision = False  # type: ignore[assignment]
        loader, counts = self.loader(train=False), torch.zeros(3, len(self.plan.labels.foreground))
        for index in range(self.spec.validation_iterations):
            batch = loader.batch(index)
            for part in parts_of(len(batch["data"]), self.execution.parts):
                image, target = self._to_device(batch, part)
                with autocast(self.execution):
                    logits = network(image)[0]
                counts += self._overlap(logits, target).cpu()
        return counts

    def _overlap(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        labels = self.plan.labels
        known = torch.ones_like(target, dtype=torch.bool) if labels.ignore is None else target != labels.ignore_index
        rows = []
        winner = logits.argmax(1)
        for position, indices in enumerate(labels.region_indices):
            wanted = torch.isin(target, torch.tensor(indices, device=target.device)) & known
            guess = logits[:, position] > 0 if labels.has_regions else winner == indices[0]
            guess = guess & known
            rows.append(torch.stack([(guess & wanted).sum(), guess.sum(), wanted.sum()]))
        return torch.stack(rows, 1).float()

    def save_model(self) -> Path:
        """Writes the model: the weights under nnU-Net's names, with the job they come from."""
        if self.state.iteration < self.job.iterations:
            raise InputError("the training has not ended", file=self.folder.path)
        path = self.folder.model
        save_tensors(path, self.state.model_weights(), {"plan": self.job.plan_id, "fold": self.job.fold})
        self.logger.event("trained", iterations=self.state.iteration, file=str(path))
        return path
