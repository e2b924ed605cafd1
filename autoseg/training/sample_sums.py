"""What Dice and cross-entropy are made of: sums over space, sample by sample, with their gradient written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

__all__ = ["SampleSums"]


class SampleSums(torch.autograd.Function):
    """Sums ``(batch, 2 + 3 * classes)`` per sample: cross-entropy, known voxels, overlap, predicted, wanted per class.

    Background has no class among labels. Automatic differentiation would keep several float32 arrays in the size of the
    batch; here the gradient is written out, and each sample is done before the next begins.

    Where only some outputs were looked for in a sample, the sums are of these, with no gradient where nothing is known.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        target: torch.Tensor,
        table: torch.Tensor | None,
        ignore: int | None,
        outputs: Sequence[Sequence[int] | None],
    ) -> torch.Tensor:
        """The sums.

        Args:
            ctx: for the backward pass.
            logits: ``(batch, outputs, *spatial)``.
            target: label indices ``(batch, *spatial)``.
            table: bool ``(regions, label indices)``, whether a label belongs to a region; None without regions.
            ignore: label index that counts nowhere, if any.
            outputs: for every sample those that were looked for, ascending and without background; None for all.
        """
        ctx.save_for_backward(logits, target, table)
        ctx.ignore, ctx.outputs = ignore, outputs
        return torch.stack(
            [
                _sums_of_sample(sample, wanted, table, ignore)
                if some is None
                else _sums_of_some(sample, wanted, table, ignore, some)
                for sample, wanted, some in zip(logits, target, outputs, strict=True)
            ]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient of the logits from that of the sums."""
        logits, target, table = ctx.saved_tensors
        result = torch.empty_like(logits)
        for sample, wanted, some, row, out in zip(logits, target, ctx.outputs, gradient, result, strict=True):
            if some is None:
                out.copy_(_gradient_of_sample(sample, wanted, table, ctx.ignore, row).view(out.shape))
            else:
                _write_gradient_of_some(out, sample, wanted, table, ctx.ignore, some, row)
        return result, None, None, None, None


def _sums_of_sample(
    sample: torch.Tensor, target: torch.Tensor, table: torch.Tensor | None, ignore: int | None
) -> torch.Tensor:
    target = target.flatten().long()
    known = None if ignore is None else target != ignore
    if table is None:
        entropy, volumes = _label_sums(sample, _known_labels(target, known), known)
    else:
        entropy, volumes = _region_sums(sample, table[:, target], known)
    count = len(target) if known is None else known.sum()
    return torch.cat([torch.stack([entropy, torch.ones_like(entropy) * count]), *volumes])


def _gradient_of_sample(
    sample: torch.Tensor, target: torch.Tensor, table: torch.Tensor | None, ignore: int | None, of_sums: torch.Tensor
) -> torch.Tensor:
    """Gradient ``(outputs, voxels)`` of a sample's logits from that of its sums."""
    target = target.flatten().long()
    known = None if ignore is None else target != ignore
    of_entropy, (of_overlap, of_predicted, _) = of_sums[0], of_sums[2:].unflatten(0, (3, -1))
    if table is None:
        slope = _label_gradient(sample, _known_labels(target, known), of_entropy, of_overlap, of_predicted)
    else:
        slope = _region_gradient(sample, table[:, target], of_entropy, of_overlap, of_predicted)
    return slope if known is None else slope.mul_(known)


def _sums_of_some(
    sample: torch.Tensor, target: torch.Tensor, table: torch.Tensor | None, ignore: int | None, some: Sequence[int]
) -> torch.Tensor:
    """As ``_sums_of_sample`` where only ``some`` outputs were looked for: the volumes of the others are 0."""
    classes, places = _classes(sample, table, some)
    dtype = torch.promote_types(sample.dtype, torch.float32)
    sums = torch.zeros(2 + 3 * classes, dtype=dtype, device=sample.device)
    if some:
        of_some = _sums_of_sample(*_reduced(sample, target, table, ignore, some))
        sums[:2] = of_some[:2] * _weight(table, some)
        sums[2:].view(3, -1)[:, places] = of_some[2:].view(3, -1)
    return sums


def _write_gradient_of_some(
    out: torch.Tensor,
    sample: torch.Tensor,
    target: torch.Tensor,
    table: torch.Tensor | None,
    ignore: int | None,
    some: Sequence[int],
    of_sums: torch.Tensor,
) -> None:
    """As ``_gradient_of_sample`` where only ``some`` outputs were looked for, into ``out`` ``(outputs, *spatial)``."""
    out.zero_()
    if not some:
        return
    _, places = _classes(sample, table, some)
    of_volumes = of_sums[2:].view(3, -1)[:, places].flatten()
    of_some = torch.cat([of_sums[:2] * _weight(table, some), of_volumes])
    slope = _gradient_of_sample(*_reduced(sample, target, table, ignore, some), of_some)
    if table is None:
        others = _others(sample, some)
        out[others] = F.softmax(_flat(sample[others]), 0).mul_(slope[0]).view(-1, *out.shape[1:]).to(out.dtype)
        slope = slope[1:]
    out[list(some)] = slope.view(-1, *out.shape[1:]).to(out.dtype)


def _reduced(
    sample: torch.Tensor, target: torch.Tensor, table: torch.Tensor | None, ignore: int | None, some: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, int | None]:
    """A sample that is known in part as a smaller one that is known altogether: its logits, target, table and ignore index.

    Of regions it holds those that were looked for. Of labels it holds these, after one that stands for background and all
    others: a softmax over labels of which several are taken as one is that over the logits, with the logarithm of the sum of
    their exponentials in their place.
    """
    if table is not None:
        return sample[list(some)], target, table[list(some)], ignore
    together = _flat(sample[_others(sample, some)]).logsumexp(0, keepdim=True)
    label_of = torch.zeros(len(sample) + 1, dtype=torch.long)  # the last one for the ignore label
    label_of[list(some)] = torch.arange(1, len(some) + 1)
    label_of[-1] = len(some) + 1
    reduced = torch.cat([together, _flat(sample[list(some)])])
    return reduced, label_of.to(target.device)[target.flatten().long()], None, None if ignore is None else len(some) + 1


def _others(sample: torch.Tensor, some: Sequence[int]) -> list[int]:
    return [output for output in range(len(sample)) if output not in some]


def _classes(sample: torch.Tensor, table: torch.Tensor | None, some: Sequence[int]) -> tuple[int, list[int]]:
    """The number of classes, and the places of some outputs among them: background has none."""
    first = 1 if table is None else 0
    return len(sample) - first, [output - first for output in some]


def _weight(table: torch.Tensor | None, some: Sequence[int]) -> float:
    """The weight of a voxel in the cross-entropy: the share of the regions that are known."""
    return 1.0 if table is None else len(some) / len(table)


def _flat(sample: torch.Tensor) -> torch.Tensor:
    """Logits of a sample as ``(outputs, voxels)``, in float32 at least."""
    dtype = torch.promote_types(sample.dtype, torch.float32)
    return sample.flatten(1).to(dtype, memory_format=torch.contiguous_format).contiguous()


def _known_labels(target: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
    """Label indices ``(1, voxels)``, background where nothing is known."""
    return (target if known is None else target.masked_fill(~known, 0))[None]


def _label_sums(
    sample: torch.Tensor, target: torch.Tensor, known: torch.Tensor | None
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Cross-entropy, and overlap, predicted and wanted volumes of the foreground labels."""
    probabilities = F.log_softmax(_flat(sample), 0)
    entropy = probabilities.gather(0, target)
    probabilities.exp_()
    if known is not None:
        entropy.mul_(known)
        probabilities.mul_(known)
    predicted = probabilities[1:].sum(1)
    truth = torch.zeros_like(probabilities).scatter_(0, target, 1.0)
    wanted = truth[1:].sum(1)
    overlap = truth.mul_(probabilities)[1:].sum(1)
    return -entropy.sum(), (overlap, predicted, wanted)


def _label_gradient(
    sample: torch.Tensor,
    target: torch.Tensor,
    of_entropy: torch.Tensor,
    of_overlap: torch.Tensor,
    of_predicted: torch.Tensor,
) -> torch.Tensor:
    """Gradient ``(outputs, voxels)`` from those of the sums.

    With G the gradient of the probabilities p, that of the logits is p (G - sum of p G), and p - truth of cross-entropy.
    """
    of_overlap, of_predicted = F.pad(of_overlap, (1, 0)), F.pad(of_predicted, (1, 0))[:, None]
    slope = F.softmax(_flat(sample), 0)
    at_target = slope.gather(0, target).mul_(of_overlap[target])
    mean = (slope * of_predicted).sum(0, keepdim=True).add_(at_target)
    slope.mul_(of_predicted + of_entropy - mean)
    return slope.scatter_(0, target, slope.gather(0, target).add_(at_target).sub_(of_entropy))


def _region_sums(
    sample: torch.Tensor, truth: torch.Tensor, known: torch.Tensor | None
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Binary cross-entropy, mean over regions, and overlap, predicted and wanted volumes of the regions."""
    x = _flat(sample)
    entropy = F.logsigmoid(torch.where(truth, x, -x))
    if known is not None:
        entropy.mul_(known)
    total = -entropy.sum() / len(x)
    del entropy
    probabilities = x.sigmoid()
    if known is not None:
        probabilities.mul_(known)
    predicted, wanted = probabilities.sum(1), truth.sum(1, dtype=x.dtype)
    return total, (probabilities.mul_(truth).sum(1), predicted, wanted)


def _region_gradient(
    sample: torch.Tensor,
    truth: torch.Tensor,
    of_entropy: torch.Tensor,
    of_overlap: torch.Tensor,
    of_predicted: torch.Tensor,
) -> torch.Tensor:
    """Gradient ``(outputs, voxels)`` from those of the sums."""
    probabilities = _flat(sample).sigmoid()
    slope = torch.addcmul(probabilities, probabilities, probabilities, value=-1)
    slope.mul_((truth * of_overlap[:, None]).add_(of_predicted[:, None]))
    return slope.add_(probabilities.sub_(truth.to(slope.dtype)).mul_(of_entropy / len(slope)))
