"""Parts that do not fit, as users write them; each is wrong in one way."""

from __future__ import annotations

import time

import numpy as np
import torch
from batchgenerators.transforms.spatial_transforms import MirrorTransform
from torch import nn

from autoseg.augmentation.contract import Recipe
from autoseg.augmentation.intensity import GaussianNoise
from autoseg.augmentation.spatial import Mirror


class Network(nn.Module):
    """One that fits; the others are made from it."""

    channels = 0  # more than wanted

    def __init__(self, spec):
        super().__init__()
        self.deep_supervision = True
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[spec.dimensions]
        self.body = convolution(spec.input_channels, spec.output_channels + self.channels, 3, padding=1)

    def forward(self, x):
        return [self.body(x)]


class ManyChannels(Network):
    channels = 3


class BareTensor(Network):
    def forward(self, x):
        return self.body(x)


class Smaller(Network):
    def forward(self, x):
        return [self.body(x)[..., ::2]]


class NotANumber(Network):
    def forward(self, x):
        return [self.body(x) / 0]


class NoSwitch(Network):
    def __init__(self, spec):
        super().__init__(spec)
        del self.deep_supervision


class InPlace(Network):
    """What autograd finds out only on the way back."""

    def forward(self, x):
        y = self.body(x).exp()
        y.mul_(2)
        return [y]


class Fails(Network):
    def forward(self, x):
        return {}["logits"]


def network_without_arguments():
    return None


class Loss:
    def __init__(self, labels, *, batch_dice):
        pass

    def __call__(self, logits, target):
        return logits.float().square().mean()


class LossWithoutLabels:
    def __call__(self, logits, target):
        return 0.0


class LossPerVoxel(Loss):
    def __call__(self, logits, target):
        return logits.square()


class LossOfNumbers(Loss):
    def __call__(self, logits, target):
        return float(logits.detach().mean())


class LossNaN(Loss):
    def __call__(self, logits, target):
        return (logits - logits.max() - 1).log().mean()


class LossDetached(Loss):
    def __call__(self, logits, target):
        return logits.detach().mean()


def recipe_of_nothing(spec):
    return None


class Cuts:
    def draw(self, random, shape):
        return {}

    def apply(self, images, labels, parameters):
        return images[:, :, 1:], labels[:, 1:]


def recipe_that_cuts(spec):
    return Recipe(transforms=(Cuts(),))


class Keeps:
    """A transform that fits; the others are made from it."""

    def draw(self, random, shape):
        return {"by": random.uniform(-0.2, 0.2)}

    def apply(self, images, labels, parameters):
        return images + parameters[0]["by"], labels


class FloatLabels(Keeps):
    """As a linear resize gives them: cut to integers, every label becomes the one before it."""

    def apply(self, images, labels, parameters):
        return images, labels.float() * 0.999


class DoubleImages(Keeps):
    def apply(self, images, labels, parameters):
        return images.double(), labels


class Arrays(Keeps):
    def apply(self, images, labels, parameters):
        return images.numpy(), labels


class DrawsNumPy(Keeps):
    def draw(self, random, shape):
        return {"by": np.float32(0.5)}


class DrawsNotANumber(Keeps):
    def draw(self, random, shape):
        return {"by": float("nan")}


class Seldom(FloatLabels):
    """Acts in less than half of the draws."""

    def draw(self, random, shape):
        return {"by": 0.0} if random.random() < 0.3 else None


class ListSampling:
    def draw(self, random, patch_size):
        return np.eye(len(patch_size)).tolist()


def recipe_of_lists(spec):
    return Recipe(spatial=ListSampling())


def recipe_that_fits(spec):
    return Recipe(transforms=(Keeps(),))


def recipe_with_float_labels(spec):
    return Recipe(transforms=(FloatLabels(),))


def recipe_with_double_images(spec):
    return Recipe(transforms=(DoubleImages(),))


def recipe_with_arrays(spec):
    return Recipe(transforms=(Arrays(),))


def recipe_that_draws_numpy(spec):
    return Recipe(transforms=(DrawsNumPy(),))


def recipe_that_draws_nan(spec):
    return Recipe(transforms=(DrawsNotANumber(),))


def recipe_that_seldom_acts(spec):
    return Recipe(transforms=(Seldom(),))


def optimizer_of_nothing(spec, parameters):
    return None


def optimizer_with_closure(spec, parameters):
    return torch.optim.LBFGS(parameters, lr=spec.learning_rate)


class Forgets(torch.optim.SGD):
    """Its memory lies where no checkpoint looks."""

    def __init__(self, spec, parameters):
        super().__init__(parameters, lr=spec.learning_rate)
        self.steps_taken = 0

    def step(self, closure=None):
        self.steps_taken += 1
        for group in self.param_groups:
            group["lr"] /= self.steps_taken
        super().step(closure)


class CountsInGroups(torch.optim.SGD):
    """Every fifth step is twice as long; its count lies in the group, which a checkpoint does not hold."""

    def __init__(self, spec, parameters):
        super().__init__(parameters, lr=spec.learning_rate, momentum=0.9)
        for group in self.param_groups:
            group["count"] = 0

    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] += 1
            group["lr"] *= 2 if group["count"] % 5 == 0 else 1
        super().step(closure)


class CountsInItself(torch.optim.SGD):
    """Every fifth step is twice as long; its count lies where no checkpoint looks."""

    def __init__(self, spec, parameters):
        super().__init__(parameters, lr=spec.learning_rate, momentum=0.9)
        self.count = 0

    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            group["lr"] *= 2 if self.count % 5 == 0 else 1
        super().step(closure)


class KeepsLists(torch.optim.SGD):
    def __init__(self, spec, parameters):
        super().__init__(parameters, lr=spec.learning_rate)

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for weight in group["params"]:
                self.state[weight]["history"] = [time.time()]


class Fitting(torch.optim.SGD):
    def __init__(self, spec, parameters):
        super().__init__(parameters, lr=spec.learning_rate, momentum=0.9)


def _groups(spec, parameters, **vectors):
    weights = list(parameters)
    return [
        {"params": [weight for weight in weights if weight.ndim > 1]},
        {"params": [weight for weight in weights if weight.ndim == 1], **vectors},
    ]


def optimizer_with_rates(spec, parameters):
    groups = _groups(spec, parameters, lr=spec.learning_rate / 10)
    return torch.optim.SGD(groups, lr=spec.learning_rate)


def optimizer_with_scales(spec, parameters):
    """A tenth of the learning rate for biases and norms."""
    return torch.optim.SGD(_groups(spec, parameters, lr_scale=0.1), lr=spec.learning_rate)


def schedule_of_words(spec, iteration, iterations):
    return "fast"


def schedule_below_zero(spec, iteration, iterations):
    return spec.learning_rate - iteration


def schedule(spec, iteration, iterations):
    return spec.learning_rate


def recipe(spec):
    return Recipe()


def recipe_that_mixes_sides(spec):
    return Recipe(transforms=(MirrorTransform(spec.mirror_axes), GaussianNoise()))


def recipe_with_sides(spec):
    return Recipe(transforms=(Mirror(spec.mirror_axes, swap_axis=spec.swap_axis, swapped_labels=spec.swapped_labels),))


class HalfTurn:
    """No mirroring: the left side stays the left one."""

    def draw(self, random, shape):
        return {}

    def apply(self, images, labels, parameters):
        return images.flip((-1, -2)), labels.flip((-1, -2))


def recipe_that_turns(spec):
    return Recipe(transforms=(HalfTurn(),))
