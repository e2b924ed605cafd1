"""How the processes of a training come together, and how they part: all end when one does, and one message tells why.

A process that fails tells it by its name, and leaves its message in the store that they found each other by. The others are
cut off in the middle of a sum: they find it there and end silently, the first one after writing it into the log.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from autoseg.errors import AutosegError, FollowedError, InputError, InterruptedRunError, ProcessLostError
from autoseg.logs import reported
from autoseg.together import Place, own_place
from autoseg.training.ranks import ALONE, Ranks

__all__ = ["joined", "use_own_gpu"]

#: The others wait while the first one preprocesses or validates; within an iteration nobody has a reason to.
PATIENCE, WITHIN_ITERATION = timedelta(days=30), timedelta(hours=1)
#: Seconds in which a process that was cut off looks for the message of the one that failed.
LOOKING = 3.0
FAILURE = "failure"

_times = itertools.count()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that were started together with this one, while the context lasts; just this one otherwise.

    Raises:
        FollowedError: another process ended this one, and tells why.
        ProcessLostError: another process failed, or was lost.
    """
    place = own_place()
    if place.count == 1:
        yield ALONE
        return
    has_gpus = torch.cuda.is_available() and distributed.is_nccl_available()
    try:
        store, rank, count = next(rendezvous("env://", timeout=PATIENCE))
        store = PrefixStore(f"autoseg/{next(_times)}", store)
        backend = "cpu:gloo,cuda:nccl" if has_gpus else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=WITHIN_ITERATION)
        control = distributed.new_group(backend="gloo", timeout=PATIENCE)
    except (ValueError, distributed.DistError) as error:
        raise AutosegError(f"{place} does not find the others: {error}. Start them with torchrun") from error
    ranks, parting = Ranks(place, control), _Parting(place, store)
    try:
        yield ranks
        ranks.wait()
    except BaseException as error:
        end = parting.end_of(error)
        if not has_gpus:  # those of GPUs wait for what was begun: they end with the process
            distributed.destroy_process_group()
        if end is error:
            raise
        raise end from error
    distributed.destroy_process_group()


def use_own_gpu(ranks: Ranks, device: str) -> None:
    """Makes the GPU of a process's own the one that ``cuda`` means in it.

    Args:
        ranks: the processes.
        device: that will be used.

    Raises:
        InputError: there are fewer GPUs than processes on this machine, or the device is not one for several processes.
    """
    if ranks.count == 1 or device == "cpu":
        return
    remedy = "Start one process for each GPU: torchrun --nproc-per-node NUMBER"
    if device != "cuda":
        raise InputError(f"several processes cannot train on {device}", expected="cuda or cpu")
    if (gpus := torch.cuda.device_count()) < ranks.place.local_count:
        raise InputError("there are more processes than GPUs", found=gpus, remedy=remedy)
    if not distributed.is_nccl_available():
        raise InputError("this torch has no NCCL, by which GPUs exchange gradients", remedy="Train in one process.")
    torch.cuda.set_device(ranks.place.local_rank)


class _Parting:
    """What a process does when it ends otherwise than by having done all.

    Args:
        place: of the process.
        store: that all can read while they live.
    """

    def __init__(self, place: Place, store: Store) -> None:
        self.place, self.store = place, store

    def end_of(self, error: BaseException) -> BaseException:
        """The error to end with, after leaving a message for the others."""
        if isinstance(error, InterruptedRunError | FollowedError) and not self.place.first:
            return FollowedError()  # all agreed to stop, or see the same
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
            if (failure := self._of_another()) is not None:
                return self._followed(failure)
            if "onnection" in str(error):  # closed, reset or refused, as gloo says
                error = ProcessLostError(
                    "another process of this training ended without a word: killed, perhaps for its memory. "
                    "The last checkpoint stands; repeat the command to go on from there"
                )
        named = str(self.place) + ": " + reported(error)["error"]
        code = error.exit_code if isinstance(error, AutosegError) else 1
        own, stands = json.dumps({"text": named, "exit_code": code}), ""
        with contextlib.suppress(RuntimeError):
            stands = self.store.compare_set(FAILURE, "", own).decode()
        if not isinstance(error, AutosegError):
            return error
        if stands and stands != own:  # another one was faster, and tells probably the same
            return self._followed(json.loads(stands))
        return error if self.place.first else ProcessLostError(named, code)

    def _followed(self, failure: dict[str, Any]) -> FollowedError:
        """A code other than 0 would make torchrun end the first process in the middle of its last words."""
        return FollowedError(failure["text"], failure["exit_code"] if self.place.first else 0)

    def _of_another(self) -> dict[str, Any] | None:
        """What the process that failed has left; None for nothing, or where the store is gone with that process."""
        end = time.monotonic() + LOOKING
        with contextlib.suppress(RuntimeError):
            while time.monotonic() < end:
                if self.store.check([FAILURE]):
                    return json.loads(self.store.get(FAILURE))
                time.sleep(0.05)
        return None
