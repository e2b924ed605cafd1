"""Where a training augments: on a GPU if its recipe works there, else by the threads that load the patches."""

from __future__ import annotations

from autoseg import plugins
from autoseg.augmentation.contract import FromBatchgenerators, Recipe
from autoseg.training.trial import try_recipe
from autoseg.values import Configuration

__all__ = ["works_on"]


def works_on(device: str, configuration: Configuration) -> tuple[bool, str]:
    """Whether a configuration's patches are better augmented on a device than on the CPU, and why.

    No reason is given where there is no choice.

    Args:
        device: cpu, cuda or mps. Only cuda computes beside the training, on a stream of its own.
        configuration: names the recipe.
    """
    if device != "cuda":
        return False, ""
    recipe: Recipe = plugins.load("recipe", configuration.augmentation.recipe)(configuration.augmentation)
    if any(isinstance(step, FromBatchgenerators) for step in recipe.steps()):
        return False, "patches are augmented on the CPU, where transforms of batchgenerators work"
    try:
        try_recipe(configuration, device)
    except Exception as error:  # a recipe of somebody's own that knows the CPU alone, whatever that raises
        return False, f"patches are augmented on the CPU: on the GPU the recipe raises {type(error).__name__}"
    return True, "patches are augmented on the GPU"
