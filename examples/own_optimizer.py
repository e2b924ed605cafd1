"""An optimizer of your own, in a few lines: any of torch's, set up as you like.

Put this file beside your data and train with it:

    autoseg train 2d 0 --optimizer own_optimizer:nadam

An optimizer is made from the training's numbers in the plan and the network's parameters. The learning rate of every
iteration comes from the schedule. What it keeps for each parameter are tensors and numbers, so that training can resume.
"""

from collections.abc import Iterable

import torch
from torch import nn

from autoseg.values import TrainingSpec


def nadam(spec: TrainingSpec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with Nesterov momentum (Dozat, ICLR workshop 2016)."""
    return torch.optim.NAdam(
        parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay, decoupled_weight_decay=True
    )
