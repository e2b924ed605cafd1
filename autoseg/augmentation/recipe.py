"""The built-in recipes."""

from __future__ import annotations

from autoseg.augmentation.cascade import OnlyImages, RandomMorphology, RemoveComponent
from autoseg.augmentation.contract import Recipe, Transform
from autoseg.augmentation.intensity import Brightness, Contrast, Gamma, GaussianBlur, GaussianNoise, LowResolution
from autoseg.augmentation.spatial import Mirror, RotateAndScale
from autoseg.values import AugmentationSpec

__all__ = ["default_recipe", "no_augmentation"]


def default_recipe(spec: AugmentationSpec) -> Recipe:
    """nnU-Net's: rotation and scaling, noise, blur, brightness, contrast, low resolution, gamma, mirroring.

    What an earlier stage predicted is mirrored with the image, but its intensities stay, and its shapes are disturbed.
    """
    predicted = spec.predicted_channels or 0
    intensity: list[Transform] = [
        GaussianNoise(),
        GaussianBlur(),
        Brightness(),
        Contrast(),
        LowResolution(axes=(1, 2) if spec.in_plane else None),
        Gamma(0.1, invert=True),
        Gamma(0.3, invert=False),
    ]
    mirror = Mirror(
        spec.mirror_axes, swap_axis=spec.swap_axis, swapped_labels=spec.swapped_labels, label_channels=predicted
    )
    if not predicted:
        return Recipe(spatial=RotateAndScale(spec.rotation_degrees), transforms=(*intensity, mirror))
    last = range(-predicted, 0)
    return Recipe(
        spatial=RotateAndScale(spec.rotation_degrees),
        transforms=(
            *(OnlyImages(each, predicted) for each in intensity),
            mirror,
            RandomMorphology(last),
            RemoveComponent(last),
        ),
        label_channels=predicted,
    )


def no_augmentation(spec: AugmentationSpec) -> Recipe:
    """Patches as they are."""
    return Recipe()
