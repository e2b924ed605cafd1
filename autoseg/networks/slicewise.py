"""The gradient of a 3D convolution's weights by 2D convolutions: the same sums, where the 3D kernel is a slow one.

On processors without AVX-512, oneDNN has no kernel of its own for weight gradients of three axes: it unfolds the input
and multiplies matrices, which took two thirds of a training step there. For two axes it has one. A 3D kernel is a stack of
2D ones, each of which sees the slices of the input shifted against those of the output; so its gradient is that of a 2D
convolution whose batch are the slices of all samples. Channels-last, these are views: nothing is copied for a stride of 1.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

__all__ = ["SlicewiseConv3d", "slicewise_pays", "use_slicewise_gradients"]

#: Output voxels of a slice from which it pays (measured, AVX2); smaller ones are unfolded as fast.
LEAST_SLICE = 512


class SlicewiseConv3d(nn.Conv3d):
    """A 3D convolution that can take the gradient of its weights slice by slice.

    Attributes:
        slicewise: do so where it pays; the result is that of ``nn.Conv3d`` to rounding, forward the same bits.
    """

    slicewise = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As ``nn.Conv3d``."""
        if self.slicewise and torch.is_grad_enabled() and _suits(self, x):
            return cast(
                torch.Tensor, _Slicewise.apply(x, self.weight, self.bias, list(self.stride), list(self.padding))
            )
        return super().forward(x)


def slicewise_pays() -> bool:
    """Whether this machine's processor is one whose 3D weight gradients are slow; a property of it, not a timing."""
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX2"


def use_slicewise_gradients(network: nn.Module, wanted: bool) -> None:
    """Tells all convolutions of a network which way to take."""
    for module in network.modules():
        if isinstance(module, SlicewiseConv3d):
            module.slicewise = wanted


def _suits(convolution: nn.Conv3d, x: torch.Tensor) -> bool:
    deep = convolution.kernel_size[0] > 1 and convolution.in_channels > 1 and convolution.groups == 1
    whole = all(edge % step == 0 for edge, step in zip(x.shape[2:], convolution.stride, strict=True))
    slices = x.shape[3] * x.shape[4] // (convolution.stride[1] * convolution.stride[2])
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return deep and whole and plain and slices >= LEAST_SLICE and not torch.compiler.is_compiling()


class _Slicewise(torch.autograd.Function):
    """A convolution ``(batch, channels, *spatial)`` whose stride divides the size and whose padding is "same"."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: list[int],
        padding: list[int],
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.biased = stride, padding, bias is not None
        return F.conv3d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        of_weight = _weight_gradient(gradient, x, weight, ctx.stride, ctx.padding)
        of_bias = gradient.sum((0, 2, 3, 4)) if ctx.biased else None
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = _backward(gradient, x, weight, ctx.stride, ctx.padding, of_input=True)
        return of_x, of_weight, of_bias, None, None


def _backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: list[int],
    padding: list[int],
    *,
    of_input: bool,
) -> torch.Tensor:
    """torch's own gradient of a convolution's input, or of its weights."""
    ones, zeros = [1] * len(stride), [0] * len(stride)
    wanted = [of_input, not of_input, False]
    results = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, ones, False, zeros, 1, wanted
    )
    return cast(torch.Tensor, results[0 if of_input else 1])


def _weight_gradient(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: list[int], padding: list[int]
) -> torch.Tensor:
    """Gradient of ``weight``, one slice of the kernel after the other.

    All slices of all samples stand in one row. A slice of the kernel that is shifted against the output meets, at the ends
    of a sample, slices of its neighbour: there the output's gradient is set to zero meanwhile, and put back.
    """
    step, depth, length = stride[0], x.shape[2], gradient.shape[2]
    slices, outputs = x.transpose(1, 2).flatten(0, 1), gradient.transpose(1, 2).flatten(0, 1)
    flat = weight[:, :, 0].contiguous(memory_format=torch.channels_last)
    result = torch.empty_like(weight)
    for index in range(weight.shape[2]):
        shift = index - padding[0]
        beyond = [at for at in range(length) if not 0 <= at * step + shift < depth]
        kept = gradient[:, :, beyond]
        gradient[:, :, beyond] = 0
        first = max(0, -(shift // step))
        last = min(len(outputs), (len(slices) - 1 - shift) // step + 1)
        seen = slices[first * step + shift : (last - 1) * step + shift + 1 : step]
        result[:, :, index] = _backward(outputs[first:last], seen, flat, stride[1:], padding[1:], of_input=False)
        gradient[:, :, beyond] = kept
    return result
