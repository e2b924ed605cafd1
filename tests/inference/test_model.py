"""Which trained model is used, and that it is the one that was trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import torch

from autoseg.errors import InputError, UnknownNameError, UnreadableFileError
from autoseg.files import write_document
from autoseg.inference.model import Choice, choose_model, load_predictor, validation_dice
from autoseg.networks import execution
from autoseg.networks.build import build_network
from autoseg.networks.execution import default_execution
from autoseg.networks.weights import save_tensors
from autoseg.values import (
    Configuration,
    ExecutionPath,
    MeanScore,
    Plan,
    Summary,
)
from autoseg.workspace import FoldFolder, ModelFolder
from tests.small_plans import small_configuration, small_plan

NAMES = ("2d", "3d_fullres")


@pytest.fixture(autouse=True)
def _threads_as_before():
    """Predictors set torch's threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make_configuration(name: str, dimensions: int, features: Sequence[int] = (4, 8)) -> Configuration:
    return small_configuration(name, (8,) * dimensions, features=features, batch_size=1, mirror_axes=(0,))


def make_plan() -> Plan:
    return small_plan(make_configuration("2d", 2), make_configuration("3d_fullres", 3))


def make_folder(path: Path) -> ModelFolder:
    write_document(path / "plan.json", make_plan())
    return ModelFolder(path)


def add_fold(
    folder: ModelFolder, configuration: str, fold: str, *, dice: float | None = None, scored: bool = True, seed: int = 0
) -> FoldFolder:
    """A trained fold, and its validation where it has one."""
    path = folder.fold(configuration, fold)
    network = build_network(make_plan().configuration(configuration).network, seed=seed)
    save_tensors(path.model, network.state_dict(), {"plan": make_plan().id, "fold": fold})
    if scored and fold != "full":
        mean = MeanScore(dice=dice, iou=None, tp=0, fp=0, fn=0, tn=0, n_pred=0, n_ref=0, cases=0)
        summary = Summary(foreground_mean=mean, mean={}, metric_per_case=(), label_names={})
        write_document(path.summary, summary)
    return path


def test_the_score_of_a_model_is_the_mean_over_its_scored_folds(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    add_fold(folder, "2d", "0", dice=0.6)
    add_fold(folder, "2d", "1", dice=0.8)
    add_fold(folder, "2d", "2", dice=None)
    add_fold(folder, "2d", "3", scored=False)
    assert validation_dice(folder, "2d", ["0", "1", "2", "3"]) == pytest.approx(0.7)
    assert validation_dice(folder, "2d", ["2", "3"]) is None


def test_the_configuration_with_the_best_score_is_chosen(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    add_fold(folder, "2d", "0", dice=0.9)
    add_fold(folder, "3d_fullres", "0", dice=0.7)
    assert choose_model([folder])[1] == Choice(configuration="2d", folds=("0",), dice=0.9)
    assert choose_model([folder], "3d_fullres")[1] == Choice(configuration="3d_fullres", folds=("0",), dice=0.7)


def test_configurations_are_compared_on_the_folds_that_all_of_them_have(tmp_path: Path) -> None:
    """An easy fold that only one of them was trained on does not decide."""
    folder = make_folder(tmp_path)
    for fold, dice in (("0", 0.7), ("1", 0.99)):
        add_fold(folder, "2d", fold, dice=dice)
    add_fold(folder, "3d_fullres", "0", dice=0.8)
    assert choose_model([folder])[1] == Choice(configuration="3d_fullres", folds=("0",), dice=0.8)


def test_the_best_model_of_several_plans_is_chosen(tmp_path: Path) -> None:
    one, other = make_folder(tmp_path / "one"), make_folder(tmp_path / "other")
    with pytest.raises(InputError, match="no model has been trained yet"):
        choose_model([one, other])
    add_fold(other, "2d", "0", dice=0.6)
    assert choose_model([one, other]) == (other, Choice(configuration="2d", folds=("0",), dice=0.6))
    add_fold(one, "2d", "0", dice=0.6)
    assert choose_model([one, other])[0] is one  # of equal ones the first
    add_fold(one, "3d_fullres", "1", dice=0.9)
    assert choose_model([one, other], folds=["1"])[1].configuration == "3d_fullres"


def test_a_copied_model_folder_may_keep_the_name_of_its_plan(tmp_path: Path) -> None:
    """Each folder is asked for the configurations of its own plan, whatever the plans are called."""
    one, other = make_folder(tmp_path / "one"), make_folder(tmp_path / "copy")
    write_document(other.path / "plan.json", small_plan(make_configuration("2d", 2)))
    add_fold(one, "3d_fullres", "0", dice=0.9)
    add_fold(other, "2d", "0", dice=0.5)
    assert choose_model([one, other])[1].configuration == "3d_fullres"


def test_a_score_beats_no_score(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    add_fold(folder, "2d", "0", scored=False)
    add_fold(folder, "3d_fullres", "0", dice=0.0)
    assert choose_model([folder])[1].configuration == "3d_fullres"


def test_all_trained_folds_are_averaged_and_the_full_model_is_a_last_resort(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    add_fold(folder, "2d", "full")
    assert choose_model([folder])[1].folds == ("full",)
    add_fold(folder, "2d", "1", dice=0.5)
    add_fold(folder, "2d", "0", dice=0.5)
    assert choose_model([folder])[1].folds == ("0", "1")
    assert choose_model([folder], "2d", ["full"])[1].folds == ("full",)
    assert choose_model([folder], folds=["1"])[1] == Choice(configuration="2d", folds=("1",), dice=0.5)


def test_a_fold_that_is_not_trained_is_named_with_those_that_are(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    add_fold(folder, "2d", "0", dice=0.5)
    with pytest.raises(UnknownNameError, match=r"2d has no trained fold 3; expected 0\. .*autoseg train 2d 3"):
        choose_model([folder], "2d", ["0", "3"])


def test_an_unknown_configuration_is_named_with_those_of_the_plan(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no configuration '3d_lowres'; expected 2d or 3d_fullres"):
        choose_model([make_folder(tmp_path)], "3d_lowres")


@pytest.mark.parametrize("configuration", [None, "2d"])
def test_without_any_training_there_is_nothing_to_choose(tmp_path: Path, configuration: str | None) -> None:
    folder = make_folder(tmp_path)
    if configuration:
        add_fold(folder, "3d_fullres", "0")
    with pytest.raises(InputError, match=r"has been trained yet.*autoseg train"):
        choose_model([folder], configuration)


def test_the_networks_of_a_choice_have_the_weights_of_its_folds(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    for seed in (3, 4):
        add_fold(folder, "3d_fullres", str(seed), seed=seed)
    choice = Choice(configuration="3d_fullres", folds=("3", "4"), dice=None)
    predictor = load_predictor(folder, choice, device="cpu")
    assert predictor.mirror_axes == (0,)
    assert load_predictor(folder, choice, device="cpu", mirroring=False).mirror_axes == ()
    for network, seed in zip(predictor.networks, (3, 4), strict=True):
        expected = build_network(make_plan().configuration("3d_fullres").network, seed=seed).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())
        assert not network.training
        assert not network.deep_supervision


def test_weights_of_another_plan_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    path = add_fold(folder, "2d", "0")
    other = msgspec.structs.replace(make_plan(), seed=1)
    write_document(tmp_path / "plan.json", other)
    with pytest.raises(InputError, match="trained with another plan") as caught:
        load_predictor(*choose_model([folder]), device="cpu")
    assert (caught.value.found, caught.value.expected) == (make_plan().id, other.id)
    assert caught.value.file == path.model


def test_a_plan_is_the_same_plan_when_it_is_read_back_from_its_document(tmp_path: Path) -> None:
    """A planner may give 0 where 0.0 is meant: the two are equal, so weights of one are weights of the other."""
    folder = make_folder(tmp_path)
    path = add_fold(folder, "2d", "0").model
    (flat, _) = make_plan().configurations
    whole = msgspec.structs.replace(flat, training=msgspec.structs.replace(flat.training, weight_decay=0))
    plan = msgspec.structs.replace(make_plan(), configurations=(whole,))
    write_document(tmp_path / "plan.json", plan)
    assert folder.plan() == plan
    save_tensors(path, build_network(flat.network, seed=0).state_dict(), {"plan": plan.id, "fold": "0"})
    assert load_predictor(*choose_model([folder]), device="cpu").configuration == whole


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    path = add_fold(folder, "2d", "0").model
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UnreadableFileError, match=r"fold_0.model\.safetensors"):
        load_predictor(*choose_model([folder]), device="cpu")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    path = add_fold(folder, "2d", "0").model
    wider = build_network(make_configuration("2d", 2, (4, 16)).network, seed=0)
    save_tensors(path, wider.state_dict(), {"plan": make_plan().id})
    with pytest.raises(InputError, match="do not fit the network"):
        load_predictor(*choose_model([folder]), device="cpu")


def execution_of(folder: ModelFolder, stored: ExecutionPath) -> ExecutionPath:
    path = add_fold(folder, "2d", "0")
    write_document(path.execution, stored)
    return load_predictor(*choose_model([folder]), device="cpu").execution


def test_what_was_trained_compiled_is_predicted_alike_without_a_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(execution.shutil, "which", lambda name: None)
    found = execution_of(make_folder(tmp_path), ExecutionPath(device="cpu", compiled=True, reason="of the training"))
    assert (found.compiled, found.channels_last, found.reason) == (False, False, "of the training")


def test_prediction_runs_as_training_did_but_never_compiled(tmp_path: Path) -> None:
    stored = ExecutionPath(device="cpu", channels_last=True, compiled=True, threads=99, reason="measured")
    used = execution_of(make_folder(tmp_path), stored)
    assert used == msgspec.structs.replace(stored, compiled=False, threads=default_execution("cpu").threads)
    replayed = msgspec.structs.replace(stored, graphs=True)
    assert execution_of(make_folder(tmp_path / "replayed"), replayed) == used


def test_what_another_device_chose_is_not_used(tmp_path: Path) -> None:
    stored = ExecutionPath(device="cuda", precision="bf16", reason="measured")
    assert execution_of(make_folder(tmp_path), stored) == default_execution("cpu")


def test_a_precision_that_is_slow_here_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = ExecutionPath(device="cpu", precision="bf16", threads=1, reason="measured elsewhere")
    monkeypatch.setattr(execution, "has_fast_bf16", lambda: False)
    assert execution_of(make_folder(tmp_path / "slow"), stored) == default_execution("cpu")
    monkeypatch.setattr(execution, "has_fast_bf16", lambda: True)
    assert execution_of(make_folder(tmp_path / "fast"), stored).precision == "bf16"
