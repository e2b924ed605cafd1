"""Tasks of the tests: some do their work, some end their process in every way there is."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from autoseg.errors import FindingsError
from autoseg.values import Finding, Value


class NotOursError(Exception):
    """An error that autoseg does not know."""


class Work(Value, frozen=True, kw_only=True):
    """A named piece of work: what to do, and a number or a path to do it with."""

    id: str
    do: str = "double"
    number: float = 0.0
    path: str = ""


class Act(Value, frozen=True, kw_only=True):
    """Does what the item says."""

    @property
    def stage(self) -> str:
        return "act"

    def __call__(self, item: Work) -> float:
        return float(getattr(sys.modules[__name__], item.do)(item))


def double(item: Work) -> float:
    return 2 * item.number


def pid(item: Work) -> float:
    time.sleep(item.number)
    return os.getpid()


def segfault(item: Work) -> float:
    ctypes.string_at(0)
    return 0


def abort(item: Work) -> float:
    os.abort()


def kill(item: Work) -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def kill_soon(item: Work) -> float:
    """Dies when the command has surely seen what it holds."""
    time.sleep(0.25)
    return kill(item)


def kill_once(item: Work) -> float:
    """Dies until it has done so ``number`` times."""
    path = Path(item.path)
    times = len(path.read_text()) if path.exists() else 0
    if times < item.number:
        path.write_text("x" * (times + 1))
        kill(item)
    return times


def crash_once(item: Work) -> float:
    path = Path(item.path)
    if not path.exists():
        path.touch()
        segfault(item)
    return 1


def leave(item: Work) -> float:
    os._exit(7)


def curse(item: Work) -> float:
    """Says something on standard output, as a library would, and ends."""
    os.write(1, b"first line\n\n Fatal: the library is at its end\n")
    os._exit(7)


def quit(item: Work) -> float:
    sys.exit("a plug that believes it is a program")


def hog(item: Work) -> float:
    """Takes memory without end: 16 MiB every 10 ms."""
    held = []
    while True:
        held.append(b"x" * 2**24)
        time.sleep(0.01)


def hold(item: Work) -> float:
    """Holds ``number`` MiB for a while."""
    held = bytearray(b"x") * int(item.number * 2**20)
    time.sleep(0.4)
    return len(held)


def sleep(item: Work) -> float:
    if item.path:
        Path(item.path).write_text(str(os.getpid()))
    time.sleep(item.number)
    return 0


def chatter(item: Work) -> float:
    """Prints as native libraries do, past Python."""
    for _ in range(3000):
        os.write(1, b"WARNING: something that nobody asked about\n")
    sys.stdin.read()
    return 1


def foreign(item: Work) -> float:
    raise NotOursError("nobody knows me")


def huge(item: Work) -> float:
    raise ValueError(10**30)


def undecoded(item: Work) -> float:
    raise ValueError("bad file \udcff")


def findings(item: Work) -> float:
    raise FindingsError("two things", [Finding(severity="note", what="one"), Finding(severity="error", what="two")])


def no_file(item: Work) -> float:
    return len(Path(item.path).read_bytes())


def undecodable(item: Work) -> float:
    return len(b"\xff".decode())


def not_a_number(item: Work) -> float:
    return float("nan")


def threads(item: Work) -> float:
    return float(os.environ["OMP_NUM_THREADS"]) + 100 * float(os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"])
