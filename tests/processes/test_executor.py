"""Worker processes: a case that ends its process is named, all others have their results, and nothing hangs or stays."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoseg.errors import AutosegError, FindingsError, InputError, TooLargeError, WorkerLostError
from autoseg.machine import Memory, process_memory
from autoseg.processes.executor import WORKER_BYTES, ProcessExecutor
from autoseg.processes.losses import RETRIES
from autoseg.values import Finding, Value
from tests.processes.ends_at_once import Never
from tests.processes.tasks import Act, Work

MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


class Listener:
    """Keeps all events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, kind: str, **fields: object) -> None:
        self.events.append((kind, fields))

    def close(self) -> None:
        pass

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [fields for each, fields in self.events if each == kind]


@pytest.fixture
def executor() -> Iterator[ProcessExecutor]:
    with ProcessExecutor(2, logger=Listener()) as executor:
        yield executor


def numbers(count: int) -> list[Work]:
    return [Work(id=f"n{index}", number=index) for index in range(count)]


def run(executor: ProcessExecutor, *items: Work, **options: Any) -> dict[str, Any]:
    """Result or error by name; every item must have exactly one outcome."""
    outcomes = list(executor.run(Act(), items, **options))
    assert sorted(outcome.item.id for outcome in outcomes) == sorted(item.id for item in items)
    return {outcome.item.id: outcome.error or outcome.result for outcome in outcomes}


def lost(executor: ProcessExecutor, item: Work, **options: Any) -> WorkerLostError:
    """The error of one bad item among good ones, all of which must have their results."""
    told = run(executor, *numbers(6), item, *(Work(id=f"m{index}", number=index) for index in range(6)), **options)
    error = told.pop(item.id)
    assert isinstance(error, WorkerLostError), error
    assert told == {f"{letter}{index}": 2.0 * index for letter in "nm" for index in range(6)}
    assert (error.case, error.stage) == (item.id, "act")
    assert str(error).startswith(f"case {item.id}: act: ")
    return error


def gone(pid: int, *, within: float = 10.0) -> bool:
    """Whether a process has ended, or ends soon."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":  # ended; nobody has asked for its exit code yet
            return True
        time.sleep(0.02)
    return False


def children(process: int) -> list[int]:
    """Processes that a process has started and that work."""
    listed = [Path(f"/proc/{process}/task/{thread}/children") for thread in os.listdir(f"/proc/{process}/task")]
    return [int(child) for file in listed if file.exists() for child in file.read_text().split()]


@linux
@pytest.mark.parametrize(("do", "name"), [("segfault", "SIGSEGV"), ("abort", "SIGABRT")])
def test_a_crash_costs_one_case_which_is_named_with_signal_and_memory(executor, do: str, name: str) -> None:
    error = lost(executor, Work(id="bad", do=do))
    assert error.signal == name
    assert name in str(error)
    assert error.memory is None or MIB < error.memory < 2**30
    assert len(executor.logger.of("worker_lost")) == RETRIES["crashed"]


def test_a_worker_that_ends_itself_is_named_with_its_exit_code(executor) -> None:
    error = lost(executor, Work(id="bad", do="leave"))
    assert error.signal is None
    assert "exit code 7" in str(error)


@linux
def test_a_case_whose_worker_is_always_killed_while_memory_is_short_is_given_up_after_some_times(executor) -> None:
    executor.memory = lambda: Memory(limit=2**30, used=2**30)
    error = lost(executor, Work(id="bad", do="kill"))
    assert error.signal == "SIGKILL"
    assert "memory ran out" in str(error)
    told = executor.logger.of("worker_lost")
    assert len(told) == RETRIES["killed"]
    assert all(event["text"].endswith("tried again, alone") for event in told)


@linux
def test_a_case_whose_worker_is_always_killed_while_memory_is_plenty_is_given_up_much_later(
    executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert RETRIES["outside"] >= 50
    monkeypatch.setitem(RETRIES, "outside", RETRIES["killed"] + 3)
    executor.memory = lambda: Memory(limit=2**36, used=0)
    error = lost(executor, Work(id="bad", do="kill_soon"))
    assert "memory was not short" in str(error)
    told = executor.logger.of("worker_lost")
    assert len(told) == RETRIES["killed"] + 3
    assert all(event["text"].endswith("tried again") for event in told)


@linux
def test_kills_so_often_that_hardly_a_case_can_end_lose_none() -> None:
    items = [Work(id=f"p{index}", do="pid", number=0.4) for index in range(4)]
    with ProcessExecutor(2, memory=lambda: Memory(limit=2**36, used=0)) as executor:
        finish = kill_at_random(executor, 50, 0.12, threading.Event())
        told = run(executor, *items, costs=[2**28] * 4)
        assert finish() >= 10
    assert all(isinstance(result, float) for result in told.values()), told


@linux
@pytest.mark.parametrize(("do", "times"), [("kill_once", 1), ("kill_once", 3), ("crash_once", 1)])
def test_a_case_that_succeeds_when_tried_again_is_no_failure(executor, tmp_path: Path, do: str, times: int) -> None:
    bad = Work(id="bad", do=do, number=times, path=str(tmp_path / "times"))
    assert run(executor, *numbers(5), bad)["bad"] == times
    assert [event["case"] for event in executor.logger.of("worker_lost")] == ["bad"] * times


@linux
def test_memory_without_end_costs_one_case_which_is_named_with_its_memory() -> None:
    memory = Memory(limit=2**30, used=0)
    with ProcessExecutor(2, logger=Listener(), memory=lambda: memory) as executor:
        error = lost(executor, Work(id="bad", do="hog"), costs=[MIB] * 13)
    assert "memory" in str(error)
    assert error.memory is not None
    assert 300 * MIB < error.memory < 2**30 + 500 * MIB


def test_time_without_end_costs_one_case_which_is_named() -> None:
    begin = time.monotonic()
    with ProcessExecutor(2, seconds=0.7) as executor:
        error = lost(executor, Work(id="bad", do="sleep", number=600))
    assert "longer" in str(error)
    assert time.monotonic() - begin < 15


@linux
def test_a_death_is_noticed_at_once(executor, tmp_path: Path) -> None:
    executor.memory = lambda: Memory(limit=2**30, used=2**30)
    sleeper = Work(id="sleeper", do="sleep", number=600, path=str(tmp_path / "pid"))
    noticed: list[float] = []

    def murder() -> None:
        for _ in range(1 + RETRIES["killed"]):
            while not (tmp_path / "pid").exists():
                time.sleep(0.01)
            time.sleep(0.05)
            pid = int((tmp_path / "pid").read_text())
            (tmp_path / "pid").unlink()
            noticed[:] = [time.monotonic()]
            os.kill(pid, signal.SIGKILL)

    murderer = threading.Thread(target=murder)
    murderer.start()
    told = run(executor, sleeper)
    assert time.monotonic() - noticed[0] < 2.0
    assert isinstance(told["sleeper"], WorkerLostError)
    murderer.join()


def test_what_native_libraries_print_disturbs_nothing(executor) -> None:
    assert run(executor, Work(id="loud", do="chatter"), *numbers(3)) == {"loud": 1, "n0": 0, "n1": 2, "n2": 4}


def test_the_last_words_of_a_worker_are_told(executor) -> None:
    error = lost(executor, Work(id="bad", do="curse"))
    assert error.output == "first line | Fatal: the library is at its end"
    assert str(error).endswith("at its end.")


def test_errors_that_are_not_ours_keep_their_type_and_tell_the_way_in_the_log_only(executor, tmp_path: Path) -> None:
    told = run(
        executor,
        Work(id="foreign", do="foreign"),
        Work(id="file", do="no_file", path=str(tmp_path / "nothing")),
        Work(id="unknown", do="no_such_thing"),
        Work(id="bytes", do="undecodable"),
        Work(id="exit", do="quit"),
        *numbers(2),
    )
    assert (type(told["foreign"]).__name__, str(told["foreign"])) == ("NotOursError", "nobody knows me")
    assert "in foreign" in told["foreign"].__notes__[0]
    assert isinstance(told["file"], FileNotFoundError)
    assert told["file"].filename == str(tmp_path / "nothing")
    assert isinstance(told["unknown"], AttributeError)
    assert (type(told["bytes"]).__name__, "utf-8" in str(told["bytes"])) == ("UnicodeDecodeError", True)
    assert (type(told["exit"]).__name__, str(told["exit"])) == ("SystemExit", "a plug that believes it is a program")
    assert (told["n0"], told["n1"]) == (0, 2)


def test_findings_come_whole(executor) -> None:
    error = run(executor, Work(id="bad", do="findings"))["bad"]
    assert isinstance(error, FindingsError)
    assert error.findings == (Finding(severity="note", what="one"), Finding(severity="error", what="two"))
    assert error.exit_code == 2


def test_a_result_that_is_none_of_its_type_fails_its_item(executor) -> None:
    told = run(executor, Work(id="nan", do="not_a_number"), *numbers(2))
    assert isinstance(told["nan"], AutosegError)
    assert told["n1"] == 2


def test_workers_are_kept_from_run_to_run() -> None:
    with ProcessExecutor(1) as executor:
        first, second = (run(executor, Work(id="a", do="pid"), Work(id="b", do="pid")) for _ in range(2))
    assert len({*first.values(), *second.values()}) == 1


def test_libraries_within_workers_share_the_processors() -> None:
    with ProcessExecutor(10**6) as executor:
        assert run(executor, Work(id="a", do="threads")) == {"a": 101}


class Unknown:
    def __call__(self, item: int) -> int:
        return item


def test_what_cannot_travel_is_refused_at_once(executor) -> None:
    class Local(Value, frozen=True, kw_only=True):
        def __call__(self, item: int) -> int:
            return item

    for task in (Unknown(), abs, Local()):
        with pytest.raises(TypeError, match=r"worker process|top of a module"):
            next(executor.run(task, [1]))


def test_workers_that_cannot_start_are_one_error_and_no_endless_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSEG_TEST_END", "1")
    with ProcessExecutor(1) as executor, pytest.raises(AutosegError, match="exit code 9"):
        list(executor.run(Never(), [1, 2]))


@linux
def test_who_leaves_in_the_middle_leaves_no_working_process(executor, tmp_path: Path) -> None:
    items = [Work(id="slow", do="sleep", number=600, path=str(tmp_path / "pid")), Work(id="quick")]
    outcomes = executor.run(Act(), items)
    assert next(outcomes).item.id == "quick"
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.01)
    outcomes.close()
    assert gone(int((tmp_path / "pid").read_text()))
    assert run(executor, *numbers(3)) == {"n0": 0, "n1": 2, "n2": 4}


@linux
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_workers_end_with_their_command_however_it_ends(tmp_path: Path, how: signal.Signals) -> None:
    command = subprocess.Popen([sys.executable, "-m", "tests.processes.command", str(tmp_path)], start_new_session=True)
    until = time.monotonic() + 30
    while sum(bool(file.read_text()) for file in tmp_path.glob("*.pid")) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    workers = [int(file.read_text()) for file in tmp_path.glob("*.pid")]
    assert len(workers) == 2
    if how is signal.SIGINT:  # a terminal sends Ctrl-C to all of them
        os.killpg(command.pid, how)
    else:
        command.send_signal(how)
    assert command.wait(15) == (130 if how is signal.SIGINT else -how)
    assert all(gone(worker) for worker in workers)


def kill_at_random(executor: ProcessExecutor, times: int, seconds: float, stop: threading.Event) -> Callable[[], int]:
    """Kills one of the workers again and again, in a thread; the function waits for its end and tells how often it did."""
    chance, killed = random.Random(4), []

    def kill() -> None:
        while len(killed) < times and not stop.is_set():
            time.sleep(chance.uniform(0.5, 1.5) * seconds)
            alive = children(os.getpid())
            if alive:
                victim = chance.choice(alive)
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

    thread = threading.Thread(target=kill)
    thread.start()

    def finish() -> int:
        stop.set()
        thread.join()
        return len(killed)

    return finish


@linux
def test_random_kills_lose_no_case_and_leave_no_hang(executor) -> None:
    items = [Work(id=f"p{index}", do="pid", number=0.02) for index in range(150)]
    finish = kill_at_random(executor, 12, 0.25, threading.Event())
    told = run(executor, *items)
    assert finish() >= 5
    assert all(isinstance(result, float) for result in told.values()), told


@linux
def test_what_runs_together_stays_under_nine_tenths_of_the_limit(executor) -> None:
    """Each holds 120 MiB beside the worker itself; of the limit, 90 % are enough for two, though four might run."""
    limit = int((2.5 * (WORKER_BYTES + 120 * MIB)) / 0.9)
    executor = ProcessExecutor(4, logger=Listener(), memory=lambda: Memory(limit=limit, used=0))
    items = [Work(id=f"h{index}", do="hold", number=120) for index in range(6)]
    stop, most = threading.Event(), [0]

    def watch() -> None:
        while not stop.wait(0.01):
            held = [process_memory(child) for child in children(os.getpid())]
            most[0] = max(most[0], sum(memory[0] for memory in held if memory))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with executor:
        told = run(executor, *items, costs=[120 * MIB] * 6)
        stop.set()
        watcher.join()
    assert set(told.values()) == {120 * MIB}
    assert 200 * MIB < most[0] < 0.9 * limit
    (event,) = executor.logger.of("cases_at_once")
    assert event["text"].startswith("2 cases at once: memory allows 2, ")
    assert (event["at_once"], event["memory_allows"], event["workers"]) == (2, 2, 4)


def test_a_case_that_could_never_fit_is_named_before_it_starts(executor) -> None:
    executor = ProcessExecutor(2, memory=lambda: Memory(limit=2**30, used=2**29))
    with executor:
        told = run(executor, *numbers(3), Work(id="huge", do="abort"), costs=[MIB, MIB, MIB, 2**40])
    assert isinstance(told["huge"], TooLargeError)
    assert "1024.2 GiB" in str(told["huge"])
    assert "0.9 GiB" in str(told["huge"])
    assert [told[f"n{index}"] for index in range(3)] == [0, 2, 4]


def test_cases_run_even_where_other_programs_leave_nothing_free() -> None:
    with ProcessExecutor(2, memory=lambda: Memory(limit=2**30, used=2**30)) as executor:
        assert run(executor, *numbers(3), costs=[MIB] * 3) == {"n0": 0, "n1": 2, "n2": 4}
        assert run(executor, *numbers(3)) == {"n0": 0, "n1": 2, "n2": 4}


def test_costs_beyond_every_number_are_refused_by_name(executor) -> None:
    executor = ProcessExecutor(2, memory=lambda: Memory(limit=2**32, used=0))
    costs: list[Any] = [MIB, 1e300, float("inf"), float("nan"), 10**400]
    items = [Work(id=f"n{index}", number=index) for index in range(5)]
    with executor:
        told = run(executor, *items, costs=costs)
    assert told.pop("n0") == 0
    assert {type(error) for error in told.values()} == {TooLargeError}


def test_an_item_that_has_no_json_form_costs_that_item(executor) -> None:
    told = run(executor, Work(id="bad", path="x\udcff.nii"), *numbers(3))
    assert isinstance(told["bad"], InputError)
    assert "bad cannot be handed to a worker process" in str(told["bad"])
    assert [told[f"n{index}"] for index in range(3)] == [0, 2, 4]
    assert isinstance(run(executor, Work(id="only", path="x\udcff.nii"))["only"], InputError)


def test_errors_that_have_no_json_form_end_no_worker(executor) -> None:
    told = run(executor, Work(id="huge", do="huge"), Work(id="text", do="undecoded"), *numbers(3))
    assert (str(told["huge"]), str(told["text"])) == (str(10**30), r"bad file \udcff")
    assert not executor.logger.of("worker_lost")
