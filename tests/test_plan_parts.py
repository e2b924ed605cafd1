"""Parts of the user's own: in a new plan, or in one derived from a plan that stays as it is."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from autoseg import pipeline, plugins
from autoseg.errors import InputError, MissingPartError, UnknownNameError
from autoseg.files import read_document, write_document
from autoseg.logs import SilentLogger
from autoseg.networks.execution import training_memory
from autoseg.networks.optimizers import state_copies
from autoseg.plan_check import USED_IN_PREDICTION, changed_parts, check_plugs
from autoseg.plan_parts import derived_model
from autoseg.values import PartRecord, Parts, TrainJob
from autoseg.workspace import ModelFolder, Workspace
from tests.conftest import PROJECT, TINY_PRESET
from tests.small_plans import SHORT, small_plan


class Heard:
    """A logger that remembers what was told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def event(self, kind: str, **fields: object) -> None:
        self.texts.append(str(fields.get("text", "")))

    def close(self) -> None:
        pass


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace that holds a plan and nothing else."""
    write_document(tmp_path / "models" / "tiny" / "plan.json", small_plan())
    return Workspace(tmp_path)


@pytest.fixture
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The examples in the current folder."""
    for path in (PROJECT / "examples").glob("own_*.py"):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for path in (PROJECT / "examples").glob("own_*.py"):
        sys.modules.pop(path.stem, None)


def derived(workspace: Workspace, **parts: str) -> ModelFolder:
    return derived_model(workspace, ModelFolder(workspace.path / "models" / "tiny"), Parts(**parts), SilentLogger())


def test_a_derived_plan_differs_in_the_part_alone_and_is_found_again(workspace: Workspace) -> None:
    before = (workspace.path / "models" / "tiny" / "plan.json").read_bytes()
    folder = derived(workspace, optimizer="sgd")
    assert folder.path.name == "tiny+optimizer=sgd"
    plan, base = folder.plan(), small_plan()
    assert plan.configuration("tiny").training.optimizer == "sgd"
    assert Parts(optimizer="adamw").in_plan(plan).id == base.id != plan.id
    assert plan.configuration("tiny").expected_memory_bytes == training_memory(plan.configuration("tiny"), "cpu")
    assert derived(workspace, optimizer="sgd").path == folder.path
    assert (workspace.path / "models" / "tiny" / "plan.json").read_bytes() == before


def test_a_part_that_the_plan_has_already_derives_nothing(workspace: Workspace) -> None:
    assert derived(workspace, optimizer="adamw").path.name == "tiny"


def test_two_parts_of_one_name_from_two_files_are_two_plans(workspace: Workspace, own_files: Path) -> None:
    shutil.copy(own_files / "own_loss.py", own_files / "own_other_loss.py")
    one, other = (derived(workspace, loss=f"{module}:Focal") for module in ("own_loss", "own_other_loss"))
    assert (one.path.name, other.path.name) == ("tiny+loss=Focal", "tiny+loss=Focal-2")
    assert derived(workspace, loss="own_other_loss:Focal").path == other.path
    sys.modules.pop("own_other_loss")


def test_several_parts_stand_in_every_configuration() -> None:
    parts = Parts(network="own:Net", loss="own:loss", recipe="none", optimizer="sgd", schedule="polynomial_per_epoch")
    (configuration,) = parts.in_plan(small_plan()).configurations
    assert {kind: name for kind, name in configuration.parts.items() if kind != "resampler"} == parts.chosen
    assert parts.in_plan(small_plan()).code_paths == ("own:Net", "own:loss")
    assert parts.title == "network=Net+loss=loss+recipe=none+optimizer=sgd+schedule=polynomial_per_epoch"


@pytest.mark.parametrize(
    ("name", "error"), [("nothing", UnknownNameError), ("nowhere:nothing", MissingPartError)], ids=str
)
def test_a_part_that_is_not_there_is_refused_before_a_plan_is_made(workspace, name, error) -> None:
    with pytest.raises(error, match=name.partition(":")[0]):
        derived(workspace, loss=name)
    assert [path.name for path in workspace.path.glob("models/*")] == ["tiny"]


def test_where_code_comes_from_is_recorded_and_a_change_is_told(own_files: Path) -> None:
    assert plugins.record("loss", "dice_cross_entropy") is None
    record = plugins.record("loss", "own_loss:Focal")
    assert (record.file, record.package) == ("own_loss.py", "")
    plan = Parts(loss="own_loss:Focal").in_plan(small_plan())
    assert changed_parts(plan, "tiny", [record], kinds=["loss"]) == []
    with (own_files / "own_loss.py").open("a") as file:
        file.write("# changed\n")
    assert plugins.record("loss", "own_loss:Focal") != record
    (told,) = changed_parts(plan, "tiny", [record], kinds=["loss"])
    assert "'own_loss:Focal' is not the code that the model was trained with" in told
    assert changed_parts(plan, "tiny", [record], kinds=["network"]) == []


def test_a_record_of_a_part_that_the_plan_does_not_name_is_not_looked_at() -> None:
    """To look at a part is to import it, and the records come with the weights."""
    record = PartRecord(kind="network", name="antigravity:fly", file="antigravity.py", sha256="0" * 64)
    assert changed_parts(small_plan(), "tiny", [record], kinds=["network"]) == []
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("name", "copies"),
    [("adamw", 2), ("sgd", 1), ("own_optimizer:nadam", 2), ("own_plain:plain", 0), ("own_broken:broken", 2)],
)
def test_the_memory_of_an_optimizer_is_told_measured_or_assumed(own_files: Path, name: str, copies: int) -> None:
    (own_files / "own_plain.py").write_text(
        "import torch\ndef plain(spec, parameters): return torch.optim.SGD(parameters, lr=1e-3)\n"
    )
    (own_files / "own_broken.py").write_text("def broken(spec, parameters): raise ValueError\n")
    training = type(SHORT)(
        epochs=1,
        validation_iterations=0,
        optimizer=name,
        learning_rate=1e-3,
        weight_decay=0.0,
        momentum=0.9,
        schedule="warmup_polynomial",
    )
    assert state_copies(training) == copies
    sys.modules.pop("own_plain", None)


def test_own_parts_are_planned_trained_kept_apart_and_needed_for_prediction(phantoms: Path, own_files: Path) -> None:
    """Network in the plan, the rest derived from it; then without the file, with another, and with it again."""
    workspace, heard = Workspace(own_files / "W"), Heard()
    made = pipeline.plan_dataset(
        phantoms,
        workspace,
        preset=TINY_PRESET,
        name="mine",
        device="cpu",
        configurations=["2d"],
        parts=Parts(network="own_network:TwoConvolutions"),
    )
    assert made.plan.configuration("2d").network.architecture == "own_network:TwoConvolutions"
    parts = Parts(loss="own_loss:Focal", optimizer="own_optimizer:nadam", schedule="own_schedule:cosine")
    options = {"parts": parts, "iterations": 2, "device": "cpu"}
    (trained,) = pipeline.train(workspace, "2d", "0", logger=heard, **options)
    name = "mine+loss=Focal+optimizer=nadam+schedule=cosine"
    assert trained.folder.path == workspace.path / "models" / name / "2d" / "fold_0"
    assert any(f"made the plan {name}" in text for text in heard.texts)
    assert workspace.model().path.name == "mine"
    job = read_document(TrainJob, trained.folder.job)
    assert {(part.kind, part.file) for part in job.parts} == {
        ("network", "own_network.py"),
        ("loss", "own_loss.py"),
        ("optimizer", "own_optimizer.py"),
        ("schedule", "own_schedule.py"),
    }
    weights = trained.folder.model.read_bytes()
    pipeline.train(workspace, "2d", "0", **options)
    assert trained.folder.model.read_bytes() == weights

    for module in ("own_loss", "own_optimizer", "own_schedule"):  # prediction does without
        (own_files / f"{module}.py").unlink()
        sys.modules.pop(module)
    predicted = pipeline.predict(phantoms / "imagesTs", own_files / "out", workspace=workspace, device="cpu")
    assert predicted.model.path.name == name

    source = (own_files / "own_network.py").read_text()
    (own_files / "own_network.py").write_text(source + "# changed\n")
    pipeline.predict(phantoms / "imagesTs", own_files / "out", workspace=workspace, device="cpu", logger=heard)
    assert any("'own_network:TwoConvolutions' is not the code" in text for text in heard.texts)

    (own_files / "own_network.py").unlink()
    sys.modules.pop("own_network")
    with pytest.raises(
        MissingPartError, match=r"own_network.*trained with that of the file own_network\.py.*current folder"
    ):
        pipeline.predict(phantoms / "imagesTs", own_files / "out2", workspace=workspace, device="cpu")


def test_a_training_whose_code_changed_is_not_gone_on_with_as_if_it_had_not(phantoms: Path, own_files: Path) -> None:
    workspace = Workspace(own_files / "W")
    pipeline.plan_dataset(phantoms, workspace, preset=TINY_PRESET, name="mine", device="cpu", configurations=["2d"])
    options = {"parts": Parts(schedule="own_schedule:cosine"), "iterations": 1, "device": "cpu"}
    pipeline.train(workspace, "2d", "0", **options)
    with (own_files / "own_schedule.py").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(InputError, match="the code of own_schedule:cosine changed since"):
        pipeline.train(workspace, "2d", "0", **options)


def test_a_part_of_a_package_is_recorded_and_named_when_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    information = tmp_path / "site" / "swin_for_autoseg-1.2.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: swin-for-autoseg\nVersion: 1.2\n")
    (information / "entry_points.txt").write_text("[autoseg.network]\nswin = swin_for_autoseg:Swin\n")
    (tmp_path / "site" / "swin_for_autoseg.py").write_text("Swin = object\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path / "site")
        plugins._entry_points.cache_clear()
        record = plugins.record("network", "swin")
    plugins._entry_points.cache_clear()
    assert record == PartRecord(kind="network", name="swin", package="swin-for-autoseg", version="1.2")
    plan = Parts(network="swin").in_plan(small_plan())
    with pytest.raises(UnknownNameError, match=r"network 'swin'.*architecture.*pip install swin-for-autoseg==1\.2"):
        check_plugs(plan, tmp_path / "plan.json", kinds=USED_IN_PREDICTION, records=[record])
