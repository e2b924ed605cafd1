"""A batch in parts: when it does not fit into memory at once, piece by piece it gives the same loss and gradients."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch

from autoseg.training.losses import AdditiveLoss, Loss, at_resolution, deeply_supervised, supervision_weights
from autoseg.training.ranks import ALONE, Ranks

__all__ = ["Forward", "backward_in_parts", "fewest_parts", "parts_of"]

#: From a slice of a batch to its outputs, highest resolution first, and its target; runs the network anew at every call.
Forward = Callable[[slice], tuple[Sequence[torch.Tensor], torch.Tensor]]


def parts_of(samples: int, parts: int) -> list[slice]:
    """Slices that divide a batch as evenly as can be, the larger ones first; never an empty one."""
    size, larger = divmod(samples, min(parts, samples))
    slices: list[slice] = []
    while (begin := slices[-1].stop if slices else 0) < samples:
        slices.append(slice(begin, begin + size + (len(slices) < larger)))
    return slices


def fewest_parts(step: Callable[[int], None], samples: int, *, recover: Callable[[], None]) -> int:
    """The smallest number of parts in which a step fits into memory.

    Args:
        step: does one step in that many parts; raises ``torch.OutOfMemoryError`` if it does not fit.
        samples: of a batch.
        recover: frees what a failed step left behind.

    Raises:
        torch.OutOfMemoryError: a step does not even fit sample by sample.
    """
    largest = samples + 1
    for parts in range(1, samples + 1):
        if -(-samples // parts) == largest:  # parts as large as those that did not fit
            continue
        largest = -(-samples // parts)
        try:
            step(parts)
            return parts
        except torch.OutOfMemoryError:
            if largest == 1:
                raise
        recover()  # not before here: the exception holds the failed step's tensors
    raise AssertionError("a batch has at least one sample")


def backward_in_parts(
    forward: Forward,
    loss: Loss,
    samples: int,
    parts: int,
    looked_for: torch.Tensor | None = None,
    *,
    ranks: Ranks = ALONE,
    batch_size: int | None = None,
    waiting: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
) -> float:
    """Loss of a batch, with its gradients added to those of the weights; only one part is in memory at a time.

    Where the loss couples the samples, or where they are not known alike, its gradient depends on sums over the whole
    batch. So these are taken first, in a pass without gradients. Another loss is the mean over the samples; one that is not
    made of sums is taken for such.

    Of several processes, each has some samples of the batch. The loss is that of all of them, in every process; the mean of
    the processes' gradients is the gradient of it.

    The network must treat each sample by itself and alike at every call: no batch norm, no dropout.

    Args:
        forward: of a part.
        loss: of one resolution.
        samples: of the batch that are here.
        parts: to split them into; one for all at once.
        looked_for: labels per sample, for a ``PartialLoss``; None for all.
        ranks: the processes.
        batch_size: samples of all processes.
        waiting: makes a context in which gradients are not exchanged yet; for all parts but the last.
    """
    alone = ranks.count == 1
    if looked_for is not None and alone and looked_for.all():  # what the others know is not known here
        looked_for = None
    pieces = parts_of(samples, parts)
    contexts: list[AbstractContextManager[object]] = [*(waiting() for _ in pieces[1:]), contextlib.nullcontext()]
    coupled = isinstance(loss, AdditiveLoss) and (loss.couples_samples or looked_for is not None)
    if isinstance(loss, AdditiveLoss) and (not alone or (coupled and len(pieces) > 1)):
        return _backward_coupled(forward, loss, pieces, contexts, looked_for, ranks)
    values = []
    for piece, context in zip(pieces, contexts, strict=True):
        with context:
            share = (piece.stop - piece.start) / (batch_size or samples)
            values.append(_backward_share(forward, loss, piece, share, looked_for, ranks))
    return float(ranks.sum(torch.stack(values).sum()))


def _backward_share(
    forward: Forward, loss: Loss, piece: slice, share: float, looked_for: torch.Tensor | None, ranks: Ranks
) -> torch.Tensor:
    outputs, target = forward(piece)
    if looked_for is not None:
        loss = functools.partial(cast(Any, loss), looked_for=looked_for[piece])
    value = share * deeply_supervised(loss, outputs, target)
    (ranks.count * value).backward()
    return value.detach()


def _backward_coupled(
    forward: Forward,
    loss: AdditiveLoss,
    pieces: Sequence[slice],
    contexts: Sequence[AbstractContextManager[object]],
    looked_for: torch.Tensor | None,
    ranks: Ranks,
) -> float:
    at_once = _sums(forward, loss, pieces[0], looked_for) if len(pieces) == 1 else None
    with torch.no_grad():
        parts = [at_once] if at_once else [_sums(forward, loss, piece, looked_for) for piece in pieces]
        totals = list(ranks.sum(torch.stack([torch.stack(sums).sum(0) for sums in zip(*parts, strict=True)])))
        value = _supervised_value(loss, totals)
    for piece, context in zip(pieces, contexts, strict=True):
        with context:
            own = at_once or _sums(forward, loss, piece, looked_for)
            # the numbers are those of the whole batch, the gradient flows through this part alone
            whole = [total + (mine - mine.detach()) for total, mine in zip(totals, own, strict=True)]
            (ranks.count * _supervised_value(loss, whole)).backward()
    return float(value)


def _sums(forward: Forward, loss: AdditiveLoss, piece: slice, looked_for: torch.Tensor | None) -> list[torch.Tensor]:
    """Of every resolution."""
    outputs, target = forward(piece)
    sums = loss.sums
    if looked_for is not None:
        sums = functools.partial(cast(Any, sums), looked_for=looked_for[piece])
    return [sums(logits, at_resolution(target, logits.shape[2:])) for logits in outputs]


def _supervised_value(loss: AdditiveLoss, sums: Sequence[torch.Tensor]) -> torch.Tensor:
    weights = supervision_weights(len(sums))
    return torch.stack([weight * loss.value(each) for weight, each in zip(weights, sums, strict=True)]).sum()
