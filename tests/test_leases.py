"""One writer at a time: what a lease promises, with real processes that are killed, paused and woken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from autoseg.errors import HeldError, InterruptedRunError, LostLeaseError
from autoseg.files import check_fence, write_atomically
from autoseg.leases import FILES, PERIODS, LeaseRecord, leased, look, take
from autoseg.machine import is_running, process_start
from autoseg.values import decode, encode

PERIOD = 0.05
#: Holds a lease, writes a number again and again, and tells how it ended.
OWNER = f"""
import sys, time
from pathlib import Path
from autoseg.files import write_atomically
from autoseg.leases import leased
folder = Path(sys.argv[1])
with leased(folder, period={PERIOD}):
    print("held", flush=True)
    for number in range(int(sys.argv[2])):
        write_atomically(folder / "result", b"owner %d" % number)
        time.sleep(0.01)
"""
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def owner(folder: Path, writes: int = 1_000_000) -> subprocess.Popen:
    """A process that holds the lease of the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder), str(writes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def as_if_elsewhere(folder: Path) -> None:
    """The newest lease, as if another machine had made it: nothing can be known of its process."""
    seen = look(folder)
    assert seen is not None
    assert seen.record is not None
    record = msgspec.structs.replace(seen.record, machine="elsewhere".ljust(len(seen.record.machine)))
    (folder / FILES / f"{seen.number:09}.json").write_bytes(encode(record))


def test_a_lease_is_held_by_one_and_then_by_the_next(tmp_path: Path) -> None:
    with leased(tmp_path, period=PERIOD) as first:
        with pytest.raises(HeldError, match=f"process {os.getpid()} on"):
            take(tmp_path, period=PERIOD)
        first.check()
    with leased(tmp_path, period=PERIOD) as second:
        assert second.number == first.number + 1
        with pytest.raises(LostLeaseError):
            first.check()
    assert len(list((tmp_path / FILES).iterdir())) == 1


def test_of_many_who_want_it_at_once_one_gets_it(tmp_path: Path) -> None:
    got, held, ready = [], [], threading.Barrier(16)

    def want() -> None:
        ready.wait()
        try:
            with leased(tmp_path, period=PERIOD) as lease:
                got.append(lease.number)
                every_one_has_tried.wait(10)
        except HeldError:
            held.append(1)
        if len(got) + len(held) == 16:
            every_one_has_tried.set()

    every_one_has_tried = threading.Event()
    threads = [threading.Thread(target=want) for _ in range(16)]
    for thread in threads:
        thread.start()
    while len(held) < 15 and any(thread.is_alive() for thread in threads):
        time.sleep(0.01)
    every_one_has_tried.set()
    for thread in threads:
        thread.join()
    assert (len(got), len(held)) == (1, 15)


@linux
def test_what_a_killed_process_held_is_free_at_once(tmp_path: Path) -> None:
    process = owner(tmp_path)
    with pytest.raises(HeldError, match=f"process {process.pid} on"):
        take(tmp_path, period=PERIOD)
    began = process_start(process.pid)
    process.send_signal(signal.SIGKILL)
    while is_running(process.pid, began):  # it ends before anybody has asked for its exit code
        time.sleep(0.001)
    told: list[str] = []
    take(tmp_path, period=3600.0, tell=told.append).check()
    assert told == []
    process.wait()


@linux
def test_a_later_process_of_the_same_number_is_another_one() -> None:
    began = process_start(os.getpid())
    assert began is not None
    assert is_running(os.getpid(), began)
    assert not is_running(os.getpid(), began + 1)
    assert not is_running(2**22 + 1, None)  # above the largest number that Linux gives


@posix
def test_a_paused_owner_loses_its_lease_and_then_does_not_write(tmp_path: Path) -> None:
    process = owner(tmp_path)
    process.send_signal(signal.SIGSTOP)
    told: list[str] = []
    lease = take(tmp_path, period=PERIOD, tell=told.append)
    assert told[0].startswith(f"process {process.pid} on")
    assert "has given no sign" in told[1]
    write_atomically(tmp_path / "result", b"mine")
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "LostLeaseError: this process gave no sign for long" in errors
    assert (tmp_path / "result").read_bytes() == b"mine"
    lease.check()  # its end has released nothing that was not its own


@posix
def test_an_owner_on_another_machine_is_watched_and_not_judged_by_its_number(tmp_path: Path) -> None:
    process = owner(tmp_path)
    process.kill()
    process.wait()
    as_if_elsewhere(tmp_path)
    begun = time.monotonic()
    take(tmp_path, period=PERIOD / 5).check()
    assert time.monotonic() - begun >= PERIODS * PERIOD / 5


def test_clocks_do_not_matter(tmp_path: Path) -> None:
    """Times of the file that lie far in the past or the future change nothing while the owner gives signs."""
    with leased(tmp_path, period=PERIOD) as lease:
        file = tmp_path / FILES / f"{lease.number:09}.json"
        for wrong in (0, 2**33):
            os.utime(file, (wrong, wrong))
            with pytest.raises(HeldError):
                take(tmp_path, period=PERIOD)


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema": "autoseg.lease/1"}'], ids=["empty", "cut", "fields"])
def test_a_damaged_lease_holds_until_it_has_not_changed_for_long(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILES).mkdir()
    (tmp_path / FILES / "000000004.json").write_bytes(content)
    told: list[str] = []
    lease = take(tmp_path, period=0.01, tell=told.append)
    assert lease.number == 5
    assert told[0].startswith("a process may be writing")


def test_watching_can_be_stopped(tmp_path: Path) -> None:
    with leased(tmp_path, period=3600.0), pytest.raises(InterruptedRunError):
        take(tmp_path, period=PERIOD, stop=lambda: True)


def test_a_watcher_that_comes_too_late_takes_nothing(tmp_path: Path) -> None:
    """Who saw number 1 expire, slept, and creates number 2 after others were there, finds a higher number."""
    from autoseg.leases import _created

    take(tmp_path, period=PERIOD).release()
    slow = look(tmp_path)
    for _ in range(2):
        take(tmp_path, period=PERIOD).release()
    now = take(tmp_path, period=PERIOD)
    assert _created(tmp_path, slow) is None
    now.check()
    assert len(list((tmp_path / FILES).iterdir())) == 1


def test_beats_change_the_file_and_nothing_else(tmp_path: Path) -> None:
    lease = take(tmp_path, period=PERIOD)
    before = look(tmp_path)
    lease.beat()
    after = look(tmp_path)
    assert before is not None
    assert after is not None
    assert len(before.data) == len(after.data)
    changed = msgspec.structs.replace(before.record, beat=after.record.beat)
    assert before.record.beat < after.record.beat
    assert changed == after.record == decode(LeaseRecord, after.data)


def test_a_lost_owner_does_not_bring_its_file_back(tmp_path: Path) -> None:
    lease = take(tmp_path, period=PERIOD)
    (tmp_path / FILES / f"{lease.number:09}.json").unlink()
    for write in (lease.beat, lease.check):
        with pytest.raises(LostLeaseError):
            write()
    lease.release()
    assert look(tmp_path) is None


def test_only_files_of_the_folder_are_behind_its_fence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fold = Path("fold")
    with leased(fold, period=PERIOD) as lease:
        write_atomically(fold / "deep" / "a", b"1")
        (fold / FILES / f"{lease.number:09}.json").unlink()
        write_atomically(Path("beside"), b"1")
        with pytest.raises(LostLeaseError):
            write_atomically(fold / "deep" / "a", b"2")
        with pytest.raises(LostLeaseError):
            check_fence(tmp_path / "fold" / "b")
    assert (fold / "deep" / "a").read_bytes() == b"1"
    assert sorted(path.name for path in (fold / "deep").iterdir()) == ["a"]
    write_atomically(fold / "deep" / "a", b"3")
