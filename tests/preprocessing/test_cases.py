"""Preprocessing a data set: only what changed is made, a stop or a bad case costs nothing that is done."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import SimpleITK

from autoseg.errors import CasesFailedError, InterruptedRunError
from autoseg.executors import SerialExecutor, ThreadExecutor
from autoseg.files import ContentIndex
from autoseg.io.case_store import CaseStore
from autoseg.io.layouts import read_dataset
from autoseg.phantom import write_phantom_dataset
from autoseg.preprocessing.cases import preprocess_cases
from autoseg.values import Dataset, Plan


class Listener:
    """Keeps all events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, kind: str, **fields: object) -> None:
        self.events.append((kind, fields))

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom_dataset(
        tmp_path_factory.mktemp("pristine") / "D", 4, seed=20, shape=(5, 12, 12), spacing=(8.0, 4.0, 4.0)
    )


class Run:
    """A data set of four cases that a test may damage, and the store of what is made from it."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.root = folder / "D"
        self.store = CaseStore(folder / "store")

    @property
    def dataset(self) -> Dataset:
        return read_dataset(self.root)[0]

    def __call__(self, *, stop: Callable[[], bool] = lambda: False, threads: int = 0) -> tuple[dict[str, str], dict]:
        """Preprocesses all; returns the keys, and how many cases were made and kept."""
        listener, dataset = Listener(), self.dataset
        contents = ContentIndex(self.folder / "sources.json")
        executor = ThreadExecutor(threads) if threads else SerialExecutor()
        keys = preprocess_cases(
            *(dataset, dataset.cases, self.plan, self.plan.configurations[0]),
            *(self.store, contents, executor, listener, stop),
        )
        return keys, next(fields for kind, fields in listener.events if kind == "preprocessed")

    def times(self) -> dict[str, int]:
        """When each stored case was written."""
        return {
            file.parent.name.rpartition("-")[0]: file.stat().st_mtime_ns for file in self.store.folder.glob("*/*.json")
        }

    def file(self, kind: str, case: int) -> Path:
        suffix = "_0000" if kind == "imagesTr" else ""
        return self.root / kind / f"phantom_{case:03d}{suffix}.nii.gz"


@pytest.fixture
def run(pristine: Path, tmp_path: Path, make_plan: Callable[..., Plan]) -> Iterator[Run]:
    shutil.copytree(pristine, tmp_path / "D")
    return Run(tmp_path, make_plan(spacing=(6.0, 3.0, 3.0)))


def counts(fields: dict[str, Any]) -> tuple[int, int]:
    return fields["made"], fields["kept"]


def change_label(file: Path, value: int = 2) -> None:
    image = SimpleITK.ReadImage(str(file))
    image[0, 0, 0] = value
    SimpleITK.WriteImage(image, str(file))


def test_all_cases_are_made_once_and_then_left_alone(run: Run) -> None:
    keys, fields = run()
    assert list(keys) == [f"phantom_{case:03d}" for case in range(20, 24)]
    assert counts(fields) == (4, 0)
    times = run.times()
    again, fields = run()
    assert (again, counts(fields), run.times()) == (keys, (0, 4), times)


def test_what_is_stored_is_the_case_with_its_labels_as_in_the_file(run: Run) -> None:
    for case, key in run()[0].items():
        stored = run.store.open(case, key)
        truth = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(run.root / "labelsTr" / f"{case}.nii.gz")))
        np.testing.assert_array_equal(stored.reference, truth)
        assert stored.record.case_id == case
        assert stored.record.source.shape == truth.shape
        assert stored.image.shape == (1, *stored.record.shape)


@pytest.mark.parametrize("kind", ["imagesTr", "labelsTr"])
def test_a_changed_file_costs_its_own_case_only(kind: str, run: Run) -> None:
    before, times = run()[0], run.times()
    change_label(run.file(kind, 22))
    after, fields = run()
    assert counts(fields) == (1, 3)
    assert {case for case in before if before[case] != after[case]} == {"phantom_022"}
    assert {case for case, time in run.times().items() if time != times[case]} == {"phantom_022"}
    assert len(run.times()) == 4  # the old entry is gone


def test_a_touched_file_with_the_same_content_costs_nothing(run: Run) -> None:
    keys, _ = run()
    run.file("labelsTr", 22).touch()
    again, fields = run()
    assert (again, counts(fields)) == (keys, (0, 4))


def test_a_new_case_costs_its_own_making_only(run: Run) -> None:
    run()
    for kind in ("imagesTr", "labelsTr"):
        shutil.copy(run.file(kind, 20), run.file(kind, 30))
    assert counts(run()[1]) == (1, 4)


def test_other_parameters_are_another_key(run: Run, make_plan: Callable[..., Plan]) -> None:
    before, _ = run()
    run.plan = make_plan(spacing=(6.0, 3.0, 4.0))
    after, fields = run()
    assert counts(fields) == (4, 0)
    assert not set(before.values()) & set(after.values())


def test_a_stop_keeps_what_is_done_and_the_next_run_goes_on(run: Run) -> None:
    answers = iter([False, True])
    with pytest.raises(InterruptedRunError, match="2 of 4"):
        run(stop=lambda: next(answers))
    assert len(run.times()) == 2
    assert counts(run()[1]) == (2, 2)


def test_a_bad_case_is_named_the_others_are_stored_and_mending_costs_only_it(run: Run) -> None:
    whole = run.file("imagesTr", 21).read_bytes()
    run.file("imagesTr", 21).write_bytes(b"not an image")
    run.file("labelsTr", 23).write_bytes(b"not an image")
    with pytest.raises(CasesFailedError, match="phantom_021") as caught:
        run()
    assert set(caught.value.failures) == {"phantom_021", "phantom_023"}
    assert caught.value.done == 2
    assert set(run.times()) == {"phantom_020", "phantom_022"}
    run.file("imagesTr", 21).write_bytes(whole)
    with pytest.raises(CasesFailedError) as caught:
        run()
    assert (set(caught.value.failures), caught.value.done) == ({"phantom_023"}, 3)


def test_an_undeclared_label_fails_its_case_with_the_value(run: Run) -> None:
    change_label(run.file("labelsTr", 20), 77)
    with pytest.raises(CasesFailedError, match=r"phantom_020: .*77"):
        run()


def test_a_case_without_label_fails_with_that_reason(run: Run) -> None:
    run.file("labelsTr", 20).unlink()
    with pytest.raises(CasesFailedError, match=r"phantom_020: .*no label file"):
        run()
    assert len(run.times()) == 3


def test_threads_store_what_one_after_another_stores(run: Run) -> None:
    alone, _ = run()
    arrays = {case: np.array(run.store.open(case, key).image) for case, key in alone.items()}
    shutil.rmtree(run.store.folder)
    threaded, _ = run(threads=3)
    assert threaded == alone
    for case, key in threaded.items():
        np.testing.assert_array_equal(run.store.open(case, key).image, arrays[case])


def test_a_machine_without_the_data_set_uses_what_was_preprocessed(run: Run) -> None:
    dataset = run.dataset
    keys, _ = run()
    shutil.rmtree(run.root)
    listener, contents = Listener(), ContentIndex(run.folder / "sources.json")
    again = preprocess_cases(
        *(dataset, dataset.cases, run.plan, run.plan.configurations[0]),
        *(run.store, contents, SerialExecutor(), listener, lambda: False),
    )
    assert again == keys


def test_progress_counts_every_case(run: Run) -> None:
    dataset, listener = run.dataset, Listener()
    preprocess_cases(
        *(dataset, dataset.cases, run.plan, run.plan.configurations[0]),
        *(run.store, ContentIndex(run.folder / "sources.json"), SerialExecutor(), listener, lambda: False),
    )
    progress = [(fields["done"], fields["total"]) for kind, fields in listener.events if kind == "progress"]
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_no_cases_are_no_work(run: Run) -> None:
    nothing = msgspec.structs.replace(run.dataset, cases=())
    keys = preprocess_cases(
        *(nothing, (), run.plan, run.plan.configurations[0]),
        *(run.store, ContentIndex(run.folder / "sources.json"), SerialExecutor(), Listener(), lambda: False),
    )
    assert keys == {}
