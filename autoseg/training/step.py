"""What one iteration computes: forward and backward pass of a batch on the device, in parts where memory is short."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, TypeVar, cast

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
from autoseg.networks.optimizers import make_optimizer, set_learning_rate, state_copies
from autoseg.planning import GIBIBYTE
from autoseg.training.accumulation import backward_in_parts, fewest_parts
from autoseg.training.augmenting import works_on
from autoseg.training.batches import PatchLoader
from autoseg.training.crew import Crew, most_threads, prefetched
from autoseg.training.feed import Feed
from autoseg.training.losses import Loss, takes_looked_for
from autoseg.training.ranks import ALONE, Ranks
from autoseg.training.scaling import amplified
from autoseg.values import Configuration, ExecutionPath, Plan, TrainJob, decode, encode
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


def in_parts(path: ExecutionPath, parts: int) -> ExecutionPath:
    """The path with a batch in so many parts; only whole batches are replayed as graphs.

    The gradients that a graph computes lie in its own memory, which the next replay overwrites: nothing can be added.
    """
    return msgspec.structs.replace(path, parts=parts, graphs=path.graphs and parts == 1)


class TrainingStep:
    """Network, loss and optimizer of one training, where and how they run.

    Args:
        job: what is trained.
        plan: that the job belongs to.
        folder: of this training, which keeps how it runs.
        logger: for events.
        device: cpu, cuda or mps.
        making: gives the seconds that a thread takes to make a batch, if they are to be made beside the training.
        ranks: the processes that train together, each of them some samples of every batch.
    """

    def __init__(
        self,
        job: TrainJob,
        plan: Plan,
        folder: FoldFolder,
        logger: Logger,
        device: str,
        making: Callable[[], float] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.folder, self.logger, self._making, self.ranks = folder, logger, making, ranks
        self.configuration: Configuration = plan.configuration(job.configuration)
        self.spec = self.configuration.training
        network = build_network(self.configuration.network, seed=job.seed)
        self.samples = len(ranks.share(self.configuration.batch_size))
        kept = ranks.told(lambda: encode(self._execution(network, device, job.iterations)).decode())
        self._kept = decode(ExecutionPath, kept)
        self.execution = self._shared(self._kept)
        self.network: nn.Module = place(network, self.execution, self.configuration.dimensions)
        self.forward = compiled(self.network, self.execution)
        self._exchanging = self.forward
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
        most = most_threads(self.configuration, self.execution, self.ranks.place.local_count)
        crew = Crew(most, self.spec.iterations_per_epoch, self.logger)
        prepare = functools.partial(loader.prepare, largest_box=BOX[self.configuration.dimensions])
        make: Callable[[int], Any] = prepare if on_device else loader.batch
        made = loader.settled(prefetched(make, first, last, crew=crew), make)
        return self._feed.through(made, loader.finish if on_device else None, crew.hear)

    def join(self) -> None:
        """From here on gradients are those of whole batches, of which every process has some samples.

        All processes do this together; they have the same weights.
        """
        self._exchanging = self.ranks.wrap(cast(nn.Module, self.forward))

    def fingerprint(self) -> str:
        """Of the weights: equal numbers of processes that train together have the same weights to the bit, probably."""
        total = 0
        for number, weight in enumerate(self.network.parameters(), start=1):
            flat = weight.detach().clone(memory_format=torch.contiguous_format).view(-1)
            total += number * int(flat.view(torch.uint8).sum(dtype=torch.int64))
        return str(total)

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
        path = in_parts(path, path.parts)
        self.logger.event("execution", **{name: getattr(path, name) for name in path.__struct_fields__})
        return path

    def _shared(self, path: ExecutionPath) -> ExecutionPath:
        """The path for one of several processes: with its share of the threads, and without graphs.

        The gradients that a graph computes lie in its own memory, where they cannot be exchanged.
        """
        if self.ranks.count == 1:
            return path
        threads = max(1, path.threads // self.ranks.place.local_count)
        return msgspec.structs.replace(path, threads=threads, graphs=False)

    def gradients(self, batch: dict[str, Any]) -> float:
        """Loss of a batch, with its gradients in the network; when memory is short, once more in smaller parts.

        Raises:
            ShortMemoryError: not even one sample fits; or this is one of several processes: the others wait in the middle of
                a sum, so the smaller parts have to wait for the next start.
        """
        self.optimizer.zero_grad(set_to_none=True)
        if self.ranks.count == 1:
            return self.within_memory(lambda: self.forward_backward(batch))
        try:
            return self.forward_backward(batch, self.ranks)
        except torch.OutOfMemoryError as error:
            raise self._in_more_parts_next_time(error) from error

    def update(self, learning_rate: float) -> None:
        """Moves the weights along their gradients, clipped; not at all if scaled gradients are too large for fp16."""
        set_learning_rate(self.optimizer, learning_rate)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.spec.gradient_clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def forward_backward(self, batch: dict[str, Any], ranks: Ranks = ALONE) -> float:
        """Loss of a batch, with gradients left in the network; in as many parts as the execution path says.

        Args:
            batch: the samples that this process has.
            ranks: the processes that have the others.
        """
        network = self.forward if ranks.count == 1 else self._exchanging

        def forward(part: slice) -> tuple[list[torch.Tensor], torch.Tensor]:
            image, target = self.to_device(batch, part)
            if self.execution.graphs:
                torch.compiler.cudagraph_mark_step_begin()
            with autocast(self.execution):
                return network(image), target

        samples, told = len(batch["data"]), looked_for(batch, slice(len(batch["data"])))
        loss = amplified(self.loss, self.scaler) if self.scaler.is_enabled() else self.loss
        return backward_in_parts(
            *(forward, loss, samples, self.execution.parts, told),
            ranks=ranks,
            batch_size=samples if ranks.count == 1 else self.configuration.batch_size,
            waiting=lambda: ranks.wait_with(network),
        )

    def to_device(self, batch: dict[str, Any], part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Image ``(part, channels, *spatial)`` and label indices ``(part, *spatial)`` of some samples of a batch.

        The batch holds arrays, or tensors that may be on the device already.
        """
        image, target = torch.as_tensor(batch["data"])[part], torch.as_tensor(batch["seg"])[part, 0]
        layout = memory_format(self.execution, self.configuration.dimensions)
        return laid_out(image.to(self.execution.device), layout), target.to(self.execution.device, torch.long)

    def probe_memory(self) -> None:
        """Chooses and keeps the fewest parts in which a step fits into the memory that is there now, in all processes.

        Steps are real, with memory set aside for what the optimizer will hold; weights and random state stay as they are.

        Raises:
            ShortMemoryError: not even one sample fits.
        """
        try:
            parts = fewest_parts(self._trial_step, self.samples, recover=self._recover)
        except torch.OutOfMemoryError as error:
            raise self._too_short(error) from error
        self.optimizer.zero_grad(set_to_none=True)
        parts = max(self._kept.parts, *map(int, self.ranks.gathered(str(parts))))  # a shortage is not forgotten
        self._use_parts(parts)
        self.keep_execution()
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
        """Forward and backward pass of an empty batch of the planned shape, beside memory for the optimizer's state.

        Of several processes each tries its own samples, by itself.
        """
        channels = self.configuration.network.input_channels
        shape = (self.samples, channels, *self.configuration.patch_size)
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
            self._write_execution()
            self._tell_parts()

    def keep_execution(self) -> None:
        """The first process writes how the network runs, for resuming."""
        if self.ranks.first:
            self._write_execution()

    def _write_execution(self) -> None:
        """As it would be for one process."""
        whole = msgspec.structs.replace(self.execution, threads=self._kept.threads, graphs=self._kept.graphs)
        write_document(self.folder.execution, in_parts(whole, whole.parts))

    def _in_more_parts_next_time(self, error: torch.OutOfMemoryError) -> ShortMemoryError:
        """The error to end with in this process; what it writes holds for all at the next start."""
        if self.execution.parts >= self.samples:
            return self._too_short(error)
        self._use_parts(min(2 * self.execution.parts, self.samples))
        self._write_execution()
        return ShortMemoryError(
            f"memory is shorter than planned ({str(error).splitlines()[0]}): with the next start the samples of a process "
            f"are computed in {self.execution.parts} parts, with equal results",
            remedy="Repeat the command: it goes on from the last checkpoint.",
        )

    def _use_parts(self, parts: int) -> None:
        before, self.execution = self.execution, in_parts(self.execution, parts)
        if before.graphs != self.execution.graphs:
            torch.compiler.reset()  # frees what the graphs hold
            self.forward = compiled(self.network, self.execution)

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
