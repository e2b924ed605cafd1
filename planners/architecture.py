"""From a topology to a network: features, blocks, inputs and outputs."""

from __future__ import annotations

from autoseg.values import NetworkSpec
from planners.presets import Architecture
from planners.topology import Topology

__all__ = ["blocks_per_stage", "features_per_stage", "network_spec"]

FIRST_FEATURES, MOST_FEATURES = 32, {2: 512, 3: 320}
#: Convolutions in each stage of a plain U-Net, encoder and decoder.
CONVOLUTIONS = 2
#: Residual blocks in the encoder's stages, the last number for all that follow; its decoder has one convolution a stage.
RESIDUAL_BLOCKS = (1, 3, 4, 6)


def features_per_stage(stages: int, dimensions: int) -> tuple[int, ...]:
    """Feature maps double with every stage, up to a cap."""
    return tuple(min(MOST_FEATURES[dimensions], FIRST_FEATURES * 2**stage) for stage in range(stages))


def blocks_per_stage(architecture: Architecture, stages: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks of the encoder's and of the decoder's stages, highest resolution first."""
    if architecture == "plain_unet":
        return (CONVOLUTIONS,) * stages, (CONVOLUTIONS,) * (stages - 1)
    last = len(RESIDUAL_BLOCKS) - 1
    return tuple(RESIDUAL_BLOCKS[min(stage, last)] for stage in range(stages)), (1,) * (stages - 1)


def network_spec(architecture: Architecture, topology: Topology, inputs: int, outputs: int) -> NetworkSpec:
    """The network of a topology."""
    stages = len(topology.strides)
    encoder, decoder = blocks_per_stage(architecture, stages)
    return NetworkSpec(
        architecture=architecture,
        input_channels=inputs,
        output_channels=outputs,
        features=features_per_stage(stages, len(topology.patch_size)),
        kernel_sizes=topology.kernel_sizes,
        strides=topology.strides,
        encoder_blocks=encoder,
        decoder_blocks=decoder,
    )
