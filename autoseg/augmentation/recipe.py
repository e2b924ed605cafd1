"""The built-in recipes."""

from __future__ import annotations

from autoseg.augmentation.contract import Recipe
from autoseg.augmentation.intensity import Brightness, Contrast, Gamma, GaussianNoise, LowResolution
from autoseg.augmentation.spatial import Mirror, RotateAndScale
from autoseg.values import AugmentationSpec

__all__ = ["default_recipe", "no_augmentation"]


def default_recipe(spec: AugmentationSpec) -> Recipe:
    """Rotation, scaling, noise, brightness, contrast, low resolution, gamma, mirroring: nnU-Net's, but for blur."""
    return Recipe(
        spatial=RotateAndScale(spec.rotation_degrees),
        transforms=(
            GaussianNoise(),
            Brightness(),
            Contrast(),
            LowResolution(axes=(1, 2) if spec.in_plane else None),
            Gamma(0.1, invert=True),
            Gamma(0.3, invert=False),
            Mirror(spec.mirror_axes, swap_axis=spec.swap_axis, swapped_labels=spec.swapped_labels),
        ),
    )


def no_augmentation(spec: AugmentationSpec) -> Recipe:
    """Patches as they are."""
    return Recipe()
