"""``autoseg benchmark``: real work on small phantoms, all of it put away afterwards."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
import torch
from click.testing import CliRunner

from autoseg import benchmarking, pipeline
from autoseg.cli import autoseg
from autoseg.cli.benchmark import benchmark_text
from autoseg.files import write_document
from autoseg.logs import SilentLogger
from autoseg.networks import choosing, execution
from autoseg.phantom import write_phantom_dataset
from autoseg.plan_stage import plan_in_memory
from autoseg.planning import Wishes
from autoseg.training.loop import FoldTrainer
from autoseg.training.optimization import WeightAverage
from autoseg.training.places import forced_samples
from autoseg.training.planned_loader import planned_loader
from autoseg.values import Fingerprint, Fold, TrainJob
from autoseg.workspace import FoldFolder, Workspace
from tests.planners.synthetic import fingerprint


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Temporary folders lie where they can be counted; the ways to run are not timed, which has tests of its own."""
    monkeypatch.setitem(choosing.WORTH_MEASURING, "cpu", math.inf)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Phantoms of few voxels, planned with a small batch, preprocessed for 2d."""
    folder = tmp_path_factory.mktemp("planned")
    dataset = write_phantom_dataset(folder / "Dataset001_Phantom", 5, shape=(4, 16, 16))
    workspace = Workspace(folder / "workspace")
    wishes = Wishes(batch_sizes=(("", 2),), patch_sizes=(("", (8, 8)), ("", (4, 8, 8))))
    pipeline.plan_dataset(dataset, workspace, wishes=wishes)
    pipeline.preprocess(workspace, ["2d"])
    return workspace


def files_of(workspace: Workspace) -> set[Path]:
    return {path for path in workspace.path.rglob("*") if "logs" not in path.parts}


@pytest.mark.slow
def test_without_a_workspace_phantoms_take_its_place(tmp_path: Path, small: Path) -> None:
    found = benchmarking.benchmark(
        "trainstep", "3d_fullres", Workspace(tmp_path / "none"), iterations=1, device="cpu", logger=SilentLogger()
    )
    assert found.data == "6 preprocessed cases"
    assert not list(small.glob("autoseg*"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("configuration", "data"), [("2d", "5 preprocessed cases"), ("3d_fullres", "synthetic")])
def test_the_command_times_a_training_step_of_what_is_preprocessed_and_leaves_nothing(
    planned: Workspace, small: Path, configuration: str, data: str
) -> None:
    before = files_of(planned)
    arguments = ["benchmark", "trainstep", configuration, "--iterations", "2", "--json", "--device", "cpu"]
    result = CliRunner().invoke(autoseg, [*arguments, "-w", str(planned.path)], catch_exceptions=False)
    told = msgspec.json.decode(result.stdout)
    assert told["work"] == "trainstep"
    assert told["seconds_per_iteration"] == told["timing"]["median"] > 0
    assert told["timing"]["runs"] == 2
    assert told["timing"]["least"] <= told["timing"]["median"] <= told["timing"]["most"]
    assert told["floor_seconds"] > 0
    assert told["data_wait_seconds"] >= 0
    assert told["peak_bytes"] > 1e8
    assert data in told["data"]
    assert told["path"]["device"] == "cpu"
    assert told["path"]["reason"]
    assert not list(small.glob("autoseg*"))
    assert files_of(planned) == before


@pytest.mark.parametrize("work", ["predict", "preprocess"])
def test_prediction_and_preprocessing_are_timed_too_and_told_in_words(
    work: str, planned: Workspace, small: Path
) -> None:
    found = benchmarking.benchmark(work, "2d", planned, iterations=1, device="cpu", logger=SilentLogger())
    text = benchmark_text(found)
    assert found.timing.median > 0
    assert ("a case of the median size" in text) == (work == "predict")
    assert ("a batch of tiles" in text) == (work == "predict")
    assert (found.path is None) == (work == "preprocess")
    assert not list(small.glob("autoseg*"))


@pytest.mark.parametrize(
    ("place", "share"), [("anywhere", 0.33), ("centre", 0.33), ("anywhere", 1.0), ("anywhere", 0.0)]
)
def test_the_batches_that_are_timed_are_those_of_a_training(
    planned: Workspace, tmp_path: Path, place: str, share: float
) -> None:
    plan = planned.model().plan()
    first = plan.configuration("2d")
    training = msgspec.structs.replace(first.training, foreground_place=place, foreground_share=share)
    plan = msgspec.structs.replace(plan, configurations=(msgspec.structs.replace(first, training=training),))
    setting = benchmarking._Setting(planned, plan, plan.configuration("2d"), tmp_path, "cpu", 1, SilentLogger())
    keys, store = benchmarking._stored(setting)
    job = TrainJob(
        plan_id=plan.id,
        configuration="2d",
        fold="full",
        iterations=1000,
        seed=plan.seed,
        cases=Fold(train=tuple(keys), val=()),
        case_keys=keys,
    )
    folder = FoldFolder(tmp_path / "fold")
    folder.path.mkdir()
    trained = FoldTrainer(job, plan, store, folder, SilentLogger(), "cpu").loader(train=True)
    timed = planned_loader(setting.plan, setting.configuration, store, keys, plan.seed)
    assert [timed.draw(iteration) for iteration in range(4)] == [trained.draw(iteration) for iteration in range(4)]
    other = FoldTrainer(msgspec.structs.replace(job, seed=plan.seed + 1), plan, store, folder, SilentLogger(), "cpu")
    assert other.loader(train=True).draw(0) != trained.draw(0)
    assert trained._forced == forced_samples(plan.configuration("2d").batch_size, share)


def test_a_timed_iteration_has_the_average_of_the_weights(
    planned: Workspace, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the optimizer's new weights, after every step."""
    seen = []

    class Noticing(WeightAverage):
        def update(self, weights: Mapping[str, torch.Tensor], iteration: int) -> None:
            before = next(iter(self.weights.values())).clone()
            super().update(weights, iteration)
            seen.append((iteration, torch.equal(before, next(iter(self.weights.values())))))

    monkeypatch.setattr(benchmarking, "WeightAverage", Noticing)
    benchmarking.benchmark("trainstep", "2d", planned, iterations=2, device="cpu", logger=SilentLogger())
    assert seen == [(0, False), (1, False), (2, False)]


@pytest.mark.parametrize("work", ["trainstep", "predict"])
def test_a_second_stage_is_timed_with_references_for_the_first(
    work: str, planned: Workspace, tmp_path: Path, small: Path
) -> None:
    plan = planned.model().plan()
    first = plan.configuration("2d")
    second = msgspec.structs.replace(
        first,
        name="2d_cascade",
        previous_stage="2d",
        network=msgspec.structs.replace(first.network, input_channels=first.network.input_channels + 3),
        augmentation=msgspec.structs.replace(first.augmentation, predicted_channels=3),
    )
    shutil.copytree(planned.path, tmp_path / "workspace")
    workspace = Workspace(tmp_path / "workspace")
    cascade = msgspec.structs.replace(plan, name="cascade", configurations=(first, second))
    write_document(workspace.path / "models" / "cascade" / "plan.json", cascade)
    pipeline.preprocess(workspace, ["2d_cascade"], plan_name="cascade")
    options = {"plan_name": "cascade", "iterations": 1, "device": "cpu", "logger": SilentLogger()}
    made = benchmarking.benchmark(work, "2d_cascade", workspace, **options)
    assert made.seconds_per_iteration > 0
    assert ("their references for what 2d predicts" in made.data) == (work == "trainstep")
    assert not list(small.glob("autoseg*"))


def test_ctrl_c_leaves_nothing(planned: Workspace, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(device: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmarking, "synchronize", pressed)
    with pytest.raises(KeyboardInterrupt):
        benchmarking.benchmark("predict", "2d", planned, device="cpu", logger=SilentLogger())
    assert not list(small.glob("autoseg*"))


def test_the_floor_is_made_of_every_convolution_with_its_planned_input(tmp_path: Path) -> None:
    data: Fingerprint = fingerprint([((1.0, 1.0, 1.0), (16, 16, 16), 3)])
    plan = plan_in_memory(data, "nnunet", device="cpu")
    configuration = plan.configuration("3d_fullres")
    setting = benchmarking._Setting(Workspace(tmp_path), plan, configuration, tmp_path, "cpu", 1, SilentLogger())
    network = benchmarking.build_network(configuration.network, seed=0)
    seen = list(benchmarking._convolutions(setting, network, execution.default_execution("cpu"), 2))
    spec = configuration.network
    heads = max(1, len(spec.features) - 2)  # the lowest is never computed
    expected = sum(spec.encoder_blocks) + sum(spec.decoder_blocks) + len(spec.features) - 1 + heads
    assert len(seen) == expected
    assert seen[0][1] == (2, 1, *configuration.patch_size)
    assert [first for _, _, first in seen].count(True) == 1
