"""How a network runs: devices, precision, layout, memory."""

from __future__ import annotations

import copy
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from autoseg.errors import InputError
from autoseg.executors import usable_cpus
from autoseg.networks import execution
from autoseg.networks.blocks import convolution
from autoseg.networks.build import build_network
from autoseg.networks.execution import (
    autocast,
    compiled,
    default_execution,
    free_memory,
    gpu_precision,
    laid_out,
    likely_execution,
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


@pytest.fixture(autouse=True)
def _threads_as_before():
    """``place`` sets torch's threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


CONFIGURATION = small_configuration(patch=PATCH)


def tiny_network() -> nn.Module:
    return build_network(CONFIGURATION.network, seed=0)


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
    """Before Ampere torch emulates bf16: such a GPU trains in fp16 if it has tensor cores (Volta), else in fp32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    kinds = ((True, (8, 0), "bf16"), (False, (7, 5), "fp16"), (False, (7, 0), "fp16"), (False, (6, 1), "fp32"))
    for in_hardware, capability, precision in kinds:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, here=in_hardware: here or including_emulation
        )
        assert likely_execution("cuda").precision == gpu_precision() == precision
        planned = "fp32" if precision == "fp32" else "bf16"  # what counts is the size of a number
        assert training_backend("cuda") == Backend(device="cuda", precision=planned, threads=usable_cpus())
        for kept in ("fp32", "bf16", "fp16"):
            assert usable_here(ExecutionPath(device="cuda", precision=kept)) == (kept in ("fp32", precision))


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


@pytest.mark.parametrize(("channels", "dimensions"), [(1, 2), (1, 3), (3, 3)])
def test_an_image_is_laid_out_in_its_strides_so_that_the_first_convolution_keeps_to_it(
    channels: int, dimensions: int
) -> None:
    path = ExecutionPath(device="cpu", channels_last=True)
    layout, x = memory_format(path, dimensions), torch.randn(2, channels, *(6, 5, 4)[:dimensions])
    image = laid_out(x, layout)
    assert torch.equal(image, x)
    assert image.stride() == torch.empty(x.shape, memory_format=layout).stride()
    assert channels != 1 or image.data_ptr() == x.data_ptr()
    convolved = place(convolution(dimensions)(channels, 4, 3, padding=1), path, dimensions)(image)
    assert convolved.is_contiguous(memory_format=layout)


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
        monkeypatch.setattr(execution, "has_fast_bf16", lambda present=present: present)
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


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_a_device_that_is_given_work_ahead_is_waited_for(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Or its time would be that of giving it the work."""
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append("cuda"))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    execution.synchronize(device)
    assert waited == ([] if device == "cpu" else [device])
