"""Several configurations at once: each case is read once, and everything else is as if they were made one by one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from autoseg.errors import AutosegError, CasesFailedError
from autoseg.executors import Executor, SerialExecutor
from autoseg.files import ContentIndex
from autoseg.io.case_store import CaseStore
from autoseg.io.layouts import read_dataset
from autoseg.phantom import write_phantom_dataset
from autoseg.preprocessing import case_task
from autoseg.preprocessing.cases import preprocess_cases
from autoseg.processes.executor import ProcessExecutor
from autoseg.values import Dataset, NormalizationSpec, Plan, ResamplingSpec
from autoseg.volume.resample import SeparableResampler
from tests.preprocessing.conftest import plan_of

CASES = [f"phantom_{case:03d}" for case in range(20, 23)]
FINE, COARSE = (6.0, 3.0, 3.0), (8.0, 6.0, 6.0)
HERE = "tests.preprocessing.test_several_configurations"


class Refusing(SeparableResampler):
    """Refuses label maps of one of the phantoms."""

    def labels(self, labels: np.ndarray, *arguments: Any) -> np.ndarray:
        if labels.shape[0] == 6:
            raise ValueError("six slices are too many for me")
        return super().labels(labels, *arguments)


class Crashing(SeparableResampler):
    """Takes its process with it."""

    def labels(self, labels: np.ndarray, *arguments: Any) -> np.ndarray:
        os._exit(3)


def shameless(image: np.ndarray, mask: np.ndarray | None, properties: object) -> np.ndarray:
    """A normalizer that breaks its promise: it changes what it was given."""
    image *= 2
    return image


class Study:
    """Three cases, a plan of two configurations, and their stores."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.stores = {name: CaseStore(folder / name) for name in plan.names}
        self.events: list[tuple[str, dict[str, Any]]] = []

    @property
    def dataset(self) -> Dataset:
        return read_dataset(self.folder / "D")[0]

    def event(self, kind: str, **fields: object) -> None:
        self.events.append((kind, fields))

    def close(self) -> None:
        pass

    def __call__(
        self, *names: str, dataset: Dataset | None = None, executor: Executor | None = None, **options: Any
    ) -> dict[str, dict[str, str]]:
        dataset, self.events = dataset or self.dataset, []
        return preprocess_cases(
            *(dataset, dataset.cases, self.plan, {name: self.stores[name] for name in names or self.plan.names}),
            *(ContentIndex(self.folder / "sources.json"), executor or SerialExecutor(), self, lambda: False),
            **options,
        )

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [fields for each, fields in self.events if each == kind]

    def counts(self) -> dict[str, tuple[int, int]]:
        """Made and kept by configuration."""
        return {each["configuration"]: (each["made"], each["kept"]) for each in self.told("preprocessed")}


def two_grids(*, resampler: str = "separable", scheme: str = "zscore") -> Plan:
    plan = plan_of(spacing=FINE, normalization=(NormalizationSpec(scheme=scheme),))
    (fine,) = plan.configurations
    coarse = msgspec.structs.replace(
        fine, name="coarse", spacing=COARSE, resampling=ResamplingSpec(resampler=resampler)
    )
    return msgspec.structs.replace(plan, configurations=(fine, coarse))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    write_phantom_dataset(folder / "D", 2, seed=20, shape=(5, 12, 12), spacing=(8.0, 4.0, 4.0))
    write_phantom_dataset(folder / "E", 1, seed=22, shape=(6, 12, 12), spacing=(8.0, 4.0, 4.0))
    for file in (folder / "E").glob("*/*.nii.gz"):
        shutil.move(file, folder / "D" / file.parent.name)
    return folder / "D"


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    shutil.copytree(pristine, tmp_path / "D")
    return tmp_path


def test_both_are_as_if_made_alone_and_every_case_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, original = [], case_task.check_case
    monkeypatch.setattr(case_task, "check_case", lambda data, case: read.append(case.id) or original(data, case))
    both = Study(folder, two_grids())
    keys = both()
    assert read == CASES
    assert both.counts() == {"3d_fullres": (3, 0), "coarse": (3, 0)}
    assert [each["done"] for each in both.told("progress")] == [1, 2, 3]
    alone = Study(folder, two_grids())
    for name in alone.plan.names:
        alone.stores[name] = CaseStore(folder / "alone" / name)
        assert alone(name) == {name: keys[name]}
        for case, key in keys[name].items():
            one, other = alone.stores[name].open(case, key), both.stores[name].open(case, key)
            assert one.record == other.record
            for part in ("image", "segmentation", "reference"):
                np.testing.assert_array_equal(getattr(one, part), getattr(other, part))


def test_only_what_is_missing_is_made(folder: Path) -> None:
    study = Study(folder, two_grids())
    first = study("coarse")["coarse"]
    shutil.rmtree(next(study.stores["coarse"].folder.glob(f"{CASES[1]}-*")))
    assert study()["coarse"] == first
    assert study.counts() == {"3d_fullres": (3, 0), "coarse": (1, 2)}
    assert study()["coarse"] == first
    assert study.counts() == {"3d_fullres": (0, 3), "coarse": (0, 3)}


def test_one_folder_for_two_configurations_is_filled_once(folder: Path) -> None:
    study = Study(folder, two_grids())
    twin = msgspec.structs.replace(study.plan.configuration("coarse"), name="twin")
    study.plan = msgspec.structs.replace(study.plan, configurations=(*study.plan.configurations, twin))
    study.stores["twin"] = study.stores["coarse"]
    keys = study("coarse", "twin")
    assert keys["coarse"] == keys["twin"]
    assert study.counts() == {"coarse": (3, 0), "twin": (0, 3)}


def test_a_case_that_fails_on_one_grid_is_named_with_it_and_made_on_the_other(folder: Path) -> None:
    study = Study(folder, two_grids(resampler=f"{HERE}:Refusing"))
    with pytest.raises(CasesFailedError, match=r"preprocess coarse: 1 of 3 cases failed") as caught:
        study()
    assert list(caught.value.failures) == [CASES[2]]
    assert study.counts() == {"3d_fullres": (3, 0), "coarse": (2, 0)}
    (failed,) = study.told("case_failed")
    assert (failed["case"], failed["stage"]) == (CASES[2], "preprocess coarse")
    assert "six slices" in failed["error"]
    assert "Refusing" not in failed["error"]
    assert "test_several_configurations.py" in failed["traceback"]
    assert len(study("3d_fullres")["3d_fullres"]) == 3


def test_different_failures_are_told_with_their_grids(folder: Path) -> None:
    """One file cannot be read, which is told once; one case fails on one grid only."""
    study = Study(folder, two_grids(resampler=f"{HERE}:Refusing"))
    (folder / "D" / "imagesTr" / f"{CASES[0]}_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(CasesFailedError, match=r"preprocess 3d_fullres, coarse: 2 of 3") as caught:
        study()
    told = {case: str(error) for case, error in caught.value.failures.items()}
    assert told.keys() == {CASES[0], CASES[2]}
    assert "coarse" not in told[CASES[0]]
    assert told[CASES[2]].startswith("coarse: ValueError: six slices")
    assert study.counts() == {"3d_fullres": (2, 0), "coarse": (1, 0)}


def test_a_normalizer_cannot_change_what_the_next_grid_is_made_from(folder: Path) -> None:
    study = Study(folder, two_grids(scheme=f"{HERE}:shameless"))
    with pytest.raises(CasesFailedError, match="read-only") as caught:
        study()
    assert caught.value.done == 0
    assert not [*study.stores["coarse"].folder.glob("*"), *study.stores["3d_fullres"].folder.glob("*")]


@pytest.mark.slow
def test_what_a_lost_worker_had_stored_before_counts(folder: Path) -> None:
    study = Study(folder, two_grids(resampler=f"{HERE}:Crashing"))
    data = study.dataset
    data = msgspec.structs.replace(data, cases=data.cases[:1])
    contents = ContentIndex(folder / "sources.json")
    for file in (*data.cases[0].images, str(data.cases[0].label)):
        contents.sha256(Path(data.root, file))
    contents.save()
    with ProcessExecutor(1) as executor, pytest.raises(AutosegError, match="preprocess coarse: 1 of 1 case"):
        study(dataset=data, executor=executor)
    assert study.counts() == {"3d_fullres": (1, 0), "coarse": (0, 0)}


@pytest.mark.parametrize("gone", ["all", "labels"])
def test_verifying_without_the_data_set_takes_what_is_stored(folder: Path, gone: str) -> None:
    """Files that are gone keep their last known content; what is stored is read all the same."""
    study = Study(folder, two_grids())
    dataset, keys = study.dataset, study()
    shutil.rmtree(folder / "D" if gone == "all" else folder / "D" / "labelsTr")
    assert study(dataset=dataset, verify=True) == keys
    assert study.counts() == {"3d_fullres": (0, 3), "coarse": (0, 3)}
    (file,) = study.stores["coarse"].folder.glob(f"{CASES[1]}-*/reference.*")
    status, whole = file.stat(), bytearray(file.read_bytes())
    whole[-20] ^= 4
    file.write_bytes(whole)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(CasesFailedError, match=r"preprocess coarse: 1 of 3 .*\n.*cannot be made anew") as caught:
        study(dataset=dataset, verify=True)
    assert list(caught.value.failures) == [CASES[1]]
    assert file.read_bytes() == whole
