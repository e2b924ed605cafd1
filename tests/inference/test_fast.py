"""The fast way: what it leaves out, that empty tiles are background, and that what it costs is measured and told."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg import pipeline
from autoseg.errors import InterruptedRunError
from autoseg.files import read_document
from autoseg.held_out_files import ValidationFiles
from autoseg.inference.fast import FAST_STEP, fast_loss, made_fast, measure_fast
from autoseg.inference.model import Choice
from autoseg.inference.predict import Predictor
from autoseg.inference.window import tile_positions
from autoseg.logs import SilentLogger
from autoseg.networks.weights import save_tensors
from autoseg.values import CaseScore, ExecutionPath, FastScores, Label, Labels, PredictionRecord, PredictionRun
from autoseg.workspace import FoldFolder, Workspace
from tests.command_line import invoke
from tests.inference.test_cases import Threshold, fill_store, make_plan, make_predictor, validate
from tests.small_plans import small_configuration, small_plan


class Shape(Threshold):
    """Counts tiles, too."""

    tiles = 0

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        self.tiles += len(x)
        return super().forward(x)


def test_tiles_are_fewer_and_none_is_flipped() -> None:
    plan, network = make_plan(), Shape()
    image = np.random.default_rng(0).uniform(0, 255, (1, 20, 24, 16)).astype(np.float32)
    usual = make_predictor(plan, network).logits(image).argmax(0)
    tiles = network.tiles
    network.tiles = 0
    fast = made_fast(make_predictor(plan, network)).logits(image).argmax(0)
    counts = [len(tile_positions(size, 8, FAST_STEP)) for size in (20, 24, 16)]
    assert network.tiles == np.prod(counts)
    assert network.tiles < tiles / 3
    np.testing.assert_array_equal(fast, usual)  # of a network that looks at single voxels


@pytest.mark.parametrize("regions", [False, True])
def test_tiles_in_which_the_image_has_one_value_are_background_and_cost_nothing(regions: bool) -> None:
    class Brighter(Shape):
        """Would find the last label everywhere in air."""

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            super().forward(x)
            found = torch.where(x == 0, 5.0, x - 120)
            return [torch.cat([torch.full_like(x, -1.0) if regions else torch.zeros_like(x), found], dim=1)]

    labels = Labels(
        foreground=(Label(name="all", values=(1, 2)), Label(name="core", values=(2,))), region_values=(1, 2)
    )
    plan = make_plan()
    if regions:
        plan = small_plan(small_configuration(patch=(8, 8, 8), mirror_axes=(0,)), labels=labels)
    image = np.zeros((1, 32, 16, 16), np.float32)
    image[0, :8] = np.random.default_rng(1).uniform(1, 255, (8, 16, 16))
    network = Brighter()
    predictor = Predictor([network], plan.configuration("tiny"), ExecutionPath(device="cpu", threads=1))
    predictor.regions = regions
    logits = made_fast(predictor).logits(image)
    with_air = len([first for first in tile_positions(32, 8, FAST_STEP) if first < 8])
    assert network.tiles == with_air * len(tile_positions(16, 8, FAST_STEP)) ** 2
    decided = logits[-1] > 0 if regions else logits.argmax(0) == 1
    assert not decided[16:].any()
    np.testing.assert_array_equal(decided[:4], image[0, :4] > 120)


def measured(tmp_path: Path, names: str = "abcd", stop=lambda: False) -> tuple[FoldFolder, Threshold, FastScores]:
    plan, network = make_plan(), Threshold()
    store, keys, _ = fill_store(tmp_path / "store", plan, names)
    folder = FoldFolder(tmp_path / "fold")
    if not folder.model.is_file():
        folder.path.mkdir(parents=True, exist_ok=True)
        save_tensors(folder.model, {"weight": torch.zeros(1)}, {})
    validate(make_predictor(plan, network), plan, store, keys, folder.path / "validation")
    network.calls = 0
    measure_fast(make_predictor(plan, network), plan, store, keys, {}, folder, SilentLogger(), stop)
    return folder, network, read_document(FastScores, ValidationFiles(folder).fast)


def test_each_case_is_measured_once_in_both_ways(tmp_path: Path) -> None:
    folder, network, found = measured(tmp_path)
    assert network.calls > 0
    assert set(found.cases) == set("abcd")
    for case, both in found.cases.items():
        score = read_document(CaseScore, folder.score(case))
        assert both.dice == score.metrics["1"].dice == both.fast_dice == 1.0
        assert both.seconds is not None
    _, network, again = measured(tmp_path)
    assert network.calls == 0
    assert again == found
    save_tensors(folder.model, {"weight": torch.ones(1)}, {})
    _, network, _ = measured(tmp_path)
    assert network.calls > 0


def test_of_many_cases_ten_are_measured_and_a_stop_keeps_what_was(tmp_path: Path) -> None:
    asked = iter(range(100))
    with pytest.raises(InterruptedRunError, match="fast way"):
        measured(tmp_path, "abcdefghijklmno", stop=lambda: next(asked) == 3)
    assert len(read_document(FastScores, ValidationFiles(FoldFolder(tmp_path / "fold")).fast).cases) == 3
    assert len(measured(tmp_path, "abcdefghijklmno")[2].cases) == 10


@pytest.fixture
def workspace(trained_pair: Path, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(trained_pair, tmp_path / "W"))


def test_a_training_measures_and_a_prediction_tells_and_is_another_one(
    workspace: Workspace, phantoms: Path, tmp_path: Path, capsys
) -> None:
    model = workspace.model()
    choice = Choice(configuration="2d", folds=("0", "1"), dice=None)
    loss = fast_loss(model, [choice]).configurations["2d"]
    folds = [read_document(FastScores, ValidationFiles(model.fold("2d", fold)).fast) for fold in "01"]
    both = [each for fold in folds for each in fold.cases.values()]
    assert loss.cases == len(both)
    assert loss.difference == pytest.approx(np.mean([each.fast_dice - each.dice for each in both]))
    source, out = sorted((phantoms / "imagesTr").iterdir())[0], tmp_path / "out"
    command = ["predict", "-i", source, "-o", out, "-w", workspace.path, "-c", "2d", "--device", "cpu"]
    assert invoke([*command, "--fast"]) == 0
    assert f"{loss.difference:+.4f}" in capsys.readouterr().err
    (made,) = read_document(PredictionRecord, out / "autoseg-prediction.json").cases.values()
    run = read_document(PredictionRun, out / "run.json")
    assert made.ways == run.ways == ("fast",)
    assert not made.mirroring
    assert made.confidence is not None
    assert made.confidence.mean.predicted_dice is None
    assert invoke(command) == 0
    (usual,) = read_document(PredictionRecord, out / "autoseg-prediction.json").cases.values()
    assert usual.key != made.key
    assert not usual.ways


def test_an_export_tells_what_fast_costs_without_names_of_cases(workspace: Workspace, tmp_path: Path) -> None:
    from autoseg.workspace import ModelFolder

    pipeline.export_model(workspace, tmp_path / "model", configuration="2d")
    choice = Choice(configuration="2d", folds=("0", "1"), dice=None)
    assert fast_loss(ModelFolder(tmp_path / "model"), [choice]) == fast_loss(workspace.model(), [choice])
