"""Who writes in a folder: one process at a time, also where several machines share it, and file locks mean nothing.

A lease is a numbered file in a folder of its own, which its owner changes every few seconds. Whoever wants to write looks at
the file of the highest number. If it is released, or its process is dead, or it has not changed for many periods, the next
number is taken: the file system lets one process create it. Numbers only grow, so that a process that slept for hours and
wakes finds a higher one, and knows that it has lost; it looks right before anything that it writes takes its place
(``autoseg.files.fenced``). Clocks are never compared: a watcher waits by its own clock for the file to change.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import DocumentError, HeldError, InterruptedRunError, LostLeaseError
from autoseg.files import fenced
from autoseg.machine import is_running, machine_identity, process_start
from autoseg.values.json_form import Value, decode, encode

__all__ = ["PERIOD", "PERIODS", "Lease", "LeaseRecord", "Seen", "leased", "look", "take"]

#: Seconds from one change of the file to the next; after so many of them without a change nobody is there any more.
PERIOD, PERIODS = 5.0, 12
#: Looks of a watcher in a period.
LOOKS = 5
#: A network drive says so of a file that somebody else has removed.
GONE = (errno.ENOENT, errno.ESTALE)
RELEASED = "released"
#: The folder of a lease's files, within the one that it is for.
FILES = ".lease"
_ENDING = ".json"
_BINARY = getattr(os, "O_BINARY", 0)


class LeaseRecord(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.lease/1"):
    """What the file of a lease says.

    Attributes:
        owner: a random token.
        host: name of the machine, for people.
        machine: of the process; differs between containers. Empty where the system does not tell.
        process: its number there.
        began: when it did, as the system counts; None where it does not tell.
        beat: twelve digits, one more in every period; or ``released``, filled up with blanks to the same length.
    """

    owner: str
    host: str
    machine: str
    process: int
    began: int | None
    beat: str

    @property
    def free(self) -> bool:
        """Whether nobody holds it any more: it was released, or its process was on this machine, and is no more."""
        return self.beat.strip() == RELEASED or self.dead

    @property
    def dead(self) -> bool:
        """Whether its process was on this machine, and is no more."""
        here = bool(self.machine) and self.machine == machine_identity()
        return here and not is_running(self.process, self.began)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The newest lease of a folder as it was looked at; ``record`` is None if it cannot be read."""

    number: int
    data: bytes
    record: LeaseRecord | None

    @property
    def free(self) -> bool:
        """Whether it is known at once that nobody holds it."""
        return self.record is not None and self.record.free


class Lease:
    """The right to write in a folder, until somebody else takes it; see ``take``.

    Args:
        folder: that may be written in.
        number: of the lease's file; larger than those of all before.
        record: its content.
    """

    def __init__(self, folder: Path, number: int, record: LeaseRecord) -> None:
        self.folder, self.number, self._record = folder, number, record
        self._path, self._beats = _path(folder, number), 0

    def check(self) -> None:
        """Sees to it that the lease is still held.

        Raises:
            LostLeaseError: it is not.
            OSError: that cannot be told now.
        """
        try:
            data = self._path.read_bytes()
        except OSError as error:
            if error.errno not in GONE:
                raise
            data = b""
        newest = max(_numbers(self.folder), default=0)
        if newest > self.number or self._record.owner.encode() not in data:
            raise LostLeaseError(self.folder)

    def beat(self) -> None:
        """Tells watchers that the owner is there.

        Raises:
            LostLeaseError: the lease is somebody else's.
            OSError: that cannot be told now.
        """
        self.check()
        self._beats += 1
        self._write(f"{self._beats:012}")

    def release(self) -> None:
        """Lets others take it at once; if it was lost, does nothing."""
        with contextlib.suppress(LostLeaseError, OSError):
            self.check()
            self._write(RELEASED.ljust(12))

    def _write(self, beat: str) -> None:
        """Changes the file in place: one that was removed by a new owner must not come back."""
        record = LeaseRecord(**{**_fields(self._record), "beat": beat})  # type: ignore[arg-type]
        try:
            handle = os.open(self._path, os.O_WRONLY | _BINARY)
        except OSError as error:
            if error.errno in GONE:
                raise LostLeaseError(self.folder) from error
            raise
        try:
            os.write(handle, encode(record))
            os.fsync(handle)
        finally:
            os.close(handle)


def look(folder: Path) -> Seen | None:
    """The newest lease of a folder; None if there never was one."""
    while numbers := _numbers(folder):
        newest = max(numbers)
        try:
            data = _path(folder, newest).read_bytes()
        except OSError as error:
            if error.errno not in GONE:
                raise
            continue  # a newer one has just taken its place
        try:
            return Seen(number=newest, data=data, record=decode(LeaseRecord, data, source=_path(folder, newest)))
        except DocumentError:  # being written, or damaged: held until it has not changed for long
            return Seen(number=newest, data=data, record=None)
    return None


def take(
    folder: Path,
    *,
    period: float = PERIOD,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda text: None,
) -> Lease:
    """Takes the lease of a folder; if somebody may hold it, watches whether that one is still there.

    Args:
        folder: to write in; made if missing.
        period: seconds between two beats, the same for all who take the lease.
        stop: asked while watching; True ends it.
        tell: hears that somebody may be there, and that a lease was taken over.

    Raises:
        HeldError: its owner is there.
        InterruptedRunError: ``stop`` said so.
    """
    (folder / FILES).mkdir(parents=True, exist_ok=True)
    watched, since = look(folder), time.monotonic()
    if watched is not None and not watched.free:
        tell(f"{_named(watched)} may be writing in {folder}; watching for up to {PERIODS * period:.0f} s")
    while True:
        seen = look(folder)
        expired = time.monotonic() - since > PERIODS * period
        if seen is None or seen.free or (seen == watched and expired):
            lease = _created(folder, seen)
            if lease is not None:
                if seen is not None and not seen.free:
                    tell(f"{_named(seen)} has given no sign for {PERIODS * period:.0f} s: its work is taken over")
                return lease
        elif seen != watched:
            raise HeldError(folder, _named(seen))
        if stop():
            raise InterruptedRunError("stopped while another process was watched; the same command goes on from here")
        time.sleep(period / LOOKS)


@contextlib.contextmanager
def leased(
    folder: Path,
    *,
    period: float = PERIOD,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Lease]:
    """Holds the lease of a folder; its files are written only while it is held. See ``take``."""
    lease, ended = take(folder, period=period, stop=stop, tell=tell), threading.Event()

    def keep_on() -> None:
        while not ended.wait(period):
            try:
                lease.beat()
            except LostLeaseError:
                return  # told where something is to be written
            except OSError:
                continue  # a network drive that is gone for a while

    thread = threading.Thread(target=keep_on, name="autoseg-lease", daemon=True)
    thread.start()
    try:
        with fenced(folder, lease.check):
            yield lease
    finally:
        ended.set()
        thread.join()
        lease.release()


def _created(folder: Path, before: Seen | None) -> Lease | None:
    """The lease of the next number, if nobody else was faster; older ones are removed."""
    number = 1 if before is None else before.number + 1
    record = LeaseRecord(
        owner=secrets.token_hex(16),
        host=socket.gethostname(),
        machine=machine_identity(),
        process=os.getpid(),
        began=process_start(os.getpid()),
        beat=f"{0:012}",
    )
    try:
        handle = os.open(_path(folder, number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
    except FileExistsError:
        return None
    try:
        os.write(handle, encode(record))
        os.fsync(handle)
    finally:
        os.close(handle)
    lease = Lease(folder, number, record)
    try:
        lease.check()
    except LostLeaseError:  # this number was long past
        _path(folder, number).unlink(missing_ok=True)
        return None
    for older in _numbers(folder):
        if older < number:
            _path(folder, older).unlink(missing_ok=True)
    return lease


def _named(seen: Seen) -> str:
    return "a process" if seen.record is None else f"process {seen.record.process} on {seen.record.host}"


def _fields(record: LeaseRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def _path(folder: Path, number: int) -> Path:
    return folder / FILES / f"{number:09}{_ENDING}"


def _numbers(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder / FILES)
    except FileNotFoundError:
        return []
    stems = [name.removesuffix(_ENDING) for name in names if name.endswith(_ENDING)]
    return [int(stem) for stem in stems if stem.isdecimal()]
