"""From the loader to the device: the next batch travels to a GPU while it computes, and waiting is counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import torch

from autoseg.logs import Logger

__all__ = ["Feed"]

Batch = dict[str, Any]


class Feed:
    """Takes batches to a device.

    Augmentation that runs on the device belongs into ``_send``: it is called one batch ahead, on a stream of its own.

    Args:
        device: cpu, cuda or mps.
        logger: for the event ``busy``.
        epoch: batches after which it tells.
        clock: gives seconds.

    Attributes:
        waited: seconds that whoever wanted a batch waited for the loader.
    """

    def __init__(self, device: str, logger: Logger, epoch: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.device, self.logger, self.epoch, self._clock = device, logger, epoch, clock
        self.waited = 0.0

    def through(self, batches: Iterator[Batch]) -> Generator[Batch]:
        """The same batches in the same order; for a GPU as tensors there, else as they are."""
        begin, waited = self._clock(), self.waited
        for count, batch in enumerate(self._ahead(batches) if self.device == "cuda" else self._timed(batches), start=1):
            yield batch
            if count % self.epoch == 0:
                now = self._clock()
                share = 1 - (self.waited - waited) / max(now - begin, 1e-9)
                self.logger.event("busy", share=share, waited_seconds=self.waited - waited)
                begin, waited = now, self.waited

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        try:
            while True:
                begin = self._clock()
                batch = next(batches, None)
                self.waited += self._clock() - begin
                if batch is None:
                    return
                yield batch
        finally:
            if hasattr(batches, "close"):
                batches.close()  # ends the loader's thread now, not when it is collected

    def _ahead(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """One batch is on its way while the one before is computed on."""
        stream, coming = torch.cuda.Stream(), None
        timed = self._timed(batches)
        try:
            for batch in timed:
                sent = self._send(batch, stream)
                if coming is not None:
                    yield self._arrived(coming, stream)
                coming = sent
            if coming is not None:
                yield self._arrived(coming, stream)
        finally:
            timed.close()  # type: ignore[attr-defined]

    def _send(self, batch: Batch, stream: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event]:
        """Starts the copies of a batch's arrays from pinned memory, which alone are not waited for."""
        sent = dict(batch)
        with torch.cuda.stream(stream):
            for name, value in batch.items():
                if isinstance(value, np.ndarray | torch.Tensor):
                    sent[name] = torch.as_tensor(value).pin_memory().to(self.device, non_blocking=True)
            event = torch.cuda.Event()
            event.record(stream)
        return sent, event

    def _arrived(self, coming: tuple[Batch, torch.cuda.Event], stream: torch.cuda.Stream) -> Batch:
        """The batch, for the stream that computes; its memory is not given away before that has used it."""
        batch, event = coming
        current = torch.cuda.current_stream()
        current.wait_event(event)
        for value in batch.values():
            if isinstance(value, torch.Tensor):
                value.record_stream(current)
        return batch
