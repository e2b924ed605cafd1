"""What a person sees while a stage runs: lines in a log, a bar on a terminal, nothing where it is not wanted."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable

import pytest

from autoseg.cli import terminal
from autoseg.cli.terminal import TerminalLogger

EVENTS = {
    "message": ({"text": "the disk is nearly full"}, "the disk is nearly full"),
    "iterations": (
        {"iteration": 20, "of": 100, "loss": 0.51234, "seconds_per_iteration": 0.5, "seconds_left": 400.0},
        "train: iteration 20 of 100, loss 0.512, 0.50 s per iteration, 7 min left",
    ),
    "estimate": (
        {"iteration": 250, "patch_dice": [0.5, None]},
        "train: iteration 250, Dice on patches of held-out cases 0.500, –",
    ),
    "truth": (
        {
            "iteration": 250,
            "dice": 0.85,
            "label_dice": {"liver": 0.85, "spleen": None},
            "cases": 3,
            "held_out": 12,
            "scored": {"a": {"liver": 0.85, "spleen": None}},
        },
        "train: iteration 250, Dice on whole images 0.850 (liver 0.850, spleen –; 3 of 12 held-out cases)",
    ),
    "validated": (
        {"dice": 0.86, "cases": 12, "last_truth": 0.85, "last_truth_cases": 10},
        "final Dice on whole images of all 12 held-out cases 0.860; the last while training was 0.850, of 10 cases",
    ),
    "execution": (
        {"device": "cpu", "precision": "bf16", "channels_last": True, "compiled": False, "reason": "measured"},
        "runs in cpu bf16 channels-last (measured)",
    ),
    "resumed": ({"iteration": 7}, "goes on from iteration 7"),
    "case_failed": ({"case": "a", "stage": "predict", "error": "broken"}, "case a failed in predict: broken"),
    "preprocessed": (
        {"configuration": "2d", "made": 1, "kept": 7},
        "preprocess 2d: 1 made, 7 kept as they were",
    ),
    "planned": ({"plan": "p"}, None),
}


def shown(talk: Callable[[TerminalLogger], None]) -> list[str]:
    """The lines, and states of bars, that come to a real terminal, one after the other."""
    termios = pytest.importorskip("termios", reason="pseudo-terminals are of POSIX systems")
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 120))
    data = b""
    with os.fdopen(master, "rb", buffering=0) as screen, os.fdopen(slave, "w", encoding="utf-8") as stream:
        with contextlib.redirect_stderr(stream):
            logger = TerminalLogger()
            talk(logger)
            logger.close()
        stream.write("the end")
        stream.flush()
        while not data.endswith(b"the end"):
            data += screen.read(2**16)
    return [part.strip() for part in re.split(r"[\r\n]+", data.decode()) if part.strip()]


def progress(logger: TerminalLogger, *done: float, stage: str = "predict", total: int = 3, detail: str = "") -> None:
    for each in done:
        logger.event("progress", stage=stage, done=each, total=total, detail=detail)


@pytest.mark.parametrize(("fields", "line"), EVENTS.values(), ids=EVENTS)
def test_an_event_for_people_is_one_line_in_a_log(fields, line, capsys):
    logger = TerminalLogger()
    (kind,) = (kind for kind, known in EVENTS.items() if known[0] is fields)
    logger.event(kind, **fields)
    logger.close()
    assert capsys.readouterr().err == (f"{line}\n" if line else "")


def test_a_log_has_one_line_for_a_stage_that_is_done(capsys):
    logger = TerminalLogger()
    progress(logger, 1, 1.5, 2, 3, detail="case_a")
    progress(logger, 1, 2, stage="validate", total=2)
    logger.close()
    assert re.fullmatch(r"predict: 3 of 3 in \d+ s\nvalidate: 2 of 2 in \d+ s\n", capsys.readouterr().err)


def test_a_long_silence_in_a_log_is_broken_by_a_heartbeat(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "HEARTBEAT_SECONDS", 0.1)
    logger = TerminalLogger()
    progress(logger, 1.99, detail="case_b, tile 3 of 3")
    time.sleep(1.5)
    logger.close()
    text = capsys.readouterr().err
    assert re.match(r"predict: 1 of 3, case_b, tile 3 of 3 after \d s\n", text)
    time.sleep(1.2)
    assert capsys.readouterr().err == ""


def test_no_heart_beats_between_stages(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "HEARTBEAT_SECONDS", 0.1)
    logger = TerminalLogger()
    progress(logger, 3)
    time.sleep(1.3)
    logger.close()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_quiet_shows_nothing_and_starts_nothing(capsys):
    before = threading.active_count()
    logger = TerminalLogger(quiet=True)
    assert threading.active_count() == before
    for kind, (fields, _) in EVENTS.items():
        logger.event(kind, **fields)
    progress(logger, 1, 3)
    logger.close()
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_a_bar_that_counts_in_whole_numbers():
    def talk(logger):
        for done in (0.25, 1, 1.25, 2.25, 3):
            progress(logger, done, detail="case_c, tile 1 of 4")
            time.sleep(0.11)  # tqdm draws ten times a second

    bars = [text for text in shown(talk) if text.startswith("predict: ")]
    counts = [re.search(r"\| (\S+)/3 \[", text)[1] for text in bars]
    assert counts == sorted(counts)
    assert set(counts) == {"0", "1", "2", "3"}
    assert "case_c, tile 1 of 4" in bars[-1]


def test_a_case_that_is_not_done_is_not_counted():
    def talk(logger):
        for done in (2, 2.75):
            progress(logger, done)
            time.sleep(0.11)

    assert not any("3/3" in text for text in shown(talk))


def test_lines_stand_above_the_bar_and_iterations_are_in_the_bar_only():
    def talk(logger):
        progress(logger, 1, stage="train", total=100, detail="loss 0.5")
        for kind in ("message", "iterations"):
            logger.event(kind, **EVENTS[kind][0])
        progress(logger, 2, stage="train", total=100)

    parts = shown(talk)
    assert EVENTS["message"][1] in parts
    assert not any("iteration 20 of 100" in part for part in parts)


def test_every_stage_has_a_bar_of_its_own():
    def talk(logger):
        progress(logger, 1, 2, 3, stage="train")
        progress(logger, 1, 2, stage="validate", total=2)

    parts = shown(talk)
    assert [part.partition(":")[0] for part in parts if "3/3 [" in part or "2/2 [" in part] == ["train", "validate"]
