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

    def __call__(
        self, logits: torch.Tensor, target: torch.Tensor, looked_for: torch.Tensor | None = None
    ) -> torch.Tensor:
        if looked_for is None:
            looked_for = torch.ones(len(target), len(self.labels.foreground), dtype=torch.bool)
        known = torch.ones_like(target, dtype=torch.bool)
        if self.labels.ignore is not None:
            known = target != self.labels.ignore_index
        sets = self.labels.region_indices
        if not self.labels.has_regions:
            sets = tuple((label,) for label in range(self.labels.output_count))
        wanted = torch.stack([torch.isin(target, torch.tensor(values)) for values in sets], 1)
        if self.labels.has_regions:
            entropy = self._region_entropy(logits, wanted, known, looked_for)
            probabilities, searched, first = logits.sigmoid(), looked_for, 0
        else:
            searched = torch.zeros(logits.shape[:2], dtype=torch.bool)
            for (output,), column in zip(self.labels.region_indices, looked_for.unbind(1), strict=True):
                searched[:, output] = column
            entropy = self._label_entropy(logits, wanted, known, searched)
            probabilities, first = logits.softmax(1), 1
        return entropy - self._dice((probabilities * known[:, None])[:, first:], wanted[:, first:], searched[:, first:])

    def _region_entropy(
        self, logits: torch.Tensor, wanted: torch.Tensor, known: torch.Tensor, searched: torch.Tensor
    ) -> torch.Tensor:
        about = known[:, None] & _over_space(searched, logits)
        entropy = F.binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype), reduction="none")
        return (entropy * about).sum() / about.sum().clamp_min(1)

    def _label_entropy(
        self, logits: torch.Tensor, wanted: torch.Tensor, known: torch.Tensor, searched: torch.Tensor
    ) -> torch.Tensor:
        """Minus the logarithm of the probability that a voxel has one of the labels that it may have."""
        searched = _over_space(searched, logits).expand_as(wanted)
        sure = (wanted & (searched | searched.sum(1, keepdim=True).eq(logits.shape[1] - 1))).any(1, keepdim=True)
        possible = torch.where(sure, wanted, ~searched)
        about = known & ~possible.all(1)
        logarithm = F.log_softmax(logits, 1).masked_fill(~possible, -torch.inf).logsumexp(1)
        return -(logarithm.masked_fill(~about, 0)).sum() / about.sum().clamp_min(1)

    def _dice(self, probability: torch.Tensor, truth: torch.Tensor, searched: torch.Tensor) -> torch.Tensor:
        """Over pairs of sample and class, or with ``batch_dice`` over classes."""
        probability = probability * _over_space(searched, probability)
        truth = truth * _over_space(searched, probability)
        if self.batch_dice:
            probability, truth, searched = (
                probability.transpose(0, 1)[None].flatten(2, 3),
                truth.transpose(0, 1)[None].flatten(2, 3),
                searched.any(0)[None],
            )
        overlap, total = (each.flatten(2).sum(2) for each in (probability * truth, probability + truth))
        dice = (2 * overlap + SMOOTH) / (total + SMOOTH).clamp_min(SMALLEST)
        return dice[searched].sum() / searched.sum().clamp_min(1)


def _over_space(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return rows.reshape(*rows.shape, *(1,) * (like.ndim - 2))
