"""What changed is redone, and nothing else: labels, intensities, cases and bytes, through the real stages."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner

from autoseg import pipeline
from autoseg.cli import autoseg
from autoseg.errors import DiskFullError, InputError, InterruptedRunError
from autoseg.files import write_atomically
from autoseg.phantom import write_phantom_dataset
from autoseg.workspace import Workspace
from tests.conftest import TINY_PRESET

CASES = [f"phantom_{index:03d}" for index in range(6)]


def case_of(folder: Path) -> str:
    """Whose folder of the store it is."""
    return folder.name.rpartition("-")[0]


class Study:
    """A data set of six cases that a test may change, and a workspace with its 2D cases."""

    def __init__(self, folder: Path, scheme: str) -> None:
        self.root, self.workspace, self.scheme = folder / "D", Workspace(folder / "W"), scheme

    def plan(self, **options: object) -> pipeline.Planned:
        """Plans as at first."""
        parts = {"preset": TINY_PRESET, "name": "tiny", "device": "cpu", "memory_gib": 2, "configurations": ["2d"]}
        return pipeline.plan_dataset(self.root, self.workspace, **{**parts, **options})

    def times(self) -> dict[Path, int]:
        """When each stored case was written, by its folder."""
        files = (self.workspace.path / "preprocessed").glob("*/*/record.json")
        return {file.parent: file.stat().st_mtime_ns for file in files}

    def made(self, **options: object) -> set[str]:
        """Preprocesses; the cases that were written."""
        before = self.times()
        pipeline.preprocess(self.workspace, ["2d"], **options)
        return {case_of(folder) for folder, time in self.times().items() if before.get(folder) != time}

    def change(self, kind: str, case: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
        """Writes another array into a file of the data set."""
        file = self.root / kind / f"phantom_{case:03d}{'_0000' if kind == 'imagesTr' else ''}.nii.gz"
        image = SimpleITK.ReadImage(str(file))
        array = SimpleITK.GetArrayFromImage(image)
        changed = SimpleITK.GetImageFromArray(change(array).astype(array.dtype))
        changed.CopyInformation(image)
        SimpleITK.WriteImage(changed, str(file))

    def add(self, case: int) -> None:
        """One case more, unlike the others."""
        other = write_phantom_dataset(
            self.root.parent / "more", 1, seed=case, shape=(8, 24, 24), spacing=(5.0, 2.0, 2.0)
        )
        for kind in ("imagesTr", "labelsTr"):
            for file in (other / kind).iterdir():
                shutil.copy(file, self.root / kind)


def with_scheme(folder: Path, scheme: str) -> None:
    file = folder / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "channel_names": {"0": scheme}}))


@pytest.fixture(scope="module", params=["zscore", "CT"])
def pristine(phantoms: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Study:
    study = Study(tmp_path_factory.mktemp("keys"), request.param)
    shutil.copytree(phantoms, study.root)
    with_scheme(study.root, study.scheme)
    plan = study.plan().plan
    assert plan.normalization[0].scheme == study.scheme.lower()
    assert study.made() == set(CASES)
    return study


@pytest.fixture
def study(pristine: Study, tmp_path: Path) -> Study:
    shutil.copytree(pristine.root.parent, tmp_path / "copy")
    copy = Study(tmp_path / "copy", pristine.scheme)
    copy.plan()  # the data set has moved
    assert copy.made() == set()
    return copy


def one_voxel_more(labels: np.ndarray) -> np.ndarray:
    changed = labels.copy()
    changed[tuple(np.argwhere(labels == 0)[0])] = 1
    return changed


@pytest.mark.parametrize("replanned", [False, True], ids=["", "planned again"])
def test_one_corrected_label_is_one_case(replanned: bool, study: Study) -> None:
    """Planned again, the statistics of CT differ in a late digit; the plan keeps those that it was made with."""
    before = study.workspace.model().plan()
    study.change("labelsTr", 3, one_voxel_more)
    if replanned:
        assert study.plan().plan.id == before.id
    assert study.made() == {"phantom_003"}
    assert study.made() == set()


def test_other_intensities_of_one_case_are_one_case_until_the_plan_itself_changes(study: Study) -> None:
    """A plan does not change by itself. Planned again, one with statistics of the data set takes those of now."""
    study.change("imagesTr", 3, lambda image: image * 3 + 40)
    assert study.made() == {"phantom_003"}
    before = study.workspace.model().plan()
    after = study.plan().plan
    assert (after.id != before.id) == (study.scheme == "CT")
    assert study.made() == (set(CASES) if study.scheme == "CT" else set())


@pytest.mark.parametrize("name", ["tiny", "other"])
def test_one_case_more_is_one_case_and_no_other_fold_changes(name: str, study: Study) -> None:
    before = study.plan()
    study.add(41)
    after = study.plan(name=name)
    assert after.plan.normalization[0].properties == before.plan.normalization[0].properties
    (home,) = [index for index, fold in enumerate(after.split) if "phantom_041" in fold.val]
    for index, (old, new) in enumerate(zip(before.split, after.split, strict=True)):
        assert set(new.val) - {"phantom_041"} == set(old.val)
        assert set(new.train) - {"phantom_041"} == set(old.train)
        assert ("phantom_041" in new.train) == (index != home)
    assert len(before.split[home].val) == min(len(fold.val) for fold in before.split)
    assert study.made() == {"phantom_041"}


def test_a_case_less_costs_nothing(study: Study) -> None:
    for kind in ("imagesTr", "labelsTr"):
        for file in (study.root / kind).glob("phantom_005*"):
            file.unlink()
    study.plan()
    assert study.made() == set()


def flip_hidden(file: Path) -> None:
    """Changes a bit, and leaves size and time as they are."""
    status, whole = file.stat(), bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_the_command_verifies_and_names_what_it_mends(study: Study) -> None:
    (file,) = (study.workspace.path / "preprocessed").glob("*/phantom_002-*/image.*")
    flip_hidden(file)
    before = study.times()
    arguments = ["preprocess", "2d", "-w", str(study.workspace.path)]
    for extra, expected in ((["--verify"], True), (["--verify"], False)):
        result = CliRunner().invoke(autoseg, [*arguments, *extra])
        assert result.exit_code == 0, result.output
        assert ("phantom_002 was damaged and has been made anew" in result.output) == expected
        assert "2d: 6 cases are ready" in result.output
    assert {case_of(folder) for folder, time in study.times().items() if before[folder] != time} == {"phantom_002"}


def test_training_finds_a_flipped_byte_makes_the_case_anew_and_goes_on(study: Study) -> None:
    """Weights are those of a training without damage."""
    clean = Workspace(shutil.copytree(study.workspace.path, study.root.parent / "clean"))
    (undisturbed,) = pipeline.train(clean, "2d", "full", iterations=2, device="cpu")
    (file,) = (study.workspace.path / "preprocessed").glob("*/phantom_004-*/image.*")
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 64
    file.write_bytes(whole)
    (result,) = pipeline.train(study.workspace, "2d", "full", iterations=2, device="cpu")
    assert result.folder.model.read_bytes() == undisturbed.folder.model.read_bytes()


def test_damage_in_the_middle_of_a_training_is_mended_on_the_way(study: Study) -> None:
    """Compressed boxes are checked as they are read; the batches, and so the weights, are those without damage."""
    clean = Workspace(shutil.copytree(study.workspace.path, study.root.parent / "clean"))
    (undisturbed,) = pipeline.train(clean, "2d", "full", iterations=9, device="cpu")
    files = list((study.workspace.path / "preprocessed").glob("*/*/image.chunks"))
    assert len(files) == 6
    execution = undisturbed.folder.execution.read_bytes()
    write_atomically(study.workspace.model().fold("2d", "full").execution, execution)
    told: list[object] = []

    class Listener:
        def event(self, kind: str, **fields: object) -> None:
            if kind == "case_mended":
                told.append(fields["case"])

        def close(self) -> None:
            pass

    def damage_once() -> bool:
        """Asked before every iteration; the first batches are made by then."""
        while files:
            flip_hidden(files.pop())
        return False

    (result,) = pipeline.train(
        study.workspace, "2d", "full", iterations=9, device="cpu", logger=Listener(), stop=damage_once
    )
    assert told
    assert set(told) <= set(CASES)
    assert result.folder.model.read_bytes() == undisturbed.folder.model.read_bytes()


def test_a_training_that_has_not_ended_keeps_the_content_that_it_began_with(study: Study) -> None:
    folder = study.workspace.model().fold("2d", "full")
    with pytest.raises(InterruptedRunError):
        pipeline.train(study.workspace, "2d", "full", iterations=2, device="cpu", stop=folder.job.is_file)
    study.change("labelsTr", 3, one_voxel_more)
    assert study.made() == {"phantom_003"}
    entries = (study.workspace.path / "preprocessed").glob("*/phantom_003-*")
    assert len(list(entries)) == 2
    with pytest.raises(InputError, match="the content of cases changed since"):
        pipeline.train(study.workspace, "2d", "full", iterations=2, device="cpu")


def test_too_small_a_disk_is_told_before_anything_is_written(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = study.workspace.path / "preprocessed"
    shutil.rmtree(folder)
    with monkeypatch.context() as patched:
        patched.setattr("autoseg.disk.free_bytes", lambda folder: 1000)
        with pytest.raises(
            DiskFullError, match=r"no room on the disk of .*preprocessed: 6 cases of 2d take at least .* are free"
        ):
            study.made()
    assert not list(folder.rglob("*.json"))
    assert study.made() == set(CASES)
    with monkeypatch.context() as patched:
        patched.setattr("autoseg.disk.free_bytes", lambda folder: 1000)
        assert study.made() == set()  # what is there needs no room
