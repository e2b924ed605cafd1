"""What every command runs within: its log tells how it ended, and signals end it in good order."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoseg.cli.session import session, stop_on_signals
from autoseg.errors import InputError
from autoseg.workspace import Workspace

STOPPING = (signal.SIGINT, signal.SIGTERM)
pytestmark = pytest.mark.skipif(os.name != "posix", reason="a process cannot send itself signals elsewhere")


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    """Sessions are made for a process of their own: what they install is taken back."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A workspace that holds something, so that logs are kept there."""
    Workspace(tmp_path).case_fingerprint_path("a").parent.mkdir()
    assert Workspace(tmp_path).begun()
    return tmp_path


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def logged(workspace: Path, command: str = "train") -> list[dict[str, str]]:
    return [json.loads(line) for line in (workspace / "logs" / f"{command}.jsonl").read_text().splitlines()]


def test_a_command_that_ends_well_says_so_last(begun, monkeypatch):
    monkeypatch.setattr("sys.argv", ["autoseg", "train", "2d", "0"])
    with session(begun, "train") as (workspace, logger):
        logger.event("trained", iterations=3)
    assert workspace.path == begun
    begin, middle, end = logged(begun)
    assert (begin["event"], begin["arguments"]) == ("command", ["train", "2d", "0"])
    assert (middle["event"], end["event"]) == ("trained", "done")


def fail(error: BaseException) -> None:
    raise error


def test_an_error_on_purpose_stands_in_the_log_without_a_traceback(begun):
    with pytest.raises(InputError), session(begun, "train", quiet=True):
        fail(InputError("no such fold", expected="0 to 4"))
    assert logged(begun)[-1].items() >= {"event": "error", "error": "no such fold; expected 0 to 4"}.items()
    assert "traceback" not in logged(begun)[-1]


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("of a spacing"), MemoryError(), SystemExit(3), KeyboardInterrupt()]
)
def test_any_other_end_stands_in_the_log_with_its_traceback(error, begun):
    with pytest.raises(type(error)), session(begun, "train", quiet=True):
        fail(error)
    last = logged(begun)[-1]
    assert last["event"] == "error"
    assert last["error"] == f"{type(error).__name__}: {error}"
    assert "in fail" in last["traceback"]


def test_a_session_makes_no_workspace_of_its_own(tmp_path):
    with session(tmp_path / "W", "evaluate"):
        pass
    assert not (tmp_path / "W").exists()


@pytest.fixture
def _ctrl_c_counts():
    """Tests that run in the background of a shell inherit that Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_counts")
@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_ends_a_session_like_ctrl_c(number, begun):
    with pytest.raises(KeyboardInterrupt), session(begun, "predict", quiet=True):
        send(number)
    assert logged(begun, "predict")[-1]["error"].startswith("KeyboardInterrupt")


@pytest.mark.parametrize("first", STOPPING)
@pytest.mark.parametrize("second", STOPPING)
def test_the_first_signal_asks_and_the_second_stops_at_once(first, second, capsys):
    with stop_on_signals() as stop:
        assert not stop()
        send(first)
        assert stop()
        assert "Ctrl-C again" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            send(second)


def test_signals_mean_afterwards_what_they_meant_before(begun):
    with session(begun, "train", quiet=True):
        before = [signal.getsignal(number) for number in STOPPING]
        with stop_on_signals():
            assert [signal.getsignal(number) for number in STOPPING] != before
        assert [signal.getsignal(number) for number in STOPPING] == before
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)
