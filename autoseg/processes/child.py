"""A worker process as the command sees it: what it has in hand, what it holds, how it ended."""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import autoseg
from autoseg.errors import AutosegError
from autoseg.machine import process_memory
from autoseg.processes.wire import Begin, Ready, Reply, Request, Setup, Work, cleaned, greeted, receive, send

__all__ = ["Child", "Ended", "Inbox", "Limits"]

#: Characters of what a worker wrote that are kept for the message.
LAST_WORDS = 300
#: A worker whose pipe has ended is given this long to end itself.
SECONDS_TO_END = 5.0
#: Stands for the exit code of a process that was killed, but is still there: that of SIGKILL.
NEVER_ENDED = -9
#: A worker is given this long to load its task.
SECONDS_TO_START = 60.0
#: Libraries that start threads of their own ask these how many.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
#: Ends that somebody else decided; any other is a crash.
KILLS = ("SIGKILL", "SIGTERM", "SIGHUP", "SIGQUIT")

Reason = Literal["killed", "crashed", "time", "memory", "start", "protocol"]
#: Messages of workers, with None for a worker's end.
Inbox = queue.SimpleQueue["tuple[Child, Reply | None]"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one item may take before its worker is ended: seconds and bytes; None for no limit."""

    seconds: float
    memory: int | None


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a worker ended, the most bytes that it is known to have held, and the end of what it wrote."""

    reason: Reason
    signal: str | None
    code: int
    peak: int | None
    output: str


class Child:
    """One worker process.

    Args:
        threads: that libraries may use in it.
        preload: modules that it imports at once.
        inbox: where its messages go.
    """

    def __init__(self, threads: int, preload: tuple[str, ...], inbox: Inbox) -> None:
        self.inbox = inbox
        self.process = _started(threads)
        self.in_hand: collections.deque[int] = collections.deque()
        self._begun, self._begun_at = 0, time.monotonic()
        self.memory, self.peak, self.idle_since = 0, 0, time.monotonic()
        self._limits: dict[int, Limits] = {}
        self._since = time.monotonic()
        self._verdict: Reason | None = None
        self._silent = False
        self._written = bytearray()
        self._lock = threading.Lock()
        # the kernel takes the end of the thread that started a process for the parent's end
        lasting = threading.current_thread() is threading.main_thread()
        path = tuple(os.path.abspath(entry) for entry in sys.path if cleaned(entry) == entry)
        self._send(Setup(path=path, preload=preload, parent=os.getpid() if lasting else None))
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._listen, self._overhear)]
        for thread in self._threads:
            thread.start()

    def _send(self, message: Request) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it has died: its end stands in the inbox, or will
            send(self.process.stdin, message)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        begun = False
        while True:
            message = None
            try:
                noise = b"" if begun else greeted(self.process.stdout)
                if noise is not None:
                    begun = True
                    self._hear(noise)
                    message = receive(self.process.stdout, Reply)
            except Exception:  # no message of ours: as good as dead
                self._condemn("protocol")
            with self._lock:  # whoever takes the worker over hears of its end: see ``adopt``
                self._begun -= isinstance(message, Ready)
                self._silent = message is None
                self.inbox.put((self, message))
            if message is None:
                return

    def adopt(self, inbox: Inbox) -> bool:
        """Its messages go there from now on; False if none will come, because it has ended."""
        with self._lock:
            if self._silent or self.process.poll() is not None:
                return False
            self.inbox = inbox
            return True

    def _condemn(self, verdict: Reason) -> None:
        """Ends it, for a reason of ours; the first counts."""
        self._verdict = self._verdict or verdict
        self.process.kill()

    def _overhear(self) -> None:
        assert self.process.stderr is not None
        with contextlib.suppress(OSError, ValueError):
            while data := os.read(self.process.stderr.fileno(), 65536):
                self._hear(data)

    def _hear(self, data: bytes) -> None:
        with self._lock:
            self._written = (self._written + data)[-8 * LAST_WORDS :]

    def begin(self, task: Begin) -> None:
        """Tells it a task; it is not ready until it answers."""
        with self._lock:
            self._begun += 1
            self._begun_at = time.monotonic()
        self._send(task)

    @property
    def ready(self) -> bool:
        """Whether its task is loaded, so that it can be given items."""
        return self._begun == 0

    def give(self, work: Work, limits: Limits) -> None:
        """Gives it an item, behind those that it has."""
        with self._lock:
            if not self.in_hand:
                self._since = time.monotonic()
            self.in_hand.append(work.index)
            self._limits[work.index] = limits
        self._send(work)

    def done(self, index: int, peak: int | None) -> None:
        """It has answered for the item that it had in hand first."""
        with self._lock:
            assert self.in_hand.popleft() == index
            del self._limits[index]
            self._since = self.idle_since = time.monotonic()
            self.peak = max(self.peak, peak or 0)

    def watch(self) -> None:
        """Looks at its memory and its time, and ends it if an item takes more than it may."""
        held = process_memory(self.process.pid)
        with self._lock:
            if held is not None:
                self.memory, self.peak = held[0], max(self.peak, held[1])
            if self._verdict:
                return
            if self._begun and time.monotonic() - self._begun_at > SECONDS_TO_START:
                self._condemn("start")
            if not self.in_hand:
                return
            limits = self._limits[self.in_hand[0]]
            if limits.memory is not None and self.memory > limits.memory:
                self._condemn("memory")
            elif time.monotonic() - self._since > limits.seconds:
                self._condemn("time")

    def ended(self) -> Ended:
        """How it ended; waits for that, but not for ever."""
        try:
            self.process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:  # it has closed its pipe, and works on
            self._condemn("protocol")
        code = self.end()
        name = None
        if code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
        words = bytes(self._written).decode(errors="replace").strip()[-LAST_WORDS:]
        return Ended(
            reason=self._verdict or ("killed" if name in KILLS else "crashed"),
            signal=name,
            code=code,
            peak=self.peak or None,
            output=" | ".join(line.strip() for line in words.splitlines() if line.strip()),
        )

    def end(self) -> int:
        """Ends it at once, whatever it does; returns its exit code.

        A process that hangs within the system, on a dead network disk for example, does not end; nobody waits for it then.
        """
        self.process.kill()
        try:
            code = self.process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            return NEVER_ENDED
        self._threads[1].join(1.0)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None and not (stream is self.process.stdout and self._threads[0].is_alive()):
                with contextlib.suppress(OSError):
                    stream.close()
        return code


def _started(threads: int) -> subprocess.Popen[bytes]:
    try:
        if not sys.executable:
            raise OSError("Python does not know its own program (sys.executable is empty)")
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "autoseg.processes.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(os.environ, threads),
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # Windows: Ctrl-C is the command's
        )
    except (OSError, ValueError) as error:
        raise AutosegError(
            f"a worker process cannot be started: {error}. End other programs or use fewer workers if processes, open files "
            "or memory are short; else start autoseg with an installed Python"
        ) from error


def _fewer(wished: str | None, threads: int) -> str:
    """The user's number of threads, if that is smaller."""
    number = (wished or "").split(",")[0].strip()
    return str(min(threads, int(number))) if number.isdecimal() and int(number) else str(threads)


def _environment(inherited: Mapping[str, str], threads: int) -> dict[str, str]:
    """The command's environment with libraries' threads limited, in which this very autoseg is found."""
    environment: dict[str, Any] = {
        **inherited,
        **{name: _fewer(inherited.get(name), threads) for name in THREAD_VARIABLES},
    }
    home = Path(autoseg.__file__).parent.parent
    if home.name not in ("site-packages", "dist-packages"):  # a checkout, perhaps found by the current folder alone
        others = [inherited["PYTHONPATH"]] if inherited.get("PYTHONPATH") else []
        environment["PYTHONPATH"] = os.pathsep.join([str(home), *others])
    return environment
