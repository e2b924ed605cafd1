"""The blocks of the networks, against torch's own layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoseg.networks.blocks import ConvBlock, InstanceNorm, StackedConvBlocks, convolution, transposed_convolution


@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (1, 3, 4, 5, 6), (3, 1, 2, 2, 2)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_instance_norm_equals_torchs(shape: tuple[int, ...], channels_last: bool) -> None:
    torch.manual_seed(0)
    dimensions = len(shape) - 2
    theirs = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dimensions](shape[1], eps=1e-5, affine=True)
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    ours = InstanceNorm(shape[1])
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(shape) * 3 + 5
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last if dimensions == 2 else torch.channels_last_3d)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_instance_norm_has_the_gradients_of_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = InstanceNorm(3), nn.InstanceNorm3d(3, eps=1e-5, affine=True)
    x, weights = torch.randn(2, 3, 4, 4, 4), torch.randn(2, 3, 4, 4, 4)
    gradients = []
    for norm in (ours, theirs):
        leaf = x.clone().requires_grad_()
        (norm(leaf) * weights).sum().backward()
        gradients.append((leaf.grad, norm.weight.grad, norm.bias.grad))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("under_autocast", [False, True])
def test_on_a_cpu_instance_norm_is_torchs_group_norm_bit_for_bit(precision: torch.dtype, under_autocast: bool) -> None:
    torch.manual_seed(0)
    norm, x = InstanceNorm(3), torch.randn(2, 3, 6, 5, 4).to(precision)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    with torch.autocast("cpu", torch.bfloat16, enabled=under_autocast):
        y, expected = norm(x), nn.functional.group_norm(x, 3, norm.weight, norm.bias, 1e-5)
    assert torch.equal(y, expected)
    assert y.dtype == precision


def test_instance_norm_of_16_bit_numbers_takes_mean_and_variance_in_float32() -> None:
    torch.manual_seed(0)
    norm, x = (
        InstanceNorm(2),
        (torch.randn(1, 2, 64, 64) + 20).bfloat16(),
    )  # 4096 numbers: a 16-bit sum would be far off
    expected = norm(x.float())
    for weight, bias in ((norm.weight, norm.bias), (norm.weight.bfloat16(), norm.bias.bfloat16())):
        y = norm._normalized(x, weight, bias)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), expected, rtol=2**-8, atol=2**-8)


def test_instance_norm_of_a_sample_does_not_see_the_others() -> None:
    norm, x = InstanceNorm(2), torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(norm(x)[1:2], norm(x[1:2]))


@pytest.mark.parametrize(
    ("kernel", "stride", "expected"),
    [
        ((3, 3), (1, 1), (8, 6)),
        ((3, 3), (2, 2), (4, 3)),
        ((1, 3, 3), (1, 2, 2), (8, 3, 4)),
        ((5, 1, 3), (2, 1, 2), (4, 6, 4)),
    ],
)
def test_same_padding_divides_the_size_by_the_stride(
    kernel: tuple[int, ...], stride: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    block = ConvBlock(2, 4, kernel, stride)
    assert block(torch.randn(1, 2, *(8, 6, 8)[: len(kernel)])).shape == (1, 4, *expected)


def test_a_block_is_convolution_then_norm_then_leaky_relu() -> None:
    torch.manual_seed(0)
    block, x = ConvBlock(2, 3, (3, 3), (1, 1)), torch.randn(2, 2, 6, 6)
    nn.init.normal_(block.conv.bias)
    values = nn.functional.conv2d(x, block.conv.weight, block.conv.bias, padding=1)
    values = (values - values.mean((2, 3), keepdim=True)) / (
        values.var((2, 3), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(block(x), torch.where(values > 0, values, 0.01 * values), rtol=1e-4, atol=1e-5)


def test_a_block_can_do_without_its_activation_and_its_bias() -> None:
    torch.manual_seed(0)
    block, x = ConvBlock(2, 3, (3, 3), (1, 1), bias=False, activated=False), torch.randn(2, 2, 6, 6)
    assert list(block.state_dict()) == ["conv.weight", "norm.weight", "norm.bias"]
    expected = nn.functional.instance_norm(nn.functional.conv2d(x, block.conv.weight, padding=1))
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_only_the_first_of_stacked_blocks_changes_channels_and_resolution() -> None:
    stack = StackedConvBlocks(3, 2, 5, (3, 3), (2, 2))
    assert [block.conv.in_channels for block in stack.convs] == [2, 5, 5]
    assert [block.conv.stride for block in stack.convs] == [(2, 2), (1, 1), (1, 1)]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_convolutions_of_a_dimension_take_tensors_of_that_dimension(dimensions: int) -> None:
    x = torch.randn(1, 2, *(4,) * dimensions)
    assert convolution(dimensions)(2, 3, 1)(x).shape == (1, 3, *(4,) * dimensions)
    assert transposed_convolution(dimensions)(2, 3, 2, 2)(x).shape == (1, 3, *(8,) * dimensions)
