"""The plain U-Net: an encoder that halves resolution, a decoder that restores it, a head at every resolution."""

from __future__ import annotations

import torch
from torch import nn

from autoseg.networks.blocks import StackedConvBlocks
from autoseg.networks.decoder import Decoder, describe_decoder, describe_stack, initialize
from autoseg.networks.tape import Tape
from autoseg.values import NetworkSpec

__all__ = ["PlainUNet"]


class _Encoder(nn.Module):
    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        channels = (spec.input_channels, *spec.features)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    StackedConvBlocks(
                        spec.encoder_blocks[stage],
                        channels[stage],
                        channels[stage + 1],
                        spec.kernel_sizes[stage],
                        spec.strides[stage],
                    )
                )
                for stage in range(len(spec.features))
            )
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of every stage, highest resolution first."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class PlainUNet(nn.Module):
    """nnU-Net's plain U-Net (Isensee et al., Nature Methods 2021): module names and parameters are the same.

    Args:
        spec: stages, features, kernels and strides.

    Attributes:
        deep_supervision: give the logits of all resolutions that training uses, or only the full one.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.encoder = _Encoder(spec)
        self.decoder = Decoder(spec)
        self.apply(initialize)

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

    @staticmethod
    def describe(spec: NetworkSpec, tape: Tape, patch_size: tuple[int, ...]) -> None:
        """The same on a tape, for its cost."""
        x, maps = tape.input(spec.input_channels, patch_size), []
        for stage, features in enumerate(spec.features):
            kernel, stride = spec.kernel_sizes[stage], spec.strides[stage]
            x = describe_stack(tape, x, features, kernel, stride, spec.encoder_blocks[stage])
            maps.append(x)
        describe_decoder(spec, tape, maps)
