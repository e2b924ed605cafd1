"""The contract of transforms and recipes, and the bridge to batchgenerators in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
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
]

#: What was drawn, in JSON's types; None: the transform does nothing this time.
Parameters = Mapping[str, Any] | None
Arrays = tuple[np.ndarray, np.ndarray]


class Transform(Protocol):
    """Changes a patch. All chance lies in ``draw``; ``apply`` with the same parameters gives the same result."""

    def draw(self, random: np.random.Generator, shape: Sequence[int]) -> Parameters:
        """Decides whether and how to act on an image of shape ``(channels, *spatial)``."""
        ...

    def apply(self, image: np.ndarray, segmentation: np.ndarray, parameters: Mapping[str, Any]) -> Arrays:
        """New image ``(channels, *spatial)`` float32 and segmentation ``(*spatial)`` of the same shapes."""
        ...


class SpatialSampling(Protocol):
    """Decides from where in the case a patch is sampled."""

    def draw(self, random: np.random.Generator, patch_size: Sequence[int]) -> np.ndarray | None:
        """A matrix that maps offsets from the patch's centre to offsets in the case, in voxels; None: a plain crop."""
        ...


@dataclass(frozen=True)
class Recipe:
    """What happens to every training patch: sampling, then transforms in order."""

    spatial: SpatialSampling | None = None
    transforms: Sequence[Transform | AbstractTransform] = field(default_factory=tuple)

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

    def apply(self, image: np.ndarray, segmentation: np.ndarray, parameters: Mapping[str, Any]) -> Arrays:
        """Runs it on a batch of one."""
        batch = {"data": image[None].copy(), "seg": segmentation[None, None].astype(np.float32)}
        with global_state(np.random.default_rng(parameters["seed"])):
            result = self.transform(**batch)
        changed = np.rint(result["seg"][0, 0]).astype(segmentation.dtype)
        return np.ascontiguousarray(result["data"][0], np.float32), changed


class AsBatchgenerators(AbstractTransform):
    """One of our transforms in a batchgenerators pipeline; it draws from NumPy's global state, as is the rule there."""

    def __init__(self, transform: Transform, data_key: str = "data", label_key: str = "seg") -> None:
        self.transform, self.data_key, self.label_key = transform, data_key, label_key

    def __call__(self, **batch: Any) -> dict[str, Any]:
        """Transforms every sample of the batch ``(batch, channels, *spatial)``."""
        images, labels = [], []
        for image, segmentation in zip(batch[self.data_key], batch[self.label_key], strict=True):
            random = np.random.default_rng(np.random.randint(2**31))
            parameters = self.transform.draw(random, image.shape)
            arrays = (image, segmentation[0])
            if parameters is not None:
                arrays = self.transform.apply(*arrays, parameters)
            images.append(arrays[0])
            labels.append(arrays[1][None])
        return {**batch, self.data_key: np.stack(images), self.label_key: np.stack(labels)}
