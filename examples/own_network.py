"""A network of your own, in a few lines.

Put this file beside your data and train with it:

    autoseg train 2d 0 --network own_network:TwoConvolutions

A network takes the NetworkSpec of the plan. It maps (batch, channels, *spatial) to a list of logits, highest resolution
first, and has an attribute ``deep_supervision``: if False, only the first is wanted.
"""

import torch
from torch import nn

from autoseg.values import NetworkSpec


class TwoConvolutions(nn.Module):
    """The smallest network that can be called one."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.deep_supervision = True
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[spec.dimensions]
        self.body = nn.Sequential(
            convolution(spec.input_channels, 16, 3, padding=1),
            nn.LeakyReLU(),
            convolution(16, spec.output_channels, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Logits at the input's resolution."""
        return [self.body(x)]
