"""The loss: Dice plus cross-entropy (labels) or Dice plus binary cross-entropy (regions), with deep supervision.

Dice term after Milletari et al. (3DV 2016) in nnU-Net's form: per class, from sums over space, with a small constant so
that an empty class counts as right when nothing is predicted. Voxels with the ignore label count nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from autoseg.values import Labels

__all__ = ["AdditiveLoss", "DiceCrossEntropy", "Loss", "at_resolution", "deeply_supervised", "supervision_weights"]

SMOOTH, SMALLEST = 1e-5, 1e-8


class Loss(Protocol):
    """The loss plug: made from labels and the batch-Dice switch."""

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar loss of logits ``(batch, outputs, *spatial)`` against target ``(batch, *spatial)`` of label indices."""
        ...


@runtime_checkable
class AdditiveLoss(Loss, Protocol):
    """A loss that a batch can be split for: a function of sums that add up over the parts of the batch."""

    @property
    def couples_samples(self) -> bool:
        """Whether the gradient of a sample depends on the others; else the loss is the mean over the samples."""
        ...

    def sums(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Sums of a batch, one axis; those of its parts add up to them."""
        ...

    def value(self, sums: torch.Tensor) -> torch.Tensor:
        """Scalar loss of a batch from its sums."""
        ...


class DiceCrossEntropy:
    """Dice and cross-entropy with weight one each.

    Sums over space are taken sample by sample, and the backward pass computes anew what it needs, so that memory is:

    - kept from forward to backward: the logits as they came and the target, nothing else of the batch's size;
    - at work, either way, per voxel of *one* sample: for labels 8 bytes per output (two float32 arrays) and about 10
      (with an ignore label 20); for regions 12 to 13 per output (three float32 arrays and a bool one);
    - made by the backward pass: the gradient, of the logits' size and type.

    Args:
        labels: decides between softmax over labels and sigmoid over regions, and names the ignore index.
        batch_dice: sums over the whole batch before the ratio, instead of per sample.
    """

    def __init__(self, labels: Labels, *, batch_dice: bool) -> None:
        self.batch_dice, self.ignore = batch_dice, labels.ignore_index
        self.outputs = labels.output_count
        self.region_table: torch.Tensor | None = None
        if labels.has_regions:
            size = len(labels.integers) + (labels.ignore is not None)
            self.region_table = torch.zeros(self.outputs, size, dtype=torch.bool)
            for region, indices in enumerate(labels.region_indices):
                self.region_table[region, list(indices)] = True

    @property
    def couples_samples(self) -> bool:
        """With Dice over the batch, or where the count of known voxels differs between samples."""
        return self.batch_dice or self.ignore is not None

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See ``Loss``."""
        return self.value(self.sums(logits, target))

    def sums(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """What the loss is made of, additive over the parts of a batch; float32 (float64 for logits in float64).

        Args:
            logits: ``(batch, outputs, *spatial)``.
            target: label indices ``(batch, *spatial)``.

        Returns:
            Cross-entropy and count over known voxels, then: Dice over the batch: overlap, predicted and wanted volume
            of every class, ``(2 + 3 * classes)`` together; Dice per sample: their Dice and their number, ``(4)``.
        """
        table = None if self.region_table is None else self.region_table.to(logits.device)
        samples: torch.Tensor = _SampleSums.apply(logits, target, table, self.ignore)
        if self.batch_dice:
            return samples.sum(0)
        dice = _dice(samples[:, 2:]).mean(1)
        return torch.stack([*samples[:, :2].sum(0), dice.sum(), torch.ones_like(dice).sum()])

    def value(self, sums: torch.Tensor) -> torch.Tensor:
        """The loss of a batch, a scalar, from its sums."""
        entropy, known, *_ = sums
        dice = _dice(sums[2:]).mean() if self.batch_dice else sums[2] / sums[3]
        return entropy / known.clamp_min(1) - dice


def _dice(volumes: torch.Tensor) -> torch.Tensor:
    """Dice ``(..., classes)`` from ``(..., 3 * classes)``: overlap, predicted and wanted volumes."""
    overlap, predicted, wanted = volumes.unflatten(-1, (3, -1)).unbind(-2)
    return (2 * overlap + SMOOTH) / (predicted + wanted + SMOOTH).clamp_min(SMALLEST)


class _SampleSums(torch.autograd.Function):
    """Sums ``(batch, 2 + 3 * classes)`` per sample: cross-entropy, known voxels, overlap, predicted, wanted per class.

    Background has no class among labels. Automatic differentiation would keep several float32 arrays in the size of the
    batch; here the gradient is written out, and each sample is done before the next begins.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, target: torch.Tensor, table: torch.Tensor | None, ignore: int | None
    ) -> torch.Tensor:
        ctx.save_for_backward(logits, target, table)
        ctx.ignore = ignore
        return torch.stack(
            [_sums_of_sample(sample, wanted, table, ignore) for sample, wanted in zip(logits, target, strict=True)]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits, target, table = ctx.saved_tensors
        result = torch.empty_like(logits)
        for sample, wanted, row, out in zip(logits, target, gradient, result, strict=True):
            out.copy_(_gradient_of_sample(sample, wanted, table, ctx.ignore, row).view(out.shape))
        return result, None, None, None


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


def supervision_weights(outputs: int) -> list[float]:
    """Weights of the outputs, highest resolution first: halved with every step down, together one.

    The lowest head of a network is never computed, so ``outputs`` counts only those that are; a single one has weight 1.
    """
    weights = [2.0**-step for step in range(outputs)]
    return [weight / sum(weights) for weight in weights]


def at_resolution(target: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Label indices ``(batch, *spatial)`` on a coarser grid, by the nearest voxel."""
    for axis, size in enumerate(shape, start=1):
        old = target.shape[axis]
        if size != old:
            nearest = torch.floor((torch.arange(size, device=target.device) + 0.5) * (old / size)).long()
            target = target.index_select(axis, nearest)
    return target


def deeply_supervised(loss: Loss, outputs: Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    """Weighted sum of the loss over the resolutions of the decoder."""
    weights = supervision_weights(len(outputs))
    terms = [
        weight * loss(logits, at_resolution(target, logits.shape[2:]))
        for weight, logits in zip(weights, outputs, strict=True)
    ]
    return torch.stack(terms).sum()
