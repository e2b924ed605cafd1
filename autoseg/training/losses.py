"""The loss: Dice plus cross-entropy (labels) or Dice plus binary cross-entropy (regions), with deep supervision.

Dice term after Milletari et al. (3DV 2016) in nnU-Net's form: per class, from sums over space, with a small constant so
that an empty class counts as right when nothing is predicted. Voxels with the ignore label count nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F

from autoseg.values import Labels

__all__ = ["DiceCrossEntropy", "Loss", "at_resolution", "deeply_supervised", "supervision_weights"]

SMOOTH, SMALLEST = 1e-5, 1e-8


class Loss(Protocol):
    """The loss plug: made from labels and the batch-Dice switch."""

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar loss of logits ``(batch, outputs, *spatial)`` against target ``(batch, *spatial)`` of label indices."""
        ...


class DiceCrossEntropy:
    """Dice and cross-entropy with weight one each.

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
            self.region_table = torch.zeros(size, self.outputs, dtype=torch.bool)
            for region, indices in enumerate(labels.region_indices):
                self.region_table[list(indices), region] = True

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See ``Loss``."""
        logits = logits.float()
        known = None if self.ignore is None else target != self.ignore
        if self.region_table is None:
            return self._of_labels(logits, target, known)
        return self._of_regions(logits, target, known)

    def _of_labels(self, logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
        log_probabilities = F.log_softmax(logits, 1)
        count = target.numel()
        if known is not None:
            count = int(known.sum())
            target = torch.where(known, target, -100)
        cross_entropy = F.nll_loss(log_probabilities, target, ignore_index=-100, reduction="sum") / max(count, 1)
        probabilities = log_probabilities.exp()
        dice = [
            self._dice(probabilities[:, label], (target == label).to(logits.dtype), known)
            for label in range(1, self.outputs)
        ]
        return cross_entropy - torch.stack(dice).mean()

    def _of_regions(self, logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
        assert self.region_table is not None
        wanted = self.region_table.to(target.device)[target].movedim(-1, 1).to(logits.dtype)
        entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)
        known_entropy = entropy if known is None else entropy * known
        count = entropy.numel() if known is None else known.sum().clamp_min(1)
        cross_entropy = known_entropy.sum() / count
        probabilities = logits.sigmoid()
        dice = [self._dice(probabilities[:, region], wanted[:, region], known) for region in range(self.outputs)]
        return cross_entropy - torch.stack(dice).mean()

    def _dice(self, probability: torch.Tensor, truth: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
        """Mean Dice of one class; ``(batch, *spatial)`` each."""
        if known is not None:
            probability, truth = probability * known, truth * known
        axes = tuple(range(0 if self.batch_dice else 1, truth.ndim))
        both = (probability * truth).sum(axes)
        total = probability.sum(axes) + truth.sum(axes)
        return ((2 * both + SMOOTH) / (total + SMOOTH).clamp_min(SMALLEST)).mean()


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
