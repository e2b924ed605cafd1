"""Workers that never become ready, or end while nobody looks: one clear error or another worker, and nothing hangs."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest

from autoseg.errors import AutosegError
from autoseg.processes import child as child_module
from autoseg.processes.executor import ProcessExecutor
from autoseg.processes.losses import FALSE_STARTS
from autoseg.values import Value
from tests.processes.tasks import Act, Work

linux = pytest.mark.skipif(sys.platform != "linux", reason="signals")
IN_WORKERS = "import os, signal, sys, time\nif 'autoseg.processes.worker' in sys.orig_argv:\n    "


def in_time(executor: ProcessExecutor, task: Any, items: list[Any], *, seconds: float = 20.0) -> list[Any]:
    """Outcomes of a run that must end within some seconds; raises what it raises."""
    told: list[Any] = []

    def run() -> None:
        try:
            told.append(list(executor.run(task, items)))
        except Exception as error:
            told.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert told, "the run hangs"
    if isinstance(told[0], Exception):
        raise told[0]
    return [outcome.error or outcome.result for outcome in told[0]]


def at_start(monkeypatch: pytest.MonkeyPatch, folder: Path, does: str) -> None:
    """Workers do this when their interpreter starts."""
    (folder / "sitecustomize.py").write_text(IN_WORKERS + does)
    monkeypatch.setenv("PYTHONPATH", str(folder))


NUMBERS = [Work(id=str(number), number=number) for number in range(3)]


def test_what_is_printed_while_the_interpreter_starts_is_skipped(monkeypatch, tmp_path: Path) -> None:
    at_start(monkeypatch, tmp_path, "print('hello from a site', flush=True)")
    with ProcessExecutor(1) as executor:
        assert sorted(in_time(executor, Act(), NUMBERS)) == [0, 2, 4]


def test_workers_that_print_without_end_are_one_error_which_shows_it(monkeypatch, tmp_path: Path) -> None:
    at_start(monkeypatch, tmp_path, "print('oh dear ' * 2**18, flush=True)")
    with ProcessExecutor(1) as executor, pytest.raises(AutosegError, match=r"cannot be started.*do not speak"):
        in_time(executor, Act(), NUMBERS)


@linux
def test_workers_that_are_killed_while_they_start_are_one_error(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(FALSE_STARTS, "killed", 4)
    at_start(monkeypatch, tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    with ProcessExecutor(1) as executor, pytest.raises(AutosegError, match=r"cannot be started.*SIGKILL"):
        in_time(executor, Act(), NUMBERS)


def test_the_number_of_killed_starts_is_bounded() -> None:
    assert 50 < FALSE_STARTS["killed"] <= 100


def test_workers_that_hang_while_they_start_are_one_error(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(child_module, "SECONDS_TO_START", 0.4)
    at_start(monkeypatch, tmp_path, "time.sleep(1000)")
    with ProcessExecutor(1) as executor, pytest.raises(AutosegError, match=r"cannot be started.*not ready"):
        in_time(executor, Act(), NUMBERS)


@linux
def test_an_idle_worker_that_ends_before_the_system_tells_so_is_replaced() -> None:
    with ProcessExecutor(1) as executor:
        assert sorted(in_time(executor, Act(), NUMBERS)) == [0, 2, 4]
        (idle,) = executor._idle
        idle.process.poll = lambda: None  # its end is under way: its pipe has ended, its exit code is not there yet
        os.kill(idle.process.pid, signal.SIGKILL)
        idle._threads[0].join(10)
        assert sorted(in_time(executor, Act(), NUMBERS)) == [0, 2, 4]


def test_a_task_that_cannot_be_loaded_does_not_fail_the_next_run(monkeypatch) -> None:
    class Ghost(Value, frozen=True, kw_only=True):
        def __call__(self, item: int) -> int:
            return item

    module: Any = types.ModuleType("ghost_module")
    Ghost.__module__, Ghost.__qualname__, module.Ghost = "ghost_module", "Ghost", Ghost
    Ghost.__call__.__annotations__.update({"item": int, "return": int})
    monkeypatch.setitem(sys.modules, "ghost_module", module)
    with ProcessExecutor(2, warm=2) as executor:
        time.sleep(0.5)
        with pytest.raises(ModuleNotFoundError):
            in_time(executor, Ghost(), list(range(6)))
        assert sorted(in_time(executor, Act(), NUMBERS)) == [0, 2, 4]


def test_a_users_smaller_number_of_threads_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = child_module._environment({"OMP_NUM_THREADS": "2,1", "MKL_NUM_THREADS": "64", "X": "y"}, 8)
    assert [environment[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "X")] == ["2", "8", "y"]
    for senseless in ("", "0", "-1", "many"):
        assert child_module._environment({"OMP_NUM_THREADS": senseless}, 8)["OMP_NUM_THREADS"] == "8"


@pytest.mark.parametrize("program", ["", "/nowhere/python"])
def test_a_worker_that_cannot_be_started_is_one_error_that_says_what_to_do(program, monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with ProcessExecutor(1) as executor, pytest.raises(AutosegError, match=r"cannot be started: .*installed Python"):
        in_time(executor, Act(), NUMBERS)


def test_nobody_waits_for_a_process_that_the_system_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "SECONDS_TO_END", 0.2)
    with ProcessExecutor(1) as executor:
        assert in_time(executor, Act(), NUMBERS[:1]) == [0]
        process = executor._idle[0].process
        kill = process.kill
        process.kill = lambda: None
        begin = time.monotonic()
        executor.close()
        assert time.monotonic() - begin < 5
        kill()
        process.wait(10)
