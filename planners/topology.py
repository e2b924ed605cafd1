"""Pooling and kernels: which axes a U-Net halves, how often, and where it looks along an axis at all."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg.values.json_form import Value

__all__ = ["Topology", "network_topology"]

Sizes = tuple[int, ...]
#: No feature map gets smaller than this along an axis that is pooled.
SMALLEST_EDGE = 4
#: An axis waits with pooling (and with kernels of 3) until its spacing is within this factor of the finest.
SPACING_FACTOR = 2


class Topology(Value, frozen=True, kw_only=True):
    """The shape of a U-Net.

    Attributes:
        patch_size: padded up so that every pooling divides evenly.
        pools: how often each axis is halved.
        kernel_sizes: per stage and axis.
        strides: on entering each stage; the first is all ones.
    """

    patch_size: Sizes
    pools: Sizes
    kernel_sizes: tuple[Sizes, ...]
    strides: tuple[Sizes, ...]

    @property
    def divisor(self) -> Sizes:
        """Per axis, what a patch is a multiple of."""
        return tuple(2**pool for pool in self.pools)


def network_topology(spacing: Sequence[float], patch_size: Sequence[float]) -> Topology:
    """Halves the axes whose spacing is near the finest, again and again, until the feature maps are small.

    Args:
        spacing: millimetres per axis of the patch.
        patch_size: wanted voxels per axis; may be fractional, and is padded up.
    """
    axes = range(len(spacing))
    current, size = list(spacing), [float(edge) for edge in patch_size]
    kernel, pools = [1] * len(size), [0] * len(size)
    kernels: list[Sizes] = []
    strides: list[Sizes] = [(1,) * len(size)]
    while True:
        pooled = [axis for axis in axes if size[axis] >= 2 * SMALLEST_EDGE]
        if not pooled:
            break
        finest = min(current[axis] for axis in pooled)
        pooled = [axis for axis in pooled if current[axis] / finest < SPACING_FACTOR]
        if len(pooled) == 1 and size[pooled[0]] < 3 * SMALLEST_EDGE:
            break
        for axis in axes:
            if current[axis] / min(current) < SPACING_FACTOR:
                kernel[axis] = 3
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in axes))
        for axis in pooled:
            current[axis] *= 2
            size[axis] = -(-size[axis] // 2)
            pools[axis] += 1
    kernels.append((3,) * len(size))
    divisor = [2**pool for pool in pools]
    padded = tuple(int(-(-edge // step) * step) for edge, step in zip(patch_size, divisor, strict=True))
    return Topology(patch_size=padded, pools=tuple(pools), kernel_sizes=tuple(kernels), strides=tuple(strides))
