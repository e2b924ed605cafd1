"""One training by several processes: each computes some samples of every batch, together the whole of it.

Sums that the loss is made of are added up over the processes, and so are gradients. So what is computed is what one process
computes with the same batch, to float tolerance. Sample *s* of iteration *i* is the same patch whoever makes it. The first
process decides, writes and logs. Nothing is sent but numbers and JSON.

What is decided travels between CPUs, so that a process that waits for another one's file or score does not hold its GPU, and
learns at once when the other one is gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
import torch.distributed as distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from autoseg.errors import AutosegError, FollowedError, InputError
from autoseg.together import Place

__all__ = ["ALONE", "Ranks"]


class Ranks:
    """The processes of a training, and which of them this is.

    Every method but ``share`` and ``wait_with`` is called by all processes, at the same point of their work.

    Args:
        place: of this process.
        control: the connection between CPUs for all but sums and gradients; None for one process.
    """

    def __init__(self, place: Place | None = None, control: distributed.ProcessGroup | None = None) -> None:
        self.place, self._control = place or Place(), control
        self.count, self.first = self.place.count, self.place.first

    def share(self, batch_size: int) -> range:
        """Which samples of a batch this process computes: evenly divided, the first processes take the rest.

        Raises:
            InputError: there are more processes than samples.
        """
        if batch_size < self.count:
            raise InputError(
                f"a batch of {batch_size} cannot be divided among {self.count} processes",
                expected=f"at most {batch_size} processes",
                remedy="Start fewer, or plan with a larger batch (autoseg plan --batch-size).",
            )
        size, rest = divmod(batch_size, self.count)
        begin = self.place.rank * size + min(self.place.rank, rest)
        return range(begin, begin + size + (self.place.rank < rest))

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with gradients that are averaged over the processes at the end of every backward pass.

        All begin with the first one's weights. Parameters that no output depends on keep having no gradient.
        """
        if self.count == 1:
            return network
        device = next(network.parameters()).device
        return DistributedDataParallel(
            network,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,  # no second copy of the gradients
            find_unused_parameters=True,  # the head of lowest resolution
        )

    def wait_with(self, wrapped: object) -> contextlib.AbstractContextManager[object]:
        """A context in which a wrapped network's gradients are gathered here only; for all parts of a batch but the last."""
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else contextlib.nullcontext()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, element by element, without gradient; the same bits in all of them."""
        if self.count == 1:
            return tensor.detach()
        total = tensor.detach().clone()
        distributed.all_reduce(total)
        return total

    def totals(self, *numbers: int) -> list[int]:
        """Sums of whole numbers over all processes."""
        if self.count == 1:
            return list(map(int, numbers))
        total = torch.tensor(numbers)
        distributed.all_reduce(total, group=self._control)
        return [int(each) for each in total]

    def wait(self) -> None:
        """Until all processes are here."""
        self.totals(0)

    def told(self, text: Callable[[], str], *, by: int = 0) -> str:
        """A text that one of the processes has, in all of them.

        Args:
            text: gives it; called in that process only.
            by: rank of the process.
        """
        if self.count == 1:
            return text()
        data = text().encode() if self.place.rank == by else b""
        length = torch.tensor([len(data)])
        distributed.broadcast(length, by, group=self._control)
        message = torch.zeros(int(length), dtype=torch.uint8)
        if data:
            message = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if len(message):
            distributed.broadcast(message, by, group=self._control)
        return bytes(message.numpy()).decode()

    def gathered(self, text: str) -> list[str]:
        """The texts of all processes, in their order."""
        return [self.told(lambda: text, by=rank) for rank in range(self.count)]

    def require_equal(self, what: str, here: Callable[[], str]) -> None:
        """Makes sure that all processes have the same.

        Args:
            what: is compared, for the message.
            here: gives what this process has.

        Raises:
            AutosegError: they have not; FollowedError in all but the first.
        """
        if self.count == 1:
            return
        theirs = self.gathered(here())
        if len(set(theirs)) > 1:
            if not self.first:
                raise FollowedError
            found = ", ".join(f"{text} in process {rank}" for rank, text in enumerate(theirs, start=1))
            raise AutosegError(
                f"the processes of this training have different {what}: {found}. The last checkpoint is from before that; "
                "repeat the command with processes on machines and GPUs of one kind that see the same files"
            )


#: The usual case.
ALONE = Ranks()
