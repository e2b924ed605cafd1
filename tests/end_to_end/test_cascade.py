"""A cascade on phantoms, through the real stages: both are trained, and what was seen in training is what predicts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg import pipeline
from autoseg.cascade_stage import first_stage_missing, prepare_earlier, staged_store
from autoseg.errors import DamagedCaseError, InputError, InterruptedRunError
from autoseg.executors import SerialExecutor
from autoseg.files import read_document
from autoseg.inference.held_out import with_whole_case
from autoseg.inference.model import Choice
from autoseg.inference.stages import stages_of
from autoseg.io.earlier_store import EarlierStore
from autoseg.logs import SilentLogger
from autoseg.networks.weights import load_metadata, load_tensors, save_tensors, weights_id
from autoseg.selected import read_selection
from autoseg.status_stage import workspace_status
from autoseg.stores import case_store_of
from autoseg.values import Split, TrainJob
from autoseg.workspace import ModelFolder, Workspace
from tests.conftest import TINY_PRESET
from tests.training.test_loop import Listening

CASES = [f"phantom_{index:03d}" for index in range(4)]
FOLDS = [{"train": CASES[2:], "val": CASES[:2]}, {"train": CASES[:2], "val": CASES[2:]}]


@pytest.fixture(scope="module")
def first(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of two folds, whose first stage is trained; tests work on copies."""
    workspace = Workspace(tmp_path_factory.mktemp("cascade") / "W")
    options = {"preset": TINY_PRESET, "name": "tiny", "device": "cpu", "memory_gib": 2}
    pipeline.plan_dataset(phantoms, workspace, configurations=["3d_fullres"], **options)
    path = workspace.model().path / "plan.json"
    document = json.loads(path.read_text())
    full = document["configurations"][0]
    spacing = [1.5 * step for step in full["spacing"]]
    document["configurations"] += [
        {"name": "low", "inherits_from": "3d_fullres", "spacing": spacing},
        {
            "name": "second",
            "inherits_from": "3d_fullres",
            "previous_stage": "low",
            "network": {"input_channels": 1 + 3},
        },
    ]
    path.write_text(json.dumps(document))
    workspace.split_path.write_text(json.dumps(FOLDS))
    pipeline.train(workspace, "low", "all", iterations=4, device="cpu")
    return workspace.path


@pytest.fixture(scope="module")
def trained(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with fold 0 of the second stage; tests do not write to it."""
    workspace = Workspace(shutil.copytree(first, tmp_path_factory.mktemp("trained") / "W"))
    pipeline.train(workspace, "second", "0", iterations=4, device="cpu")
    return workspace.path


@pytest.fixture
def workspace(first: Path, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(first, tmp_path / "W"))


def map_of(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def test_the_second_stage_is_trained_scored_and_kept(trained: Path) -> None:
    folder = Workspace(trained).model().fold("second", "0")
    assert folder.summary.is_file()
    job = read_document(TrainJob, folder.job)
    assert job.previous_keys.keys() == job.case_keys.keys() == set(CASES)
    (stored,) = (trained / "preprocessed").glob("*/predicted_by_low")
    assert {path.name.rpartition("-")[0] for path in stored.iterdir()} == set(CASES)


def test_whoever_chooses_the_second_stage_alone_pays_for_the_first_as_well(trained: Path, tmp_path: Path) -> None:
    workspace = Workspace(shutil.copytree(trained, tmp_path / "W"))
    both = {each.name: each.cost for each in pipeline.select_best(workspace).evidence.candidates}
    (alone,) = pipeline.select_best(workspace, configurations=["second"]).evidence.candidates
    assert alone.cost == both["second"]
    assert alone.cost.seconds_per_case > both["low"].seconds_per_case > 0
    shutil.rmtree(workspace.model().path / "low" / "fold_0" / "validation")
    shutil.rmtree(workspace.model().path / "low" / "fold_1" / "validation")
    (unknown,) = pipeline.select_best(workspace, configurations=["second"]).evidence.candidates
    assert unknown.cost.seconds_per_case is None


def test_a_new_image_is_predicted_as_the_same_held_out_case(trained: Path, phantoms: Path, tmp_path: Path) -> None:
    """One path: from files through both stages, and from stored cases with the stored prediction of the first."""
    image = phantoms / "imagesTr" / f"{CASES[1]}_0000.nii.gz"
    made = pipeline.predict(
        image, tmp_path / "out", workspace=Workspace(trained), configuration="second", folds=["0"], device="cpu"
    )
    validation = Workspace(trained).model().fold("second", "0").validation
    one, other = map_of(made.files[CASES[1]]), map_of(validation / f"{CASES[1]}.nii.gz")
    np.testing.assert_array_equal(one, other)
    assert np.unique(one).size > 1


def test_a_training_that_is_stopped_and_cut_off_ends_with_the_same_weights(trained: Path, workspace: Workspace) -> None:
    listening = Listening()

    def two_done() -> bool:
        return any(event.get("stage") == "train" and event["done"] >= 2 for event in listening.all("progress"))

    class CutOff(Listening):
        def event(self, kind: str, **fields: object) -> None:
            if kind == "progress" and fields["stage"] == "train" and fields["done"] == 3:
                raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        pipeline.train(workspace, "second", "0", iterations=4, device="cpu", logger=listening, stop=two_done)
    with pytest.raises(KeyboardInterrupt):
        pipeline.train(workspace, "second", "0", device="cpu", logger=CutOff())
    (result,) = pipeline.train(workspace, "second", "0", device="cpu")
    expected = Workspace(trained).model().fold("second", "0")
    assert result.folder.model.read_bytes() == expected.model.read_bytes()
    for case in CASES[:2]:
        np.testing.assert_array_equal(
            *(map_of(folder.validation / f"{case}.nii.gz") for folder in (result.folder, expected))
        )


def test_a_second_stage_begins_with_the_weights_of_another_and_no_other_network_does(
    trained: Path, workspace: Workspace
) -> None:
    model = Workspace(trained).model().path
    pipeline.train(workspace, "second", "0", iterations=1, device="cpu", begin_from=model)
    adopted = json.loads(workspace.model().fold("second", "0").adopted.read_text())
    assert {each["outcome"] for each in adopted["layers"]} == {"adopted"}
    second = model / "second" / "fold_0"
    with pytest.raises(InputError, match="second stage of a cascade, and '3d_fullres' has not its inputs"):
        pipeline.train(workspace, "3d_fullres", "0", iterations=1, device="cpu", begin_from=second)


def test_the_truth_while_training_scored_whole_images(trained: Path) -> None:
    lines = Workspace(trained).model().fold("second", "0").truth.read_text().splitlines()
    scores = [line for line in map(json.loads, lines) if "case" in line]
    assert scores
    assert not any(score.get("error") for score in scores)


def prepared(workspace: Workspace, fold: str) -> dict[str, np.ndarray]:
    """What the second stage gets to see of every case, on its grid."""
    model, split = workspace.model(), read_document(Split, workspace.split_path)
    keys = pipeline.preprocess(workspace, ["second"])["second"]
    store = case_store_of(workspace, model.plan(), "second")
    maps = prepare_earlier(
        *(workspace, model, "second", split, fold, keys, store, SerialExecutor(), SilentLogger(), lambda: False)
    )
    earlier = EarlierStore(store.folder / "predicted_by_low")
    return {case: np.asarray(earlier.open(case, key)) for case, key in maps.keys.items()}


@pytest.mark.parametrize("fold", ["0", "1", "full"])
def test_no_case_comes_with_a_prediction_by_a_model_that_was_trained_on_it(workspace: Workspace, fold: str) -> None:
    """Planted: label 1 everywhere by the models that did not know the case, label 2 by those that did."""
    for number, own in enumerate(FOLDS):
        validation = workspace.model().fold("low", str(number)).validation
        for case in CASES:
            original = workspace.model().fold("low", str(int(case in FOLDS[1]["val"]))).validation / f"{case}.nii.gz"
            like = SimpleITK.ReadImage(str(original)) * 0
            SimpleITK.WriteImage(like + (1 if case in own["val"] else 2), str(validation / f"{case}.nii.gz"))
    seen = prepared(workspace, fold)
    assert seen.keys() == set(CASES)
    assert all((array == 1).all() for array in seen.values())


def test_what_is_stored_is_made_anew_only_for_another_prediction(workspace: Workspace) -> None:
    def times() -> dict[str, int]:
        files = (workspace.path / "preprocessed").glob("*/predicted_by_low/*/record.json")
        return {file.parent.name: file.stat().st_mtime_ns for file in files}

    before = prepared(workspace, "0")
    first = times()
    prepared(workspace, "1")
    assert times() == first
    file = workspace.model().fold("low", "0").validation / f"{CASES[0]}.nii.gz"
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(file)) * 0 + 3, str(file))
    after = prepared(workspace, "0")
    assert (after[CASES[0]] == 3).all()
    assert {name for name in times() if first.get(name) != times()[name]} == set(times()) - set(first)
    assert len(times()) == len(CASES)
    np.testing.assert_array_equal(after[CASES[1]], before[CASES[1]])


def test_a_training_is_not_gone_on_with_other_predictions(workspace: Workspace) -> None:
    folder = workspace.model().fold("second", "0")
    with pytest.raises(InterruptedRunError):
        pipeline.train(workspace, "second", "0", iterations=2, device="cpu", stop=folder.job.is_file)
    file = workspace.model().fold("low", "1").validation / f"{CASES[2]}.nii.gz"
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(file)) * 0, str(file))
    with pytest.raises(InputError, match=rf"found what the stage before predicted of {CASES[2]} changed since"):
        pipeline.train(workspace, "second", "0", device="cpu")


def test_missing_folds_of_the_first_stage_are_named_with_the_command(workspace: Workspace) -> None:
    model, split = workspace.model(), read_document(Split, workspace.split_path)
    plan = model.plan()
    assert first_stage_missing(model, plan, "second", split, "0") == ()
    (model.fold("low", "1").validation / f"{CASES[3]}.nii.gz").unlink()
    assert first_stage_missing(model, plan, "second", split, "0") == ("1",)
    with pytest.raises(InputError, match=r"not trained and validated yet: 1 .*Train them first: autoseg train low 1$"):
        pipeline.train(workspace, "second", "full", iterations=1, device="cpu")
    shutil.rmtree(model.path / "low")
    assert first_stage_missing(model, plan, "second", split, "full") == ("0", "1")
    assert first_stage_missing(model, plan, "low", split, "0") == ()
    with pytest.raises(InputError, match=r"autoseg train low all$"):
        pipeline.train(workspace, "second", "0", iterations=1, device="cpu")
    assert not (model.path / "second").exists()


def test_a_first_stage_of_another_plan_or_of_other_folds_is_refused(workspace: Workspace) -> None:
    model = workspace.model()
    before = (model.path / "plan.json").read_text()
    document = json.loads(before)
    document["configurations"][1]["batch_size"] = 1
    (model.path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"'low', fold 0, was trained under another plan.*autoseg train low 0"):
        pipeline.train(workspace, "second", "0", iterations=1, device="cpu")
    (model.path / "plan.json").write_text(before)
    other = [{"train": CASES[1:], "val": CASES[:1]}, {"train": CASES[:1], "val": CASES[1:]}]
    workspace.split_path.write_text(json.dumps(other))
    with pytest.raises(InputError, match=rf"'low', fold 0, was trained with other folds.*found {CASES[1]} in another"):
        pipeline.train(workspace, "second", "1", iterations=1, device="cpu")
    workspace.split_path.write_text(json.dumps(FOLDS[:1]))
    with pytest.raises(InputError, match=rf"held out in no fold; found {CASES[2]}, {CASES[3]}"):
        pipeline.train(workspace, "second", "0", iterations=1, device="cpu")


def test_a_damaged_label_map_is_made_anew(trained: Path, tmp_path: Path) -> None:
    workspace = Workspace(shutil.copytree(trained, tmp_path / "W"))
    model = workspace.model()
    job = read_document(TrainJob, model.fold("second", "0").job)
    store = staged_store(model, model.plan(), job, case_store_of(workspace, model.plan(), "second"))
    key = job.case_keys[CASES[3]]
    whole = np.asarray(store.open(CASES[3], key).image)
    assert whole.shape[0] == 4
    (file,) = store.folder.glob(f"predicted_by_low/{CASES[3]}-*/labels.*")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DamagedCaseError):
        store.open(CASES[3], key)
    again = with_whole_case(store, key, lambda: np.asarray(store.open(CASES[3], key).image))
    np.testing.assert_array_equal(again, whole)


def test_without_its_first_stage_the_second_does_not_predict(trained: Path, phantoms: Path, tmp_path: Path) -> None:
    moved = ModelFolder(shutil.copytree(trained / "models" / "tiny", tmp_path / "moved"))
    plan, choice = moved.plan(), Choice(configuration="second", folds=("0",), dice=None)
    assert [(stage.configuration, stage.folds) for stage in stages_of(moved, plan, choice)] == [
        ("low", ("0",)),
        ("second", ("0",)),
    ]
    full = Choice(configuration="second", folds=("full",), dice=None)
    assert stages_of(moved, plan, full)[0].folds == ("0", "1")
    moved.fold("low", "full").path.mkdir()
    moved.fold("low", "0").model.rename(moved.fold("low", "full").model)
    assert stages_of(moved, plan, full)[0].folds == ("full",)
    assert stages_of(moved, plan, choice)[0].folds == ("1",)
    shutil.rmtree(moved.path / "low")
    with pytest.raises(InputError, match=r"'second' takes what 'low' predicts.*autoseg train low all"):
        pipeline.predict(phantoms / "imagesTs", tmp_path / "out", model=moved, configuration="second", device="cpu")


def change_weights(file: Path) -> None:
    tensors, metadata = load_tensors(file)
    save_tensors(file, {name: tensor * 1.01 for name, tensor in tensors.items()}, metadata)


def test_a_first_stage_with_other_weights_neither_trains_nor_predicts(
    trained: Path, phantoms: Path, tmp_path: Path
) -> None:
    """The second stage knows whose label maps it was trained with, also in a copy of the model folder."""
    workspace = Workspace(shutil.copytree(trained, tmp_path / "W"))
    low = workspace.model().fold("low", "0").model
    told = load_metadata(workspace.model().fold("second", "0").model)["previous_weights"]
    assert told == {fold: weights_id(workspace.model().fold("low", fold).model) for fold in "01"}
    change_weights(low)
    said = rf"fold 0 of 'second' was trained with what 'low', fold 0.*expected weights {told['0'][:12]}"
    for model in (workspace.model(), ModelFolder(shutil.copytree(workspace.model().path, tmp_path / "moved"))):
        with pytest.raises(InputError, match=said):
            pipeline.predict(phantoms / "imagesTs", tmp_path / "out", model=model, configuration="second", device="cpu")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=rf"{said}.*autoseg train second 0"):
        pipeline.select_best(workspace, configurations=["second"])
    said = r"label maps of the first stage 'low', fold 0, were made by other weights.*autoseg train low 0"
    with pytest.raises(InputError, match=said):
        pipeline.train(workspace, "second", "1", iterations=1, device="cpu")


def test_an_exported_cascade_holds_both_stages_and_predicts_the_same(
    trained: Path, phantoms: Path, tmp_path: Path
) -> None:
    """Nothing was selected: the export itself says that the second stage predicts. The first one is checked there, too."""
    workspace = Workspace(shutil.copytree(trained, tmp_path / "W"))
    low = workspace.model().fold("low", "0").model
    tensors, metadata = load_tensors(low)
    options = {"configuration": "second", "folds": ["0"]}
    made = pipeline.export_model(workspace, tmp_path / "model", **options)
    assert made.members == {"second": ("0",)}
    before = pipeline.predict(phantoms / "imagesTs", tmp_path / "a", workspace=workspace, device="cpu", **options)
    workspace.path.rename(tmp_path / "gone")
    exported = ModelFolder(tmp_path / "model")
    after = pipeline.predict(phantoms / "imagesTs", tmp_path / "b", model=exported, device="cpu")
    assert [(each.configuration, each.folds) for each in after.choices] == [("second", ("0",))]
    for case, file in before.files.items():
        assert file.read_bytes() == after.files[case].read_bytes()
    plan = exported.plan()
    assert [stage.configuration for stage in stages_of(exported, plan, after.choice)] == ["low", "second"]
    told = load_metadata(exported.fold("second", "0").model)["previous_weights"]
    assert told["0"] == weights_id(exported.fold("low", "0").model)
    save_tensors(exported.fold("low", "0").model, tensors, {**metadata, "skipped": ["x"]})
    with pytest.raises(InputError, match=r"low/fold_0/model\.safetensors has another content than its list states"):
        pipeline.predict(phantoms / "imagesTs", tmp_path / "c", model=exported, device="cpu")


@pytest.mark.parametrize("configurations", [(), ("second",)])
def test_a_selection_holds_while_the_first_stage_is_the_same(
    trained: Path, phantoms: Path, tmp_path: Path, configurations: tuple[str, ...]
) -> None:
    """Also where the first stage was not compared itself."""
    workspace = Workspace(shutil.copytree(trained, tmp_path / "W"))
    selection = pipeline.select_best(workspace, configurations=configurations)
    low = {fold: weights_id(workspace.model().fold("low", fold).model) for fold in "01"}
    assert selection.basis.weights["low"] == low
    assert selection.basis.weights.keys() == {"low", "second"} | ({"3d_fullres"} if not configurations else set())
    assert read_selection(workspace.model()).selection == selection
    change_weights(workspace.model().fold("low", "0").model)
    with pytest.raises(InputError, match=r"fold 0 of low has other weights"):
        pipeline.predict(phantoms / "imagesTs", tmp_path / "out", workspace=workspace, device="cpu")
    assert "fold 0 of low has other weights" in str(workspace_status(workspace).plans[0].selection.changed)
