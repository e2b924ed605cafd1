"""``autoseg run``: from a folder to all trainings and the selection; stopped, killed and repeated, it comes to the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
import torch

from autoseg.files import read_document, write_document
from autoseg.leases import FILES, LeaseRecord, leased
from autoseg.logs import SilentLogger
from autoseg.run_plan import check_data
from autoseg.run_stage import run_all
from autoseg.values import ExecutionPath, TrainJob, encode
from autoseg.workspace import ModelFolder, Workspace
from tests.command_line import children, failure, invoke
from tests.conftest import TINY_PRESET

SHORT_PRESET = TINY_PRESET.replace("TinyPlanner", "ShortPlanner")
PROGRAM = [sys.executable, "-m", "autoseg"]


def options(workspace: Path, *more: object) -> list[object]:
    return ["-w", workspace, "--preset", SHORT_PRESET, "--device", "cpu", "--workers", "0", "--yes", *more]


def planned(phantoms: Path, workspace: Path) -> ModelFolder:
    """A workspace with a plan; how the networks run is not left to a measurement."""
    small = ["--patch-size", "2d=16,16", "--patch-size", "3d_fullres=8,16,16"]
    assert invoke(["plan", phantoms, *options(workspace, *small)]) == 0
    model = Workspace(workspace).model()
    for configuration in ("2d", "3d_fullres"):
        for fold in range(5):
            path = ExecutionPath(device="cpu", channels_last=True, threads=1, reason="chosen before")
            write_document(model.fold(configuration, str(fold)).execution, path)
    return model


def weights(model: ModelFolder, folds: int) -> dict[str, bytes]:
    return {
        f"{name} {fold}": model.fold(name, str(fold)).model.read_bytes()
        for name in ("2d", "3d_fullres")
        for fold in range(folds)
    }


def failures_told(text: str) -> list[str]:
    """The failures that the end of a run names."""
    assert "Traceback" not in text, text
    return [line for line in text.splitlines() if line.startswith("  - ")]


@pytest.fixture(scope="module")
def finished(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which two folds of both configurations were run, in one go, in this process."""
    workspace = tmp_path_factory.mktemp("run") / "workspace"
    planned(phantoms, workspace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)  # pictures would take most of the time
        code = invoke(["run", phantoms, *options(workspace, "--folds", "0,1")])
    assert code == 0
    return workspace


def test_all_folds_are_trained_and_scored(finished: Path) -> None:
    model = Workspace(finished).model()
    for configuration in ("2d", "3d_fullres"):
        assert model.trained(configuration) == ("0", "1")
        for fold in model.trained(configuration):
            assert model.fold(configuration, fold).summary.is_file()
            assert read_document(TrainJob, model.fold(configuration, fold).job).iterations == 20
    took = json.loads((finished / "runs" / f"{model.path.name}.json").read_text())["jobs"]
    assert sorted(took) == ["train 2d 0", "train 2d 1", "train 3d_fullres 0", "train 3d_fullres 1"]


def test_the_run_ends_with_a_selection(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (Workspace(finished).model().path / "selection.json").is_file()
    assert invoke(["status", "-w", finished, "--json"]) == 0
    selection = json.loads(capsys.readouterr().out)["plans"][0]["selection"]
    assert selection["changed"] == []
    assert {*selection["winner"].split("+")} <= {"2d", "3d_fullres"}


def test_what_is_done_is_not_done_again_by_whatever_executor(
    finished: Path, phantoms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Workspace(finished).model()
    files = [model.fold(name, fold).model for name in ("2d", "3d_fullres") for fold in "01"]
    before = [file.stat().st_mtime_ns for file in files]
    for more in ([], ["--jobs", "2"]):
        invoke(["run", phantoms, *options(finished, "--folds", "0..1", *more)])
        assert failures_told(capsys.readouterr().err) == []
    assert [file.stat().st_mtime_ns for file in files] == before
    assert not (finished / "logs" / "jobs").exists()


def test_a_training_of_another_length_is_refused_by_name_and_stops_no_other(
    finished: Path, phantoms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The length of a training that stands there is not the wanted one: that is an error of that job."""
    arguments = options(finished, "--folds", "0", "--iterations", "21", "-c", "2d")
    assert invoke(["run", phantoms, *arguments]) == 1
    (line,) = failures_told(capsys.readouterr().err)
    assert line.startswith(
        "  - train 2d 0: a training with other settings stands here; found 20 iterations, expected 21"
    )


def test_a_workspace_of_other_data_and_other_memory_are_refused(
    finished: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "Dataset002_Other"
    for file in phantoms.rglob("*"):
        if file.is_file():
            copy = other / file.relative_to(phantoms)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    assert "was planned for another data set" in failure(capsys, "run", other, *options(finished))
    assert "made for other memory" in failure(capsys, "run", phantoms, *options(finished, "--gpu-memory", "3"))
    assert "there is no fold '0..7'" in failure(capsys, "run", phantoms, *options(finished, "--folds", "0..7"))
    assert "4d" in failure(capsys, "run", phantoms, *options(finished, "-c", "4d"))
    assert "not both" in failure(capsys, "run", phantoms, *options(finished, "--gpus", "0"))
    assert "no list of numbers" in failure(capsys, "run", phantoms, "-w", finished, "--gpus", "a")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_is_told_so_before_anything_is_planned(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = tmp_path / "workspace"
    text = failure(capsys, "run", phantoms, "-w", workspace, "--gpus", "0,1", "--yes")
    assert (
        "these GPUs are not here; found --gpus 0,1, expected no --gpus, for torch finds no GPU on this machine" in text
    )
    assert "'cuda' is not available here" in failure(
        capsys, "run", phantoms, "-w", workspace, "--device", "cuda", "--yes"
    )
    assert not (workspace / "dataset.json").exists()


def test_new_cases_are_told_and_not_silently_left_out(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, told = Workspace(tmp_path / "workspace"), []

    class Listener(SilentLogger):
        def event(self, kind: str, **fields: object) -> None:
            told.append(fields.get("text"))

    assert invoke(["plan", phantoms, *options(workspace.path)]) == 0
    dataset = workspace.dataset()
    check_data(phantoms, workspace, None, Listener())
    assert told == []
    fewer = msgspec.structs.replace(dataset, cases=dataset.cases[1:])
    write_document(workspace.dataset_path, fewer)
    check_data(phantoms, workspace, None, Listener())
    assert f"annotated cases are not known to the plan: {dataset.cases[0].id}. " in str(told[0])


def test_labels_channels_and_lists_that_have_changed_since_are_told(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, workspace = shutil.copytree(phantoms, tmp_path / "Dataset001_Phantom"), tmp_path / "workspace"
    assert invoke(["plan", data, *options(workspace)]) == 0
    file = data / "dataset.json"
    stated = json.loads(file.read_text())
    (first, one), (second, other) = [each for each in stated["labels"].items() if each[0] != "background"][:2]
    changed = {**stated, "labels": {**stated["labels"], first: other, second: one}}
    file.write_text(json.dumps(changed))
    assert "the labels of the data set are not those" in failure(capsys, "run", data, *options(workspace))
    file.write_text(json.dumps({**stated, "channel_names": {"0": "other"}, "annotated": {"phantom_000": [first]}}))
    told = []

    class Listener(SilentLogger):
        def event(self, kind: str, **fields: object) -> None:
            told.append(str(fields.get("text")))

    check_data(data, Workspace(workspace), None, Listener())
    assert [each for each in told if "states the channels other; planned for, and used, are" in each]
    assert [each for each in told if "labels that were looked for" in each and "phantom_000" in each]


def test_a_training_with_other_labels_looked_for_is_not_done(
    finished: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(shutil.copytree(finished, tmp_path / "workspace"))
    file = workspace.model().fold("2d", "0").job
    job = read_document(TrainJob, file)
    label = workspace.dataset().labels.foreground[0].name
    write_document(file, msgspec.structs.replace(job, annotated={job.cases.val[0]: (label,)}))
    assert invoke(["run", phantoms, *options(workspace.path, "--folds", "0")]) == 1
    lines = failures_told(capsys.readouterr().err)
    assert any("train 2d 0" in line and "labels that were looked for" in line for line in lines)


def test_a_plan_of_another_preset_is_refused(
    finished: Path, phantoms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = Workspace(finished).model().path.name
    arguments = ["-w", finished, "--plan", name, "--preset", "nnunet"]
    assert "made by another preset" in failure(capsys, "run", phantoms, *arguments)


@pytest.mark.slow
def test_a_training_of_a_machine_with_another_clock_is_waited_for(
    finished: Path, phantoms: Path, tmp_path: Path
) -> None:
    """The lease is that of another machine, and the clock of its file server is two hours behind."""
    workspace = Workspace(shutil.copytree(finished, tmp_path / "workspace"))
    folder = workspace.model().fold("2d", "2").path
    lease, beating = folder / FILES / "000000001.json", threading.Event()
    lease.parent.mkdir(parents=True)

    def beat(number: int) -> None:
        record = LeaseRecord(owner="ab" * 16, host="far", machine="far", process=7, began=5, beat=f"{number:012}")
        lease.write_bytes(encode(record))
        os.utime(lease, (time.time() - 7200,) * 2)

    def keep_on() -> None:
        for number in range(1, 8):
            beat(number)
            beating.wait(1.0)
        record = LeaseRecord(owner="ab" * 16, host="far", machine="far", process=7, began=5, beat="released    ")
        lease.write_bytes(encode(record))

    beat(0)
    thread = threading.Thread(target=keep_on)
    thread.start()
    told: list[str] = []

    class Listener(SilentLogger):
        def event(self, kind: str, **fields: object) -> None:
            told.append(str(fields.get("text")))

    result = run_all(phantoms, workspace, folds="2", configurations=["2d"], device="cpu", logger=Listener())
    thread.join()
    assert "train 2d 2" in result.done
    assert result.failures == {}
    assert "train 2d 2 is being done by another process; its end is waited for" in told


def run_of(phantoms: Path, workspace: Path, *more: object) -> subprocess.Popen:
    command = [*PROGRAM, "run", phantoms, *options(workspace, *more)]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")
@pytest.mark.parametrize("more", [[], ["--jobs", "2"]], ids=["here", "processes"])
def test_stopped_and_repeated_it_comes_to_the_same(
    finished: Path, phantoms: Path, tmp_path: Path, more: list[str]
) -> None:
    model = planned(phantoms, tmp_path / "workspace")
    arguments = (phantoms, tmp_path / "workspace", "--folds", "0,1", *more)
    process = run_of(*arguments)
    while not model.fold("3d_fullres", "0").job.is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert "the same command goes on from here" in text
    process = run_of(*arguments)
    _, text = process.communicate(timeout=240)
    assert failures_told(text) == []
    assert process.returncode == 0, text
    assert weights(model, 2) == weights(Workspace(finished).model(), 2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="what a killed process held is free at once on Linux")
def test_killed_at_random_it_comes_to_the_same(finished: Path, phantoms: Path, tmp_path: Path) -> None:
    model = planned(phantoms, tmp_path / "workspace")
    chance, kills = random.Random(6), 0
    while True:
        process = run_of(phantoms, tmp_path / "workspace", "--folds", "0,1")
        with_time = chance.uniform(1.0, 12.0) if kills < 12 else 600.0
        try:
            _, text = process.communicate(timeout=with_time)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
    assert failures_told(text) == []
    assert kills > 3
    assert weights(model, 2) == weights(Workspace(finished).model(), 2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="affinity")
def test_what_goes_on_after_its_run_was_killed_is_waited_for(phantoms: Path, tmp_path: Path) -> None:
    """They hold still until the repeated run has told of them, however long it takes to start."""
    model = planned(phantoms, tmp_path / "workspace")
    arguments = (phantoms, tmp_path / "workspace", "--folds", "0", "--jobs", "2")
    process = run_of(*arguments)
    while not model.fold("2d", "0").checkpoint.is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    trainings = children(process.pid)
    for training in trainings:
        os.kill(training, signal.SIGSTOP)
    process.kill()
    process.communicate()
    again, told = run_of(*arguments), b""
    while b"train 2d 0 is being done by process" not in told:
        assert again.poll() is None, again.communicate()
        time.sleep(0.05)
        told = (tmp_path / "workspace" / "logs" / "run.jsonl").read_bytes()
    for training in trainings:
        os.kill(training, signal.SIGCONT)
    _, text = again.communicate(timeout=240)
    assert failures_told(text) == []
    assert model.trained("2d") == model.trained("3d_fullres") == ("0",)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")
def test_hours_are_divided_among_the_trainings(phantoms: Path, tmp_path: Path) -> None:
    """The first one's share is known as soon as it begins; the planned costs of both make up the hours that are left."""
    model = planned(phantoms, tmp_path / "workspace")
    process = run_of(phantoms, tmp_path / "workspace", "--folds", "0", "--hours", "10")
    folder = model.fold("2d", "0")
    while not folder.job.is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 130
    from autoseg.networks.memory import multiply_adds

    cost = {
        each.name: multiply_adds(each.network, each.patch_size, each.batch_size) * each.training.iterations
        for each in model.plan().configurations
    }
    hours = json.loads(folder.length.read_text())["hours"]
    assert hours == pytest.approx(10 * cost["2d"] / sum(cost.values()), rel=0.02)


def test_a_fold_that_another_process_trains_is_known_as_such(finished: Path, capsys) -> None:
    folder = Workspace(finished).model().fold("2d", "4")
    folder.path.mkdir(parents=True, exist_ok=True)
    with leased(folder.path):
        assert invoke(["status", "-w", finished, "--json"]) == 0
    folds = json.loads(capsys.readouterr().out)["plans"][0]["folds"]
    (running,) = [each for each in folds if each["state"] == "running"]
    assert (running["configuration"], running["fold"]) == ("2d", "4")
    assert running["where"].startswith(f"process {os.getpid()} on ")
