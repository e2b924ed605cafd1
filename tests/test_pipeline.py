"""Laws between the stages, with a very small network; the whole way itself is walked in ``tests/end_to_end``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from autoseg import pipeline
from autoseg.augmentation.contract import Recipe
from autoseg.errors import InputError, InterruptedRunError, UnknownNameError
from autoseg.files import read_document
from autoseg.planning import GIBIBYTE
from autoseg.training.batches import PatchLoader
from autoseg.values import Curve, Length, Summary, TrainJob
from autoseg.workspace import Workspace
from tests.conftest import TINY_PRESET
from tests.training.test_loop import Listening


@pytest.fixture(scope="module")
def planned(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one plan, and its 2D cases ready; tests work on a copy."""
    workspace = Workspace(tmp_path_factory.mktemp("pipeline") / "W")
    made = pipeline.plan_dataset(phantoms, workspace, preset=TINY_PRESET, name="tiny", device="cpu", memory_gib=2)
    assert made.plan.configuration("2d").training.iterations_per_epoch == 10
    pipeline.preprocess(workspace, ["2d"])
    return workspace.path


@pytest.fixture(scope="module")
def trained(planned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a model of fold 0; tests do not write to it."""
    workspace = Workspace(shutil.copytree(planned, tmp_path_factory.mktemp("trained") / "W"))
    pipeline.train(workspace, "2d", "0", iterations=1, device="cpu")
    return workspace.path


@pytest.fixture
def workspace(planned: Path, tmp_path: Path) -> Workspace:
    """A copy of the planned workspace to write to."""
    return Workspace(shutil.copytree(planned, tmp_path / "W"))


@pytest.mark.parametrize(
    ("options", "gibibytes", "epochs"),
    [
        ({"device": "cpu", "memory_gib": 2.5}, 2.5, 4),
        ({"device": "cpu"}, 8, 4),
        ({"memory_gib": 3}, 3, 50),  # stated memory is a GPU's
        ({"device": "cuda", "memory_gib": 3}, 3, 50),
        ({"preset": "nnunet", "device": "cpu"}, 8, 1000),
        ({"preset": "nnunet", "memory_gib": 3}, 3, 1000),
    ],
    ids=str,
)
def test_a_plan_is_for_the_stated_device_and_memory(options, gibibytes, epochs, workspace, phantoms):
    plan = pipeline.plan_dataset(phantoms, workspace, name="other", configurations=["2d"], **options).plan
    assert plan.budget_bytes == gibibytes * GIBIBYTE
    assert plan.names == ("2d",)
    assert plan.configuration("2d").training.epochs == epochs
    assert plan.configuration("2d").expected_memory_bytes <= plan.budget_bytes


def test_planning_again_gives_the_same_plan_and_folds(workspace, phantoms):
    before = {path: path.read_bytes() for path in workspace.path.glob("*.json")}
    options = {"preset": TINY_PRESET, "device": "cpu", "memory_gib": 2}
    again, other = (pipeline.plan_dataset(phantoms, workspace, name=name, **options) for name in ("tiny", "other"))
    assert again.plan.id == other.plan.id == workspace.model("tiny").plan().id
    assert again.split == other.split
    pipeline.plan_dataset(phantoms, workspace, name="tiny", **options)
    after = {path: path.read_bytes() for path in workspace.path.glob("*.json")}
    assert {path: after[path] for path in after if path.name != "workspace.json"} == {
        path: before[path] for path in before if path.name != "workspace.json"
    }


def test_preprocessing_again_makes_nothing_and_gives_the_same_keys(workspace):
    def files():
        return {
            path: path.stat().st_mtime_ns for path in (workspace.path / "preprocessed").rglob("*") if path.is_file()
        }

    before = files()
    keys = pipeline.preprocess(workspace, ["2d"])["2d"]
    assert list(keys) == [f"phantom_{index:03d}" for index in range(6)]
    some = pipeline.preprocess(workspace, ["2d"], cases=["phantom_004", "phantom_001"])["2d"]
    assert some == {case: keys[case] for case in ("phantom_001", "phantom_004")}
    assert files() == before
    with pytest.raises(UnknownNameError, match="2d or 3d_fullres"):
        pipeline.preprocess(workspace, ["3d"])


def test_a_case_that_cannot_be_made_anew_while_training_costs_one_case(phantoms, tmp_path):
    """Its stored voxels are damaged and its image is gone: others are drawn in its place, and it is named."""
    data = shutil.copytree(phantoms, tmp_path / "data")
    workspace = Workspace(tmp_path / "W")
    pipeline.plan_dataset(data, workspace, preset=TINY_PRESET, name="tiny", device="cpu", memory_gib=2)
    keys, model = pipeline.preprocess(workspace, ["2d"])["2d"], workspace.model()
    plan = model.plan()
    store = pipeline._mending_store(workspace, model, plan, "2d")
    stored = next(path for path in store.folder.rglob("segmentation*") if "phantom_002" in str(path))
    stored.write_bytes(stored.read_bytes()[:-40])
    next(path for path in data.rglob("phantom_002*") if "images" in str(path)).unlink()
    configuration, logger = plan.configuration("2d"), Listening()
    loader = PatchLoader(
        *(store, keys, configuration.patch_size, 8),
        foreground_share=0.3,
        recipe=Recipe(),
        seed=0,
        purpose=0,
        logger=logger,
    )
    drawn = [case for iteration in range(4) for case in loader.batch(iteration)["keys"]]
    assert loader.skipped == ("phantom_002",)
    assert set(drawn) == set(keys) - {"phantom_002"}
    assert any("phantom_002" in str(event) and "made anew" in str(event) for event in logger.heard)


def edit_plan(workspace: Workspace, *extra: dict[str, object]) -> None:
    """Adds configurations to the plan's file by hand."""
    path = workspace.model().path / "plan.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "configurations": [*document["configurations"], *extra]}))


def test_configurations_with_equal_cases_share_them(workspace):
    """They are made once, in the folder of the first; another grid has a folder of its own."""
    edit_plan(
        workspace,
        {"name": "small", "inherits_from": "2d", "batch_size": 1},
        {"name": "coarse", "inherits_from": "2d", "spacing": [None, 4.0, 4.0]},
        {"name": "second", "inherits_from": "2d", "previous_stage": "2d", "network": {"input_channels": 4}},
    )
    folder = workspace.path / "preprocessed"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    (name,) = (path.name for path in folder.iterdir())
    keys = pipeline.preprocess(workspace, ["small", "second", "2d"])
    assert keys["small"] == keys["second"] == keys["2d"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert pipeline.preprocess(workspace, ["coarse"])["coarse"].keys() == keys["2d"].keys()
    assert {path.name.rpartition("-")[0] for path in folder.iterdir()} == {"2d", "coarse"}
    assert name in {path.name for path in folder.iterdir()}


def test_a_configuration_that_inherits_is_trained(workspace):
    edit_plan(workspace, {"name": "small", "inherits_from": "2d", "batch_size": 1})
    (result,) = pipeline.train(workspace, "small", "0", iterations=1, device="cpu")
    assert result.folder.model.is_file()
    assert result.summary is not None


def test_epochs_are_the_plans_and_make_the_same_training_as_their_iterations(workspace):
    """A training asked for in epochs goes on when it is asked for in iterations, or without a length."""
    folder = workspace.model().fold("2d", "1")
    for length in ({"epochs": 2}, {"iterations": 20}, {}):
        with pytest.raises(InterruptedRunError):
            pipeline.train(workspace, "2d", "1", device="cpu", stop=folder.job.is_file, **length)
        assert read_document(TrainJob, folder.job).iterations == 20
    with pytest.raises(InputError, match=r"found 20 iterations, expected 10"):
        pipeline.train(workspace, "2d", "1", device="cpu", epochs=1)
    assert not folder.model.exists()


def test_lengths_that_are_none_are_refused_before_anything_is_made(workspace):
    with pytest.raises(InputError, match="no length of a training: iterations; found 0"):
        pipeline.train(workspace, "2d", "1", device="cpu", epochs=0)
    with pytest.raises(InputError, match="one length; found epochs and iterations"):
        pipeline.train(workspace, "2d", "1", device="cpu", epochs=1, iterations=5)
    with pytest.raises(InputError, match="no length of a training: hours; found inf"):
        pipeline.train(workspace, "2d", "1", device="cpu", hours=float("inf"))
    assert not workspace.model().fold("2d", "1").job.exists()


def test_a_training_that_has_ended_is_extended_and_scored_anew(workspace):
    (first,) = pipeline.train(workspace, "2d", "0", iterations=2, device="cpu")
    weights, scored = first.folder.model.read_bytes(), first.folder.summary.stat().st_mtime_ns
    (again,) = pipeline.train(workspace, "2d", "0", device="cpu", finish=True)
    assert again.summary == first.summary
    assert again.folder.model.read_bytes() == weights
    (longer,) = pipeline.train(workspace, "2d", "0", extend=1, device="cpu")
    assert longer.folder.model.read_bytes() != weights
    assert longer.folder.summary.stat().st_mtime_ns != scored
    assert read_document(Length, longer.folder.length).trained == 3
    with pytest.raises(InputError, match="no training has begun"):
        pipeline.train(workspace, "2d", "1", device="cpu", finish=True)


def test_a_fold_that_another_process_trains_is_refused_and_left_alone(workspace):
    folder = workspace.model().fold("2d", "0")
    folder.path.mkdir(parents=True)
    with FileLock(folder.lock), pytest.raises(InputError, match="another process is training this fold"):
        pipeline.train(workspace, "2d", "0", iterations=1, device="cpu")
    assert [path.name for path in folder.path.iterdir() if path != folder.lock] == []


def test_the_full_model_is_trained_on_all_cases_and_has_no_score(workspace):
    (result,) = pipeline.train(workspace, "2d", "full", iterations=1, device="cpu")
    assert (result.fold, result.summary) == ("full", None)
    assert len(read_document(TrainJob, result.folder.job).cases.train) == 6
    assert result.folder.model.is_file()


def test_prediction_falls_back_to_the_trained_model_of_another_plan(trained, phantoms, tmp_path):
    workspace = Workspace(shutil.copytree(trained, tmp_path / "W"))
    pipeline.plan_dataset(phantoms, workspace, name="newer", device="cpu", memory_gib=2)
    assert workspace.model().plan().name == "newer"
    image = phantoms / "imagesTs" / "phantom_100_0000.nii.gz"
    predicted = pipeline.predict(image, tmp_path / "out", workspace=workspace, device="cpu", mirroring=False)
    assert predicted.model.path.name == "tiny"
    assert (predicted.choice.configuration, predicted.choice.folds) == ("2d", ("0",))
    assert predicted.files == {"phantom_100": tmp_path / "out" / "phantom_100.nii.gz"}
    with pytest.raises(InputError, match="no model has been trained"):
        pipeline.predict(image, tmp_path / "out", model=workspace.model("newer"), device="cpu")


def test_a_link_into_the_input_folder_is_no_way_around(trained, phantoms, tmp_path):
    images = shutil.copytree(phantoms / "imagesTs", tmp_path / "images")
    (tmp_path / "link").symlink_to(images, target_is_directory=True)
    for target in (tmp_path / "link", tmp_path / "link" / "new", images / ".." / "images"):
        with pytest.raises(InputError, match="inside"):
            pipeline.predict(images, target, workspace=Workspace(trained), device="cpu")
    assert len(list(images.iterdir())) == 2


def test_a_file_that_autoseg_did_not_write_is_not_replaced(trained, phantoms, tmp_path):
    foreign = tmp_path / "out" / "phantom_101.nii.gz"
    foreign.parent.mkdir()
    foreign.write_bytes(b"by hand")
    with pytest.raises(InputError, match=r"did not write.*phantom_101\.nii\.gz"):
        pipeline.predict(phantoms / "imagesTs", foreign.parent, workspace=Workspace(trained), device="cpu")
    assert foreign.read_bytes() == b"by hand"
    assert list(foreign.parent.iterdir()) == [foreign]


def test_references_scored_against_themselves_are_perfect(planned, phantoms, tmp_path):
    copy = shutil.copytree(phantoms / "labelsTs", tmp_path / "predictions")
    summary = pipeline.evaluate(copy, phantoms / "labelsTs", workspace=Workspace(planned))
    assert summary.foreground_mean.dice == summary.foreground_mean.iou == 1.0
    assert len(summary.metric_per_case) == 2
    assert summary.not_scored == ()
    assert (summary.foreground_mean.hd95, summary.foreground_mean.nsd) == (0, 1)
    assert read_document(Summary, copy / "summary.json") == summary
    assert len((copy / "scores.csv").read_text().splitlines()) == 1 + 2 * len(summary.mean)


def test_a_training_keeps_its_curve_and_tells_the_last_truth_beside_the_final_score(workspace):
    heard = Listening()
    (trained,) = pipeline.train(workspace, "2d", "0", iterations=2, device="cpu", logger=heard)
    (told,), curve = heard.all("validated"), read_document(Curve, trained.folder.curve)
    assert told["dice"] == curve.final == trained.summary.foreground_mean.dice
    assert told["last_truth"] == curve.points[-1].truth
    assert told["last_truth_cases"] >= 1
    assert trained.folder.truth.is_file()
    (full,) = pipeline.train(workspace, "2d", "full", iterations=1, device="cpu", logger=heard)
    assert not full.folder.truth.exists()
    assert not full.folder.curve.exists()
    assert len(heard.all("validated")) == 1
