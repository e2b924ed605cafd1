"""On a GPU: the ways that a training may run give the results of the plain one, and batches travel ahead unharmed.

Run with ``python -m pytest -m gpu`` on a machine that has one; elsewhere these tests are skipped.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from autoseg.networks import choosing
from autoseg.networks.build import build_network
from autoseg.networks.choosing import choose_execution
from autoseg.networks.execution import (
    autocast,
    compiled,
    default_execution,
    gpu_precision,
    laid_out,
    memory_format,
    place,
)
from autoseg.training.feed import Feed
from autoseg.training.loop import train_fold
from autoseg.training.step import TrainingStep
from autoseg.values import ExecutionPath
from tests.gpu.test_memory import folder_with, large_plan
from tests.small_plans import small_configuration
from tests.training.test_loop import Listening, make_job, make_plan, make_store

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]
CONFIGURATION = small_configuration(patch=(32, 32, 32), features=(16, 32), batch_size=2)
PLAIN = ExecutionPath(device="cuda")


def gradients(path: ExecutionPath) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits of full resolution, and the gradients of the weights, after three runs of the same step."""
    network = place(build_network(CONFIGURATION.network, seed=0), path, 3)
    forward = compiled(network, path)
    random = torch.Generator().manual_seed(0)
    image = laid_out(torch.randn(2, 1, 32, 32, 32, generator=random).cuda(), memory_format(path, 3))
    for _ in range(3):
        network.zero_grad()
        if path.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        with autocast(path):
            outputs = forward(image)
        sum(output.float().square().mean() for output in outputs).backward()
    found = [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]
    return outputs[0].detach().float().clone(), found


@pytest.mark.parametrize(
    "changes",
    [
        {"channels_last": True},
        {"precision": "fp16"},
        {"precision": gpu_precision()},
        {"compiled": True},
        {"compiled": True, "graphs": True},
    ],
    ids=str,
)
def test_every_way_gives_the_numbers_of_the_plain_one(changes: dict[str, object]) -> None:
    expected, slopes = gradients(PLAIN)
    logits, mine = gradients(msgspec.structs.replace(PLAIN, **changes))
    assert float((logits - expected).abs().max() / expected.abs().max()) < choosing.AGREEMENT
    for one, other in zip(mine, slopes, strict=True):
        if float(other.abs().max()) > 1e-5:  # biases before a norm have none but rounding
            assert torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), 0) > 0.98


def test_a_batch_that_no_longer_fits_goes_on_in_parts_without_its_graphs(tmp_path: Path) -> None:
    """In one part replayed as graphs, in two compiled alone: the same gradients."""
    path = ExecutionPath(device="cuda", precision="fp32", compiled=True, graphs=True)
    plan, logger = make_plan(), Listening()
    step = TrainingStep(make_job(plan), plan, folder_with(path, tmp_path), logger, "cuda")
    configuration = plan.configurations[0]
    random, size = np.random.default_rng(0), configuration.patch_size
    batch = {
        "data": random.normal(size=(configuration.batch_size, 1, *size)).astype(np.float32),
        "seg": random.integers(0, 2, (configuration.batch_size, 1, *size)),
    }
    assert step.execution.graphs
    found = []
    for parts in (1, 1, 1, 2, 2):
        step._use_parts(parts)
        step.gradients(batch)
        found.append([weight.grad.clone() for weight in step.network.parameters() if weight.grad is not None])
    assert (step.execution.graphs, step.execution.compiled) == (False, True)
    for one, other in zip(found[2], found[-1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)


def test_choosing_times_the_ways_of_a_gpu_and_keeps_to_the_memory_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(choosing.WORTH_MEASURING, "cuda", 0)
    monkeypatch.setitem(choosing.WORTH_COMPILING, "cuda", 0)
    network = build_network(CONFIGURATION.network, seed=0)
    path = choose_execution(network, CONFIGURATION, device="cuda", iterations=1000)
    assert path.precision == gpu_precision()
    assert "channels-last" in path.reason
    assert "compiled" in path.reason
    assert default_execution("cuda").precision == "fp32"


def test_batches_that_travel_ahead_arrive_whole_and_in_order() -> None:
    def batches():
        for index in range(20):
            yield {
                "data": np.full((2, 1, 64, 64, 64), index, np.float32),
                "seg": np.zeros(3, np.int16),
                "keys": [index],
            }

    for index, batch in enumerate(Feed("cuda", Listening(), 100).through(batches())):
        assert batch["keys"] == [index]
        assert batch["data"].is_cuda
        assert batch["seg"].dtype == torch.int16
        torch.cuda._sleep(1_000_000)  # the batch after is on its way meanwhile
        assert bool((batch["data"] == index).all())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_training_in_16_bits_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr("autoseg.training.step.usable_here", lambda path: True)
    plan, logger = make_plan(), Listening()
    folder = folder_with(ExecutionPath(device="cuda", precision=precision), tmp_path)
    train_fold(make_job(plan, 60), plan, make_store(tmp_path), folder, logger, device="cuda")
    losses = [entry["loss"] for entry in logger.all("iterations")]
    assert all(np.isfinite(losses))
    assert losses[-1] < losses[0] - 0.3  # on a CPU from 1.0 to 0.2, in fp32 and in bf16


def test_a_real_step_takes_no_more_memory_than_planned(tmp_path: Path) -> None:
    plan, logger = large_plan(), Listening()
    folder = folder_with(ExecutionPath(device="cuda", precision="bf16"), tmp_path)
    train_fold(make_job(plan), plan, make_store(tmp_path), folder, logger, device="cuda")
    (told,) = [entry for entry in logger.all("message") if "measured_bytes" in entry]
    assert told["measured_bytes"] < told["planned_bytes"]
