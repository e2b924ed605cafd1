"""How a network shall run: by measurement, by agreement with fp32, within the planned memory."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
import torch
import torch._inductor.config as inductor
from torch import nn

from autoseg.networks import choosing, execution
from autoseg.networks.build import build_network
from autoseg.networks.choosing import Trial, candidates, choose_execution, decide
from autoseg.networks.execution import default_execution, usable_here
from autoseg.values import ExecutionPath
from tests.small_plans import small_configuration, small_network

HOURS = 10**12  # so many iterations that compiling would be worth its time
CONFIGURATION = small_configuration(patch=(8, 8, 8))
PLAIN = ExecutionPath(device="cpu", channels_last=True)
HALF = msgspec.structs.replace(PLAIN, precision="bf16")
ON_GPU = ExecutionPath(device="cuda", precision="bf16")
COMPILED = msgspec.structs.replace(ON_GPU, compiled=True)
GRAPHS = msgspec.structs.replace(COMPILED, graphs=True)


@pytest.fixture(autouse=True)
def _threads_as_before():
    """``place`` sets torch's threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tiny_network() -> nn.Module:
    return build_network(CONFIGURATION.network, seed=0)


class WrongUnderAutocast(nn.Module):
    """A convolution whose 16-bit kernel is broken, as some are on some machines."""

    def __init__(self, wrong: float) -> None:
        super().__init__()
        self.conv, self.wrong = nn.Conv3d(1, 2, 3, padding=1), wrong

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        logits = self.conv(x)
        return [logits + self.wrong if torch.is_autocast_enabled("cpu") else logits]


class Backwards(torch.autograd.Function):
    """Gives what it is given; under autocast the gradient is multiplied."""

    @staticmethod
    def forward(context, x: torch.Tensor, factor: float) -> torch.Tensor:
        context.factor = factor if torch.is_autocast_enabled("cpu") else 1.0
        return x.clone()

    @staticmethod
    def backward(context, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return context.factor * gradient, None


class WrongGradientsUnderAutocast(nn.Module):
    """Logits that are right, beside gradients of the first layer that are not."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 2, 3, padding=1)
        self.factor = factor

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.second(Backwards.apply(self.first(x), self.factor).relu())]


class Noticing(nn.Module):
    """A convolution that notices whether gradients of an earlier pass are still there."""

    found: ClassVar[list[bool]] = []

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        self.found.append(self.conv.weight.grad is not None)
        return [self.conv(x)]


class Shifted(nn.Module):
    """A network with wrong logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [output + 100 for output in self.network(x)]


def choose(network: nn.Module, *, iterations: int = 1) -> ExecutionPath:
    return choose_execution(network, CONFIGURATION, device="cpu", iterations=iterations)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the shortest training is worth measuring."""
    monkeypatch.setitem(choosing.WORTH_MEASURING, "cpu", 0)
    monkeypatch.setattr(choosing, "FEWEST_ITERATIONS", 0)


@pytest.mark.parametrize(
    ("trials", "expected", "told"),
    [
        (
            [Trial(path=PLAIN, seconds=1), Trial(path=HALF, seconds=0.85)],
            PLAIN,
            "bf16 channels-last in 1 threads 0.85 s",
        ),
        ([Trial(path=PLAIN, seconds=1), Trial(path=HALF, seconds=0.75)], HALF, "fp32 channels-last in 1 threads 1 s"),
        ([Trial(path=PLAIN, seconds=1), Trial(path=HALF, seconds=0.1, difference=0.2)], PLAIN, "disagrees with fp32"),
        ([Trial(path=PLAIN, seconds=1), Trial(path=HALF, seconds=0.1, difference=math.nan)], PLAIN, "by nan"),
        (
            [Trial(path=PLAIN, seconds=1), Trial(path=HALF, seconds=0.1, cosine=0.8)],
            PLAIN,
            "has gradients that disagree with fp32 (cosine 0.8)",
        ),
        ([Trial(path=PLAIN, seconds=1), Trial(path=HALF, seconds=0.1, cosine=math.nan)], PLAIN, "cosine nan"),
        (
            [Trial(path=ON_GPU, seconds=1, peak_bytes=100), Trial(path=COMPILED, seconds=0.9, peak_bytes=101)],
            COMPILED,
            "bf16 compiled 0.9 s",
        ),
        (
            [Trial(path=ON_GPU, seconds=1, peak_bytes=100), Trial(path=COMPILED, seconds=0.9, peak_bytes=110)],
            ON_GPU,
            "bf16 compiled takes more memory than is planned for",
        ),
        (
            [
                Trial(path=ON_GPU, seconds=1),
                Trial(path=COMPILED, seconds=0.9),
                Trial(path=GRAPHS, seconds=math.inf, failure="RuntimeError"),
            ],
            COMPILED,
            "bf16 compiled with CUDA graphs does not work here (RuntimeError)",
        ),
        (
            [Trial(path=ON_GPU, seconds=1), Trial(path=COMPILED, seconds=0.9), Trial(path=GRAPHS, seconds=0.8)],
            GRAPHS,
            "bf16 compiled with CUDA graphs 0.8 s",
        ),
        ([Trial(path=ON_GPU, seconds=1), Trial(path=COMPILED, seconds=0.97)], ON_GPU, "bf16 compiled 0.97 s"),
    ],
)
def test_the_fastest_that_is_right_and_fits_is_taken_if_it_is_clearly_faster(
    trials: list[Trial], expected: ExecutionPath, told: str
) -> None:
    path, reason = decide(trials)
    assert path == expected
    assert told in reason


@pytest.mark.parametrize("fast_bf16", [True, False])
def test_every_way_on_a_cpu_is_channels_last_as_memory_is_planned_for(
    monkeypatch: pytest.MonkeyPatch, fast_bf16: bool
) -> None:
    """Contiguous tensors take up to a quarter more: they are no candidate, however fast."""
    monkeypatch.setattr(choosing, "has_fast_bf16", lambda: fast_bf16)
    default = default_execution("cpu")
    others = candidates(default)
    assert default.channels_last
    assert all(path.channels_last for path in others)
    assert ("bf16" in [path.precision for path in others]) is fast_bf16


def test_half_the_threads_are_tried_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where other programs want the processors, they were three times as fast as all (measured)."""
    monkeypatch.setattr(choosing, "has_fast_bf16", lambda: False)
    four = msgspec.structs.replace(PLAIN, threads=4)
    two = msgspec.structs.replace(PLAIN, threads=2)
    assert candidates(four) == [two]
    assert candidates(PLAIN) == []
    assert decide([Trial(path=four, seconds=3), Trial(path=two, seconds=1)])[0] == two
    assert decide([Trial(path=four, seconds=1), Trial(path=two, seconds=0.9)])[0] == four


def test_on_a_gpu_both_layouts_are_tried_in_the_precision_of_the_plan() -> None:
    assert candidates(ON_GPU) == [msgspec.structs.replace(ON_GPU, channels_last=True)]


def test_a_short_training_runs_in_the_default_way_whatever_the_clock_says() -> None:
    path = choose(tiny_network())
    assert msgspec.structs.replace(path, reason="") == msgspec.structs.replace(default_execution("cpu"), reason="")
    assert "too short" in path.reason


def test_choosing_gives_a_path_for_the_device_with_its_reason(measured) -> None:
    path = choose(tiny_network())
    assert path.device == "cpu"
    assert path.precision == "fp32" or usable_here(path)
    assert not path.compiled
    assert path.threads >= 1
    assert "fp32 channels-last" in path.reason
    assert "1 patches" in path.reason


def test_choosing_leaves_the_network_as_it_was(measured) -> None:
    network = tiny_network()
    before = copy.deepcopy(network.state_dict())
    choose(network)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert parameter.grad is None
        assert parameter.is_contiguous()
        assert parameter.dtype == torch.float32
    assert network.training


def test_every_timed_pass_begins_without_gradients_as_in_training(measured) -> None:
    """CUDA graphs fail where a pass adds to the gradients of the one before."""
    Noticing.found.clear()
    choose(Noticing())
    assert len(Noticing.found) > choosing.TIMED_RUNS
    assert not any(Noticing.found)


@pytest.mark.parametrize("wrong", [1e4, float("nan"), float("inf")])
def test_bf16_that_disagrees_is_refused_with_the_reason(
    measured, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    monkeypatch.setattr(choosing, "has_fast_bf16", lambda: True)
    path = choose(WrongUnderAutocast(wrong))
    assert path.precision == "fp32"
    assert "bf16 channels-last" in path.reason
    assert "disagrees with fp32" in path.reason


@pytest.mark.parametrize("factor", [-1.0, 0.0, math.nan, math.inf])
def test_bf16_with_right_logits_and_wrong_gradients_is_refused_with_the_reason(
    measured, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    monkeypatch.setattr(choosing, "has_fast_bf16", lambda: True)
    monkeypatch.setattr(choosing, "CLEAR_GAIN", math.inf)  # the clock shall not decide
    path = choose(WrongGradientsUnderAutocast(factor))
    assert path.precision == "fp32"
    assert "has gradients that disagree with fp32" in path.reason


@pytest.mark.parametrize("architecture", ["plain_unet", "residual_encoder_unet"])
def test_the_rounding_of_bf16_is_no_wrong_gradient(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    """Whose biases before a norm have gradients that are nothing but rounding."""
    spec = msgspec.structs.replace(small_network(3, features=(4, 8, 16, 16)), architecture=architecture)
    run = choosing._runner(build_network(spec, seed=0), torch.randn(1, 1, 16, 16, 16), 3)
    _, reference = run(PLAIN, None)
    trial, _ = run(HALF, reference)
    assert choosing.GRADIENT_AGREEMENT < trial.cosine < 1
    assert trial.agrees


def test_bf16_that_agrees_is_a_candidate(measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "has_fast_bf16", lambda: True)
    path = choose(WrongUnderAutocast(0.0))
    assert "disagrees" not in path.reason
    assert "bf16 channels-last" in path.reason


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution.shutil, "which", lambda name: None)
    path = choose(tiny_network(), iterations=HOURS)
    assert not path.compiled
    assert "compile" not in path.reason


def test_where_the_compiler_is_broken_the_network_runs_eagerly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))  # no kernel of an earlier run
    monkeypatch.setattr(inductor.cpp, "cxx", (None, str(tmp_path / "no-such-compiler")))
    monkeypatch.setattr(inductor, "compile_threads", 1)
    monkeypatch.setattr(execution.shutil, "which", lambda name: "a compiler")
    path = choose(tiny_network(), iterations=HOURS)
    assert not path.compiled
    assert "compiled does not work here" in path.reason


def test_a_compiled_network_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution.shutil, "which", lambda name: "a compiler")
    monkeypatch.setattr(choosing, "compiled", lambda network, path: Shifted(network) if path.compiled else network)
    path = choose(tiny_network(), iterations=HOURS)
    assert not path.compiled
    assert "compiled disagrees with fp32" in path.reason
