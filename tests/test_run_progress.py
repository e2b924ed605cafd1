"""What is remembered of runs: their time by what they were for, and of trainings what they took, whoever writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoseg.files import write_document
from autoseg.jobs import Job
from autoseg.logs import SilentLogger
from autoseg.run_progress import RunProgress, RunRecord, read_record

JOBS = [Job(kind="train", configuration="2d", fold=fold) for fold in "01"]


def progress(file: Path, wish: str) -> RunProgress:
    return RunProgress(JOBS, {job.name: 1.0 for job in JOBS}, 1, file, wish, file.parent / "log", SilentLogger())


def test_time_counts_for_the_same_wish_only_and_until_it_is_fulfilled(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    write_document(file, RunRecord(seconds={"hours 10": 36000.0}, jobs={"train 2d 0": 5.0}))
    assert progress(file, "hours 5").seconds() < 600
    same = progress(file, "hours 10")
    assert same.seconds() == pytest.approx(36000, abs=600)
    same.over()
    assert progress(file, "hours 10").seconds() < 600
    assert read_record(file).jobs == {"train 2d 0": 5.0}


def test_two_runs_at_once_lose_nothing_of_each_other(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    first, second = progress(file, "a"), progress(file, "b")
    first.ended(JOBS[0], done=True, seconds=3.0)
    second.ended(JOBS[1], done=True, seconds=4.0)
    assert read_record(file).jobs == {"train 2d 0": 3.0, "train 2d 1": 4.0}
    assert set(read_record(file).seconds) == {"a", "b"}
