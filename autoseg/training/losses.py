"""The loss: Dice plus cross-entropy (labels) or Dice plus binary cross-entropy (regions), with deep supervision.

Dice term after Milletari et al. (3DV 2016) in nnU-Net's form: per class, from sums over space, with a small constant so
that an empty class counts as right when nothing is predicted. Voxels with the ignore label count nowhere.

Where some labels were not looked for in a sample, only what is known of it counts (see ``DiceCrossEntropy``).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from autoseg.training.sample_sums import SampleSums
from autoseg.values import Labels

__all__ = [
    "AdditiveLoss",
    "DiceCrossEntropy",
    "Loss",
    "PartialLoss",
    "at_resolution",
    "deeply_supervised",
    "supervision_weights",
    "takes_looked_for",
]

SMOOTH, SMALLEST = 1e-5, 1e-8


class Loss(Protocol):
    """The loss plug: made from labels and the batch-Dice switch. One that names a third argument is a ``PartialLoss``."""

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar loss of logits ``(batch, outputs, *spatial)`` against target ``(batch, *spatial)`` of label indices."""
        ...


class PartialLoss(Protocol):
    """A loss that can learn from samples in which some labels were not looked for."""

    def __call__(
        self, logits: torch.Tensor, target: torch.Tensor, looked_for: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As ``Loss``; ``looked_for`` ``(batch, foreground labels)``, bool, on the CPU: None for all labels everywhere."""
        ...


def takes_looked_for(loss: Loss | PartialLoss) -> bool:
    """Whether a loss can be told which labels were looked for: it, or the module's ``forward``, names ``looked_for``."""
    return "looked_for" in inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters


@runtime_checkable
class AdditiveLoss(Loss, Protocol):
    """A loss that a batch can be split for: a function of sums that add up over the parts of the batch.

    One that is a ``PartialLoss``, too, has ``sums`` that take ``looked_for`` as well; where that is given, samples count as
    coupled.
    """

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

    Of a sample in which some labels were not looked for, this is known, and nothing else counts:

    - labels: a voxel with a label that was looked for has it; any other voxel is background *or* one of those that were not
      looked for. So their probabilities are summed (marginal cross-entropy; Fang and Yan, IEEE TMI 2020; Shi et al., Medical
      Image Analysis 2021). A sample in which nothing was looked for says nothing.
    - regions: the outputs of the regions that were looked for. Voxels of an unknown region that must be inside, because a
      smaller region of theirs was looked for, are not used: without any that are outside, they would only teach to say yes.

    Cross-entropy is the mean over the voxels (regions: voxels times regions) of which anything is known; Dice that over
    the pairs of sample and class that was looked for, with ``batch_dice`` over the classes that any sample was searched for.

    Sums over space are taken sample by sample, and the backward pass computes anew what it needs, so that memory is:

    - kept from forward to backward: the logits as they came and the target, nothing else of the batch's size;
    - at work, either way, per voxel of *one* sample: for labels 8 bytes per output (two float32 arrays) and about 10
      (with an ignore label 20; where labels were not looked for, half as much again); for regions 12 to 13 per output
      (three float32 arrays and a bool one);
    - made by the backward pass: the gradient, of the logits' size and type.

    Args:
        labels: decides between softmax over labels and sigmoid over regions, and names the ignore index.
        batch_dice: sums over the whole batch before the ratio, instead of per sample.
    """

    def __init__(self, labels: Labels, *, batch_dice: bool) -> None:
        self.batch_dice, self.ignore = batch_dice, labels.ignore_index
        self.outputs = labels.output_count
        #: Output of every foreground label or region, as ``looked_for`` orders them.
        self.output_of = list(range(self.outputs))
        self.region_table: torch.Tensor | None = None
        if labels.has_regions:
            size = len(labels.integers) + (labels.ignore is not None)
            self.region_table = torch.zeros(self.outputs, size, dtype=torch.bool)
            for region, indices in enumerate(labels.region_indices):
                self.region_table[region, list(indices)] = True
        else:
            self.output_of = [index for (index,) in labels.region_indices]

    @property
    def couples_samples(self) -> bool:
        """With Dice over the batch, or where the count of known voxels differs between samples."""
        return self.batch_dice or self.ignore is not None

    def __call__(
        self, logits: torch.Tensor, target: torch.Tensor, looked_for: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See ``PartialLoss``."""
        return self.value(self.sums(logits, target, looked_for))

    def sums(self, logits: torch.Tensor, target: torch.Tensor, looked_for: torch.Tensor | None = None) -> torch.Tensor:
        """What the loss is made of, additive over the parts of a batch; float32 (float64 for logits in float64).

        Args:
            logits: ``(batch, outputs, *spatial)``.
            target: label indices ``(batch, *spatial)``.
            looked_for: ``(batch, foreground labels)``, bool; None for all.

        Returns:
            Cross-entropy and count over known voxels, then: Dice over the batch: overlap, predicted and wanted volume
            of every class and the samples that were searched for it, ``(2 + 4 * classes)`` together; Dice per sample:
            that of its classes, and how many were looked for, both as shares of all classes, ``(4)``.
        """
        table = None if self.region_table is None else self.region_table.to(logits.device)
        outputs = self._outputs_looked_for(logits, looked_for)
        samples: torch.Tensor = SampleSums.apply(logits, target, table, self.ignore, outputs)
        first = 1 if table is None else 0  # background has no class
        known = samples.new_ones(len(samples), self.outputs - first)
        for row, some in zip(known, outputs, strict=True):
            if some is not None:
                row.zero_()[[output - first for output in some]] = 1
        if self.batch_dice:
            return torch.cat([samples.sum(0), known.sum(0)])
        dice = _dice(samples[:, 2:]).mul(known).mean(1)
        return torch.stack([*samples[:, :2].sum(0), dice.sum(), known.mean(1).sum()])

    def _outputs_looked_for(self, logits: torch.Tensor, looked_for: torch.Tensor | None) -> list[list[int] | None]:
        """For every sample the outputs that were looked for, background not among them; None for all."""
        if looked_for is None:
            return [None] * len(logits)
        return [
            None if all(row) else sorted(output for output, known in zip(self.output_of, row, strict=True) if known)
            for row in looked_for.tolist()
        ]

    def value(self, sums: torch.Tensor) -> torch.Tensor:
        """The loss of a batch, a scalar, from its sums."""
        entropy, voxels, *_ = sums
        if self.batch_dice:
            classes = len(sums[2:]) // 4
            known = sums[-classes:] > 0
            dice = (_dice(sums[2:-classes]) * known).sum() / known.sum().clamp_min(1)
        else:
            dice = sums[2] / sums[3].clamp_min(SMALLEST)
        return entropy / voxels.clamp_min(1 / self.outputs) - dice


def _dice(volumes: torch.Tensor) -> torch.Tensor:
    """Dice ``(..., classes)`` from ``(..., 3 * classes)``: overlap, predicted and wanted volumes."""
    overlap, predicted, wanted = volumes.unflatten(-1, (3, -1)).unbind(-2)
    return (2 * overlap + SMOOTH) / (predicted + wanted + SMOOTH).clamp_min(SMALLEST)


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
