"""An augmentation recipe of your own, from batchgenerators' transforms.

Put this file beside your data and train with it:

    autoseg train 2d 0 --recipe own_recipe:recipe

Every transform of batchgenerators plugs in; those of autoseg can stand beside them. Mirroring is best left to autoseg's: it
exchanges labels that are sides of the patient, left kidney and right kidney, when it mirrors from left to right.
"""

from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform

from autoseg.augmentation.contract import Recipe
from autoseg.augmentation.intensity import Gamma
from autoseg.augmentation.spatial import Mirror, RotateAndScale
from autoseg.values import AugmentationSpec


def recipe(spec: AugmentationSpec) -> Recipe:
    """Rotation and scaling by autoseg, noise and blur by batchgenerators, a gamma curve and mirroring by autoseg."""
    return Recipe(
        spatial=RotateAndScale(spec.rotation_degrees),
        transforms=(
            GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_sample=0.15),
            GaussianBlurTransform(blur_sigma=(0.5, 1.0), p_per_sample=0.2),
            Gamma(0.3, invert=False),
            Mirror(spec.mirror_axes, swap_axis=spec.swap_axis, swapped_labels=spec.swapped_labels),
        ),
    )
