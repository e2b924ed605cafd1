"""The residual-encoder U-Net: blocks that add to their input on the way down, the plain decoder on the way up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from autoseg.networks.base import Encoder, UNet
from autoseg.networks.blocks import NEGATIVE_SLOPE, ConvBlock, StackedConvBlocks
from autoseg.networks.decoder import describe_decoder, describe_stack
from autoseg.networks.tape import Tape, Tensor
from autoseg.values import NetworkSpec

__all__ = ["ResidualEncoderUNet"]


def _is_strided(stride: Sequence[int]) -> bool:
    return any(step > 1 for step in stride)


class ResidualBlock(nn.Module):
    """Two convolutions whose result is added to the input (He et al., CVPR 2016).

    Where resolution or channels change, the input is averaged over blocks and brought to the new channels by a convolution
    of one voxel (ResNet-D: He T. et al., CVPR 2019).
    """

    def __init__(
        self, input_channels: int, output_channels: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        ones = (1,) * len(kernel_size)
        self.conv1 = ConvBlock(input_channels, output_channels, kernel_size, stride)
        self.conv2 = ConvBlock(output_channels, output_channels, kernel_size, ones, activated=False)
        pools: list[nn.Module] = []
        if _is_strided(stride):
            pool: Any = {2: nn.AvgPool2d, 3: nn.AvgPool3d}[len(stride)]
            pools.append(pool(tuple(stride), tuple(stride)))
        if input_channels != output_channels:
            pools.append(ConvBlock(input_channels, output_channels, ones, ones, bias=False, activated=False))
        self.skip = nn.Sequential(*pools)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Like a convolution block of the same sizes."""
        shortcut = self.skip(x)
        y = self.conv2(self.conv1(x))
        y += shortcut
        return F.leaky_relu(y, NEGATIVE_SLOPE, inplace=True)


class _Stage(nn.Module):
    def __init__(
        self, count: int, input_channels: int, output_channels: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        ones = (1,) * len(kernel_size)
        self.blocks = nn.Sequential(
            ResidualBlock(input_channels, output_channels, kernel_size, stride),
            *(ResidualBlock(output_channels, output_channels, kernel_size, ones) for _ in range(count - 1)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Through all blocks."""
        return self.blocks(x)


class ResidualEncoderUNet(UNet):
    """nnU-Net's residual-encoder U-Net (Isensee et al., MICCAI 2024): module names and parameters are the same.

    Args:
        spec: stages, features, kernels and strides; ``encoder_blocks`` counts residual blocks.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        stem = StackedConvBlocks(1, spec.input_channels, spec.features[0], spec.kernel_sizes[0])
        super().__init__(spec, Encoder(spec, _Stage, stem))
        for module in self.modules():
            if isinstance(module, ResidualBlock):  # a block begins as its shortcut alone
                nn.init.zeros_(module.conv2.norm.weight)
                nn.init.zeros_(module.conv2.norm.bias)

    @staticmethod
    def describe(spec: NetworkSpec, tape: Tape, patch_size: tuple[int, ...]) -> None:
        """The same on a tape, for its cost."""
        ones, image = (1,) * spec.dimensions, tape.input(spec.input_channels, patch_size)
        x = describe_stack(tape, image, spec.features[0], spec.kernel_sizes[0], ones, 1)
        maps: list[Tensor] = []
        for stage, features in enumerate(spec.features):
            for block in range(spec.encoder_blocks[stage]):
                y = _describe_block(tape, x, features, spec.kernel_sizes[stage], ones if block else spec.strides[stage])
                if not maps or x is not maps[-1]:
                    tape.release(x)
                x = y
            maps.append(x)
        describe_decoder(spec, tape, maps)


def _describe_block(
    tape: Tape, x: Tensor, channels: int, kernel_size: tuple[int, ...], stride: tuple[int, ...]
) -> Tensor:
    ones, shortcut = (1,) * len(stride), x
    if _is_strided(stride):
        shortcut = tape.mean_pool(x, stride)
    if x.channels != channels:
        pooled, projected = shortcut, tape.convolution(shortcut, channels, ones, ones, bias=False)
        shortcut = tape.norm(projected)
        tape.release(projected, *([pooled] if pooled is not x else []))
    first = tape.convolution(x, channels, kernel_size, stride)
    between = tape.activation(tape.norm(first))
    tape.release(first)
    second = tape.convolution(between, channels, kernel_size, ones)
    y = tape.norm(second)
    tape.release(second, between)
    y = tape.add(y, shortcut)
    if shortcut is not x:
        tape.release(shortcut)
    return tape.activation(y)
