"""The plain U-Net: an encoder that halves resolution, a decoder that restores it, a head at every resolution."""

from __future__ import annotations

import torch
from torch import nn

from autoseg.networks.blocks import NEGATIVE_SLOPE, StackedConvBlocks, convolution, transposed_convolution
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


class _Decoder(nn.Module):
    """Lists run from the lowest resolution to the highest, as in nnU-Net's state dict."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.deep_supervision = True
        upward = range(len(spec.features) - 2, -1, -1)  # the stage that is reached by each step up
        self.transpconvs = nn.ModuleList(
            transposed_convolution(spec.dimensions)(
                spec.features[stage + 1],
                spec.features[stage],
                spec.strides[stage + 1],  # type: ignore[arg-type]
                spec.strides[stage + 1],  # type: ignore[arg-type]
            )
            for stage in upward
        )
        self.stages = nn.ModuleList(
            StackedConvBlocks(
                spec.decoder_blocks[stage],
                2 * spec.features[stage],
                spec.features[stage],
                spec.kernel_sizes[stage],
            )
            for stage in upward
        )
        self.seg_layers = nn.ModuleList(
            convolution(spec.dimensions)(spec.features[stage], spec.output_channels, 1) for stage in upward
        )

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Logits, highest resolution first; the lowest head exists for its name only and is not computed."""
        x, outputs, last = maps[-1], [], len(self.stages) - 1
        for step, (up, stage, head) in enumerate(zip(self.transpconvs, self.stages, self.seg_layers, strict=True)):
            x = stage(torch.cat((up(x), maps[-2 - step]), dim=1))
            if step == last or (self.deep_supervision and step > 0):
                outputs.append(head(x))
        return outputs[::-1]


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
        self.decoder = _Decoder(spec)
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
