"""Room on the disk: told before the work begins, and only where there is clearly too little."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from autoseg import disk, pipeline
from autoseg.errors import DiskFullError
from autoseg.files import read_document
from autoseg.io.chunks import can_compress
from autoseg.values import Fingerprint, Split
from autoseg.workspace import Workspace
from tests.conftest import TINY_PRESET
from tests.planners.synthetic import fingerprint
from tests.small_plans import small_configuration, small_plan
from tests.training.test_loop import Listening

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


def test_probabilities_are_counted_on_each_case_s_own_grid_and_refused_where_they_cannot_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 bits for each of two outputs; a hundredth of that is the least that they take compressed."""
    cases = fingerprint([((1.0, 1.0, 1.0), (20, 30, 40), 3)])
    ids = [case.id for case in cases.cases][:2]
    raw = disk.probability_bytes(PLAN, cases, [*ids, "unknown"])
    assert raw == 2 * 20 * 30 * 40 * 2 * 2
    for compressed, least in ((True, raw // 100), (False, raw)):
        monkeypatch.setattr(disk, "free_bytes", lambda folder, least=least: least)
        disk.check_room_for_probabilities(tmp_path, raw, compressed=compressed)
        monkeypatch.setattr(disk, "free_bytes", lambda folder, least=least: least - 1)
        with pytest.raises(DiskFullError, match=r"probabilities of the held-out cases take at least.*--no-probabil"):
            disk.check_room_for_probabilities(tmp_path, raw, compressed=compressed)


def test_kept_probabilities_of_a_training_are_announced_and_take_the_room_that_was_counted(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real training; with too little room it does not begin. One iteration leaves a network that is certain of nothing."""
    workspace, heard, none = Workspace(tmp_path / "W"), Listening(), Listening()
    pipeline.plan_dataset(phantoms, workspace, preset=TINY_PRESET, name="tiny", device="cpu", memory_gib=2)
    with monkeypatch.context() as short:
        short.setattr(disk, "free_bytes", lambda folder: 10)
        with pytest.raises(DiskFullError, match="probabilities of the held-out cases"):
            pipeline.train(workspace, "2d", "0", iterations=1, device="cpu")
        assert not (workspace.model().path / "2d").exists()
    (result,) = pipeline.train(workspace, "2d", "0", iterations=1, device="cpu", logger=heard)
    taken = sum(file.stat().st_size for file in result.folder.path.glob("validation/probabilities/*/levels.*"))
    shutil.rmtree(result.folder.path)
    pipeline.train(workspace, "2d", "0", iterations=1, device="cpu", logger=none, probabilities=False)
    told = [logger.all("expected")[-1]["disk_bytes"] for logger in (heard, none)]
    held_out = read_document(Split, workspace.split_path)[0].val
    fingerprint = read_document(Fingerprint, workspace.fingerprint_path())
    raw = disk.probability_bytes(workspace.model().plan(), fingerprint, held_out)
    assert told[0] - told[1] == int(raw * (disk.SHARE_OF_PROBABILITIES if can_compress() else 1))
    assert disk.LEAST_OF_PROBABILITIES * raw < taken < 1.01 * raw
