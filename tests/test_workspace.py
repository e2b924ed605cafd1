"""The workspace: what lies where, which plan is active, and what must not be replaced."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from autoseg.errors import DocumentError, InputError
from autoseg.files import (
    read_document,
    write_atomically,
    write_document,
)
from autoseg.values import (
    AxisMap,
    Case,
    CaseFingerprint,
    Dataset,
    Fingerprint,
    Fold,
    Patients,
    Plan,
    Split,
    TrainJob,
    encode,
)
from autoseg.workspace import ModelFolder, Workspace
from tests.small_plans import ONE_LABEL, small_configuration, small_plan


def plan(**changes: object) -> Plan:
    configuration = small_configuration("2d", (16, 16), spacing=(None, 1.0, 1.0), median_shape=(8.0, 16.0, 16.0))
    return small_plan(configuration, **{"name": "default", "file_ending": ".mha", **changes})


DATASET = Dataset(
    name="D",
    root="/d",
    channels=("MRI",),
    labels=ONE_LABEL,
    file_ending=".mha",
    cases=(Case(id="a", images=("a_0000.mha",), label="a.mha"),),
)
FINGERPRINT = Fingerprint(
    dataset="D",
    channels=("MRI",),
    labels=ONE_LABEL,
    file_ending=".mha",
    cases=(
        CaseFingerprint(
            id="a",
            spacing=(1.0, 1.0, 1.0),
            shape=(8, 16, 16),
            shape_after_crop=(8, 16, 16),
            to_canonical=AxisMap(),
            planar=False,
            label_counts={"0": 1},
        ),
    ),
    intensities=(None,),
)
SPLIT: Split = (Fold(train=("a",), val=("b",)),)


def begin_training(model: ModelFolder) -> None:
    write_atomically(model.fold("2d", "0").job, b"{}")


def test_a_planning_is_saved_whole_and_its_plan_is_active(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "W")
    model = workspace.save(DATASET, FINGERPRINT, SPLIT, plan())
    again = Workspace(tmp_path / "W")
    assert again.dataset() == DATASET
    assert read_document(Fingerprint, again.fingerprint_path()) == FINGERPRINT
    assert read_document(Split, again.split_path) == SPLIT
    assert again.model().plan() == plan()
    assert again.model().path == model.path


def test_patients_are_saved_with_the_planning_and_stay(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "W")
    patients = Patients(source="names", patient_of={"a": "a"})
    workspace.save(DATASET, FINGERPRINT, SPLIT, plan(), patients)
    workspace.save(DATASET, FINGERPRINT, SPLIT, plan(name="other"))
    assert read_document(Patients, workspace.patients_path) == patients


def test_a_training_of_any_plan_counts(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "W")
    assert not workspace.has_trainings()
    models = [workspace.save(DATASET, FINGERPRINT, SPLIT, plan(name=name)) for name in ("one", "two")]
    assert not workspace.has_trainings()
    begin_training(models[0])
    assert workspace.model().path == models[1].path
    assert workspace.has_trainings()


def test_the_last_plan_is_active_and_the_others_stay(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "W")
    for name in ("one", "two"):
        workspace.save(DATASET, FINGERPRINT, SPLIT, plan(name=name))
    assert workspace.model().plan().name == "two"
    assert workspace.model("one").plan() == plan(name="one")


def test_a_plan_without_trainings_may_be_replaced(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "W")
    for seed in (1, 2):
        workspace.save(DATASET, FINGERPRINT, SPLIT, plan(seed=seed))
    assert workspace.model().plan().seed == 2


def test_a_plan_with_trainings_is_not_replaced_and_nothing_else_is_touched(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "W")
    begin_training(workspace.save(DATASET, FINGERPRINT, SPLIT, plan()))
    before = {path: path.read_bytes() for path in (tmp_path / "W").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="--name"):
        workspace.save(msgspec.structs.replace(DATASET, name="E"), FINGERPRINT, SPLIT, plan(seed=2))
    assert {path: path.read_bytes() for path in (tmp_path / "W").rglob("*") if path.is_file()} == before


def test_the_same_plan_may_be_saved_again_beside_its_trainings(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "W")
    begin_training(workspace.save(DATASET, FINGERPRINT, SPLIT, plan()))
    workspace.save(DATASET, FINGERPRINT, SPLIT, plan())
    assert workspace.model().plan() == plan()


def test_a_plan_edited_by_hand_is_not_lost(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "W")
    model = workspace.save(DATASET, FINGERPRINT, SPLIT, plan())
    write_document(model.path / "plan.json", plan(seed=3))
    with pytest.raises(InputError, match="edited by hand"):
        workspace.save(DATASET, FINGERPRINT, SPLIT, plan(seed=2))
    assert model.plan().seed == 3
    workspace.save(DATASET, FINGERPRINT, SPLIT, plan(seed=3))  # the planner comes to the same
    workspace.save(DATASET, FINGERPRINT, SPLIT, plan(seed=2))


def test_a_plan_that_only_says_the_same_by_inheritance_is_not_another(tmp_path: Path) -> None:
    """So it may be written anew, and trainings go on."""
    workspace, one = Workspace(tmp_path / "W"), plan()
    child = msgspec.structs.replace(one.configurations[0], name="2d_small", batch_size=1)
    both = plan(configurations=(*one.configurations, child))
    model = workspace.save(DATASET, FINGERPRINT, SPLIT, both)
    document = json.loads(encode(both))
    document["configurations"][1] = {"name": "2d_small", "inherits_from": "2d", "batch_size": 1}
    (model.path / "plan.json").write_text(json.dumps(document))
    assert model.plan().id == both.id
    assert model.plan().configurations[1] == msgspec.structs.replace(child, inherits_from="2d")
    begin_training(model)
    workspace.save(DATASET, FINGERPRINT, SPLIT, both)


def test_all_plans_are_found_the_active_one_first(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "W")
    for name in ("one", "two", "three"):
        workspace.save(DATASET, FINGERPRINT, SPLIT, plan(name=name))
    assert [model.plan().name for model in workspace.models()] == ["three", "one", "two"]


def test_another_name_makes_room_for_another_plan(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "W")
    begin_training(workspace.save(DATASET, FINGERPRINT, SPLIT, plan()))
    workspace.save(DATASET, FINGERPRINT, SPLIT, plan(name="second", seed=2))
    assert workspace.model("default").plan() == plan()


def test_a_folder_without_workspace_and_a_workspace_without_plan_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no workspace here.*autoseg plan"):
        Workspace(tmp_path / "nowhere").model()
    with pytest.raises(InputError, match="not a workspace"):
        Workspace(tmp_path).dataset()
    write_document(tmp_path / "dataset.json", DATASET)
    with pytest.raises(InputError, match=r"no plan.*autoseg plan"):
        Workspace(tmp_path).model()


def test_an_unknown_plan_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "W")
    for name in ("one", "two"):
        workspace.save(DATASET, FINGERPRINT, SPLIT, plan(name=name))
    with pytest.raises(InputError, match=r"'three'.*one or two"):
        workspace.model("three")


def test_trained_folds_are_those_with_a_model(tmp_path: Path) -> None:
    model = ModelFolder(tmp_path)
    for fold in ("0", "3", "full"):
        write_atomically(model.fold("2d", fold).model, b"")
    begin_training(ModelFolder(tmp_path))
    write_atomically(model.fold("2d", "1").job, b"{}")
    assert model.trained("2d") == ("0", "3", "full")
    assert model.trained("3d_fullres") == ()
    assert model.has_trainings()


def test_a_model_folder_needs_a_whole_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no plan"):
        ModelFolder(tmp_path).plan()
    (tmp_path / "plan.json").write_bytes(encode(plan())[:100])
    with pytest.raises(DocumentError, match=r"plan\.json"):
        ModelFolder(tmp_path).plan()


def test_a_workspace_that_is_only_looked_at_is_not_made(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "W")
    workspace.contents.save()
    assert not (tmp_path / "W").exists()


def test_parameters_have_folders_of_their_own(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folders = {workspace.preprocessed(name, key * 64) for name in ("2d", "3d_fullres") for key in ("0", "1")}
    assert len(folders) == 4


def test_keys_of_trainings_that_have_not_ended_are_in_use(tmp_path: Path) -> None:
    """One that holds cases out ends with their scores, one that holds nothing out with its model."""
    workspace = Workspace(tmp_path)
    model = ModelFolder(tmp_path / "models" / "default")
    for fold, val in (("0", ("b",)), ("full", ())):
        job = TrainJob(
            plan_id="p",
            configuration="2d",
            fold=fold,
            iterations=1,
            seed=0,
            cases=Fold(train=("a",), val=val),
            case_keys={"a": f"a{fold}", "b": f"b{fold}"},
        )
        write_document(model.fold("2d", fold).job, job)
    assert workspace.keys_in_use() == {"a0", "b0", "afull", "bfull"}
    for fold in ("0", "full"):
        write_atomically(model.fold("2d", fold).model, b"weights")
    assert workspace.keys_in_use() == {"a0", "b0"}
    write_atomically(model.fold("2d", "0").summary, b"{}")
    write_atomically(model.fold("2d", "1").job, b"damaged")
    assert workspace.keys_in_use() == set()
