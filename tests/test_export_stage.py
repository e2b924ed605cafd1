"""An exported model predicts as the workspace did, says what it is, and names nobody."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors import safe_open

from autoseg import pipeline
from autoseg.errors import AutosegError, InputError
from autoseg.files import read_document, write_document
from autoseg.held_out_files import SelectionFiles
from autoseg.networks.weights import load_tensors, save_tensors
from autoseg.selected import read_selection
from autoseg.selection import repeated
from autoseg.values import (
    ComponentStep,
    ExecutionPath,
    Exported,
    Fingerprint,
    Interval,
    Metrics,
    Plan,
    Selection,
    Split,
    Summary,
)
from autoseg.workspace import ModelFolder, Workspace
from tests.command_line import invoke
from tests.conftest import PROJECT
from tests.test_select_stage import BOTH, choose_by_hand, select
from tests.training.test_loop import Listening

OPTIONS = {"device": "cpu", "mirroring": False}
STEP = ComponentStep(name="all foreground", values=(1, 2, 3))


@pytest.fixture
def workspace(trained_pair: Path, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(trained_pair, tmp_path / "W"))


def held_out(workspace: Workspace) -> list[str]:
    split = read_document(Split, workspace.split_path)
    return sorted((*split[0].val, *split[1].val))


def plant_names(workspace: Workspace) -> None:
    """Wherever a case, a path or a person could be named of what is exported."""
    model, case = workspace.model(), held_out(workspace)[0]
    words = f"{case} of {getpass.getuser()} in {workspace.path} on {platform.node()}"
    plan = read_document(Plan, model.path / "plan.json")
    first = msgspec.structs.replace(plan.configurations[0], reasons={"patch": words})
    spec = msgspec.structs.replace(plan.normalization[0], reason=words)
    changed = msgspec.structs.replace(
        plan,
        planner=f"{case}:Planner",
        reasons={"why": words},
        warnings=(words,),
        normalization=(spec, *plan.normalization[1:]),
        configurations=(first, *plan.configurations[1:]),
    )
    assert changed.id == plan.id
    write_document(model.path / "plan.json", changed)
    for file in model.path.glob("*/*/execution.json"):
        write_document(file, msgspec.structs.replace(read_document(ExecutionPath, file), reason=words))


def named_in(folder: Path, workspace: Workspace, phantoms: Path) -> set[tuple[str, str]]:
    """File and word of everything that an export must not hold, in whatever bytes of whatever file."""
    cases = [case.id for case in workspace.dataset().cases]
    words = [*cases, str(workspace.path), str(phantoms.parent), platform.node(), getpass.getuser()]
    words = [word for word in words if len(word) > 3]  # shorter ones stand in weights by chance
    return {
        (file.name, word)
        for file in folder.rglob("*")
        if file.is_file()
        for word in words
        if word.encode() in file.read_bytes() or word.encode("utf-16-le") in file.read_bytes()
    }


def unpacked(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder


def test_a_selected_ensemble_predicts_the_same_bits_where_nothing_else_is_there(workspace, phantoms, tmp_path) -> None:
    """In another process, in another folder, with the workspace and the training data gone; folder and archive alike."""
    plant_names(workspace)
    choose_by_hand(workspace, BOTH, (STEP,))
    before = pipeline.predict(phantoms / "imagesTs", tmp_path / "a", workspace=workspace, **OPTIONS)
    archive, again, folder = tmp_path / "one.zip", tmp_path / "two.ZIP", tmp_path / "folder"
    for target in (archive, again, folder):
        made = pipeline.export_model(workspace, target)
    assert (made.selected, made.members) == (True, {"2d": ("0", "1"), "3d_fullres": ("0", "1")})
    assert archive.read_bytes() == again.read_bytes()
    inside = unpacked(archive, tmp_path / "inside")
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {
        path.relative_to(inside): path.read_bytes() for path in inside.rglob("*") if path.is_file()
    }
    assert named_in(folder, workspace, phantoms) == set()
    assert named_in(workspace.model().path, workspace, phantoms)  # so the search does find them
    images = shutil.copytree(phantoms / "imagesTs", tmp_path / "elsewhere" / "images")
    workspace.path.rename(tmp_path / "gone")
    arguments = ["predict", "-i", images, "-o", tmp_path / "b", "-m", archive, "--device", "cpu", "--no-mirroring"]
    done = subprocess.run(
        [sys.executable, "-m", "autoseg", *map(str, arguments), "--workers", "0"],
        cwd=images.parent,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "as selected; only the largest component is kept of all foreground" in done.stdout
    after = pipeline.predict(images, tmp_path / "c", model=ModelFolder(folder), **OPTIONS)
    for case, file in before.files.items():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes() == after.files[case].read_bytes()
    assert {path.name for path in images.parent.iterdir()} == {"images"}


def test_the_selection_in_an_export_can_be_made_again_and_rests_on_what_is_exported(workspace, tmp_path) -> None:
    selection = select(workspace)
    pipeline.export_model(workspace, tmp_path / "model")
    exported = ModelFolder(tmp_path / "model")
    told = read_document(Selection, SelectionFiles(exported).selection)
    assert repeated(told) == told
    assert (told.winner, told.reason, told.standings) == (selection.winner, selection.reason, selection.standings)
    assert all(re.fullmatch(r"case \d", case) for case in told.evidence.cases)
    assert list(told.evidence.dice.values()) == list(selection.evidence.dice.values())
    assert read_selection(exported).folds == read_selection(workspace.model()).folds


def test_metrics_are_pooled_over_folds_with_intervals_of_the_same_scores(workspace, tmp_path) -> None:
    made = pipeline.export_model(workspace, tmp_path / "model", configuration="2d")
    metrics = read_document(Metrics, tmp_path / "model" / "metrics.json")
    assert metrics == made.metrics
    summaries = [read_document(Summary, workspace.model().fold("2d", fold).summary) for fold in "01"]
    labels = workspace.model().plan().labels
    for label in labels.foreground:
        key = str(label.values[0])
        dice = [score.metrics[key].dice for each in summaries for score in each.metric_per_case]
        known = [value for value in dice if value is not None]
        found: Interval = metrics.dice[label.name]
        assert (found.cases, found.mean) == (len(known), pytest.approx(np.mean(known)) if known else None)
        assert metrics.members["2d"][label.name].dice == (pytest.approx(np.mean(known)) if known else None)
    assert (metrics.cases, metrics.model) == (len(held_out(workspace)), "2d")
    assert metrics.validation["2d"] == pytest.approx(np.mean([each.foreground_mean.dice for each in summaries]))


def test_the_card_tells_what_the_numbers_say(workspace, tmp_path) -> None:
    selection, model = select(workspace), workspace.model()
    pipeline.export_model(workspace, tmp_path / "model")
    card, plan = (tmp_path / "model" / "MODEL_CARD.md").read_text(), model.plan()
    manifest = read_document(Exported, tmp_path / "model" / "manifest.json")
    assert all(f"| {label.name} | {label.values[0]} |" in card for label in plan.labels.foreground)
    assert "6 annotated cases of 6 patients" in card
    fingerprint = read_document(Fingerprint, workspace.fingerprint_path())
    spacing = [each[0] for each in fingerprint.spacings(plan.orientation)]
    assert f"| spacing in mm | {min(spacing):.4g} to {max(spacing):.4g} |" in card
    metrics = read_document(Metrics, tmp_path / "model" / "metrics.json")
    for label, each in metrics.dice.items():
        assert f"| {label} | {each.mean:.3f} | {each.lower:.3f} to {each.upper:.3f} | {each.cases} |" in card
    assert selection.reason in card
    assert all(each.candidate in card for each in selection.standings)
    assert "8 iterations at least" in card
    assert f"autoseg {manifest.versions['autoseg']}" in card
    assert f"torch {manifest.versions['torch']}" in card
    others = {name: each for name, each in manifest.files.items() if name != "MODEL_CARD.md"}
    assert all(f"| `{name}` | {each.bytes} | `{each.sha256}` |" in card for name, each in others.items())


def test_without_a_selection_what_predict_would_use_is_exported_and_the_card_says_so(
    workspace, phantoms, tmp_path
) -> None:
    """Also with cases that were left out of a training: their names stand in the weights."""
    case = held_out(workspace)[0]
    for file in workspace.model().path.glob("*/*/model.safetensors"):
        tensors, metadata = load_tensors(file)
        save_tensors(file, tensors, {**metadata, "skipped": [case]})
    before = pipeline.predict(phantoms / "imagesTs", tmp_path / "a", workspace=workspace, **OPTIONS)
    made = pipeline.export_model(workspace, tmp_path / "model")
    assert (made.selected, made.members) == (False, {before.choice.configuration: before.choice.folds})
    assert "Nothing was selected" in (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert not (tmp_path / "model" / "selection.json").exists()
    assert named_in(tmp_path / "model", workspace, phantoms) == set()
    heard = Listening()
    after = pipeline.predict(
        phantoms / "imagesTs", tmp_path / "b", model=ModelFolder(tmp_path / "model"), logger=heard, **OPTIONS
    )
    assert heard.all("model")[0]["dice"] == before.choice.dice
    for name, file in before.files.items():
        assert file.read_bytes() == after.files[name].read_bytes()
    with safe_open(after.model.fold(after.choice.configuration, "0").model, "pt") as weights:
        assert json.loads(weights.metadata()["autoseg"]).keys() == {"plan", "fold", "sha256"}


def test_a_training_begins_with_the_weights_of_an_archive(workspace, tmp_path) -> None:
    pipeline.export_model(workspace, tmp_path / "model.zip", configuration="3d_fullres", folds=["1"])
    shutil.rmtree(workspace.model().path / "3d_fullres")
    heard = Listening()
    (result,) = pipeline.train(
        workspace, "3d_fullres", "0", iterations=1, device="cpu", begin_from=tmp_path / "model.zip", logger=heard
    )
    adopted = json.loads(result.folder.adopted.read_text())
    assert {layer["outcome"] for layer in adopted["layers"]} == {"adopted"}
    with pytest.raises(InputError, match="there is no such file"):
        pipeline.train(workspace, "2d", "2", iterations=1, device="cpu", begin_from=tmp_path / "none.zip")


def test_only_an_export_as_it_was_written_is_replaced(workspace, tmp_path) -> None:
    for name in ("model", "model.zip"):
        target = tmp_path / name
        pipeline.export_model(workspace, target, configuration="2d", folds=["0"])
        pipeline.export_model(workspace, target, configuration="3d_fullres", folds=["0"])
    folder = tmp_path / "model"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"3d_fullres"}
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"would be lost; found other files among those of an export: notes\.txt"):
        pipeline.export_model(workspace, folder)
    (folder / "notes.txt").unlink()
    (folder / "MODEL_CARD.md").write_text("mine")
    with pytest.raises(InputError, match=r"not as it was written: .*MODEL_CARD\.md has another content"):
        pipeline.export_model(workspace, folder)
    assert (folder / "MODEL_CARD.md").read_text() == "mine"
    archive = tmp_path / "model.zip"
    written = archive.read_bytes()
    place = written.index(b"\n", written.index(b"MODEL_CARD.md"))
    archive.write_bytes(written[:place] + b" " + written[place + 1 :])
    with pytest.raises(InputError, match=r"not as it was written: "):
        pipeline.export_model(workspace, archive)
    (tmp_path / "mine.zip").write_bytes(b"PK" * 100)
    for target in (workspace.path, workspace.model().path, tmp_path / "mine.zip", workspace.dataset_path):
        with pytest.raises(InputError, match="would be lost"):
            pipeline.export_model(workspace, target)
    assert {path.name for path in tmp_path.iterdir()} == {"W", "model", "model.zip", "mine.zip"}


def test_a_folder_is_replaced_only_when_the_new_one_can_take_its_place(workspace, tmp_path, monkeypatch) -> None:
    target = tmp_path / "model"
    pipeline.export_model(workspace, target, configuration="2d", folds=["0"])
    before, rename = contents(target), Path.rename

    def fails(self, other):
        if self.name == "export":
            raise PermissionError("in use")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises((AutosegError, OSError), match="in use"):
        pipeline.export_model(workspace, target, configuration="3d_fullres", folds=["0"])
    assert contents(target) == before
    monkeypatch.undo()
    pipeline.export_model(workspace, target, configuration="3d_fullres", folds=["0"])
    assert {path.name for path in target.iterdir() if path.is_dir()} == {"3d_fullres"}
    assert {path.name for path in tmp_path.iterdir()} == {"W", "model"}


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_selection_is_exported_whole_or_not_at_all(workspace, tmp_path) -> None:
    select(workspace)
    with pytest.raises(InputError, match=r"with all folds that it was selected with; found fold 0.*-c"):
        pipeline.export_model(workspace, tmp_path / "model", folds=["0"])
    file = workspace.model().fold("2d", "1").model
    tensors, metadata = load_tensors(file)
    save_tensors(file, {name: tensor + 1 for name, tensor in tensors.items()}, metadata)
    with pytest.raises(InputError, match=r"the selection is not of what is trained now.*fold 1 of 2d"):
        pipeline.export_model(workspace, tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"W"}


def test_the_command_tells_what_it_made(workspace, tmp_path, capsys) -> None:
    target = tmp_path / "model.zip"
    assert invoke(["export", "-o", str(target), "-w", str(workspace.path), "-c", "2d", "-f", "1"]) == 0
    told = capsys.readouterr().out
    assert "2d, fold 1; nothing was selected" in told
    assert f"Next: autoseg predict -i IMAGES -o PREDICTIONS -m {target}" in told
    assert invoke(["export", "-o", str(target), "-w", str(workspace.path), "-c", "2d", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["members"] == {"2d": ["0", "1"]}
    assert invoke(["export", "-o", str(workspace.path), "-w", str(workspace.path)]) == 2
    assert "would be lost" in capsys.readouterr().err
