"""The plain U-Net: an encoder that halves resolution, a decoder that restores it, a head at every resolution."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from autoseg.networks.base import Encoder, UNet
from autoseg.networks.blocks import StackedConvBlocks
from autoseg.networks.decoder import describe_decoder, describe_stack
from autoseg.networks.tape import Tape
from autoseg.values import NetworkSpec

__all__ = ["PlainUNet"]


class PlainUNet(UNet):
    """nnU-Net's plain U-Net (Isensee et al., Nature Methods 2021): module names and parameters are the same.

    Args:
        spec: stages, features, kernels and strides.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec, Encoder(spec, _stage))

    @staticmethod
    def describe(spec: NetworkSpec, tape: Tape, patch_size: tuple[int, ...]) -> None:
        """The same on a tape, for its cost."""
        x, maps = tape.input(spec.input_channels, patch_size), []
        for stage, features in enumerate(spec.features):
            kernel, stride = spec.kernel_sizes[stage], spec.strides[stage]
            x = describe_stack(tape, x, features, kernel, stride, spec.encoder_blocks[stage])
            maps.append(x)
        describe_decoder(spec, tape, maps)


def _stage(
    count: int, input_channels: int, output_channels: int, kernel_size: Sequence[int], stride: Sequence[int]
) -> nn.Module:
    """Blocks within one more module, as their names in nnU-Net's state dict tell."""
    return nn.Sequential(StackedConvBlocks(count, input_channels, output_channels, kernel_size, stride))
