"""What the machine has: the tightest of its own memory and of every control group above us."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from autoseg.executors import usable_cpus
from autoseg.machine import Memory, gibibytes, machine_memory, process_memory, processor_quota

GIB = 2**30


def machine(root: Path, *, total: int = 64, available: int = 48, groups: str = "") -> Path:
    """A machine's /proc and /sys, with sizes in GiB."""
    (root / "proc" / "self").mkdir(parents=True)
    text = f"MemTotal: {total * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {available * 2**20} kB\nHugePages_Total: 0\n"
    (root / "proc" / "meminfo").write_text(text)
    (root / "proc" / "self" / "cgroup").write_text(groups)
    return root


def group(folder: Path, names: tuple[str, str], limit: object, used: float, stat: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{int(used * GIB)}\n")
    (folder / "memory.stat").write_text(stat)


FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes")
SECOND = ("memory.max", "memory.current")


def test_without_groups_the_machines_own_memory_counts(tmp_path: Path) -> None:
    memory = machine_memory(machine(tmp_path))
    assert memory == Memory(limit=64 * GIB, used=16 * GIB)
    assert memory.room == int(0.9 * 64 * GIB) - 16 * GIB
    assert memory.whole == int(0.9 * 64 * GIB)


def test_a_limited_group_of_the_second_version_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, groups="0::/user/job\n")
    group(root / "sys/fs/cgroup/user/job", SECOND, "max", 3)
    group(root / "sys/fs/cgroup/user", SECOND, 16 * GIB, 4)
    assert machine_memory(root) == Memory(limit=16 * GIB, used=4 * GIB)


def test_a_limited_group_of_the_first_version_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, groups="5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n")
    group(root / "sys/fs/cgroup/memory/job", FIRST, 8 * GIB, 2)
    group(root / "sys/fs/cgroup/memory", FIRST, 9223372036854771712, 30)
    assert machine_memory(root) == Memory(limit=8 * GIB, used=2 * GIB)


def test_in_a_container_whose_groups_path_is_the_hosts_the_top_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, groups="0::/system.slice/docker-0123.scope\n")
    group(root / "sys/fs/cgroup", SECOND, 4 * GIB, 1)
    assert machine_memory(root) == Memory(limit=4 * GIB, used=GIB)


def test_pages_that_only_cache_files_do_not_count_as_used(tmp_path: Path) -> None:
    root = machine(tmp_path, groups="0::/\n")
    stat = f"anon 1\ninactive_file {2 * GIB}\nactive_file {GIB}\n"
    group(root / "sys/fs/cgroup", SECOND, 8 * GIB, 5, stat)
    assert machine_memory(root) == Memory(limit=8 * GIB, used=2 * GIB)


def test_the_group_with_the_least_room_counts_not_the_one_with_the_least_limit(tmp_path: Path) -> None:
    root = machine(tmp_path, groups="0::/a/b\n")
    group(root / "sys/fs/cgroup/a", SECOND, 32 * GIB, 30)
    group(root / "sys/fs/cgroup/a/b", SECOND, 16 * GIB, 2)
    assert machine_memory(root) == Memory(limit=32 * GIB, used=30 * GIB)
    assert machine_memory(root).room == 0


def test_a_machine_that_is_full_already_is_the_limit(tmp_path: Path) -> None:
    root = machine(tmp_path, available=1, groups="0::/\n")
    group(root / "sys/fs/cgroup", SECOND, 32 * GIB, 1)
    assert machine_memory(root) == Memory(limit=64 * GIB, used=63 * GIB)


def test_this_machine_tells_something_plausible() -> None:
    memory = machine_memory()
    assert memory is not None
    assert 0 < memory.used < memory.limit
    assert memory.limit > 2**28


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell")
def test_a_process_holds_what_it_has_touched() -> None:
    before = process_memory()
    with mmap.mmap(-1, 64 * 2**20) as block:  # memory of its own, whatever the allocator has kept from before
        block.write(b"x" * len(block))
        held = process_memory(os.getpid())
    assert before is not None
    assert held is not None
    assert held[0] - before[0] > 0.9 * 64 * 2**20
    assert held[1] >= held[0]
    assert process_memory(2**22 + 1) is None


def test_sizes_for_people() -> None:
    assert (gibibytes(3.25 * GIB), gibibytes(120 * 2**20)) == ("3.2 GiB", "120 MiB")


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {}, None),
        ("0::/job\n", {"job/cpu.max": "max 100000\n", "cpu.max": "250000 100000\n"}, 2.5),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "800000 100000\n"}, 4.0),
        (
            "3:cpu,cpuacct:/job\n0::/\n",
            {"cpu/job/cpu.cfs_quota_us": "50000", "cpu/job/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ],
    ids=["none", "of the group above", "of two the smaller one", "first version", "first version without a limit"],
)
def test_the_processors_that_control_groups_allow(
    tmp_path: Path, groups: str, files: dict[str, str], quota: float | None
) -> None:
    root = machine(tmp_path, groups=groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert processor_quota(root) == quota


@pytest.mark.parametrize(("quota", "processors"), [(None, 8), (2.5, 2), (0.5, 1), (64.0, 8)])
def test_no_more_processors_are_used_than_there_is_time_for(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, processors: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr("autoseg.executors.processor_quota", lambda: quota)
    assert usable_cpus() == processors
