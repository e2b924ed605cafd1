"""Changes of what an earlier stage predicted, so that the next one does not take it for the truth.

The prediction stands in the last channels of the image, one for each label, as zeros and ones. The work on its shapes is
SciPy's, on the CPU, wherever the images are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from autoseg.augmentation.contract import Parameters, Transform, labels_exchanged

__all__ = ["OnlyImages", "RandomMorphology", "RemoveComponent"]

Tensors = tuple[torch.Tensor, torch.Tensor]
Drawn = Mapping[str, Any]


class OnlyImages:
    """Another transform, which does not get to see the last channels.

    Args:
        transform: of intensities.
        others: how many channels at the end are no images.
    """

    def __init__(self, transform: Transform, others: int) -> None:
        self.transform, self.others = transform, others

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Parameters:
        """What the transform draws for the channels before."""
        return self.transform.draw(random, (shape[0] - self.others, *shape[1:]))

    def apply(self, images: torch.Tensor, labels: torch.Tensor, parameters: Sequence[Parameters]) -> Tensors:
        """Changes the channels before."""
        first, rest = images[:, : -self.others], images[:, -self.others :]
        changed, labels = self.transform.apply(first.contiguous(), labels, parameters)
        return torch.cat([changed, rest], 1), labels

    def labels_exchanged(self, drawn: Drawn) -> Sequence[tuple[int, int]]:
        """Those of the transform."""
        return labels_exchanged(self.transform, drawn)


class RandomMorphology:
    """Grows, shrinks, closes or opens some channels by a ball; a voxel that one gains is taken from the others.

    Args:
        channels: indices of the channels of zeros and ones, from the end if negative.
        probability: of acting.
        channel_probability: of each channel then.
        radius: range of the ball's radius, in voxels.
    """

    def __init__(
        self,
        channels: Sequence[int],
        probability: float = 0.4,
        channel_probability: float = 0.5,
        radius: tuple[float, float] = (1.0, 8.0),
    ) -> None:
        self.channels, self.probability = tuple(channels), probability
        self.channel_probability, self.radius = channel_probability, radius

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Drawn | None:
        """What happens to which channel, one after the other in random order."""
        if random.random() >= self.probability:
            return None
        changes = [
            {
                "channel": self.channels[position],
                "operation": list(OPERATIONS)[int(random.integers(len(OPERATIONS)))],
                "radius": random.uniform(*self.radius),
            }
            for position in random.permutation(len(self.channels)).tolist()
            if random.random() < self.channel_probability
        ]
        return {"changes": changes} if changes else None

    def apply(self, images: torch.Tensor, labels: torch.Tensor, parameters: Sequence[Drawn | None]) -> Tensors:
        """Changes one channel after the other."""
        result = images.clone()
        for sample, drawn in enumerate(parameters):
            for change in drawn["changes"] if drawn is not None else ():
                before = (result[sample, change["channel"]] > 0.5).cpu().numpy()
                after = OPERATIONS[change["operation"]](before, change["radius"])
                gained = torch.from_numpy(after & ~before).to(images.device)
                for channel in self.channels:
                    result[sample, channel].masked_fill_(gained, 0)
                result[sample, change["channel"]] = torch.from_numpy(after).to(images)
        return result, labels


def dilated(mask: np.ndarray, radius: float) -> np.ndarray:
    """The voxels whose centre lies within a radius (in voxels) of one of the mask's; beyond the array there are none."""
    return ndimage.distance_transform_edt(~mask) <= radius if mask.any() else mask


def eroded(mask: np.ndarray, radius: float) -> np.ndarray:
    """The voxels of the mask that no voxel of its surroundings is near; beyond the array, the mask goes on."""
    return ~dilated(~mask, radius)


OPERATIONS: Mapping[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "dilate": dilated,
    "erode": eroded,
    "close": lambda mask, radius: eroded(dilated(mask, radius), radius),
    "open": lambda mask, radius: dilated(eroded(mask, radius), radius),
}


class RemoveComponent:
    """Removes one of the small connected components from some channels.

    Args:
        channels: indices of the channels of zeros and ones, from the end if negative.
        probability: of acting.
        channel_probability: of each channel then.
        largest_share: components of this share of the patch or more stay.
    """

    def __init__(
        self,
        channels: Sequence[int],
        probability: float = 0.2,
        channel_probability: float = 0.5,
        largest_share: float = 0.15,
    ) -> None:
        self.channels, self.probability = tuple(channels), probability
        self.channel_probability, self.largest_share = channel_probability, largest_share

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Drawn | None:
        """From which channels, and for each a number between 0 and 1 that chooses among what will be there."""
        if random.random() >= self.probability:
            return None
        removals = [
            {"channel": channel, "choice": random.random()}
            for channel in self.channels
            if random.random() < self.channel_probability
        ]
        return {"removals": removals} if removals else None

    def apply(self, images: torch.Tensor, labels: torch.Tensor, parameters: Sequence[Drawn | None]) -> Tensors:
        """Removes them; voxels that touch by a corner belong together."""
        result = images.clone()
        for sample, drawn in enumerate(parameters):
            for removal in drawn["removals"] if drawn is not None else ():
                channel = result[sample, removal["channel"]]
                mask = (channel > 0.5).cpu().numpy()
                components, _ = ndimage.label(mask, np.ones((3,) * mask.ndim))
                sizes = np.bincount(components.ravel())
                small = [one for one in range(1, len(sizes)) if sizes[one] < self.largest_share * mask.size]
                if small:
                    gone = components == small[int(removal["choice"] * len(small))]
                    channel.masked_fill_(torch.from_numpy(gone).to(images.device), 0)
        return result, labels
