"""How far the networks that are averaged disagree, gathered tile by tile while they predict: no network's answer is kept.

Per label, it is the Dice of the networks' own answers with each other, over all pairs (after Roy, Conjeti, Navab and
Wachinger, "Bayesian QuickNAT", NeuroImage 195, 2019, who took samples of one network). With ``c`` networks of ``n`` that
give a voxel the label, that is the sum of ``c (c - 1)`` over the sum of ``c (n - 1)``: one sum replaces all pairs.

Per voxel, it is the mutual information between answer and network: the entropy of the mean probabilities less the mean of
the entropies (Depeweg et al., "Decomposition of uncertainty in Bayesian deep learning", ICML 2018; of ensembles:
Lakshminarayanan, Pritzel and Blundell, NeurIPS 2017). It is 0 where the networks agree, however unsure each is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autoseg.values import Labels

__all__ = ["Disagreement", "TileDisagreement", "information_of", "mutual_information"]


@dataclass(frozen=True)
class TileDisagreement:
    """Of a batch of tiles.

    Attributes:
        votes: float64 ``(batch, outputs, 2)``: the sums over voxels of ``c (c - 1)`` and of ``c``, weighed.
        information: float32 ``(batch, *patch)`` in nats, if it was asked for.
    """

    votes: np.ndarray
    information: np.ndarray | None


class Disagreement:
    """What the networks of one predictor disagree about in one image.

    Args:
        labels: what the outputs mean.
        with_map: gather the mutual information of every voxel, too: four bytes for each.

    Attributes:
        networks: that were averaged; 0 before anything was predicted.
        information: float32 ``(*spatial)`` in nats on the network's grid, once all tiles are predicted, if there are several
            networks and a map is wanted.
    """

    def __init__(self, labels: Labels, *, with_map: bool = False) -> None:
        self._labels, self._with_map = labels, with_map
        self.networks = 0
        self.information: np.ndarray | None = None
        self._votes = np.zeros((labels.output_count, 2))

    def look(self, outputs: Sequence[torch.Tensor], weights: np.ndarray) -> TileDisagreement | None:
        """What the networks' logits of the same tiles tell; nothing of one network alone.

        Args:
            outputs: of each network ``(batch, outputs, *patch)``, three or two axes, on their device.
            weights: how much each voxel counts, ``(*patch)`` with three axes.
        """
        self.networks = len(outputs)
        if len(outputs) < 2:
            return None
        first = outputs[0]
        weight = torch.tensor(weights, device=first.device).reshape(-1)
        information = None
        if self._with_map:
            found = mutual_information(outputs, regions=self._labels.has_regions).cpu().numpy()
            information = found.reshape(len(first), *weights.shape)
        return TileDisagreement(self._votes_of(outputs, weight), information)

    def _votes_of(self, outputs: Sequence[torch.Tensor], weight: torch.Tensor) -> np.ndarray:
        regions = self._labels.has_regions
        answers = [each.flatten(2) > 0 if regions else each.flatten(2).argmax(1) for each in outputs]
        found = []
        for output in range(outputs[0].shape[1]):
            votes = sum((each[:, output] if regions else each == output).to(torch.uint8) for each in answers)
            assert isinstance(votes, torch.Tensor)
            count = votes.to(torch.float32)
            found.append(torch.stack([(count * (count - 1)) @ weight, count @ weight], 1))
        return torch.stack(found, 1).double().cpu().numpy()

    def begin(self, shape: Sequence[int]) -> None:
        """Makes room for an image ``(*spatial)`` as it is cut into tiles, before the first of them."""
        self._votes[:] = 0
        self.information = np.zeros(shape, np.float32) if self._with_map else None

    def add(self, tile: int, box: tuple[slice, ...], found: TileDisagreement, weights: np.ndarray) -> None:
        """Adds one tile of a batch, which lies at ``box``."""
        self._votes += found.votes[tile]
        if self.information is not None and found.information is not None:
            self.information[box] += found.information[tile] * weights

    def end(self, counts: np.ndarray, inner: tuple[slice, ...]) -> None:
        """Divides by the weights of all tiles and takes off what the image was padded with."""
        if self.information is not None:
            self.information /= counts
            self.information = self.information[inner] if self.networks > 1 else None

    def agreement(self) -> dict[str, float | None]:
        """Label to the Dice of the networks with each other; None of one network, or where none finds the label."""
        found: dict[str, float | None] = {}
        for name, (both, any_) in zip(self._labels.output_names, self._votes, strict=True):
            known = self.networks > 1 and any_ > 0
            found[name] = min(1.0, float(both / (any_ * (self.networks - 1)))) if known else None
        return {label.name: found[label.name] for label in self._labels.foreground}


def mutual_information(outputs: Sequence[torch.Tensor], *, regions: bool) -> torch.Tensor:
    """As ``information_of``, of the logits of each network ``(batch, outputs, *patch)``."""
    return information_of((each.sigmoid() if regions else each.softmax(1) for each in outputs), regions=regions)


def information_of(probabilities: Iterable[torch.Tensor], *, regions: bool) -> torch.Tensor:
    """Mutual information in nats between the answer and which network gives it, ``(batch, *patch)``.

    Args:
        probabilities: of each network ``(batch, outputs, *patch)``, each needed once.
        regions: outputs are independent of each other; that of the region which is disputed most counts.
    """
    count, total, entropies = 0, torch.zeros(()), torch.zeros(())
    for each in probabilities:
        entropy = _entropy(each, regions)
        total, entropies = (total.add_(each), entropies.add_(entropy)) if count else (each.clone(), entropy)
        count += 1
    found = _entropy(total.div_(count), regions) - entropies.div_(count)
    return (found.amax(1) if regions else found).clamp_(0, math.log(count))


def _entropy(probability: torch.Tensor, regions: bool) -> torch.Tensor:
    """In nats: of the answer ``(batch, *patch)``, or of each region ``(batch, outputs, *patch)``."""
    if regions:
        return torch.special.entr(probability) + torch.special.entr(1 - probability)
    return torch.special.entr(probability).sum(1)
