"""A training that begins with a trained model: at its score, recorded, exact when resumed, without running its code."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
import torch

from autoseg import pipeline
from autoseg.errors import InputError, InterruptedRunError
from autoseg.files import content_hash, read_document, write_document
from autoseg.finetuning.source import find_source
from autoseg.networks.weights import load_tensors
from autoseg.values import TrainJob
from autoseg.values.adoption import Adoption
from autoseg.workspace import Workspace
from tests.command_line import failure, invoke
from tests.conftest import TINY_PRESET


class Heard:
    """A logger that remembers what was told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.trained = 0

    def event(self, kind: str, **fields: object) -> None:
        self.texts.append(str(fields.get("text", "")))
        self.trained += fields.get("stage") == "train"

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def trained(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a model of fold 0 that has learned a little, and a plan ``still`` that hardly learns."""
    workspace = Workspace(tmp_path_factory.mktemp("source") / "W")
    made = pipeline.plan_dataset(
        phantoms, workspace, preset=TINY_PRESET, name="first", device="cpu", configurations=["2d"]
    )
    pipeline.train(workspace, "2d", "0", iterations=25, device="cpu")
    (configuration,) = made.plan.configurations
    still = msgspec.structs.replace(configuration.training, learning_rate=1e-12, ema_decay=None)
    plan = msgspec.structs.replace(
        made.plan, name="still", configurations=(msgspec.structs.replace(configuration, training=still),)
    )
    write_document(workspace.path / "models" / "still" / "plan.json", plan)
    return workspace.path


@pytest.fixture
def workspace(trained: Path, tmp_path: Path) -> Workspace:
    """A copy to write to."""
    return Workspace(shutil.copytree(trained, tmp_path / "W"))


def source_of(workspace: Workspace) -> Path:
    return workspace.path / "models" / "first"


def tune(workspace: Workspace, fold: str = "0", **options: object) -> pipeline.Trained:
    wanted = {"iterations": 1, "device": "cpu", "plan_name": "still", "begin_from": source_of(workspace)}
    return pipeline.train(workspace, "2d", fold, **(wanted | options))[0]


def test_fine_tuning_for_the_same_labels_begins_at_the_sources_score(workspace: Workspace) -> None:
    source, heard = workspace.model("first").fold("2d", "0"), Heard()
    expected = json.loads(source.summary.read_text())["foreground_mean"]["Dice"]
    assert expected > 0.05
    tuned = tune(workspace, logger=heard)
    assert tuned.summary.foreground_mean.dice == pytest.approx(expected, abs=1e-3)
    adoption = read_document(Adoption, tuned.folder.adopted)
    assert adoption.share == 1
    assert adoption.sha256 == content_hash(source.model) == read_document(TrainJob, tuned.folder.job).begins_from
    assert any("100.0% of the network's numbers come from it" in text for text in heard.texts)
    assert not any("held out here" in text for text in heard.texts)


def test_held_out_cases_that_the_source_was_trained_on_are_told(workspace: Workspace) -> None:
    heard = Heard()
    tune(workspace, fold="1", logger=heard)
    assert any("was trained on" in text and "held out here" in text for text in heard.texts)


@pytest.mark.parametrize("within_a_save", [False, True])
def test_a_training_that_was_stopped_goes_on_exactly_and_does_not_need_the_source_again(
    workspace: Workspace, within_a_save: bool
) -> None:
    options = {"plan_name": "first", "begin_from": source_of(workspace) / "2d" / "fold_0" / "model.safetensors"}
    copy = Workspace(shutil.copytree(workspace.path, workspace.path.parent / "copy"))
    whole = tune(copy, fold="1", iterations=4, **options)
    heard = Heard()
    with pytest.raises(InterruptedRunError):
        tune(workspace, fold="1", iterations=4, logger=heard, stop=lambda: heard.trained == 2, **options)
    folder = workspace.model("first").fold("2d", "1")
    if within_a_save:  # killed when the newest checkpoint had become the one before, and the new one was not there yet
        folder.checkpoint.rename(folder.previous_checkpoint)
    tuned = tune(workspace, fold="1", iterations=4, plan_name="first", begin_from=None)
    one, other = (load_tensors(each.folder.model)[0] for each in (whole, tuned))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_other_weights_to_begin_with_make_another_training(workspace: Workspace) -> None:
    tuned = tune(workspace)
    with pytest.raises(InputError, match="the weights that it began with changed since"):
        tune(workspace, begin_from=tuned.folder.model)
    pipeline.train(workspace, "2d", "0", plan_name="first", device="cpu")
    with pytest.raises(InputError, match="the weights that it began with changed since"):
        tune(workspace, plan_name="first", iterations=25)


def test_a_training_that_has_not_begun_asks_for_the_model_again(workspace: Workspace) -> None:
    tuned = tune(workspace)
    for path in (tuned.folder.checkpoint, tuned.folder.kept_checkpoint, tuned.folder.model):
        path.unlink()
    with pytest.raises(InputError, match="--from"):
        tune(workspace, begin_from=None)


def test_images_that_are_unlike_those_of_the_source_are_told_and_recorded(workspace: Workspace) -> None:
    plan, heard = workspace.model("still").plan(), Heard()
    (configuration,) = plan.configurations
    first, second, third = configuration.spacing
    coarse = msgspec.structs.replace(configuration, spacing=(first, second * 1.5, third * 1.5))
    other = msgspec.structs.replace(
        plan, name="other", axis_order=(0, 2, 1), orientation="as_stored", configurations=(coarse,)
    )
    write_document(workspace.path / "models" / "other" / "plan.json", other)
    told = read_document(Adoption, tune(workspace, plan_name="other", logger=heard).folder.adopted).differences
    assert [sentence.partition(":")[0] for sentence in told] == ["orientation", "axis order", "spacing"]
    (text,) = [text for text in heard.texts if "come from it" in text]
    assert "it will see something else than the model was trained on" in text
    assert all(sentence in text for sentence in told)
    heard = Heard()
    assert read_document(Adoption, tune(workspace, logger=heard).folder.adopted).differences == ()
    assert not any("something else" in text for text in heard.texts)


def test_no_code_of_the_source_is_run(workspace: Workspace, tmp_path: Path) -> None:
    model = shutil.copytree(source_of(workspace), tmp_path / "foreign")
    plan = json.loads((model / "plan.json").read_text())
    plan["configurations"][0]["network"]["architecture"] = "antigravity:fly"
    plan["configurations"][0]["training"]["loss"] = "antigravity:fly"
    (model / "plan.json").write_text(json.dumps(plan))
    assert tune(workspace, begin_from=model).summary is not None
    assert "antigravity" not in sys.modules


def test_weights_without_their_plan_are_taken_by_shape_and_the_heads_begin_anew(
    workspace: Workspace, tmp_path: Path
) -> None:
    shutil.copy(workspace.model("first").fold("2d", "0").model, tmp_path / "alone.safetensors")
    assert find_source(tmp_path / "alone.safetensors", "2d", "0").template is None
    adoption = read_document(Adoption, tune(workspace, begin_from=tmp_path / "alone.safetensors").folder.adopted)
    renewed = {layer.name for layer in adoption.layers if layer.outcome == "renewed"}
    assert renewed == {"decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"}


def test_a_damaged_weight_file_is_told(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot read the weights"):
        tune(workspace, begin_from=tmp_path / "bad.safetensors")


def test_the_command_line_plans_and_trains_from_a_model(trained: Path, phantoms: Path, tmp_path: Path, capsys) -> None:
    model, workspace = trained / "models" / "first", tmp_path / "W"
    assert invoke(["plan", phantoms, "-w", workspace, "--from", model, "--device", "cpu", "-y"]) == 0
    assert "made around the plan first" in capsys.readouterr().out
    train = [
        "train",
        "2d",
        "0",
        "-w",
        workspace,
        "--from",
        model,
        "--iterations",
        "1",
        "--device",
        "cpu",
        "--workers",
        "0",
    ]
    assert invoke(train) == 0
    told = capsys.readouterr()
    assert "100.0% of the network's numbers come from it" in told.err
    assert "same name and shape" in told.err
    assert (workspace / "models" / "default+from" / "2d" / "fold_0" / "adopted.json").is_file()
    assert "there is no such file or folder" in failure(
        capsys, *train[:5], "--from", tmp_path / "nowhere", "--iterations", "1"
    )
