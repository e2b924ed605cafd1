"""What a plan will cost: time by a probe, disk by counting, memory to plan for."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from autoseg.errors import InputError
from autoseg.estimates import (
    PROBE_MULTIPLY_ADDS,
    announce,
    disk_warning,
    expectation,
    larger_budget,
    memory_to_plan_for,
    seconds_per_iteration,
    worth_timing,
)
from autoseg.files import write_document
from autoseg.networks.build import build_network
from autoseg.networks.execution import available_memory, default_execution
from autoseg.networks.memory import multiply_adds
from autoseg.planning import GIBIBYTE
from autoseg.values import Fingerprint
from autoseg.workspace import Workspace
from tests.planners.synthetic import fingerprint
from tests.small_plans import SHORT, small_configuration, small_plan


class Heard:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def event(self, kind: str, **fields: object) -> None:
        self.events.append((kind, fields))

    def close(self) -> None:
        """Nothing to close."""


def three_cases() -> Fingerprint:
    return fingerprint([((2.0, 1.0, 1.0), (10, 20, 30), 3)])


def test_probe_scales_by_counted_arithmetic() -> None:
    """A clock that advances by one second a reading: every step takes one second, whatever it computes."""
    large = small_configuration(patch=(512, 512, 512), features=(32, 64))
    ticks = itertools.count()
    seconds = seconds_per_iteration(large, default_execution("cpu"), clock=lambda: float(next(ticks)))
    work = multiply_adds(large.network, large.patch_size, large.batch_size)
    probed = work / seconds
    assert 5e8 < probed <= PROBE_MULTIPLY_ADDS["cpu"]


@pytest.mark.parametrize("part", [1, 8], ids=["whole", "in part"])
def test_the_probe_does_the_arithmetic_of_the_real_step(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that shows the multiplications that torch did, scaling leads to those of the whole step."""
    configuration = small_configuration(patch=(32, 16, 16), features=(8, 16))
    work = multiply_adds(configuration.network, configuration.patch_size, configuration.batch_size)
    monkeypatch.setitem(PROBE_MULTIPLY_ADDS, "cpu", work / part)
    done = [0.0]

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv3d):
            done[0] += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.ConvTranspose3d):
            done[0] += inputs[0].numel() * module.weight[0].numel()

    hook = register_module_forward_hook(note)
    try:
        told = seconds_per_iteration(configuration, default_execution("cpu"), clock=lambda: done[0])
        before = done[0]
        build_network(configuration.network, seed=0)(torch.zeros(configuration.batch_size, 1, 32, 16, 16))
    finally:
        hook.remove()
    assert told == pytest.approx(done[0] - before, rel=1e-9)


@pytest.mark.parametrize(("planned", "fewest"), [(1, 1), (2, 2), (16, 2)])
def test_no_patch_is_timed_alone_where_several_are_trained(planned: int, fewest: int) -> None:
    """Whatever it takes: on a CPU, two patches take no longer than one."""
    configuration = small_configuration(patch=(32, 32, 32), features=(8, 16))
    configuration = msgspec.structs.replace(configuration, batch_size=planned)
    seen: set[int] = set()

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv3d):
            seen.add(len(inputs[0]))

    hook = register_module_forward_hook(note)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROBE_MULTIPLY_ADDS, "cpu", 1.0)
        seconds_per_iteration(configuration, default_execution("cpu"))
    hook.remove()
    assert seen == {fewest}


def test_disk_is_that_of_cases_and_folds() -> None:
    configuration = small_configuration(spacing=(1.0, 1.0, 1.0))
    flat = small_configuration("2d", (8, 8), spacing=(None, 1.0, 1.0))
    plan = small_plan(configuration, flat)
    for each, voxels in ((configuration, 20 * 20 * 30), (flat, 10 * 20 * 30)):
        expected = expectation(plan, each, three_cases(), "cpu", iterations=10, timed=False)
        assert expected.case_bytes == 3 * voxels * (4 + 1)
        weights = sum(parameter.numel() for parameter in build_network(each.network, seed=0).parameters())
        assert expected.fold_bytes == 17 * 4 * weights
        assert expected.seconds is None


def test_time_is_measured_where_the_device_is() -> None:
    plan = small_plan()
    (configuration,) = plan.configurations
    here = expectation(plan, configuration, three_cases(), "cpu", iterations=10, timed=True)
    assert here.seconds == pytest.approx(10 * here.seconds_per_iteration)  # no iterations on held-out patches
    if not torch.cuda.is_available():
        assert expectation(plan, configuration, three_cases(), "cuda", iterations=10, timed=True).seconds is None


def test_scoring_while_training_is_part_of_its_time() -> None:
    """A tenth for whole images, and a third of an iteration for every batch of held-out patches; without them neither."""
    training = msgspec.structs.replace(SHORT, iterations_per_epoch=30, validation_iterations=6)
    plan = small_plan(small_configuration(training=training))
    (configuration,) = plan.configurations
    for held_out, iterations in ((True, 90 + 9 + 3 * 2), (False, 90)):
        told = expectation(plan, configuration, three_cases(), "cpu", iterations=90, timed=True, held_out=held_out)
        assert told.seconds == pytest.approx(iterations * told.seconds_per_iteration)


def test_long_trainings_are_worth_timing() -> None:
    configuration = small_configuration(patch=(64, 64, 64), features=(32, 64, 128))
    assert [worth_timing(configuration, iterations) for iterations in (1, 100_000)] == [False, True]


@pytest.mark.parametrize(
    ("wanted", "usual", "expected"), [(4.0, None, 4), (0.5, 24, 0.5), (None, 24, 24), (None, None, 8)]
)
def test_memory_to_plan_for(wanted: float | None, usual: int | None, expected: float) -> None:
    bytes_usual = None if usual is None else usual * GIBIBYTE
    assert memory_to_plan_for(wanted, bytes_usual, "cpu") == expected * GIBIBYTE


def test_auto_is_what_the_machine_has_free() -> None:
    assert available_memory() is not None
    assert memory_to_plan_for("auto", 8 * GIBIBYTE, "cpu") == pytest.approx(0.75 * available_memory(), rel=0.1)


@pytest.mark.parametrize("wanted", [0.0, -1.0, float("nan"), 1e6, "much"])
def test_memory_out_of_range_is_refused(wanted: float | str) -> None:
    with pytest.raises(InputError, match="out of range"):
        memory_to_plan_for(wanted, None, "cpu")


def test_a_larger_budget_is_one_that_people_have() -> None:
    assert [larger_budget(gib * GIBIBYTE) / GIBIBYTE for gib in (4, 8, 11, 24, 80, 200)] == [6, 12, 24, 40, 141, 400]


def test_a_full_disk_is_warned_about(tmp_path: Path) -> None:
    assert disk_warning(tmp_path / "not" / "there", 1) is None
    assert "GiB are free" in (disk_warning(tmp_path, 2**60) or "")


def test_a_training_is_announced_with_its_disk_and_a_long_one_with_its_days(tmp_path: Path) -> None:
    workspace, heard = Workspace(tmp_path), Heard()
    write_document(workspace.fingerprint_path(), three_cases())
    plan = small_plan(small_configuration(patch=(32, 32, 32), features=(16, 32)))
    announce(workspace, plan, "tiny", 2, 1, "cpu", heard)
    ((kind, fields),) = heard.events
    assert (kind, fields["seconds"]) == ("expected", None)
    assert fields["disk_bytes"] > 0
    heard.events.clear()
    announce(workspace, plan, "tiny", 10**9, 5, "cpu", heard)
    assert heard.events[0][1]["seconds"] > 2 * 86400
    assert "days" in str(heard.events[1][1]["text"])
