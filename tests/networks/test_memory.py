"""Predicted cost: parameters against real networks and nnU-Net's counts, bytes by their laws."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import nn

from autoseg.networks.build import build_network
from autoseg.networks.memory import multiply_adds, parameter_count, training_bytes
from autoseg.values import NetworkSpec

MIB = 2**20


def isotropic(dimensions: int, features: tuple[int, ...], *, channels: int = 1, outputs: int = 3) -> NetworkSpec:
    stages = len(features)
    return NetworkSpec(
        input_channels=channels,
        output_channels=outputs,
        features=features,
        kernel_sizes=((3,) * dimensions,) * stages,
        strides=((1,) * dimensions, *((2,) * dimensions for _ in range(stages - 1))),
        encoder_blocks=(2,) * stages,
        decoder_blocks=(2,) * (stages - 1),
    )


ANISOTROPIC = NetworkSpec(
    input_channels=2,
    output_channels=4,
    features=(4, 6, 8),
    kernel_sizes=((1, 3, 3), (3, 1, 3), (3, 3, 3)),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    encoder_blocks=(1, 2, 3),
    decoder_blocks=(3, 1),
)


@pytest.mark.parametrize(
    ("dimensions", "features", "count"),
    [
        (3, (32, 64, 128, 256, 320, 320), 31_196_399),
        (2, (32, 64, 128, 256, 512, 512, 512, 512), 46_326_581),
    ],
)
def test_parameter_counts_of_nnunets_standard_networks(dimensions: int, features: tuple[int, ...], count: int) -> None:
    assert parameter_count(isotropic(dimensions, features)) == count


@pytest.mark.parametrize(
    "spec",
    [isotropic(2, (4, 8)), isotropic(3, (4, 8, 8), channels=3, outputs=2), ANISOTROPIC],
    ids=["2d", "3d", "mixed"],
)
def test_parameter_count_is_that_of_the_built_network(spec: NetworkSpec) -> None:
    assert parameter_count(spec) == sum(parameter.numel() for parameter in build_network(spec, seed=0).parameters())


@pytest.mark.parametrize(
    "spec",
    [isotropic(2, (4, 8)), isotropic(3, (4, 8, 8), channels=3, outputs=2), ANISOTROPIC],
    ids=["2d", "3d", "mixed"],
)
def test_multiply_adds_are_those_of_the_built_networks_convolutions(spec: NetworkSpec) -> None:
    counts = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        transposed = isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d)
        voxels = (inputs[0] if transposed else output)[0, 0].numel()
        counts.append(module.weight.numel() * voxels)

    network = build_network(spec, seed=0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            module.register_forward_hook(count)
    patch = tuple(8 * step for step in spec.divisor)
    network(torch.zeros(1, spec.input_channels, *patch))
    assert multiply_adds(spec, patch, 1) == sum(counts)
    assert multiply_adds(spec, patch, 5) == 5 * sum(counts)


def test_bytes_grow_with_batch_patch_and_features() -> None:
    spec, wider = isotropic(3, (8, 16, 32)), isotropic(3, (16, 32, 64))
    least = training_bytes(spec, (32, 32, 32), 2)
    assert training_bytes(spec, (32, 32, 32), 3) > least
    assert training_bytes(spec, (32, 32, 36), 2) > least
    assert training_bytes(wider, (32, 32, 32), 2) > least


def test_bytes_of_activations_are_proportional_to_batch_and_voxels() -> None:
    spec = isotropic(3, (8, 16, 32))
    fixed = 2 * training_bytes(spec, (32, 32, 32), 1) - training_bytes(
        spec, (32, 32, 32), 2
    )  # what one sample adds, off
    for patch, batch, samples in (((32, 32, 32), 5, 5), ((64, 32, 32), 1, 2), ((64, 64, 64), 3, 24)):
        one = training_bytes(spec, (32, 32, 32), 1) - fixed
        assert training_bytes(spec, patch, batch) - fixed == pytest.approx(samples * one, rel=1e-5)


def test_half_precision_saves_half_of_the_activations_but_none_of_the_weights() -> None:
    spec = isotropic(3, (8, 16, 32))
    full, half = (training_bytes(spec, (32, 32, 32), 2, activation_bytes=size) for size in (4, 2))
    weights = 2 * half - full
    assert weights == pytest.approx(5 * 4 * parameter_count(spec) * 1.1, rel=1e-5)


def test_more_outputs_cost_more() -> None:
    spec = isotropic(2, (8, 16))
    more = msgspec.structs.replace(spec, output_channels=30)
    assert training_bytes(more, (64, 64), 4) > training_bytes(spec, (64, 64), 4)


def test_the_largest_tensors_of_a_step_fit_into_the_prediction() -> None:
    """Outputs of convolutions and norms that autograd keeps, counted on a real network, are below what is predicted."""
    import torch

    spec, kept = isotropic(3, (8, 16)), {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    network = build_network(spec, seed=0)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = network(torch.randn(2, 1, 32, 32, 32))
    assert outputs[0].requires_grad
    predicted = training_bytes(spec, (32, 32, 32), 2)
    assert 0.5 * predicted < sum(kept.values()) < predicted
    assert predicted > MIB
