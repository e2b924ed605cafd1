"""A network whose training depends on more chance than its batches."""

from __future__ import annotations

import torch
from torch import nn

from autoseg.networks.unet import PlainUNet
from autoseg.values import NetworkSpec


class Dropping(PlainUNet):
    """The plain U-Net; half of the voxels that it is given are dropped."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return super().forward(self.dropout(x))
