"""What one iteration computes: forward and backward pass of a batch on the device, in parts where memory is short."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from torch import nn

from autoseg import plugins
from autoseg.errors import InputError, ShortMemoryError
from autoseg.files import keep, write_document
from autoseg.logs import Logger
from autoseg.networks.build import build_network
from autoseg.networks.choosing import choose_execution
from autoseg.networks.execution import (
    autocast,
    available_memory,
    compiled,
    keep_freed_memory,
    laid_out,
    memory_format,
    place,
    release_memory,
    training_memory,
    usable_here,
)
from autoseg.networks.memory import BOX, making_bytes
from autoseg.networks.optimizers import make_optimizer, state_copies
from autoseg.planning import GIBIBYTE
from autoseg.training.accumulation import backward_in_parts, fewest_parts
from autoseg.training.augmenting import works_on
from autoseg.training.batches import PatchLoader
from autoseg.training.crew import Crew, most_threads, prefetched
from autoseg.training.feed import Feed
from autoseg.training.losses import Loss, takes_looked_for
from autoseg.training.scaling import amplified
from autoseg.values import Configuration, ExecutionPath, Plan, TrainJob
from autoseg.workspace import FoldFolder

__all__ = ["TrainingStep", "keep_freed_memory_if_roomy", "looked_for"]

T = TypeVar("T")
#: Memory that is kept lies in pieces: the process grows to at most this many times what tensors take (measured: 1.2 to 1.4).
WITH_KEPT_MEMORY = 1.5


def looked_for(batch: dict[str, Any], part: slice) -> torch.Tensor | None:
    """Which labels were looked for in some samples of a batch ``(part, foreground labels)``, on the CPU; None for all."""
    return torch.as_tensor(batch["looked_for"])[part] if "looked_for" in batch else None


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


class TrainingStep:
    """Network, loss and optimizer of one training, where and how they run.

    Args:
        job: what is trained.
        plan: that the job belongs to.
        folder: of this training, which keeps how it runs.
        logger: for events.
        device: cpu, cuda or mps.
        making: gives the seconds that a thread takes to make a batch, if they are to be made beside the training.
    """

    def __init__(
        self,
        job: TrainJob,
        plan: Plan,
        folder: FoldFolder,
        logger: Logger,
        device: str,
        making: Callable[[], float] | None = None,
    ) -> None:
        self.folder, self.logger, self._making = folder, logger, making
        self.configuration: Configuration = plan.configuration(job.configuration)
        self.spec = self.configuration.training
        network = build_network(self.configuration.network, seed=job.seed)
        self.execution = self._execution(network, device, job.iterations)
        self.network: nn.Module = place(network, self.execution, self.configuration.dimensions)
        self.forward = compiled(self.network, self.execution)
        self.loss: Loss = plugins.load("loss", self.spec.loss)(plan.labels, batch_dice=self.spec.batch_dice)
        if job.annotated and not takes_looked_for(self.loss):
            raise self._cannot_be_told(job)
        self.optimizer = make_optimizer(self.spec, self.network.parameters())
        #: Does nothing unless the precision is fp16, whose smallest numbers gradients would fall below.
        self.scaler = torch.amp.GradScaler(device, enabled=self.execution.precision == "fp16")
        self._feed = Feed(device, logger, self.spec.iterations_per_epoch)

    @property
    def waited(self) -> float:
        """Seconds that this process has waited for batches."""
        return self._feed.waited

    def fed(self, batches: Iterator[dict[str, Any]]) -> Generator[dict[str, Any]]:
        """The batches, on the device one ahead where it is a GPU; tells once per epoch how busy the device was."""
        return self._feed.through(batches)

    def supplied(self, loader: PatchLoader, first: int, last: int) -> Generator[dict[str, Any]]:
        """The batches of iterations ``first`` to ``last - 1``, fed, and made where and as fast as this training needs."""
        on_device = self.execution.augment_on == "device"
        crew = Crew(most_threads(self.configuration, self.execution), self.spec.iterations_per_epoch, self.logger)
        prepare = functools.partial(loader.prepare, largest_box=BOX[self.configuration.dimensions])
        made: Iterator[Any] = prefetched(prepare if on_device else loader.batch, first, last, crew=crew)
        return self._feed.through(made, loader.finish if on_device else None, crew.hear)

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint must hold beside weights and optimizer: the scale of the gradients; empty without one."""
        return dict(self.scaler.state_dict())

    def load_state_dict(self, numbers: Mapping[str, Any]) -> None:
        """Goes back to such a state; numbers of a training that was begun in another precision are of no use."""
        if self.scaler.is_enabled() and numbers:
            self.scaler.load_state_dict(dict(numbers))

    def _cannot_be_told(self, job: TrainJob) -> InputError:
        case, names = min(job.annotated.items())
        return InputError(
            f"{len(job.annotated)} cases are annotated for some labels only: the loss {self.spec.loss!r} cannot be told, "
            "and would learn the other labels as background",
            found=f"{case}, annotated for {', '.join(names) or 'nothing'}, for example",
            remedy="Give the loss a third argument looked_for=None (docs/reference/plugs.md), use dice_cross_entropy, or "
            "leave these cases out.",
        )

    def _execution(self, network: nn.Module, device: str, iterations: int) -> ExecutionPath:
        """How to run on this device: what an earlier run of this training chose, else measured now and kept."""

        def choose() -> ExecutionPath:
            self.logger.event("message", text=f"choosing the fastest way to run the network on {device}")
            path = choose_execution(
                network, self.configuration, device=device, iterations=iterations, making=self._making
            )
            on_device, why = works_on(device, self.configuration)
            reason = f"{path.reason}; {why}" if why else path.reason
            return msgspec.structs.replace(path, augment_on="device" if on_device else "cpu", reason=reason)

        def valid(kept: ExecutionPath) -> bool:
            usable = kept.device == device and usable_here(kept)
            if not usable:
                text = "another kind of machine began this training: it goes on, but not to the same bits"
                self.logger.event("message", text=text)
            return usable

        path = keep(self.folder.execution, ExecutionPath, choose, valid=valid)
        self.logger.event("execution", **{name: getattr(path, name) for name in path.__struct_fields__})
        return path

    def gradients(self, batch: dict[str, Any]) -> float:
        """Loss of a batch, with its gradients in the network; when memory is short, once more in smaller parts.

        Raises:
            ShortMemoryError: not even one sample fits.
        """
        self.optimizer.zero_grad(set_to_none=True)
        return self.within_memory(lambda: self.forward_backward(batch))

    def update(self, learning_rate: float) -> None:
        """Moves the weights along their gradients, clipped; not at all if scaled gradients are too large for fp16."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.spec.gradient_clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def forward_backward(self, batch: dict[str, Any]) -> float:
        """Loss of a batch, with gradients left in the network; in as many parts as the execution path says."""

        def forward(part: slice) -> tuple[list[torch.Tensor], torch.Tensor]:
            image, target = self.to_device(batch, part)
            if self.execution.graphs:
                torch.compiler.cudagraph_mark_step_begin()
            with autocast(self.execution):
                return self.forward(image), target

        samples, told = len(batch["data"]), looked_for(batch, slice(len(batch["data"])))
        loss = amplified(self.loss, self.scaler) if self.scaler.is_enabled() else self.loss
        return backward_in_parts(forward, loss, samples, self.execution.parts, told)

    def to_device(self, batch: dict[str, Any], part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Image ``(part, channels, *spatial)`` and label indices ``(part, *spatial)`` of some samples of a batch.

        The batch holds arrays, or tensors that may be on the device already.
        """
        image, target = torch.as_tensor(batch["data"])[part], torch.as_tensor(batch["seg"])[part, 0]
        layout = memory_format(self.execution, self.configuration.dimensions)
        return laid_out(image.to(self.execution.device), layout), target.to(self.execution.device, torch.long)

    def probe_memory(self) -> None:
        """Chooses and keeps the fewest parts in which a step fits into the memory that is there now.

        Steps are real, with memory set aside for what the optimizer will hold; weights and random state stay as they are.

        Raises:
            ShortMemoryError: not even one sample fits.
        """
        try:
            parts = fewest_parts(self._trial_step, self.configuration.batch_size, recover=self._recover)
        except torch.OutOfMemoryError as error:
            raise self._too_short(error) from error
        self.optimizer.zero_grad(set_to_none=True)
        self._use_parts(parts)
        write_document(self.folder.execution, self.execution)
        planned = training_memory(self.configuration, "cuda")
        if parts > 1:
            self._tell_parts()
        if self.execution.device == "cuda":
            peak = torch.cuda.max_memory_allocated()
            text = f"a training step takes {peak / 2**30:.2f} GiB of GPU memory, planned were {planned / 2**30:.2f} GiB"
            self.logger.event("message", text=text, measured_bytes=peak, planned_bytes=planned, parts=parts)

    def trial(self) -> None:
        """Forward and backward pass of an empty batch, as in a training step; weights and random state stay as they are."""
        self._trial_step(self.execution.parts)
        self.optimizer.zero_grad(set_to_none=True)

    def _trial_step(self, parts: int) -> None:
        """Forward and backward pass of an empty batch of the planned shape, beside memory for the optimizer's state."""
        channels = self.configuration.network.input_channels
        shape = (self.configuration.batch_size, channels, *self.configuration.patch_size)
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
                if self.execution.augment_on == "device":  # where the next batch is made meanwhile
                    spec, patch_size = self.configuration.network, self.configuration.patch_size
                    making = making_bytes(spec, patch_size, self.configuration.batch_size)
                    _set_aside.append(torch.empty(making, dtype=torch.uint8, device=self.execution.device))
                self.forward_backward(batch)
            finally:
                for buffer, old in zip(buffers, before, strict=True):
                    buffer.copy_(old)

    def within_memory(self, work: Callable[[], T]) -> T:
        """What the work gives; when the GPU's memory is short, it is repeated in more parts, and all further work is, too.

        Raises:
            ShortMemoryError: not even one sample fits.
        """
        while True:
            try:
                return work()
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
        self.optimizer.zero_grad(set_to_none=True)
        release_memory(self.execution.device)

    def _tell_parts(self) -> None:
        parts = self.execution.parts
        text = f"memory is shorter than planned: a batch is now computed in {parts} parts, with equal results"
        self.logger.event("message", text=text, parts=parts)

    def _too_short(self, error: torch.OutOfMemoryError) -> ShortMemoryError:
        patch = " x ".join(map(str, self.configuration.patch_size))
        return ShortMemoryError(
            f"the GPU's memory is too short for even one patch of {patch} at a time ({str(error).splitlines()[0]})",
            remedy="Close other programs that use the GPU and repeat the command: it goes on from where it is. Or make a "
            "smaller plan: `autoseg plan DATASET --gpu-memory GIB --name NEW`",
        )
