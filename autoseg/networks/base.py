"""What the U-Nets share: an encoder of stages, the decoder, and weights to begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from autoseg.networks.blocks import NEGATIVE_SLOPE
from autoseg.networks.decoder import Decoder
from autoseg.values import NetworkSpec

__all__ = ["Encoder", "MakeStage", "UNet"]


class MakeStage(Protocol):
    """Makes one stage of an encoder."""

    def __call__(
        self, count: int, input_channels: int, output_channels: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> nn.Module:
        """``count`` blocks in a row; the first one changes channels and resolution."""
        ...


class Encoder(nn.Module):
    """Stages in a row, each with the result of the one before.

    Args:
        spec: stages, features, kernels and strides.
        make_stage: of the encoder.
        stem: what comes before the first stage, with the features of that; None for the image itself.
    """

    def __init__(self, spec: NetworkSpec, make_stage: MakeStage, stem: nn.Module | None = None) -> None:
        super().__init__()
        channels = (spec.input_channels if stem is None else spec.features[0], *spec.features)
        self.stem = nn.Identity() if stem is None else stem
        self.stages = nn.Sequential(
            *(
                make_stage(
                    spec.encoder_blocks[stage],
                    channels[stage],
                    channels[stage + 1],
                    spec.kernel_sizes[stage],
                    spec.strides[stage],
                )
                for stage in range(len(spec.features))
            )
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of every stage, highest resolution first."""
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class UNet(nn.Module):
    """An encoder that lowers resolution, a decoder that restores it, a head at every resolution.

    Args:
        spec: stages, features, kernels and strides.
        encoder: gives the feature maps of every stage, highest resolution first.

    Attributes:
        deep_supervision: give the logits of all resolutions that training uses, or only the full one.
    """

    def __init__(self, spec: NetworkSpec, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = Decoder(spec)
        self.apply(_initialize)

    @property
    def deep_supervision(self) -> bool:
        """See the class."""
        return self.decoder.deep_supervision

    @deep_supervision.setter
    def deep_supervision(self, wanted: bool) -> None:
        self.decoder.deep_supervision = wanted

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """``(batch, channels, *spatial)`` to logits ``(batch, outputs, *spatial)``, highest resolution first."""
        return self.decoder(self.encoder(x))


def _initialize(module: nn.Module) -> None:
    """He initialization (He et al., ICCV 2015) of convolutions for leaky ReLU, zero biases."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
