"""The plain and the residual-encoder U-Net, against nnU-Net's own implementation (dynamic_network_architectures)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
import torch
from torch import nn

from autoseg import plugins
from autoseg.networks.weights import drop_aliases
from autoseg.values import NetworkSpec

Sizes = tuple[tuple[int, ...], ...]


def make_spec(
    features: Sequence[int],
    kernel_sizes: Sizes,
    strides: Sizes,
    *,
    channels: int = 1,
    outputs: int = 3,
    deeper: int = 0,
) -> NetworkSpec:
    stages = len(features)
    return NetworkSpec(
        input_channels=channels,
        output_channels=outputs,
        features=tuple(features),
        kernel_sizes=kernel_sizes,
        strides=strides,
        encoder_blocks=tuple(1 + (stage + deeper) % 2 for stage in range(stages)),
        decoder_blocks=tuple(2 - (stage + deeper) % 2 for stage in range(stages - 1)),
    )


def isotropic(dimensions: int, features: Sequence[int], **options: int) -> NetworkSpec:
    stages = len(features)
    strides = ((1,) * dimensions, *((2,) * dimensions for _ in range(stages - 1)))
    return make_spec(features, ((3,) * dimensions,) * stages, strides, **options)


SPECS = {
    "2d, 2 stages": isotropic(2, (4, 8)),
    "2d, 4 stages": isotropic(2, (4, 8, 12, 16), channels=3, outputs=2, deeper=1),
    "3d, 2 stages": isotropic(3, (4, 8), channels=2),
    "3d, 3 stages": isotropic(3, (4, 8, 12), deeper=1),
    "anisotropic": make_spec(
        (4, 6, 8), ((1, 3, 3), (3, 3, 3), (3, 3, 3)), ((1, 1, 1), (1, 2, 2), (2, 2, 2)), outputs=2
    ),
    "thin first axis": make_spec((4, 6, 8), ((3, 1, 1), (3, 3, 3), (3, 3, 3)), ((1, 1, 1), (2, 1, 1), (2, 2, 2))),
    "mixed kernels": make_spec((4, 6), ((3, 5), (1, 3)), ((1, 1), (2, 4)), channels=2),
}
SPECS |= {
    f"{name}, residual": msgspec.structs.replace(spec, architecture="residual_encoder_unet")
    for name, spec in SPECS.items()
}
SPECS["residual, equal features"] = msgspec.structs.replace(
    isotropic(3, (4, 4, 4), channels=2), architecture="residual_encoder_unet"
)
specs = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def build(spec: NetworkSpec) -> nn.Module:
    """Our network."""
    return plugins.load("network", spec.architecture)(spec)


def nnunets_network(spec: NetworkSpec) -> nn.Module:
    """nnU-Net's network of the same numbers, with random weights everywhere, norms and biases included."""
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    kind, blocks = {
        "plain_unet": (unet.PlainConvUNet, "n_conv_per_stage"),
        "residual_encoder_unet": (unet.ResidualEncoderUNet, "n_blocks_per_stage"),
    }[spec.architecture]
    network = kind(
        input_channels=spec.input_channels,
        n_stages=len(spec.features),
        features_per_stage=spec.features,
        conv_op={2: nn.Conv2d, 3: nn.Conv3d}[spec.dimensions],
        kernel_sizes=spec.kernel_sizes,
        strides=spec.strides,
        **{blocks: spec.encoder_blocks},
        num_classes=spec.output_channels,
        n_conv_per_stage_decoder=spec.decoder_blocks[::-1],
        conv_bias=True,
        norm_op={2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[spec.dimensions],
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + (parameter.ndim == 1) * 0.5)
    return network.eval()


def example(spec: NetworkSpec) -> torch.Tensor:
    patch = [step * 4 for step in spec.divisor]
    return torch.randn(2, spec.input_channels, *patch, generator=torch.Generator().manual_seed(0))


def ours_with_weights_of(theirs: nn.Module, spec: NetworkSpec) -> nn.Module:
    network = build(spec)
    network.load_state_dict(drop_aliases(theirs.state_dict()))
    return network.eval()


def assert_agree(own: torch.Tensor, other: torch.Tensor) -> None:
    """To 1e-5 of the largest logit."""
    torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5 * max(1.0, float(other.abs().max())))


@specs
def test_names_shapes_and_their_order_are_nnunets(spec: NetworkSpec) -> None:
    theirs = drop_aliases(nnunets_network(spec).state_dict())
    ours = build(spec).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: tensor.shape for n, tensor in theirs.items()}


@specs
@pytest.mark.parametrize("channels_last", [False, True])
def test_all_computed_heads_agree_with_nnunets_for_its_weights(spec: NetworkSpec, channels_last: bool) -> None:
    theirs = nnunets_network(spec)
    ours, x = ours_with_weights_of(theirs, spec), example(spec)
    if channels_last:
        layout = torch.channels_last if spec.dimensions == 2 else torch.channels_last_3d
        ours, x = ours.to(memory_format=layout), x.contiguous(memory_format=layout)
    with torch.no_grad():
        mine, reference = ours(x), theirs(x)
    assert len(mine) == max(1, len(reference) - 1)
    for own, other in zip(mine, reference, strict=False):
        assert_agree(own, other)


@specs
def test_without_deep_supervision_there_is_the_full_resolution_alone(spec: NetworkSpec) -> None:
    theirs = nnunets_network(spec)
    ours, x = ours_with_weights_of(theirs, spec), example(spec)
    theirs.decoder.deep_supervision = ours.deep_supervision = False
    with torch.no_grad():
        (only,) = ours(x)
        assert_agree(only, theirs(x))
    assert only.shape == (2, spec.output_channels, *x.shape[2:])


@specs
def test_a_loss_reaches_every_parameter_but_those_of_the_lowest_head(spec: NetworkSpec) -> None:
    network = build(spec)
    sum(output.square().sum() for output in network(example(spec))).backward()
    without = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    lowest = {"decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"} if len(spec.features) > 2 else set()
    assert without == lowest


def test_fresh_weights_have_the_deviation_of_he_for_leaky_relu() -> None:
    torch.manual_seed(0)
    network = build(isotropic(3, (16, 32)))
    weight = network.encoder.stages[1][0].convs[0].conv.weight.detach()
    expected = (2 / (1 + 0.01**2) / (16 * 27)) ** 0.5
    assert float(weight.std()) == pytest.approx(expected, rel=0.03)
    assert abs(float(weight.mean())) < expected / 30
    biases = [parameter for name, parameter in network.named_parameters() if name.endswith("bias")]
    assert biases
    assert all(not bias.any() for bias in biases)


def test_residual_blocks_begin_as_their_shortcuts() -> None:
    network = build(SPECS["3d, 3 stages, residual"])
    scales = [value for name, value in network.named_parameters() if ".conv2.norm." in name]
    assert len(scales) == 2 * sum(SPECS["3d, 3 stages, residual"].encoder_blocks)
    assert not any(bool(scale.any()) for scale in scales)
    x = torch.randn(1, 4, 8, 8, 8)
    block = network.encoder.stages[0].blocks[-1]
    torch.testing.assert_close(block(x), torch.nn.functional.leaky_relu(x, 0.01))
