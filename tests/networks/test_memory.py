"""Predicted cost: parameters against real networks and nnU-Net's counts, bytes against torch's allocator and autograd."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from autoseg.networks.build import build_network
from autoseg.networks.execution import default_execution
from autoseg.networks.memory import (
    inference_bytes,
    multiply_adds,
    parameter_count,
    process_bytes,
    training_bytes,
)
from autoseg.networks.tape import Backend
from autoseg.values import ExecutionPath, NetworkSpec
from tests.allocator import measured_inference_bytes, measured_training_bytes, traced_training_bytes
from tests.small_plans import SHORT

CPU = Backend(threads=default_execution("cpu").threads)
HALF = Backend(precision="bf16")
SGD = msgspec.structs.replace(SHORT, optimizer="sgd", momentum=0.99)
AVERAGED = msgspec.structs.replace(SHORT, ema_decay=0.99, batch_dice=True)
#: A prediction may be this much too low and too high, as shares of what was measured.
TOO_LOW, TOO_HIGH = 0.97, 1.10


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
        (3, (32, 64, 128, 256, 320, 320), (31_196_399, 102_350_575)),
        (2, (32, 64, 128, 256, 512, 512, 512, 512), (46_326_581, 140_019_061)),
    ],
)
def test_parameter_counts_of_nnunets_standard_networks(
    dimensions: int, features: tuple[int, ...], count: tuple[int, int]
) -> None:
    """Plain and with a residual encoder."""
    spec = isotropic(dimensions, features)
    assert (parameter_count(spec), parameter_count(residual(spec))) == count


@pytest.mark.parametrize(
    "spec",
    [isotropic(2, (4, 8)), isotropic(3, (4, 8, 8), channels=3, outputs=2), ANISOTROPIC],
    ids=["2d", "3d", "mixed"],
)
@pytest.mark.parametrize("architecture", ["plain_unet", "residual_encoder_unet"])
def test_parameter_count_is_that_of_the_built_network(spec: NetworkSpec, architecture: str) -> None:
    spec = msgspec.structs.replace(spec, architecture=architecture)
    assert parameter_count(spec) == sum(parameter.numel() for parameter in build_network(spec, seed=0).parameters())


@pytest.mark.parametrize(
    "spec",
    [isotropic(2, (4, 8)), isotropic(3, (4, 8, 8), channels=3, outputs=2), ANISOTROPIC],
    ids=["2d", "3d", "mixed"],
)
@pytest.mark.parametrize("architecture", ["plain_unet", "residual_encoder_unet"])
def test_multiply_adds_are_those_of_the_built_networks_convolutions(spec: NetworkSpec, architecture: str) -> None:
    spec = msgspec.structs.replace(spec, architecture=architecture)
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


def residual(spec: NetworkSpec) -> NetworkSpec:
    """The residual-encoder network of the same stages."""
    stages = len(spec.features)
    return msgspec.structs.replace(
        spec,
        architecture="residual_encoder_unet",
        encoder_blocks=(1, 3, 4, 6, 6, 6, 6, 6)[:stages],
        decoder_blocks=(1,) * (stages - 1),
    )


def network(
    features: tuple[int, ...],
    kernels: tuple[tuple[int, ...], ...],
    strides: tuple[tuple[int, ...], ...],
    **changes: int,
) -> NetworkSpec:
    stages = len(features)
    return NetworkSpec(
        **{"input_channels": 1, "output_channels": 3} | changes,
        features=features,
        kernel_sizes=kernels,
        strides=strides,
        encoder_blocks=(2,) * stages,
        decoder_blocks=(2,) * (stages - 1),
    )


FLAT, CUBE = ((1, 3, 3), (3, 3, 3)), ((1, 2, 2), (2, 2, 2))
#: What a planner gives for usual data, at a size that takes seconds: network, patch, batch.
NETWORKS: dict[str, tuple[NetworkSpec, tuple[int, ...], int]] = {
    "2d": (isotropic(2, (32, 64, 128, 256)), (96, 96), 8),
    "2d, one label of many": (isotropic(2, (32, 64, 128), outputs=30), (96, 96), 6),
    "3d": (isotropic(3, (32, 64, 128)), (40, 48, 40), 2),
    "3d, four channels": (isotropic(3, (32, 64, 128), channels=4, outputs=4), (32, 32, 32), 3),
    "thick slices": (
        network((32, 64, 128), (FLAT[0], FLAT[1], FLAT[1]), ((1, 1, 1), CUBE[0], CUBE[1])),
        (8, 96, 96),
        2,
    ),
    "very thick slices": (
        network((32, 64, 128, 256), (FLAT[0], FLAT[0], FLAT[1], FLAT[1]), ((1, 1, 1), CUBE[0], CUBE[0], CUBE[0])),
        (5, 64, 64),
        2,
    ),
    "deep": (isotropic(3, (32, 64, 128, 256, 320)), (32, 32, 32), 2),
}
NETWORKS |= {f"{name}, residual": (residual(spec), patch, batch) for name, (spec, patch, batch) in NETWORKS.items()}
#: A step takes seconds: these are run always, the others by make test-all.
ALWAYS = ("thick slices", "2d", "3d, residual")


def over(names: Sequence[str]) -> pytest.MarkDecorator:
    """The planned networks; those that are not named are slow."""
    marked = [
        pytest.param(*each, id=name, marks=[] if name in names else pytest.mark.slow) for name, each in NETWORKS.items()
    ]
    return pytest.mark.parametrize(("spec", "patch", "batch"), marked)


planned, small = over(ALWAYS[:2]), over(ALWAYS[:1])


def assert_true(predicted: int, measured: int) -> None:
    """Within the tolerance that plans rely on."""
    assert TOO_LOW * measured <= predicted <= TOO_HIGH * measured, predicted / measured


@over(ALWAYS)
def test_training_takes_what_is_predicted(spec: NetworkSpec, patch: tuple[int, ...], batch: int) -> None:
    """Against every allocation of real steps in float32, workspaces included."""
    measured = measured_training_bytes(spec, patch, batch, AVERAGED, default_execution("cpu"))
    assert_true(training_bytes(spec, patch, batch, AVERAGED, backend=CPU), measured)


def test_an_optimizer_with_one_moment_takes_less() -> None:
    spec, patch, batch = NETWORKS["2d"]
    measured = measured_training_bytes(spec, patch, batch, SGD, default_execution("cpu"))
    assert_true(training_bytes(spec, patch, batch, SGD, backend=CPU), measured)


@small
def test_prediction_takes_what_is_predicted(spec: NetworkSpec, patch: tuple[int, ...], batch: int) -> None:
    measured = measured_inference_bytes(spec, patch, batch, default_execution("cpu"), networks=2)
    assert_true(inference_bytes(spec, patch, batch, backend=CPU, networks=2), measured)


@planned
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_keeps_what_autograd_keeps(
    spec: NetworkSpec, patch: tuple[int, ...], batch: int, precision: str
) -> None:
    """A large step without numbers: four times the patch and batch, in both precisions, without workspaces."""
    patch, batch = tuple(2 * edge for edge in patch), 2 * batch
    path = ExecutionPath(device="cpu", precision=precision, channels_last=True)
    traced = traced_training_bytes(spec, patch, batch, AVERAGED, path)
    assert_true(training_bytes(spec, patch, batch, AVERAGED, backend=Backend(precision=precision)), traced)


@planned
def test_a_gpu_keeps_what_autograd_keeps(spec: NetworkSpec, patch: tuple[int, ...], batch: int) -> None:
    """In 16 bits, without numbers; the prediction has workspaces on top, which weigh little in large steps."""
    patch, batch = tuple(2 * edge for edge in patch), 2 * batch
    path = ExecutionPath(device="cpu", precision="bf16", channels_last=True)
    traced = traced_training_bytes(spec, patch, batch, AVERAGED, path, as_on_a_gpu=True)
    backend = Backend(device="cuda", precision="bf16")
    assert_true(training_bytes(spec, patch, batch, AVERAGED, backend=backend), traced)


@pytest.mark.slow
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no 16-bit convolutions on this processor")
@planned
def test_training_in_16_bits_takes_what_is_predicted(spec: NetworkSpec, patch: tuple[int, ...], batch: int) -> None:
    path = msgspec.structs.replace(default_execution("cpu"), precision="bf16")
    measured = measured_training_bytes(spec, patch, 2 * batch, AVERAGED, path)
    backend = msgspec.structs.replace(CPU, precision="bf16")
    assert_true(training_bytes(spec, patch, 2 * batch, AVERAGED, backend=backend), measured)


def test_a_gpu_is_predicted_by_the_same_tape_with_its_own_workspaces() -> None:
    spec, patch, batch = NETWORKS["3d, residual"]
    half, single = (
        training_bytes(spec, patch, batch, SHORT, backend=Backend(device="cuda", precision=precision))
        for precision in ("bf16", "fp32")
    )
    on_cpu = training_bytes(spec, patch, batch, SHORT, backend=CPU)
    assert 0.5 * single < half < single
    assert single == pytest.approx(on_cpu, rel=0.15)


@planned
def test_bytes_grow_with_patch_batch_labels_and_state(spec: NetworkSpec, patch: tuple[int, ...], batch: int) -> None:
    def bytes_of(**changes: object) -> int:
        parts = {"spec": spec, "patch_size": patch, "batch_size": batch, "training": SHORT, "backend": HALF}
        return training_bytes(**parts | changes)

    least = bytes_of()
    assert bytes_of(batch_size=batch + 1) > least
    assert bytes_of(patch_size=(*patch[:-1], patch[-1] + spec.divisor[-1])) > least
    assert bytes_of(spec=msgspec.structs.replace(spec, output_channels=120)) > least
    assert bytes_of(backend=Backend(threads=2)) > least
    weights = 4 * parameter_count(spec)
    averaged, without_moment = bytes_of(training=AVERAGED) - least, least - bytes_of(training=SGD)
    assert averaged == without_moment == weights


def test_a_process_takes_more_than_its_tensors() -> None:
    spec, patch, batch = NETWORKS["3d"]
    tensors = training_bytes(spec, patch, batch, SHORT, backend=CPU)
    assert process_bytes(spec, patch, batch, SHORT, backend=CPU) > tensors + 300 * 2**20


def test_a_network_that_does_not_describe_itself_is_taken_for_a_plain_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "undescribed_network.py").write_text("def network(spec):\n    raise NotImplementedError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec, patch, batch = NETWORKS["3d"]
    own = msgspec.structs.replace(spec, architecture="undescribed_network:network")
    assert training_bytes(own, patch, batch, SHORT, backend=CPU) == training_bytes(
        spec, patch, batch, SHORT, backend=CPU
    )
