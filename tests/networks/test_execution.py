"""How a network runs: devices, precision and layout, chosen by measurement and by agreement with fp32."""

from __future__ import annotations

import copy
import platform
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
import torch._inductor.config as inductor
from torch import nn

from autoseg.errors import InputError
from autoseg.executors import usable_cpus
from autoseg.networks import execution
from autoseg.networks.build import build_network
from autoseg.networks.execution import (
    autocast,
    choose_execution,
    compiled,
    default_execution,
    free_memory,
    memory_format,
    place,
    resolve_device,
    training_backend,
    usable_here,
)
from autoseg.networks.tape import Backend
from autoseg.values import ExecutionPath
from tests.small_plans import small_configuration

PATCH = (8, 8, 8)
HOURS = 10**12  # so many iterations that compiling would be worth its time


@pytest.fixture(autouse=True)
def _threads_as_before():
    """``place`` sets torch's threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


CONFIGURATION = small_configuration(patch=PATCH)


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


def choose(network: nn.Module, *, iterations: int = 1) -> ExecutionPath:
    return choose_execution(network, CONFIGURATION, device="cpu", iterations=iterations)


def test_the_cpu_is_always_there_and_auto_finds_a_device() -> None:
    assert resolve_device("cpu") == "cpu"
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto") == expected


@pytest.mark.parametrize("wanted", ["tpu", "", "CPU"])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(wanted: str) -> None:
    with pytest.raises(InputError, match="not available here; expected cpu"):
        resolve_device(wanted)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_here_is_refused() -> None:
    with pytest.raises(InputError, match="'cuda' is not available"):
        resolve_device("cuda")


def test_only_a_gpu_has_free_memory_to_plan_for() -> None:
    assert free_memory("cpu") is None
    assert free_memory("mps") is None
    if torch.cuda.is_available():
        assert 0 < free_memory("cuda") <= torch.cuda.mem_get_info()[1]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the shortest training is worth measuring."""
    monkeypatch.setattr(execution, "WORTH_MEASURING", 0)
    monkeypatch.setattr(execution, "FEWEST_ITERATIONS", 0)


def test_a_short_training_runs_in_the_default_way_whatever_the_clock_says() -> None:
    path = choose(tiny_network())
    assert msgspec.structs.replace(path, reason="") == msgspec.structs.replace(default_execution("cpu"), reason="")
    assert "too short" in path.reason


def test_another_way_must_be_clearly_faster(measured, monkeypatch: pytest.MonkeyPatch) -> None:
    for bf16_seconds, precision in ((0.85, "fp32"), (0.75, "bf16")):

        def time_step(network, path, example, dimensions, bf16_seconds=bf16_seconds):
            return (1.0 if path.precision == "fp32" else bf16_seconds), torch.ones(2)

        monkeypatch.setattr(execution, "_time_step", time_step)
        monkeypatch.setattr(execution, "_has_fast_bf16", lambda: True)
        assert choose(tiny_network()).precision == precision


@pytest.mark.parametrize("fast_bf16", [True, False])
def test_every_way_on_a_cpu_is_channels_last_as_memory_is_planned_for(
    measured, monkeypatch: pytest.MonkeyPatch, fast_bf16: bool
) -> None:
    """Contiguous tensors take up to a quarter more: they are no candidate, however fast."""
    timed = []

    def time_step(network, path, example, dimensions):
        timed.append(path)
        return (1.0 if path.channels_last else 0.1), torch.ones(2)

    monkeypatch.setattr(execution, "_time_step", time_step)
    monkeypatch.setattr(execution, "_has_fast_bf16", lambda: fast_bf16)
    assert choose(tiny_network()).channels_last
    assert [path.precision for path in timed] == (["fp32", "bf16"] if fast_bf16 else ["fp32"])
    assert all(path.channels_last for path in timed)


def test_choosing_gives_a_path_for_the_device_with_its_reason(measured) -> None:
    path = choose(tiny_network())
    assert path.device == "cpu"
    assert path.precision == "fp32" or usable_here(path)
    assert not path.compiled
    assert path.threads >= 1
    assert "fp32 channels-last" in path.reason
    assert "1 patches" in path.reason


def test_choosing_leaves_the_network_as_it_was() -> None:
    network = tiny_network()
    before = copy.deepcopy(network.state_dict())
    choose(network)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert parameter.grad is None
        assert parameter.is_contiguous()
        assert parameter.dtype == torch.float32
    assert network.training


@pytest.mark.parametrize("wrong", [1e4, float("nan"), float("inf")])
def test_bf16_that_disagrees_is_refused_with_the_reason(
    measured, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    monkeypatch.setattr(execution, "_has_fast_bf16", lambda: True)
    path = choose(WrongUnderAutocast(wrong))
    assert path.precision == "fp32"
    assert "bf16 channels-last disagrees with fp32" in path.reason


def test_bf16_that_agrees_is_a_candidate(measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_has_fast_bf16", lambda: True)
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
    assert "torch.compile does not work here" in path.reason


def test_a_compiled_network_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution.shutil, "which", lambda name: "a compiler")
    monkeypatch.setattr(execution, "compiled", lambda network, path: Shifted(network) if path.compiled else network)
    path = choose(tiny_network(), iterations=HOURS)
    assert not path.compiled
    assert "compiled disagrees with fp32" in path.reason


class Shifted(nn.Module):
    """A network with wrong logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [output + 100 for output in self.network(x)]


def test_what_was_compiled_elsewhere_is_not_usable_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution.shutil, "which", lambda name: None)
    assert not usable_here(ExecutionPath(device="cpu", compiled=True))
    assert usable_here(ExecutionPath(device="cpu"))


def test_a_gpu_elsewhere_is_planned_for_with_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cuda", here=False) == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert training_backend("cuda") == Backend(device="cuda", precision="bf16", threads=usable_cpus())
    for device in ("cpu", "mps"):
        assert training_backend(device) == Backend(device=device, precision="fp32", threads=usable_cpus())


def test_a_gpu_that_is_here_is_planned_for_as_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Ampere torch emulates bf16, so such a GPU trains in fp32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for in_hardware, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, here=in_hardware: here or including_emulation
        )
        assert training_backend("cuda") == Backend(device="cuda", precision=precision, threads=usable_cpus())


def test_the_layout_follows_the_path_and_the_dimension() -> None:
    last, contiguous = ExecutionPath(device="cpu", channels_last=True), ExecutionPath(device="cpu")
    assert memory_format(last, 3) == torch.channels_last_3d
    assert memory_format(last, 2) == torch.channels_last
    assert memory_format(contiguous, 3) == memory_format(contiguous, 2) == torch.contiguous_format


def test_placing_changes_layout_and_threads_but_no_value() -> None:
    network = tiny_network()
    before = copy.deepcopy(network.state_dict())
    placed = place(network, ExecutionPath(device="cpu", channels_last=True, threads=1), 3)
    assert torch.get_num_threads() == 1
    weight = placed.encoder.stages[1][0].convs[0].conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert all(torch.equal(tensor, before[name]) for name, tensor in placed.state_dict().items())


def test_autocast_is_entered_for_bf16_alone() -> None:
    with autocast(ExecutionPath(device="cpu", precision="bf16")):
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
    with autocast(ExecutionPath(device="cpu")):
        assert not torch.is_autocast_enabled("cpu")


def test_a_path_that_is_not_compiled_runs_the_network_itself() -> None:
    network = tiny_network()
    assert compiled(network, ExecutionPath(device="cpu")) is network


def test_the_default_path_runs_on_every_machine() -> None:
    path = default_execution("cpu")
    assert usable_here(path)
    assert path.precision == "fp32"
    assert not path.compiled


def test_bf16_is_usable_where_the_processor_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    path = ExecutionPath(device="cpu", precision="bf16")
    for present in (True, False):
        monkeypatch.setattr(execution, "_has_fast_bf16", lambda present=present: present)
        assert usable_here(path) is present


FREED = """
import resource
import numpy as np
from autoseg.networks.execution import keep_freed_memory

def kept_mib():
    before = resident()
    array = np.ones(2**23)  # 64 MiB
    del array
    return (resident() - before) / 2**20

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

without = kept_mib()
keep_freed_memory()
print(without, kept_mib())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this switch")
def test_freed_memory_stays_with_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    without, with_it = map(float, done.stdout.split())
    assert without < 16
    assert with_it > 48
