"""The decoder that the U-Nets share: it restores resolution step by step and has a head at every one."""

from __future__ import annotations

import torch
from torch import nn

from autoseg.networks.blocks import StackedConvBlocks, convolution, transposed_convolution
from autoseg.networks.tape import Tape, Tensor
from autoseg.values import NetworkSpec

__all__ = ["Decoder", "describe_decoder", "describe_stack"]


class Decoder(nn.Module):
    """Transposed convolutions up, the encoder's maps beside them, convolutions, heads; names as in nnU-Net's state dict.

    Lists run from the lowest resolution to the highest.
    """

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
        """Logits, highest resolution first; the lowest head exists for its name only and is not computed.

        Args:
            maps: of the encoder, highest resolution first; emptied on the way, so that each is let go after its use.
        """
        x, outputs, last = maps.pop(), [], len(self.stages) - 1
        for step, (up, stage, head) in enumerate(zip(self.transpconvs, self.stages, self.seg_layers, strict=True)):
            x = stage(torch.cat((up(x), maps.pop()), dim=1))
            if step == last or (self.deep_supervision and step > 0):
                outputs.append(head(x))
        return outputs[::-1]


def describe_decoder(spec: NetworkSpec, tape: Tape, maps: list[Tensor]) -> None:
    """``Decoder.forward`` on a tape; in prediction only the head of full resolution is computed."""
    ones, x = (1,) * spec.dimensions, maps.pop()
    for stage in range(len(spec.features) - 2, -1, -1):
        features, skip = spec.features[stage], maps.pop()
        up = tape.transposed_convolution(x, features, spec.strides[stage + 1])
        below, joined = x, tape.concatenate(up, skip)
        tape.release(up, skip)
        x = describe_stack(tape, joined, features, spec.kernel_sizes[stage], ones, spec.decoder_blocks[stage])
        tape.release(joined, below)
        supervised = tape.training and stage < len(spec.features) - 2
        if stage == 0 or supervised:
            tape.output(tape.convolution(x, spec.output_channels, ones, ones))
        else:
            tape.unused_parameters((features + 1) * spec.output_channels)
    tape.release(x)


def describe_stack(
    tape: Tape, x: Tensor, channels: int, kernel_size: tuple[int, ...], stride: tuple[int, ...], count: int
) -> Tensor:
    """``StackedConvBlocks.forward`` on a tape; the input stays with the caller."""
    ones, first = (1,) * len(kernel_size), x
    for index in range(count):
        convolved = tape.convolution(x, channels, kernel_size, ones if index else stride)
        normalized = tape.norm(convolved)
        tape.release(convolved, *([x] if x is not first else []))
        x = tape.activation(normalized)
    return x
