"""Dice and cross-entropy written plainly, with automatic differentiation: what the lean implementation must equal."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from autoseg.training.losses import SMALLEST, SMOOTH
from autoseg.values import Labels


class PlainDiceCrossEntropy:
    """As ``DiceCrossEntropy``, with every intermediate array of the whole batch in memory, in the logits' own dtype."""

    def __init__(self, labels: Labels, *, batch_dice: bool) -> None:
        self.labels, self.batch_dice = labels, batch_dice

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        known = torch.ones_like(target, dtype=torch.bool)
        if self.labels.ignore is not None:
            known = target != self.labels.ignore_index
        sets = self.labels.region_indices
        if not self.labels.has_regions:
            sets = tuple((label,) for label in range(self.labels.output_count))
        wanted = torch.stack([torch.isin(target, torch.tensor(values)) for values in sets], 1).to(logits.dtype)
        if self.labels.has_regions:
            entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)
            probabilities, first = logits.sigmoid(), 0
        else:
            entropy = -(F.log_softmax(logits, 1) * wanted).sum(1)
            probabilities, first = logits.softmax(1), 1
        dice = [
            self._dice(probabilities[:, output] * known, wanted[:, output] * known)
            for output in range(first, wanted.shape[1])
        ]
        return (entropy * known).sum() / known.sum().clamp_min(1) - torch.stack(dice).mean()

    def _dice(self, probability: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        axes = tuple(range(0 if self.batch_dice else 1, truth.ndim))
        total = probability.sum(axes) + truth.sum(axes)
        return ((2 * (probability * truth).sum(axes) + SMOOTH) / (total + SMOOTH).clamp_min(SMALLEST)).mean()
