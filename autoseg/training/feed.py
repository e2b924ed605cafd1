"""From the loader to the device: the next batch travels to a GPU while it computes, and waiting is counted."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from autoseg.errors import ShortMemoryError
from autoseg.logs import Logger
from autoseg.networks.execution import release_memory
from autoseg.training.sources import Sources

__all__ = ["Feed", "Finish"]

Batch = dict[str, Any]
T = TypeVar("T")
#: Samples and transforms on a device: from the voxels of a batch to the batch.
Finish = Callable[[Sources, str], Batch]
#: What of a batch the network and the loss take on the device; everything else stays on the CPU.
VOXELS = ("data", "seg")


@dataclass(frozen=True)
class _Sent:
    """A batch on its way to the device, and what a GPU's stream has to wait for."""

    batch: Batch
    ready: torch.cuda.Event | None


class Feed:
    """Takes batches to a device.

    Args:
        device: cpu, cuda or mps.
        logger: for the event ``busy``.
        epoch: batches after which it tells.
        clock: gives seconds.
        ahead: whether one batch is on its way while the one before is computed on; by default for a GPU.

    Attributes:
        waited: seconds that whoever wanted a batch waited for it.
    """

    def __init__(
        self,
        device: str,
        logger: Logger,
        epoch: int,
        clock: Callable[[], float] = time.perf_counter,
        *,
        ahead: bool | None = None,
    ) -> None:
        self.device, self.logger, self.epoch, self._clock = device, logger, epoch, clock
        self._is_ahead = device == "cuda" if ahead is None else ahead
        self.waited = 0.0

    def through(
        self,
        batches: Iterator[Any],
        finish: Finish | None = None,
        tell: Callable[[float, float], None] = lambda seconds, waited: None,
    ) -> Generator[Batch]:
        """The same batches in the same order; for a GPU as tensors there, else as they are.

        Args:
            batches: as the loader gives them, or their voxels.
            finish: makes batches of voxels, on the device.
            tell: hears, after every batch but the first, the seconds since the last one was wanted, and how many of them
                were waited for it.
        """
        coming = self._ahead(batches, finish) if self._is_ahead else _finished(batches, finish, self.device)
        begin, waited, count = self._clock(), self.waited, 0
        last = None
        with contextlib.closing(coming):
            while True:
                asked = self._clock()
                batch = next(coming, None)
                if batch is None:
                    return
                now, count = self._clock(), count + 1
                self.waited += now - asked
                if last is not None:
                    tell(now - last, now - asked)
                last = now
                yield batch
                if count % self.epoch == 0:
                    now = self._clock()
                    share = 1 - (self.waited - waited) / max(now - begin, 1e-9)
                    self.logger.event("busy", share=share, waited_seconds=self.waited - waited)
                    begin, waited = now, self.waited

    def _ahead(self, batches: Iterator[Any], finish: Finish | None) -> Generator[Batch]:
        """One batch is on its way while the one before is computed on.

        That is a thread's work: starting copies and transforms takes a while, and some transforms wait for the device.
        """
        stream = torch.cuda.Stream() if self.device == "cuda" else None
        # a new thread has the first GPU, whichever is this process's own
        begin = None if stream is None else functools.partial(torch.cuda.set_device, stream.device)
        with (
            _closed(batches),
            ThreadPoolExecutor(1, thread_name_prefix="autoseg-feed", initializer=begin) as courier,
        ):
            coming = courier.submit(self._bring, batches, finish, stream)
            while (brought := coming.result()) is not None:
                if not isinstance(brought, _Sent):
                    brought = self._sent_alone(brought, finish, stream)
                coming = courier.submit(self._bring, batches, finish, stream)
                yield _arrived(brought)

    def _bring(self, batches: Iterator[T], finish: Finish | None, stream: torch.cuda.Stream | None) -> _Sent | T | None:
        """Starts the way of the next batch; if memory is short, gives it as it is. None after the last."""
        made = next(batches, None)
        if made is None:
            return None
        try:
            return self._send(made, finish, stream)
        except torch.OutOfMemoryError:
            return made

    def _sent_alone(self, made: Any, finish: Finish | None, stream: torch.cuda.Stream | None) -> _Sent:
        """Sends what memory was too short for while the device computed; now it does not.

        Raises:
            ShortMemoryError: it is too short even so.
        """
        release_memory(self.device)
        try:
            return self._send(made, finish, stream)
        except torch.OutOfMemoryError as error:
            raise ShortMemoryError(
                f"the GPU's memory is too short to make a batch there ({str(error).splitlines()[0]})",
                remedy="Close other programs that use the GPU and repeat the command: it goes on from where it is saved.",
            ) from error

    def _send(self, made: Any, finish: Finish | None, stream: torch.cuda.Stream | None) -> _Sent:
        """Starts the copies from pinned memory, which alone are not waited for, and what is done with them there."""
        with torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
            if finish is not None:
                batch = finish(made.moved(torch.Tensor.pin_memory) if stream is not None else made, self.device)
            else:
                batch = {name: self._moved(each) if name in VOXELS else each for name, each in made.items()}
            event = stream.record_event() if stream is not None else None
        return _Sent(batch, event)

    def _moved(self, values: Any) -> torch.Tensor:
        tensor = torch.as_tensor(values)
        return tensor.pin_memory().to("cuda", non_blocking=True) if self.device == "cuda" else tensor.to(self.device)


def _finished(batches: Iterator[Any], finish: Finish | None, device: str) -> Generator[Batch]:
    with _closed(batches):
        for made in batches:
            yield made if finish is None else finish(made, device)


def _arrived(sent: _Sent) -> Batch:
    """The batch, for the stream that computes; its memory is not given away before that has used it."""
    if sent.ready is not None:
        current = torch.cuda.current_stream()
        current.wait_event(sent.ready)
        for value in sent.batch.values():
            if isinstance(value, torch.Tensor) and value.is_cuda:
                value.record_stream(current)
    return sent.batch


@contextlib.contextmanager
def _closed(batches: Iterator[Any]) -> Iterator[None]:
    """Ends the loader's threads afterwards, and not when they are collected."""
    try:
        yield
    finally:
        if hasattr(batches, "close"):
            batches.close()
