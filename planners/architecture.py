"""From a topology to a network: features, blocks, inputs and outputs."""

from __future__ import annotations

from autoseg.values import NetworkSpec
from autoseg.values.json_form import Value
from planners.presets import Architecture
from planners.topology import Topology

__all__ = ["Width", "blocks_per_stage", "features_per_stage", "network_spec", "width"]

FIRST_FEATURES, MOST_FEATURES = 32, {2: 512, 3: 320}
#: A CPU computes half the features in a third of the time, and they reach a Dice in about half of the time
#: (docs/benchmarks.md, shorter trainings).
SHARE_ON_CPU = 0.5
#: Convolutions in each stage of a plain U-Net, encoder and decoder.
CONVOLUTIONS = 2
#: Residual blocks in the encoder's stages, the last number for all that follow; its decoder has one convolution a stage.
RESIDUAL_BLOCKS = (1, 3, 4, 6)


class Width(Value, frozen=True, kw_only=True):
    """How many feature maps a network has.

    Attributes:
        share: of nnU-Net's.
        reason: why so many.
    """

    share: float
    reason: str


def width(*, as_nnunet: bool, architecture: Architecture, device: str) -> Width:
    """The width of the networks for a device; patches and batches are planned as for the whole width.

    Args:
        as_nnunet: nnU-Net's width, whatever the device.
        architecture: of the network; only plain ones were measured to do with less.
        device: that trains.
    """
    if device == "cpu" and architecture == "plain_unet" and not as_nnunet:
        return Width(share=SHARE_ON_CPU, reason="half of nnU-Net's: on a CPU these reach a Dice in half of the time")
    return Width(share=1.0, reason="as nnU-Net's")


def features_per_stage(stages: int, dimensions: int, share: float = 1.0) -> tuple[int, ...]:
    """Feature maps double with every stage, up to a cap; of that a share."""
    return tuple(int(share * min(MOST_FEATURES[dimensions], FIRST_FEATURES * 2**stage)) for stage in range(stages))


def blocks_per_stage(architecture: Architecture, stages: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks of the encoder's and of the decoder's stages, highest resolution first."""
    if architecture == "plain_unet":
        return (CONVOLUTIONS,) * stages, (CONVOLUTIONS,) * (stages - 1)
    last = len(RESIDUAL_BLOCKS) - 1
    return tuple(RESIDUAL_BLOCKS[min(stage, last)] for stage in range(stages)), (1,) * (stages - 1)


def network_spec(
    architecture: Architecture, topology: Topology, inputs: int, outputs: int, share: float = 1.0
) -> NetworkSpec:
    """The network of a topology, with a share of the usual feature maps."""
    stages = len(topology.strides)
    encoder, decoder = blocks_per_stage(architecture, stages)
    return NetworkSpec(
        architecture=architecture,
        input_channels=inputs,
        output_channels=outputs,
        features=features_per_stage(stages, len(topology.patch_size), share),
        kernel_sizes=topology.kernel_sizes,
        strides=topology.strides,
        encoder_blocks=encoder,
        decoder_blocks=decoder,
    )
