"""``autoseg status``: what is told of a workspace in every state, and that nothing damaged makes it fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autoseg.cli.status import status_text
from autoseg.errors import InputError
from autoseg.files import write_document
from autoseg.leases import leased
from autoseg.networks.weights import save_tensors
from autoseg.status_stage import last_iterations, workspace_status
from autoseg.training.length import fixed_length
from autoseg.values import Case, Dataset, Fold, Length, Postprocessing, TrainJob, digest
from autoseg.values.status import FoldStatus, Status
from autoseg.workspace import FoldFolder, ModelFolder, Workspace
from tests.conftest import PROJECT
from tests.small_plans import ONE_LABEL, small_configuration, small_plan

CASES = tuple("abcd")
SPLIT = tuple(Fold(train=tuple(each for each in CASES if each != case), val=(case,)) for case in CASES)
DATASET = Dataset(
    name="D",
    root="/d",
    channels=("MRI",),
    labels=ONE_LABEL,
    file_ending=".mha",
    cases=tuple(Case(id=case, images=(f"{case}_0000.mha",), label=f"{case}.mha") for case in CASES),
)
PLAN = small_plan(small_configuration("2d", (8, 8)), small_configuration("3d_fullres"))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace with a plan of two configurations and four folds, and nothing trained."""
    workspace = Workspace(tmp_path / "workspace")
    write_document(workspace.dataset_path, DATASET)
    write_document(workspace.split_path, SPLIT)
    write_document(workspace.path / "models" / "tiny" / "plan.json", PLAN)
    (workspace.path / "workspace.json").write_text('{"schema": "autoseg.workspace/1", "active_plan": "tiny"}')
    return workspace


def begun(workspace: Workspace, fold: int, length: Length | None = None) -> FoldFolder:
    """A training of 2d that was begun."""
    folder = ModelFolder(workspace.path / "models" / "tiny").fold("2d", str(fold))
    keys = dict.fromkeys(CASES, "key")
    job = TrainJob(
        plan_id=PLAN.id, configuration="2d", fold=str(fold), iterations=100, seed=7, cases=SPLIT[fold], case_keys=keys
    )
    write_document(folder.length, length or fixed_length(100))
    write_document(folder.job, job)
    return folder


def trained(workspace: Workspace, fold: int) -> FoldFolder:
    """One that has ended."""
    folder = begun(workspace, fold, Length(iterations=100, end=100, trained=100))
    save_tensors(folder.model, {"w": torch.full((2,), float(fold))}, {"plan": PLAN.id})
    return folder


def validated(workspace: Workspace, fold: int, dice: float) -> FoldFolder:
    """One that is scored."""
    folder = trained(workspace, fold)
    mean = {"Dice": dice, "IoU": None, "TP": 1.0, "FP": 0.0, "FN": 0.0, "TN": 1.0, "n_pred": 1.0, "n_ref": 1.0}
    summary = {"foreground_mean": {**mean, "cases": 1}, "mean": {}, "metric_per_case": [], "label_names": {}}
    folder.summary.parent.mkdir(parents=True)
    folder.summary.write_text(json.dumps(summary))
    return folder


def status_of(status: Status, fold: int, configuration: str = "2d") -> FoldStatus:
    (plan,) = status.plans
    return next(each for each in plan.folds if (each.configuration, each.fold) == (configuration, str(fold)))


def test_every_state_of_a_training_is_told(workspace: Workspace) -> None:
    stopped = begun(workspace, 0)
    save_tensors(stopped.checkpoint, {"w": torch.zeros(2)}, {"iteration": 37})
    trained(workspace, 1)
    (validated(workspace, 2, 0.75).validation / "probabilities" / "c").mkdir(parents=True)
    running = begun(workspace, 3)
    log = workspace.log_path("train")
    log.parent.mkdir()
    told = {"event": "iterations", "configuration": "2d", "fold": "3", "iteration": 41, "seconds_left": 12.5}
    other = {**told, "event": "expected", "iterations": 100, "iteration": None}
    log.write_text(json.dumps({**told, "time": "1"}) + "\n" + json.dumps(other) + '\n{"event": "iterations", "fold"')
    with leased(running.path):
        status = workspace_status(workspace)
    assert status.problems == ()
    first, second, third, fourth = (status_of(status, fold) for fold in range(4))
    assert (first.state, first.iteration, first.end) == ("stopped", 37, 100)
    assert (second.state, second.iteration) == ("trained", 100)
    assert (third.state, third.dice, third.probabilities) == ("validated", 0.75, True)
    assert (fourth.state, fourth.iteration, fourth.seconds_left) == ("running", 41, 12.5)
    assert status_of(status, 0, "3d_fullres").state == "not begun"
    text = status_text(status)
    assert "data set D: 4 of 4 cases annotated, 4 folds [/d]" in text
    assert "missing of 2d: folds 0, 1, 3" in text
    assert "41 of 100, 12 s left" in text
    assert "nothing is selected yet" in text
    assert status.command == "run /d"
    assert status_of(workspace_status(workspace), 3).state == "stopped"


def test_a_selection_is_current_until_a_training_changes(workspace: Workspace) -> None:
    stated = {}
    for fold in range(3):
        folder = validated(workspace, fold, 0.5)
        header = folder.model.read_bytes()
        metadata = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]["autoseg"]
        stated[str(fold)] = json.loads(metadata)["sha256"]
    path = workspace.path / "models" / "tiny" / "selection.json"
    done = Postprocessing(cases=4)
    basis = {"plan": PLAN.id, "weights": {"2d": stated}, "postprocessing": digest(done)}
    path.write_text(json.dumps({"winner": "2d", "basis": basis}))
    steps = path.with_name("postprocessing.json")
    assert workspace_status(workspace).plans[0].selection.changed == ("postprocessing.json is missing",)
    steps.write_text("{}")
    assert workspace_status(workspace).plans[0].selection.changed == ("postprocessing.json is another one",)
    write_document(steps, done)
    assert workspace_status(workspace).plans[0].selection.changed == ()
    save_tensors(workspace.model().fold("2d", "0").model, {"w": torch.ones(2)}, {"plan": PLAN.id})
    workspace.model().fold("2d", "1").model.unlink()
    validated(workspace, 3, 0.5)
    changed = workspace_status(workspace).plans[0].selection.changed
    assert changed == (
        "fold 3 of 2d was trained since",
        "fold 0 of 2d has other weights, or none",
        "fold 1 of 2d has other weights, or none",
    )
    path.write_text(json.dumps({"winner": "2d"}))
    assert workspace_status(workspace).plans[0].selection.changed == ("it does not tell what it was made of",)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff" * 64, b'{"winner": 3, "basis": {"weights": 7}}']
)
@pytest.mark.parametrize(
    "name",
    [
        "dataset.json",
        "workspace.json",
        "splits_final.json",
        "logs/train.jsonl",
        "models/tiny/plan.json",
        "models/tiny/selection.json",
        "models/tiny/2d/fold_0/job.json",
        "models/tiny/2d/fold_0/length.json",
        "models/tiny/2d/fold_0/checkpoint.safetensors",
        "models/tiny/2d/fold_0/.lease/000000001.json",
        "models/tiny/2d/fold_1/model.safetensors",
        "models/tiny/2d/fold_1/validation/summary.json",
    ],
)
def test_whatever_is_damaged_it_does_not_fail(workspace: Workspace, name: str, content: bytes) -> None:
    begun(workspace, 0).checkpoint.write_bytes(b"")
    validated(workspace, 1, 0.5)
    validated(workspace, 2, 0.25)
    path = workspace.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    status = workspace_status(workspace)
    assert status_text(status)
    if "splits" not in name and "plan" not in name:
        assert status_of(status, 2).dice == 0.25
    silent = ("logs", ".lease", "fold_1/model", "workspace.json")
    if not any(each in name for each in silent) and not (content == b"[]" and "splits" in name):
        assert any(Path(name).name in problem for problem in status.problems), status.problems


def test_a_workspace_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no workspace here"):
        workspace_status(Workspace(tmp_path / "none"))


def test_the_newest_event_of_all_logs_counts(tmp_path: Path) -> None:
    for name, time, iteration in (("a", "2", 5), ("b", "1", 9)):
        event = {"event": "iterations", "time": time, "configuration": "2d", "fold": "0", "iteration": iteration}
        (tmp_path / name).write_text(json.dumps(event) + "\n")
    logs = [tmp_path / "a", tmp_path / "b", tmp_path / "none"]
    assert last_iterations(logs, "2d", "0")["iteration"] == 5
    assert last_iterations(logs, "2d", "1") == {}


def test_it_is_told_without_anything_heavy(workspace: Workspace) -> None:
    validated(workspace, 0, 0.5)
    code = (
        "import sys\nfrom autoseg.cli import autoseg\n"
        f"autoseg.main(['status', '-w', {str(workspace.path)!r}], standalone_mode=False)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'numpy', 'scipy', 'SimpleITK', 'tqdm'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert "0.5000" in done.stdout
    assert done.stdout.splitlines()[-1] == ""
