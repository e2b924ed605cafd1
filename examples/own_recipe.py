"""An augmentation recipe of your own, from batchgenerators' transforms.

Put this file beside your data and train with it:

    autoseg train 2d 0 --recipe own_recipe:recipe

Every transform of batchgenerators plugs in; those of autoseg can stand beside them.
"""

from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
from batchgenerators.transforms.spatial_transforms import MirrorTransform

from autoseg.augmentation.contract import Recipe
from autoseg.augmentation.intensity import Gamma
from autoseg.augmentation.spatial import RotateAndScale
from autoseg.values import AugmentationSpec


def recipe(spec: AugmentationSpec) -> Recipe:
    """Rotation and scaling by autoseg, the rest by batchgenerators, one gamma curve by autoseg."""
    return Recipe(
        spatial=RotateAndScale(spec.rotation_degrees),
        transforms=(
            GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_sample=0.15),
            GaussianBlurTransform(blur_sigma=(0.5, 1.0), p_per_sample=0.2),
            Gamma(0.3, invert=False),
            MirrorTransform(axes=spec.mirror_axes),
        ),
    )
