"""Where the sums over tiles lie: on the device that predicts, in memory, or, if too large for it, in a nameless file."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
import torch

from autoseg.errors import AutosegError, InputError
from autoseg.machine import gibibytes, machine_memory
from autoseg.networks.execution import free_memory, release_memory
from autoseg.scratch import arrays_in, nameless, zeros

__all__ = ["Box", "Sums", "empty_sums"]

#: A part of a volume.
Box = tuple[slice, ...]

#: Share of the free memory that the sums of one image may take: its label map needs some, and so does the next image.
SHARE_OF_ROOM = 0.5
#: Share of a GPU's free memory that sums may take: a group of tiles needs the rest.
SHARE_OF_GPU = 0.5
#: Bytes that are taken without asking the system what it has.
SMALL = 2**26


class Sums:
    """The weighted mean of the logits of overlapping tiles, summed up tile by tile.

    On a GPU whose memory has room, the sums lie there, so that no tile's logits are brought to the host; that is decided
    before the first tile. If that room is short later on, they move, and nothing is computed twice.

    Args:
        outputs: of the network.
        shape: of the volume.
        weights: float32 ``(*patch)`` of a tile's voxels.
        device: that predicts.
        scratch: folder for what memory has no room for.
        room: bytes of memory that may be taken; None for half of what is free.
        on_device: where they lie at first; None to decide by the free memory of a GPU.

    Raises:
        InputError: there is no room for them.
    """

    def __init__(
        self,
        outputs: int,
        shape: tuple[int, ...],
        weights: np.ndarray,
        *,
        device: str,
        scratch: Path | None,
        room: int | None,
        on_device: bool | None = None,
    ) -> None:
        self._shape, self._weights, self._device = (outputs, *shape), weights, device
        self._scratch, self._room = scratch, room
        if on_device is None:
            free = free_memory(device)
            on_device = free is not None and 4 * (outputs + 1) * math.prod(shape) <= SHARE_OF_GPU * free
        self._held = self._on_device() if on_device else None
        if self._held is None:
            self._total = empty_sums(self._shape, scratch, room)
            self.counts = self._beside_total()

    def _beside_total(self) -> np.ndarray:
        """An array of the volume's shape, in a file where the sums are."""
        with arrays_in(self._scratch if isinstance(self._total, np.memmap) else None):
            return zeros(self._shape[1:])

    def _on_device(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        with contextlib.suppress(torch.OutOfMemoryError):  # what is free may lie in pieces
            total, counts = (torch.zeros(shape, device=self._device) for shape in (self._shape, self._shape[1:]))
            return total, counts, torch.from_numpy(self._weights.copy()).to(self._device)
        return None

    @property
    def on_device(self) -> bool:
        """Whether they lie on the device."""
        return self._held is not None

    def add(self, box: Box, logits: torch.Tensor | np.ndarray) -> None:
        """Adds a tile.

        Args:
            box: of the volume.
            logits: ``(outputs, *patch)``, or what becomes that by repetition; a tensor where the sums lie on the device.
        """
        if self._held is None:
            self._total[(slice(None), *box)] += np.asarray(logits) * self._weights
            self.counts[box] += self._weights
            return
        total, counts, weights = self._held
        total[(slice(None), *box)].addcmul_(torch.as_tensor(logits, device=self._device), weights)
        counts[box].add_(weights)

    def to_host(self) -> None:
        """Moves them from the device, whose memory is short, to where there is room; nothing is lost."""
        assert self._held is not None
        total, counts, _ = self._held
        self._total = empty_sums(self._shape, self._scratch, self._room)
        for output, values in enumerate(total):
            self._total[output] = values.cpu().numpy()
        self.counts, self._held = counts.cpu().numpy(), None
        del total, counts
        release_memory(self._device)

    def mean(self) -> np.ndarray:
        """What the tiles say of every voxel, float32 ``(outputs, *shape)``; the sums are gone then.

        Raises:
            AutosegError: it is not finite.
        """
        if self._held is not None:
            self.to_host()
        for output in self._total:  # one after another: all of them may be more than memory holds
            if not self._divided(output):
                raise AutosegError(
                    "the network's output is not finite: damaged weights, or an image far from the training data"
                )
        return self._total

    def _divided(self, output: np.ndarray) -> bool:
        """Divides by the weights, slice by slice; whether all is finite."""
        finite = True
        for values, counts in zip(output, self.counts, strict=True):
            values /= counts
            finite &= bool(np.isfinite(values).all())
        return finite


def empty_sums(shape: tuple[int, ...], scratch: Path | None, room: int | None = None) -> np.ndarray:
    """An array of zeros, float32, of this shape.

    A file has its whole size on the disk before it is used, so a full disk is known before the work; see ``scratch``.

    Args:
        shape: of the array.
        scratch: folder of the file; None for memory in any case.
        room: bytes that may be taken of memory; None for half of what is free.

    Raises:
        InputError: it fits neither memory nor, without a folder, anything else.
        AutosegError: there is no room for the file.
    """
    size = 4 * math.prod(shape)
    if room is None and size <= SMALL:
        return np.zeros(shape, np.float32)
    if room is None:
        memory = machine_memory()
        room = size if memory is None else int(SHARE_OF_ROOM * memory.room)
    if size <= room:
        return np.zeros(shape, np.float32)
    if scratch is None:
        if size <= 2 * room:  # nothing else will be needed beside it that is as large
            return np.zeros(shape, np.float32)
        raise InputError(
            f"the network's outputs for this image take {gibibytes(size)}, and there is room for {gibibytes(room)}",
            remedy="Predict its file with the command, autoseg predict, which keeps them on the disk.",
        )
    try:
        return nameless(scratch, shape)
    except OSError as error:
        raise AutosegError(
            f"the network's outputs for this image take {gibibytes(size)}, which memory has no room for, nor the disk of "
            f"{scratch}: {error.strerror or error}. Make room on one of them, or name an output folder elsewhere with -o"
        ) from error
