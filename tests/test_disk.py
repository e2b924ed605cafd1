"""Room on the disk: told before the work begins, and only where there is clearly too little."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from autoseg import disk
from autoseg.errors import DiskFullError
from tests.planners.synthetic import fingerprint
from tests.small_plans import small_configuration, small_plan

CONFIGURATION = small_configuration(spacing=(2.0, 1.0, 1.0))
PLAN = small_plan(CONFIGURATION)


def test_bytes_are_counted_on_the_grid_of_the_configuration() -> None:
    """4 a voxel for the channel, 1 for the label; half the slices where the spacing is twice as wide."""
    cases = fingerprint([((1.0, 1.0, 1.0), (20, 30, 40), 3)])
    found = disk.mapped_bytes(PLAN, CONFIGURATION, cases)
    assert found.keys() == {case.id for case in cases.cases}
    assert set(found.values()) == {10 * 30 * 40 * 5}


@pytest.mark.parametrize("compressed", [False, True])
def test_the_least_that_is_needed_must_be_free(
    compressed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = fingerprint([((1.0, 1.0, 1.0), (20, 30, 40), 3)])
    ids = [case.id for case in cases.cases][:2]
    needed = 2 * 10 * 30 * 40 * 5 // (4 if compressed else 1)
    monkeypatch.setattr(disk, "free_bytes", lambda folder: needed)
    disk.check_room(tmp_path, PLAN, {"tiny": ids}, cases, compressed=lambda: compressed)
    monkeypatch.setattr(disk, "free_bytes", lambda folder: needed - 1)
    with pytest.raises(DiskFullError, match=r"no room on the disk of .*: 2 cases of tiny take at least .* GiB"):
        disk.check_room(tmp_path, PLAN, {"tiny": ids}, cases, compressed=lambda: compressed)
    disk.check_room(tmp_path, PLAN, {"tiny": ["unknown"]}, cases, compressed=lambda: compressed)


def test_all_configurations_together_must_find_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan(CONFIGURATION, msgspec.structs.replace(CONFIGURATION, name="other"))
    cases = fingerprint([((1.0, 1.0, 1.0), (20, 30, 40), 2)])
    ids = [case.id for case in cases.cases]
    needed = (2 + 1) * 10 * 30 * 40 * 5
    monkeypatch.setattr(disk, "free_bytes", lambda folder: needed)
    disk.check_room(tmp_path, plan, {"tiny": ids, "other": ids[:1]}, cases, compressed=lambda: False)
    monkeypatch.setattr(disk, "free_bytes", lambda folder: needed - 1)
    with pytest.raises(DiskFullError, match=r"2 cases of tiny, 1 case of other take at least"):
        disk.check_room(tmp_path, plan, {"tiny": ids, "other": ids[:1]}, cases, compressed=lambda: False)


def test_the_disk_of_a_folder_that_is_not_there_yet_is_that_of_its_parent(tmp_path: Path) -> None:
    assert disk.free_bytes(tmp_path / "a" / "b") > 0
