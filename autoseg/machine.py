"""What this machine, or the container that we run in, really has of memory and processors, and what a process uses.

The system is asked. Limits of control groups (both versions, and of every group above ours) and the machine's own memory are
looked at; the one that leaves least room counts. Pages that only cache files do not count as used: the system gives them up
when asked.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from autoseg.values.json_form import Value

__all__ = [
    "SHARE",
    "Memory",
    "gibibytes",
    "is_running",
    "machine_identity",
    "machine_memory",
    "process_memory",
    "process_start",
    "processor_quota",
]

#: Share of the limit that may be used at most: the rest is for what nobody predicts.
SHARE = 0.9


class Memory(Value, frozen=True, kw_only=True):
    """Bytes that may be used in all, and that are used now."""

    limit: int
    used: int

    @property
    def whole(self) -> int:
        """Bytes that may be used at most, if nobody else uses any."""
        return int(SHARE * self.limit)

    @property
    def room(self) -> int:
        """Bytes that may still be taken."""
        return max(0, self.whole - self.used)


def gibibytes(size: float) -> str:
    """A size for people: ``3.2 GiB``, ``120 MiB``."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def machine_memory(root: Path = Path("/")) -> Memory | None:
    """The tightest limit on this process's memory; None where the system does not tell.

    Args:
        root: folder that holds ``proc`` and ``sys``.
    """
    whole = _whole_machine(root)
    if whole is None:
        return None
    groups = [group for group in _memory_groups(root) if group.limit < whole.limit]
    return min([whole, *groups], key=lambda memory: memory.room)


def _whole_machine(root: Path) -> Memory | None:
    try:
        lines = (root / "proc" / "meminfo").read_text().splitlines()
        told = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
        return Memory(limit=told["MemTotal"], used=told["MemTotal"] - told["MemAvailable"])
    except (OSError, KeyError, ValueError, IndexError):
        return _elsewhere()


def _elsewhere() -> Memory | None:
    """Windows tells what is used; macOS only what there is, of which half is taken as used."""
    if sys.platform == "win32":

        class Status(ctypes.Structure):
            _fields_ = (
                ("length", ctypes.c_uint32),
                ("load", ctypes.c_uint32),
                *((name, ctypes.c_uint64) for name in ("total", "free", "pages", "free_pages", "space", "free_space")),
                ("extended", ctypes.c_uint64),
            )

        status = Status(length=ctypes.sizeof(Status))
        if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            return None
        return Memory(limit=status.total, used=status.total - status.free)
    try:
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    return Memory(limit=limit, used=limit // 2)


def processor_quota(root: Path = Path("/")) -> float | None:
    """How many processors' time the control groups allow this process; None where they set no limit.

    Args:
        root: folder that holds ``proc`` and ``sys``.
    """
    quotas = []
    for version, folder in _control_groups(root, "cpu"):
        with contextlib.suppress(OSError, ValueError):  # no such group, or one without a limit ("max")
            if version == 2:
                quota, period = map(float, (folder / "cpu.max").read_text().split())
            else:
                quota, period = (float((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            if quota > 0 and period > 0:  # -1: no limit
                quotas.append(quota / period)
    return min(quotas, default=None)


def _memory_groups(root: Path) -> Iterator[Memory]:
    """What every group of ours allows."""
    for version, folder in _control_groups(root, "memory"):
        names = ("memory.max", "memory.current", "")
        if version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        with contextlib.suppress(OSError, ValueError):  # no such group, or one without a limit ("max")
            yield _group(folder, *names)


def _control_groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Version and folder of every group of ours, from our own up to the root of what we can see; some are not there."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    mounted = root / "sys" / "fs" / "cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            version, tops = 2, [mounted, mounted / "unified"]
        elif controller in controllers.split(","):
            version, tops = 1, [mounted / controller]
        else:
            continue
        for top in tops:
            folder = top / path.strip("/")
            while True:  # in a container the path may be one of the host's: then only the top is there
                yield version, folder
                if folder == top:
                    break
                folder = folder.parent


def _group(folder: Path, limit: str, used: str, prefix: str) -> Memory:
    allowed, taken = int((folder / limit).read_text()), int((folder / used).read_text())
    cached = 0
    with contextlib.suppress(OSError, ValueError):
        lines = (folder / "memory.stat").read_text().splitlines()
        told = {name: int(size) for name, size in (line.split() for line in lines)}
        cached = told.get(f"{prefix}inactive_file", 0) + told.get(f"{prefix}active_file", 0)
    return Memory(limit=allowed, used=max(0, taken - cached))


def process_memory(process: int | str = "self") -> tuple[int, int] | None:
    """Bytes of memory that a process holds, and the most that it ever held; None where the system does not tell.

    Files that it has mapped count in the second number only: the system takes their pages back when it needs them.
    """
    try:
        lines = Path("/proc", str(process), "status").read_text().splitlines()
        told = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
        mapped = told.get("RssFile", 0)
        return told["VmRSS"] - mapped, told["VmHWM"]
    except (OSError, KeyError, ValueError, IndexError):  # gone, or no such system
        return None


@functools.cache
def machine_identity() -> str:
    """What tells apart where numbers of processes mean different processes: machines, their starts, containers.

    Empty where a process cannot be looked for by its number.
    """
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{started} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname() if os.name == "posix" else ""


def process_start(process: int) -> int | None:
    """When a process began, in the system's own count; None if it is no more, or the system does not tell."""
    state = _state_and_start(process)
    return None if state is None or state[0] in "ZX" else state[1]


def is_running(process: int, began: int | None) -> bool:
    """Whether a process of this machine still runs; a later one of the same number does not count.

    Args:
        process: its number.
        began: what ``process_start`` gave for it.
    """
    if began is not None:
        return process_start(process) == began
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _state_and_start(process: int) -> tuple[str, int] | None:
    """A letter (Z and X: it has ended) and ticks since the system started."""
    try:
        told = Path("/proc", str(process), "stat").read_text()
        fields = told.rpartition(")")[2].split()  # the name before it may hold anything
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
