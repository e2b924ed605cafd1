"""Where trainings run: the command of each, its GPU, its processors, and how its end is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg.cli import autoseg
from autoseg.errors import InputError
from autoseg.executors import usable_cpus
from autoseg.job_processes import Processes, TrainOptions, _how_it_ended, _Running, cpu_places, gpu_places
from autoseg.jobs import Job
from autoseg.workspace import Workspace

JOB = Job(kind="train", configuration="2d", fold="0")


@pytest.mark.parametrize("length", [{}, {"hours": 1.25}, {"iterations": 7}, {"epochs": 3}])
def test_a_job_is_the_command_that_a_person_types(length: dict[str, float]) -> None:
    first, *arguments = TrainOptions(plan_name="tiny", device="cpu", **length).command(JOB, Path("a b"))
    command = autoseg.commands[first]
    parsed = command.make_context(first, arguments).params
    assert (parsed["configuration"], parsed["fold"], parsed["plan_name"]) == ("2d", "0", "tiny")
    assert parsed["workspace_path"] == Path("a b")
    assert {name: parsed[name] for name in ("hours", "iterations", "epochs") if parsed[name]} == length


def test_gpus_count_among_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in gpu_places([0, 3])] == ["0", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in gpu_places([1, 0])] == ["GPU-7", "4"]
    for wrong in ([2], [0, 0]):
        with pytest.raises(InputError, match="these GPUs cannot be used"):
            gpu_places(wrong)


@pytest.mark.parametrize("count", [1, 2, 3, 64])
def test_processors_are_divided_and_never_shared(count: int) -> None:
    places = cpu_places(count)
    bound = [processor for place in places for processor in place.processors]
    assert len(places) == count
    assert len(set(bound)) == len(bound) <= usable_cpus()
    assert all(int(place.environment["OMP_NUM_THREADS"]) >= 1 for place in places)


@pytest.mark.parametrize(
    ("program", "error", "interrupted"),
    [
        ("", "", False),
        ("import sys; print('said'); sys.exit(130)", "", True),
        ("import sys; print('x\\nerror: no room\\n  - a', file=sys.stderr); sys.exit(2)", "no room\n  - a (all", False),
        ("raise ZeroDivisionError('of a spacing')", "ZeroDivisionError: of a spacing (all", False),
        ("import os; os.kill(os.getpid(), 9)", "the process was ended by SIGKILL (all", False),
        ("import sys; sys.exit(3)", "it tells no reason (all", False),
    ],
)
def test_how_a_process_ended_is_told(tmp_path: Path, program: str, error: str, interrupted: bool) -> None:
    output = tmp_path / "said.txt"
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-S", "-c", program], stdout=file, stderr=file)
        process.wait()
    ended = _how_it_ended(_Running(job=JOB, process=process, output=output))
    assert ended.error.startswith(error)
    assert bool(ended.error) == bool(error)
    assert ended.interrupted is interrupted


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="affinity")
def test_a_job_that_fails_gives_its_place_back(tmp_path: Path) -> None:
    runner = Processes(Workspace(tmp_path / "none"), cpu_places(1))
    runner.start(JOB, TrainOptions(plan_name="tiny", device="cpu"))
    assert not runner.free()
    while not (ended := runner.ended()):
        pass
    assert runner.free()
    assert "there is no workspace here" in ended[0].error or "this folder is not a workspace" in ended[0].error
