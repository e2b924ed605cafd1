"""How well a network does while it is trained: Dice on patches of held-out cases, as a rough guide."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from autoseg.networks.build import build_network
from autoseg.networks.execution import autocast, place
from autoseg.networks.weights import load_weights
from autoseg.training.accumulation import parts_of
from autoseg.training.batches import PatchLoader
from autoseg.training.step import TrainingStep
from autoseg.training.step import looked_for as looked_for_in
from autoseg.values import Labels

__all__ = ["dice_of_counts", "patch_counts", "voxel_counts"]


@torch.no_grad()
def patch_counts(
    step: TrainingStep, weights: Mapping[str, torch.Tensor], loader: PatchLoader, batches: int, labels: Labels
) -> torch.Tensor:
    """``voxel_counts`` of a network with these weights, over the first batches of a loader.

    Args:
        step: whose network this is, where and how it runs.
        weights: of the network.
        loader: of patches of held-out cases.
        batches: to count in.
        labels: of the plan.
    """
    execution, configuration = step.execution, step.configuration
    network = build_network(configuration.network, seed=0)
    load_weights(network, weights, source=step.folder.path)
    network = place(network, execution, configuration.dimensions).eval()
    network.deep_supervision = False  # type: ignore[assignment]
    counts = torch.zeros(3, len(labels.foreground))
    for index in range(batches):
        batch = loader.batch(index)
        for part in parts_of(len(batch["data"]), execution.parts):
            image, target = step.to_device(batch, part)
            with autocast(execution):
                logits = network(image)[0]
            counts += voxel_counts(logits, target, labels, looked_for_in(batch, part)).cpu()
    return counts


def voxel_counts(
    logits: torch.Tensor, target: torch.Tensor, labels: Labels, looked_for: torch.Tensor | None = None
) -> torch.Tensor:
    """Voxels ``(3, foreground labels)`` over a batch: in both, predicted, wanted; those to be ignored count nowhere.

    Nor do those of samples in which the label was not looked for.

    Args:
        logits: ``(batch, outputs, *spatial)``.
        target: label indices ``(batch, *spatial)``.
        labels: what outputs and indices mean.
        looked_for: ``(batch, foreground labels)``, bool; None for all.
    """
    if looked_for is None:
        looked_for = torch.ones(len(target), len(labels.foreground), dtype=torch.bool)
    looked_for = looked_for.to(target.device).view(*looked_for.shape, *(1,) * (target.ndim - 1))
    known = torch.ones_like(target, dtype=torch.bool) if labels.ignore is None else target != labels.ignore_index
    rows = []
    winner = logits.argmax(1)
    for position, indices in enumerate(labels.region_indices):
        counted = known & looked_for[:, position]
        wanted = torch.isin(target, torch.tensor(indices, device=target.device)) & counted
        guess = logits[:, position] > 0 if labels.has_regions else winner == indices[0]
        guess = guess & counted
        rows.append(torch.stack([(guess & wanted).sum(), guess.sum(), wanted.sum()]))
    return torch.stack(rows, 1).float()


def dice_of_counts(counts: torch.Tensor) -> list[float | None]:
    """Dice of every foreground label from ``voxel_counts``, summed over any number of batches; None where there is none."""
    both, predicted, wanted = counts
    dice = torch.where(predicted + wanted > 0, 2 * both / (predicted + wanted).clamp_min(1), torch.nan)
    return [None if value != value else round(value, 4) for value in dice.tolist()]
