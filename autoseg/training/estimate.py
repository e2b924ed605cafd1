"""How well a network does while it is trained: Dice on patches of held-out cases, as a rough guide."""

from __future__ import annotations

import torch

from autoseg.values import Labels

__all__ = ["dice_of_counts", "voxel_counts"]


def voxel_counts(logits: torch.Tensor, target: torch.Tensor, labels: Labels) -> torch.Tensor:
    """Voxels ``(3, foreground labels)`` over a batch: in both, predicted, wanted; those to be ignored count nowhere.

    Args:
        logits: ``(batch, outputs, *spatial)``.
        target: label indices ``(batch, *spatial)``.
        labels: what outputs and indices mean.
    """
    known = torch.ones_like(target, dtype=torch.bool) if labels.ignore is None else target != labels.ignore_index
    rows = []
    winner = logits.argmax(1)
    for position, indices in enumerate(labels.region_indices):
        wanted = torch.isin(target, torch.tensor(indices, device=target.device)) & known
        guess = logits[:, position] > 0 if labels.has_regions else winner == indices[0]
        guess = guess & known
        rows.append(torch.stack([(guess & wanted).sum(), guess.sum(), wanted.sum()]))
    return torch.stack(rows, 1).float()


def dice_of_counts(counts: torch.Tensor) -> list[float | None]:
    """Dice of every foreground label from ``voxel_counts``, summed over any number of batches; None where there is none."""
    both, predicted, wanted = counts
    dice = torch.where(predicted + wanted > 0, 2 * both / (predicted + wanted).clamp_min(1), torch.nan)
    return [None if value != value else round(value, 4) for value in dice.tolist()]
