"""Events become whole lines, whatever happened to the run before."""

from __future__ import annotations

import datetime
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import InputError
from autoseg.logs import JsonLinesLogger, Loggers, SilentLogger, WithFields, reported


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_one_line_with_its_time_in_utc_and_its_kind_first(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "train.jsonl"
    logger = JsonLinesLogger(path)
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(milliseconds=1)
    logger.event("trained", iterations=7, loss=0.5, text="two\nlines, é", file=Path("a"), values=[None, 0.25])
    (line,) = lines(path)  # before close: flushed at once
    assert list(line) == ["time", "event", "iterations", "loss", "text", "file", "values"]
    assert before <= datetime.datetime.fromisoformat(str(line["time"])) <= datetime.datetime.now(datetime.UTC)
    assert (line["event"], line["iterations"], line["loss"]) == ("trained", 7, 0.5)
    assert (line["text"], line["file"], line["values"]) == ("two\nlines, é", "a", [None, 0.25])
    logger.close()


def test_progress_is_for_terminals_only(tmp_path: Path) -> None:
    logger = JsonLinesLogger(tmp_path / "a.jsonl")
    logger.event("progress", stage="s", done=1, total=2)
    logger.close()
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize("torn", [b'{"event":"a"}\n{"event":"b","te', b"torn", b"\n\xff"])
def test_a_torn_last_line_costs_no_other(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(torn)
    logger = JsonLinesLogger(path)
    logger.event("next")
    logger.event("last")
    logger.close()
    assert path.read_bytes().startswith(torn + b"\n")
    added = path.read_bytes()[len(torn) + 1 :].splitlines()
    assert [json.loads(line)["event"] for line in added] == ["next", "last"]


@pytest.mark.parametrize("before", [b"", b'{"event":"a"}\n'])
def test_whole_lines_are_gone_on_from(before: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(before)
    logger = JsonLinesLogger(path)
    logger.event("next")
    logger.close()
    assert [line["event"] for line in lines(path)] == [*(["a"] if before else []), "next"]


def test_lines_wait_for_a_home_and_a_command_that_fails_leaves_nothing(tmp_path: Path) -> None:
    home = tmp_path / "W"
    failed = JsonLinesLogger(home / "logs" / "plan.jsonl", home.is_dir)
    failed.event("error")
    failed.close()
    assert not home.exists()
    logger = JsonLinesLogger(home / "logs" / "plan.jsonl", home.is_dir)
    logger.event("first")
    home.mkdir()
    logger.event("second")
    assert [line["event"] for line in lines(logger.path)] == ["first", "second"]
    logger.close()


def test_lines_that_waited_are_written_at_the_close(tmp_path: Path) -> None:
    home = tmp_path / "W"
    logger = JsonLinesLogger(home / "a.jsonl", home.is_dir)
    logger.event("first")
    home.mkdir()
    logger.close()
    assert [line["event"] for line in lines(home / "a.jsonl")] == ["first"]


def test_a_log_that_cannot_be_written_does_not_end_the_work(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    logger = JsonLinesLogger(tmp_path / "logs" / "a.jsonl")
    for _ in range(2):
        logger.event("goes on")
    logger.close()
    assert (tmp_path / "logs").read_text() == "a file where the folder should be"


def test_a_full_disk_ends_nothing_and_every_line_stands_once_when_there_is_room_again(tmp_path: Path) -> None:
    """The limit cuts a line; closing the log while there is no room must not hide what else the work has to tell."""
    resource = pytest.importorskip("resource")
    logger, closed = JsonLinesLogger(tmp_path / "a.jsonl"), JsonLinesLogger(tmp_path / "b.jsonl")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        for number in range(40):
            logger.event("said", number=number)
            closed.event("said", number=number)
        closed.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert logger.path.stat().st_size == closed.path.stat().st_size == 1000
    logger.event("said", number=40)
    logger.close()
    assert [line["number"] for line in lines(logger.path)] == list(range(41))


def test_lines_of_several_jobs_are_told_apart(tmp_path: Path) -> None:
    logger = JsonLinesLogger(tmp_path / "a.jsonl")
    for fold in ("0", "1"):
        WithFields(logger, fold=fold).event("trained", iterations=3)
    WithFields(logger, fold="2").close()
    assert [(line["fold"], line["iterations"]) for line in lines(logger.path)] == [("0", 3), ("1", 3)]


def test_what_is_reported_of_an_error_tells_bugs_from_wrong_input() -> None:
    assert reported(InputError("wrong")) == {"error": "wrong"}
    try:
        raise MemoryError
    except MemoryError as error:
        told = reported(error)
    assert told["error"].startswith("MemoryError")
    assert "raise MemoryError" in told["traceback"]


def test_events_of_several_threads_are_all_whole(tmp_path: Path) -> None:
    logger = JsonLinesLogger(tmp_path / "a.jsonl")

    def talk(thread: int) -> None:
        for count in range(100):
            logger.event("said", thread=thread, count=count, text="x" * 200)

    threads = [threading.Thread(target=talk, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logger.close()
    said = [(line["thread"], line["count"]) for line in lines(tmp_path / "a.jsonl")]
    assert sorted(said) == [(thread, count) for thread in range(4) for count in range(100)]


@pytest.mark.parametrize(
    "number", [np.float32(0.5), np.float64(0.5), np.int64(3)], ids=lambda value: type(value).__name__
)
def test_a_number_of_numpys_stays_a_number(number: np.generic, tmp_path: Path) -> None:
    logger = JsonLinesLogger(tmp_path / "a.jsonl")
    logger.event("iterations", value=number)
    logger.close()
    assert lines(tmp_path / "a.jsonl")[0]["value"] == number.item()


def test_several_loggers_hear_the_same(tmp_path: Path) -> None:
    both = [JsonLinesLogger(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    loggers = Loggers(*both, SilentLogger())
    loggers.event("said", text="x")
    loggers.close()
    for logger in both:
        assert [line["text"] for line in lines(logger.path)] == ["x"]
