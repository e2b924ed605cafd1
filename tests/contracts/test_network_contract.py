"""What every installed network plug must do: training, inference and weight files rely on it."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from autoseg import plugins
from autoseg.networks.build import build_network
from autoseg.networks.tape import Backend, Tape
from autoseg.networks.weights import load_tensors, load_weights, save_tensors
from autoseg.values import NetworkSpec


def make_spec(
    kernel_sizes: tuple[tuple[int, ...], ...], strides: tuple[tuple[int, ...], ...], channels: int
) -> NetworkSpec:
    stages = len(strides)
    return NetworkSpec(
        input_channels=channels,
        output_channels=3,
        features=(4, 8, 12, 16)[:stages],
        kernel_sizes=kernel_sizes,
        strides=strides,
        encoder_blocks=(2,) * stages,
        decoder_blocks=(2,) * (stages - 1),
    )


SPECS = {
    "2d": make_spec(((3, 3),) * 4, ((1, 1), (2, 2), (2, 2), (2, 2)), 2),
    "3d": make_spec(((3, 3, 3),) * 3, ((1, 1, 1), (2, 2, 2), (2, 2, 2)), 1),
    "anisotropic": make_spec(((1, 3, 3), (3, 3, 3), (3, 3, 3)), ((1, 1, 1), (1, 2, 2), (2, 2, 2)), 2),
    "two stages": make_spec(((3, 3, 3),) * 2, ((1, 1, 1), (2, 2, 2)), 1),
}


@pytest.fixture(params=plugins.available("network"))
def architecture(request: pytest.FixtureRequest) -> str:
    """The name of a network plug."""
    return request.param


@pytest.fixture(params=SPECS.values(), ids=SPECS)
def spec(request: pytest.FixtureRequest, architecture: str) -> NetworkSpec:
    """What is built."""
    return msgspec.structs.replace(request.param, architecture=architecture)


@pytest.fixture
def network(spec: NetworkSpec) -> nn.Module:
    """A network with fresh weights."""
    return build_network(spec, seed=0)


def example(spec: NetworkSpec, times: int = 4, batch: int = 2) -> torch.Tensor:
    patch = [step * times for step in spec.divisor]
    return torch.randn(batch, spec.input_channels, *patch, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The full-resolution logits in inference."""
    return network.eval()(x)[0]


def test_there_is_a_network() -> None:
    assert "plain_unet" in plugins.available("network")


def test_logits_come_from_the_highest_resolution_down(network: nn.Module, spec: NetworkSpec) -> None:
    x = example(spec)
    network.deep_supervision = True
    outputs = network(x)
    assert isinstance(outputs, list)
    assert outputs[0].shape == (2, spec.output_channels, *x.shape[2:])
    for finer, coarser in itertools.pairwise(outputs):
        assert coarser.shape[:2] == finer.shape[:2]
        assert all(small <= large for small, large in zip(coarser.shape[2:], finer.shape[2:], strict=True))
        assert coarser.shape[2:] != finer.shape[2:]


def test_without_deep_supervision_only_the_same_full_resolution_is_given(network: nn.Module, spec: NetworkSpec) -> None:
    network.eval()
    with torch.no_grad():
        network.deep_supervision = True
        first = network(example(spec))[0]
        network.deep_supervision = False
        (only,) = network(example(spec))
    assert network.deep_supervision is False
    torch.testing.assert_close(only, first)


def test_the_seed_alone_decides_about_the_weights(network: nn.Module, spec: NetworkSpec) -> None:
    torch.rand(3)
    again, other = (build_network(spec, seed=seed).state_dict() for seed in (0, 1))
    assert all(torch.equal(tensor, again[name]) for name, tensor in network.state_dict().items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in network.state_dict().items())


def test_weights_survive_a_file(network: nn.Module, spec: NetworkSpec, tmp_path: Path) -> None:
    save_tensors(tmp_path / "model.safetensors", network.state_dict(), {})
    other = build_network(spec, seed=1)
    load_weights(other, load_tensors(tmp_path / "model.safetensors")[0], source=tmp_path)
    torch.testing.assert_close(logits(other, example(spec)), logits(network, example(spec)), rtol=0, atol=0)


def test_a_loss_over_all_outputs_gives_finite_gradients(network: nn.Module, spec: NetworkSpec) -> None:
    network.deep_supervision = True
    sum(output.square().mean() for output in network.train()(example(spec))).backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert len(gradients) > 0.9 * len(list(network.parameters())) - 2  # a head that is not computed may have none


def test_a_step_down_the_gradient_lowers_the_loss(network: nn.Module, spec: NetworkSpec) -> None:
    x = example(spec)
    target = (x[:, :1] > 0).float().expand(-1, spec.output_channels, *x.shape[2:])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(network.train()(x)[0], target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_samples_do_not_see_each_other_in_inference(network: nn.Module, spec: NetworkSpec) -> None:
    x = example(spec, batch=3)
    torch.testing.assert_close(logits(network, x)[1:2], logits(network, x[1:2]), rtol=1e-3, atol=1e-4)


def test_the_memory_format_does_not_matter(network: nn.Module, spec: NetworkSpec) -> None:
    expected = logits(network, example(spec))
    layout = torch.channels_last if spec.dimensions == 2 else torch.channels_last_3d
    placed = copy.deepcopy(network).to(memory_format=layout)
    torch.testing.assert_close(
        logits(placed, example(spec).contiguous(memory_format=layout)), expected, rtol=1e-3, atol=1e-4
    )


def test_inference_is_repeatable_and_leaves_its_input_alone(network: nn.Module, spec: NetworkSpec) -> None:
    x = example(spec)
    first = logits(network, x)
    torch.rand(3)
    assert torch.equal(logits(network, x), first)
    assert torch.equal(x, example(spec))


def test_every_patch_that_the_strides_divide_is_taken(network: nn.Module, spec: NetworkSpec) -> None:
    for times in (2, 3, 5):
        x = example(spec, times)
        assert logits(network, x).shape[2:] == x.shape[2:]


def test_a_copy_is_independent(network: nn.Module, spec: NetworkSpec) -> None:
    expected = logits(network, example(spec))
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    assert torch.equal(logits(network, example(spec)), expected)


def test_a_description_counts_the_networks_parameters_and_logits(network: nn.Module, spec: NetworkSpec) -> None:
    """A network that describes itself on a tape describes what it is; one that does not is planned as a plain U-Net."""
    describe = getattr(plugins.load("network", spec.architecture), "describe", None)
    if describe is None:
        pytest.skip("it does not describe itself")
    x = example(spec)
    tape = Tape(Backend(), len(x), training=True)
    describe(spec, tape, tuple(x.shape[2:]))
    assert tape.parameters == sum(parameter.numel() for parameter in network.parameters())
    shapes = [(output.channels, *output.shape) for output in tape.outputs]
    assert shapes[::-1] == [tuple(output.shape[1:]) for output in network(x)]
    tape.backward()
    assert tape.live > 0
