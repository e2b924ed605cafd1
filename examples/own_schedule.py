"""A learning-rate schedule of your own, in a few lines.

Put this file beside your data and train with it:

    autoseg train 2d 0 --schedule own_schedule:cosine

A schedule is a function of the iteration alone, so that resuming needs nothing else.
"""

import math

from autoseg.values import TrainingSpec


def cosine(spec: TrainingSpec, iteration: int, iterations: int) -> float:
    """Half a cosine from the plan's learning rate to nothing (Loshchilov and Hutter, ICLR 2017)."""
    return spec.learning_rate * (1 + math.cos(math.pi * iteration / iterations)) / 2
