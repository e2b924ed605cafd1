"""Convolution blocks with the module names of nnU-Net's networks, so that weights can be exchanged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["ConvBlock", "InstanceNorm", "StackedConvBlocks", "convolution", "transposed_convolution"]

NEGATIVE_SLOPE, EPSILON = 0.01, 1e-5


def convolution(dimensions: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    """``Conv2d`` or ``Conv3d``."""
    return {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]  # type: ignore[return-value]


def transposed_convolution(dimensions: int) -> type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]:
    """``ConvTranspose2d`` or ``ConvTranspose3d``."""
    return {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dimensions]  # type: ignore[return-value]


class InstanceNorm(nn.Module):
    """Zero mean and unit variance per sample and channel, then a learned scale and shift.

    Written as a group norm with one channel per group: the same numbers as torch's own instance norm, which copies
    channels-last tensors to another layout and back.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalizes ``(batch, channels, *spatial)``; the result has the type of ``x``."""
        if x.is_cuda and torch.is_autocast_enabled("cuda"):
            # Autocast would turn x into float32 there, and the backward pass would keep it: twice the memory of all
            # activations. The kernel computes mean and variance in float32 from 16-bit numbers, too.
            with torch.autocast("cuda", enabled=False):
                return self._normalized(x, self.weight.to(x.dtype), self.bias.to(x.dtype))
        return self._normalized(x, self.weight, self.bias)

    def _normalized(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return F.group_norm(x, len(weight), weight, bias, EPSILON)


class ConvBlock(nn.Module):
    """Convolution (same padding), instance norm, leaky ReLU.

    Args:
        input_channels: of the convolution.
        output_channels: of the convolution.
        kernel_size: voxels per axis, odd.
        stride: voxels per axis.
        bias: of the convolution; the norm takes it away again, but nnU-Net's weights have it.
        activated: with the leaky ReLU.
    """

    def __init__(
        self,
        input_channels: int,
        output_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        *,
        bias: bool = True,
        activated: bool = True,
    ) -> None:
        super().__init__()
        self.conv = convolution(len(kernel_size))(
            input_channels,
            output_channels,
            tuple(kernel_size),  # type: ignore[arg-type]
            tuple(stride),  # type: ignore[arg-type]
            padding=tuple((edge - 1) // 2 for edge in kernel_size),  # type: ignore[arg-type]
            bias=bias,
        )
        self.norm = InstanceNorm(output_channels)
        self.activated = activated

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, input_channels, *spatial)`` to ``(batch, output_channels, *spatial / stride)``."""
        y = self.norm(self.conv(x))
        return F.leaky_relu(y, NEGATIVE_SLOPE, inplace=True) if self.activated else y


class StackedConvBlocks(nn.Module):
    """Several blocks in a row; the first one changes channels and resolution."""

    def __init__(
        self,
        count: int,
        input_channels: int,
        output_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        ones = (1,) * len(kernel_size)
        self.convs = nn.Sequential(
            ConvBlock(input_channels, output_channels, kernel_size, stride or ones),
            *(ConvBlock(output_channels, output_channels, kernel_size, ones) for _ in range(count - 1)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Through all blocks."""
        return self.convs(x)
