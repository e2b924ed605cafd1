"""Soft Dice: how well averaged probabilities go with the label map that is decided from them; needs no reference.

For each label it is twice the sum of its probabilities where it was decided for, over the number of these voxels and the
sum of its probabilities everywhere. If the probabilities were right and voxels independent, that would be about the
expected Dice (Borges, Pacheco and Silva, "Soft Dice Confidence", arXiv:2402.10665, who found it to order cases better than
mean entropies). Probabilities of networks are not right, which is why it is calibrated before it is called a Dice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from autoseg.inference.probabilities import LEVELS, Probabilities, parts_of_box
from autoseg.values import Labels

__all__ = ["SoftDice", "levels_in", "soft_dice_of_levels", "soft_dice_of_logits"]

#: Probabilities that are looked at together, of all outputs: 64 MiB.
VALUES_AT_ONCE = 2**24


class SoftDice:
    """Gathers the sums of one case, part by part.

    Args:
        labels: what the outputs mean.
    """

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        #: Per output: probability within its own label, voxels of that, and probability everywhere.
        self._sums = np.zeros((3, labels.output_count))

    def add(self, probabilities: torch.Tensor) -> None:
        """Adds a part: float32 ``(outputs, voxels)``."""
        if self._labels.has_regions:
            inside = probabilities > 0.5
            within, voxels = (probabilities * inside).sum(1), inside.sum(1)
        else:
            most, decided = probabilities.max(0)
            count = len(probabilities)
            within = torch.bincount(decided, weights=most, minlength=count)
            voxels = torch.bincount(decided, minlength=count)
        for place, found in enumerate((within, voxels, probabilities.sum(1))):
            self._sums[place] += found.double().numpy()

    def values(self) -> dict[str, float | None]:
        """Label to its soft Dice; None of a label that was decided for nowhere."""
        found: dict[str, float | None] = {}
        for name, within, voxels, everywhere in zip(self._labels.output_names, *self._sums, strict=True):
            found[name] = min(1.0, float(2 * within / (voxels + everywhere))) if voxels else None
        return {label.name: found[label.name] for label in self._labels.foreground}


def soft_dice_of_logits(logits: np.ndarray, labels: Labels) -> dict[str, float | None]:
    """Of averaged logits ``(outputs, *spatial)`` on the network's grid, which are read slice by slice."""
    result = SoftDice(labels)
    slices = max(1, VALUES_AT_ONCE // int(np.prod((len(logits), *logits.shape[2:]))))
    for first in range(0, logits.shape[1], slices):
        part = np.ascontiguousarray(logits[:, first : first + slices], np.float32)
        values = torch.from_numpy(part).flatten(1)
        result.add(values.sigmoid() if labels.has_regions else values.softmax(0))
    return result.values()


def soft_dice_of_levels(members: Sequence[Probabilities], labels: Labels) -> dict[str, float | None]:
    """Of kept probabilities of a case, averaged over the members."""
    result = SoftDice(labels)
    for box in parts_of_box(members[0].record.crop_shape, VALUES_AT_ONCE // labels.output_count):
        total = sum(levels_in(each, box) for each in members)
        assert isinstance(total, torch.Tensor)
        result.add(total.div_(LEVELS * len(members)))
    return result.values()


def levels_in(member: Probabilities, box: tuple[slice, slice, slice]) -> torch.Tensor:
    """Levels of all outputs in a part of the case's box, float32 ``(outputs, voxels)``."""
    found = [member.levels(output, box).astype(np.float32).reshape(-1) for output in range(member.outputs)]
    return torch.from_numpy(np.stack(found))
