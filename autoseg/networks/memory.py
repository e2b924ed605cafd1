"""What a training step costs in memory and in arithmetic, predicted from the numbers of a network; no torch needed.

The largest parts are the activations that the backward pass needs: of every block the output of its convolution (the norm
needs it) and its own output (the next convolution needs it), and at every step up the joined feature maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoseg.values import NetworkSpec

__all__ = ["multiply_adds", "parameter_count", "training_bytes"]

FLOAT_BYTES, HALF_BYTES = 4, 2
#: Weights, gradients and two moments (AdamW), plus the moving average.
COPIES_OF_WEIGHTS = 5
#: Allocations are rounded up and leave holes.
OVERHEAD = 1.1


def parameter_count(spec: NetworkSpec) -> int:
    """Trainable numbers of the plain U-Net with a head at every resolution."""
    total, channels = 0, spec.input_channels
    for stage, features in enumerate(spec.features):
        kernel = math.prod(spec.kernel_sizes[stage])
        total += _stack(channels, features, kernel, spec.encoder_blocks[stage])
        channels = features
    for stage in range(len(spec.features) - 1):
        below, features = spec.features[stage + 1], spec.features[stage]
        total += below * features * math.prod(spec.strides[stage + 1]) + features
        total += _stack(2 * features, features, math.prod(spec.kernel_sizes[stage]), spec.decoder_blocks[stage])
        total += (features + 1) * spec.output_channels
    return total


def _stack(channels: int, features: int, kernel: int, count: int) -> int:
    first = channels * features * kernel
    rest = (count - 1) * features * features * kernel
    return first + rest + 3 * count * features  # bias, and scale and shift of the norm


def training_bytes(
    spec: NetworkSpec, patch_size: Sequence[int], batch_size: int, *, activation_bytes: int = FLOAT_BYTES
) -> int:
    """Predicted peak memory of one training step with AdamW.

    Args:
        spec: the network.
        patch_size: voxels per axis.
        batch_size: patches.
        activation_bytes: of a feature-map element: 4, or 2 under 16-bit autocast.
    """
    size, elements, largest = list(patch_size), spec.input_channels * math.prod(patch_size), 0
    for stage, features in enumerate(spec.features):
        size = [edge // step for edge, step in zip(size, spec.strides[stage], strict=True)]
        voxels = math.prod(size)
        elements += 2 * spec.encoder_blocks[stage] * features * voxels
        if stage < len(spec.features) - 1:
            elements += (2 * spec.decoder_blocks[stage] + 2) * features * voxels  # 2: the joined maps
            elements += 3 * spec.output_channels * voxels  # logits, probabilities, target
        largest = max(largest, 2 * features * voxels)
    activations = (elements + 2 * largest) * batch_size * activation_bytes
    return int((activations + COPIES_OF_WEIGHTS * parameter_count(spec) * FLOAT_BYTES) * OVERHEAD)


def multiply_adds(spec: NetworkSpec, patch_size: Sequence[int], batch_size: int) -> int:
    """Multiplications of the convolutions in the forward pass of a batch; the backward pass has twice as many.

    Args:
        spec: the network.
        patch_size: voxels per axis.
        batch_size: patches.
    """
    size, channels, total = list(patch_size), spec.input_channels, 0
    for stage, features in enumerate(spec.features):
        size = [edge // step for edge, step in zip(size, spec.strides[stage], strict=True)]
        voxels, kernel = math.prod(size), math.prod(spec.kernel_sizes[stage])
        total += voxels * kernel * features * (channels + (spec.encoder_blocks[stage] - 1) * features)
        channels = features
        if stage < len(spec.features) - 1:
            below, steps = spec.features[stage + 1], spec.decoder_blocks[stage]
            has_head = stage == 0 or stage < len(spec.features) - 2  # the deepest head is not supervised
            heads = spec.output_channels if has_head else 0
            total += voxels * features * (below + kernel * (1 + steps) * features + heads)
    return total * batch_size
