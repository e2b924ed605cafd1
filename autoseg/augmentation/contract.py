"""The contract of transforms and recipes, and the bridge to batchgenerators in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from batchgenerators.transforms.abstract_transforms import AbstractTransform

from autoseg.augmentation.streams import global_state
from autoseg.values import AugmentationSpec

__all__ = [
    "AsBatchgenerators",
    "FromBatchgenerators",
    "Parameters",
    "Recipe",
    "RecipeFactory",
    "SpatialSampling",
    "Transform",
    "labels_exchanged",
]

#: What was drawn for a sample, in JSON's types; None: the transform does nothing to it.
Parameters = Mapping[str, Any] | None
Tensors = tuple[torch.Tensor, torch.Tensor]


class Transform(Protocol):
    """Changes patches. All chance lies in ``draw``; ``apply`` with the same parameters gives the same result.

    What it does to a sample depends on that sample and its parameters alone, not on the others of the batch, and it works on
    whatever device the patches are on. It changes nothing in place. One that exchanges labels says which, by a method
    ``labels_exchanged`` as the function of that name calls it.
    """

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Parameters:
        """Decides whether and how to act on an image of shape ``(channels, *spatial)``; a field of noise is a seed."""
        ...

    def apply(self, images: torch.Tensor, labels: torch.Tensor, parameters: Sequence[Parameters]) -> Tensors:
        """Images ``(batch, channels, *spatial)`` float32 and labels ``(batch, *spatial)`` integers of the same shapes.

        Args:
            images: of those shapes and numbers.
            labels: of those shapes and numbers; -1 is outside.
            parameters: one for each sample; samples with None stay as they are.
        """
        ...


def labels_exchanged(transform: Transform, drawn: Parameters) -> Sequence[tuple[int, int]]:
    """Pairs of labels that change places in a sample for which this was drawn; none where a transform tells of none.

    Of a case that is annotated for some labels only, others are known then.

    Args:
        transform: may have a method ``labels_exchanged(drawn)`` that gives pairs of labels, as the segmentation holds them.
        drawn: for the sample.
    """
    told = getattr(transform, "labels_exchanged", None)
    return () if told is None or drawn is None else tuple(told(drawn))


class SpatialSampling(Protocol):
    """Decides from where in the case a patch is sampled."""

    def draw(self, random: np.random.Generator, patch_size: Sequence[int]) -> np.ndarray | None:
        """A matrix that maps offsets from the patch's centre to offsets in the case, in voxels; None: a plain crop."""
        ...


@dataclass(frozen=True)
class Recipe:
    """What happens to every training patch: sampling, then transforms in order.

    Attributes:
        spatial: where a patch is sampled from; None: a plain crop.
        transforms: of what was sampled.
        label_channels: how many channels at the end of the image are those of labels, from label 1 on, as an earlier stage
            predicted them; a patch that is turned gets the labels there, not numbers in between.
    """

    spatial: SpatialSampling | None = None
    transforms: Sequence[Transform | AbstractTransform] = field(default_factory=tuple)
    label_channels: int = 0

    def steps(self) -> tuple[Transform, ...]:
        """The transforms; those of batchgenerators wrapped."""
        return tuple(
            FromBatchgenerators(step) if isinstance(step, AbstractTransform) else step for step in self.transforms
        )


class RecipeFactory(Protocol):
    """The recipe plug."""

    def __call__(self, spec: AugmentationSpec) -> Recipe:
        """The recipe for patches as the plan describes them."""
        ...


class FromBatchgenerators:
    """A batchgenerators transform in our pipeline: it draws from global state, which is seeded for it and restored."""

    def __init__(self, transform: AbstractTransform) -> None:
        self.transform = transform

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Parameters:
        """The seed under which it will run."""
        return {"seed": int(random.integers(2**62))}

    def apply(self, images: torch.Tensor, labels: torch.Tensor, parameters: Sequence[Parameters]) -> Tensors:
        """Runs it on one sample after the other, on the CPU."""
        images, labels = images.clone(), labels.clone()
        for sample, drawn in enumerate(parameters):
            if drawn is None:
                continue
            image, segmentation = images[sample].cpu().numpy(), labels[sample].cpu().numpy()
            batch = {"data": image[None].copy(), "seg": segmentation[None, None].astype(np.float32)}
            with global_state(np.random.default_rng(drawn["seed"])):
                result = self.transform(**batch)
            images[sample] = torch.from_numpy(np.ascontiguousarray(result["data"][0], np.float32))
            labels[sample] = torch.from_numpy(np.rint(result["seg"][0, 0]).astype(segmentation.dtype))
        return images, labels


class AsBatchgenerators(AbstractTransform):
    """One of our transforms in a batchgenerators pipeline; it draws from NumPy's global state, as is the rule there."""

    def __init__(self, transform: Transform, data_key: str = "data", label_key: str = "seg") -> None:
        self.transform, self.data_key, self.label_key = transform, data_key, label_key

    def __call__(self, **batch: Any) -> dict[str, Any]:
        """Transforms every sample of the batch: images ``(batch, channels, *spatial)``, labels ``(batch, 1, *spatial)``.

        Raises:
            ValueError: there are other labels than one map for each image.
        """
        data, segmentation = batch[self.data_key], batch[self.label_key]
        if segmentation.shape != (len(data), 1, *data.shape[2:]):
            expected = (len(data), 1, *data.shape[2:])
            raise ValueError(f"{self.label_key} has the shape {segmentation.shape} instead of {expected}")
        random = [np.random.default_rng(np.random.randint(2**31)) for _ in data]
        images, labels = self.transform.apply(
            torch.from_numpy(np.ascontiguousarray(data, np.float32)),
            torch.from_numpy(np.rint(segmentation[:, 0]).astype(np.int32)),  # 0.9999 of an interpolation is 1
            [self.transform.draw(generator, data.shape[1:]) for generator in random],
        )
        changed = labels.numpy()[:, None].astype(segmentation.dtype)
        return {**batch, self.data_key: images.numpy(), self.label_key: changed}
