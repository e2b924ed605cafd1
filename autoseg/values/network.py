"""NetworkSpec: a network in numbers, as a plan holds it."""

from __future__ import annotations

import math

from autoseg.values.json_form import Value, require, require_each

__all__ = ["NetworkSpec", "Sizes"]

Sizes = tuple[int, ...]


class NetworkSpec(Value, frozen=True, kw_only=True):
    """A U-Net in numbers; one entry per stage, highest resolution first.

    Attributes:
        architecture: the network plug that builds it.
        input_channels: image channels.
        output_channels: labels with background, or regions.
        features: feature maps per stage.
        kernel_sizes: of the convolutions of each stage, per axis.
        strides: on entering each stage, per axis; the first is all ones.
        encoder_blocks: blocks in each encoder stage: convolutions, or residual blocks of two convolutions each.
        decoder_blocks: convolutions in each decoder stage, one entry less.
    """

    architecture: str = "plain_unet"
    input_channels: int
    output_channels: int
    features: Sizes
    kernel_sizes: tuple[Sizes, ...]
    strides: tuple[Sizes, ...]
    encoder_blocks: Sizes
    decoder_blocks: Sizes

    def __post_init__(self) -> None:
        stages = len(self.features)
        require(2 <= stages <= 16, "a U-Net needs 2 to 16 stages", field="features", found=stages)
        for field in ("input_channels", "output_channels"):
            count = getattr(self, field)
            require(count > 0, "a network needs channels", field=field, found=count, expected="1 or more")
        require_each(self.features, "feature maps", 1, 2**14, field="features")
        for field, wanted in (
            ("kernel_sizes", stages),
            ("strides", stages),
            ("encoder_blocks", stages),
            ("decoder_blocks", stages - 1),
        ):
            found, expected = len(getattr(self, field)), f"{wanted} entries for {stages} stages in features"
            require(found == wanted, "the number of entries is wrong", field=field, found=found, expected=expected)
        axes = self.dimensions
        require(
            axes in (2, 3), "kernels have a wrong number of axes", field="kernel_sizes", found=axes, expected="2 or 3"
        )
        for field in ("kernel_sizes", "strides"):
            for index, size in enumerate(getattr(self, field)):
                what, where = "kernel sizes and strides differ in dimension", f"{field}[{index}]"
                require(len(size) == axes, what, field=where, found=size, expected=f"{axes} numbers, one per axis")
        odd = tuple(range(1, 32, 2))
        for index, size in enumerate(self.kernel_sizes):
            what, where = "kernels must be odd and not over 31", f"kernel_sizes[{index}]"
            require(all(edge in odd for edge in size), what, field=where, found=size, expected="1, 3, 5, … 31 per axis")
        for index, stride in enumerate(self.strides):
            require_each(stride, "strides", 1, 8, field=f"strides[{index}]")
        first = self.strides[0]
        ones = (1,) * axes
        require(first == ones, "the first stage keeps the grid", field="strides[0]", found=first, expected=ones)
        for field in ("encoder_blocks", "decoder_blocks"):
            require_each(getattr(self, field), "blocks per stage", 1, 64, field=field)

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.kernel_sizes[0])

    @property
    def divisor(self) -> Sizes:
        """Per axis, what a patch must be a multiple of."""
        return tuple(math.prod(stride[axis] for stride in self.strides) for axis in range(self.dimensions))
