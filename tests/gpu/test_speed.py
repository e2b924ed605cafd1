"""On a GPU: the ways that a training may run give the results of the plain one, and batches travel ahead unharmed.

Run with ``python -m pytest -m gpu`` on a machine that has one; elsewhere these tests are skipped.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from autoseg.augmentation.contract import Recipe
from autoseg.augmentation.intensity import GaussianNoise
from autoseg.augmentation.recipe import default_recipe
from autoseg.errors import InterruptedRunError
from autoseg.files import read_document
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
from autoseg.networks.memory import BOX, making_bytes
from autoseg.training.batches import PatchLoader
from autoseg.training.crew import prefetched
from autoseg.training.feed import Feed
from autoseg.training.loop import train_fold
from autoseg.training.step import TrainingStep
from autoseg.values import AugmentationSpec, ExecutionPath
from autoseg.workspace import FoldFolder
from tests.gpu.test_memory import folder_with, large_plan
from tests.small_plans import small_configuration, small_network
from tests.training.test_batches import blocks, make_loader
from tests.training.test_loop import Listening, make_job, make_plan, make_store, stop_at

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


def gpu_loader(folder: Path, patch: tuple[int, ...], *, noise: bool) -> PatchLoader:
    """Batches in which most transforms act; those of the CPU and of a GPU have other noise."""
    degrees = (30.0,) * 3 if len(patch) == 3 else (180.0,)
    spec = AugmentationSpec(rotation_degrees=degrees, mirror_axes=(0, 1), swap_axis=1, swapped_labels=((1, 2),))
    recipe = default_recipe(spec)
    steps = [step for step in recipe.transforms if noise or not isinstance(step, GaussianNoise)]
    for step in (recipe.spatial, *steps):
        for name in ("probability", "channel_probability", "rotation_probability", "scaling_probability"):
            if hasattr(step, name):
                setattr(step, name, 0.7)
    cases = {"a": blocks((40, 44, 42)), "b": blocks((29, 36, 28))}
    recipe = Recipe(spatial=recipe.spatial, transforms=steps)
    return make_loader(folder, cases, patch=patch, batch=5, recipe=recipe, masked_channels=(1,))


@pytest.mark.parametrize("patch", [(24, 28, 26), (40, 36)], ids=["3d", "2d"])
def test_a_batch_made_on_the_gpu_is_that_of_the_cpu_and_is_not_waited_for(
    tmp_path: Path, patch: tuple[int, ...]
) -> None:
    """But for single voxels in which rounding decides between two labels, or between inside and outside."""
    loader, different, voxels = gpu_loader(tmp_path, patch, noise=False), 0, 0
    loader.finish(loader.prepare(0), "cuda")  # what only a first time needs
    for iteration in range(8):
        sources = loader.prepare(iteration).moved(torch.Tensor.pin_memory)
        torch.cuda.set_sync_debug_mode("error")
        try:
            made = loader.finish(sources, "cuda")
        finally:
            torch.cuda.set_sync_debug_mode("default")
        expected = loader.batch(iteration)
        assert made["keys"] == expected["keys"]
        for name in ("data", "seg"):
            close = np.isclose(made[name].cpu().numpy(), expected[name], rtol=1e-3, atol=2e-3)
            different, voxels = different + int((~close).sum()), voxels + close.size
    assert different < 1e-3 * voxels


def test_noise_of_the_gpu_is_that_of_its_seed_and_as_strong_as_the_cpus(tmp_path: Path) -> None:
    images, labels = torch.zeros(2, 1, 48, 48, 48), torch.zeros(2, 48, 48, 48, dtype=torch.int8)
    drawn = [{"deviation": 0.1, "seed": 5}, {"deviation": 0.05, "seed": 6}]
    first, again = (GaussianNoise().apply(images.cuda(), labels.cuda(), drawn)[0] for _ in range(2))
    assert torch.equal(first, again)
    for sample, deviation in zip(first, (0.1, 0.05), strict=True):
        assert float(sample.std()) == pytest.approx(deviation, rel=0.02)
        assert abs(float(sample.mean())) < 5 * deviation / 48**1.5
    correlation = torch.corrcoef(first.flatten(1))[0, 1]
    assert abs(float(correlation)) < 5 / 48**1.5


def test_batches_made_on_the_gpu_while_it_computes_are_those_made_alone(tmp_path: Path) -> None:
    loader = gpu_loader(tmp_path, (24, 28, 26), noise=True)
    feed = Feed("cuda", Listening(), 100).through(prefetched(loader.prepare, 0, 20, workers=3), loader.finish)
    for iteration, batch in enumerate(feed):
        torch.cuda._sleep(1_000_000)
        alone = loader.finish(loader.prepare(iteration), "cuda")
        assert torch.equal(batch["data"], alone["data"])
        assert torch.equal(batch["seg"], alone["seg"])


def test_a_training_on_a_gpu_augments_there_and_goes_on_there(tmp_path: Path) -> None:
    plan, logger, folder = make_plan(), Listening(), FoldFolder(tmp_path / "fold")
    with pytest.raises(InterruptedRunError):
        train_fold(make_job(plan), plan, make_store(tmp_path), folder, logger, device="cuda", stop=stop_at(2))
    assert read_document(ExecutionPath, folder.execution).augment_on == "device"
    train_fold(make_job(plan), plan, make_store(tmp_path), folder, logger, device="cuda")
    paths = logger.all("execution")
    assert [path["augment_on"] for path in paths] == ["device", "device"]
    assert "patches are augmented on the GPU" in str(paths[0]["reason"])


def test_making_a_batch_takes_no_more_memory_than_planned(tmp_path: Path) -> None:
    loader = gpu_loader(tmp_path, (24, 28, 26), noise=True)
    planned = making_bytes(small_network(3, inputs=3), (24, 28, 26), 5)
    for iteration in range(10):
        sources, begin = loader.prepare(iteration, BOX[3]), torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        loader.finish(sources, "cuda")
        assert torch.cuda.max_memory_allocated() - begin < 1.05 * planned


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
