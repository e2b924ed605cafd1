"""Preprocessing a data set: only what changed is made, a stop or a bad case costs nothing that is done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import SimpleITK

from autoseg.errors import CasesFailedError, DiskFullError, InterruptedRunError
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
        self.listener = Listener()

    @property
    def dataset(self) -> Dataset:
        return read_dataset(self.root)[0]

    def __call__(
        self, *, stop: Callable[[], bool] = lambda: False, threads: int = 0, **options: Any
    ) -> tuple[dict[str, str], dict]:
        """Preprocesses all; returns the keys, and how many cases were made and kept."""
        self.listener, dataset = Listener(), self.dataset
        listener = self.listener
        contents = ContentIndex(self.folder / "sources.json")
        executor = ThreadExecutor(threads) if threads else SerialExecutor()
        keys = preprocess_cases(
            *(dataset, dataset.cases, self.plan, {"3d_fullres": self.store}),
            *(contents, executor, listener, stop),
            **options,
        )
        return keys["3d_fullres"], next(fields for kind, fields in listener.events if kind == "preprocessed")

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
        *(dataset, dataset.cases, run.plan, {"3d_fullres": run.store}),
        *(contents, SerialExecutor(), listener, lambda: False),
    )
    assert again == {"3d_fullres": keys}


def test_progress_counts_every_case(run: Run) -> None:
    dataset, listener = run.dataset, Listener()
    preprocess_cases(
        *(dataset, dataset.cases, run.plan, {"3d_fullres": run.store}),
        *(ContentIndex(run.folder / "sources.json"), SerialExecutor(), listener, lambda: False),
    )
    progress = [(fields["done"], fields["total"]) for kind, fields in listener.events if kind == "progress"]
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_no_cases_are_no_work(run: Run) -> None:
    nothing = msgspec.structs.replace(run.dataset, cases=())
    keys = preprocess_cases(
        *(nothing, (), run.plan, {"3d_fullres": run.store}),
        *(ContentIndex(run.folder / "sources.json"), SerialExecutor(), Listener(), lambda: False),
    )
    assert keys == {"3d_fullres": {}}


def damage(run: Run, case: int, *, hidden: bool, name: str = "image") -> Path:
    """Flips a bit near the end of a stored file; a hidden one leaves size and time as they were."""
    (file,) = run.store.folder.glob(f"phantom_{case:03d}-*/{name}.*")
    status, whole = file.stat(), bytearray(file.read_bytes())
    whole[-20] ^= 4
    file.write_bytes(whole)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns if hidden else status.st_mtime_ns + 10**9))
    return file


def content(run: Run, case: int) -> dict[str, bytes]:
    """What a stored case's files hold, but for the one that tells of their times."""
    files = run.store.folder.glob(f"phantom_{case:03d}-*/*")
    return {file.name: file.read_bytes() for file in files if file.name != "verified.json"}


def mended(run: Run) -> list[object]:
    return [fields["case"] for kind, fields in run.listener.events if kind == "case_mended"]


@pytest.mark.parametrize("compressed", [False, True], ids=["mapped", "compressed"])
@pytest.mark.parametrize("name", ["image", "segmentation", "locations", "reference", "record"])
def test_a_flipped_byte_is_found_and_its_case_alone_is_made_anew(name: str, compressed: bool, run: Run) -> None:
    run.store = CaseStore(run.folder / "store", compressed=compressed)
    keys, _ = run()
    times = run.times()
    whole = {
        file.name: file.read_bytes() for file in run.store.folder.glob("phantom_022-*/*") if "verified" not in file.name
    }
    damage(run, 22, hidden=False, name=name)
    again, fields = run()
    assert (again, counts(fields), mended(run)) == (keys, (1, 3), ["phantom_022"])
    assert {case for case, time in run.times().items() if time != times[case]} == {"phantom_022"}
    after = {
        file.name: file.read_bytes() for file in run.store.folder.glob("phantom_022-*/*") if "verified" not in file.name
    }
    assert after == whole
    assert (counts(run()[1]), mended(run)) == ((0, 4), [])


def test_damage_of_which_size_and_time_do_not_tell_is_found_when_asked_to_verify(run: Run) -> None:
    run()
    damage(run, 21, hidden=True)
    damage(run, 23, hidden=True, name="reference")
    assert counts(run()[1]) == (0, 4)
    assert counts(run(verify=True)[1]) == (2, 2)
    assert sorted(map(str, mended(run))) == ["phantom_021", "phantom_023"]
    assert counts(run(verify=True)[1]) == (0, 4)


def test_verifying_reads_the_files_of_the_data_set_again(run: Run) -> None:
    """A file that was exchanged for another of the same size and time."""
    before, _ = run()
    file = run.file("labelsTr", 20)
    status = file.stat()
    change_label(file)
    data = file.read_bytes()
    file.write_bytes(data + bytes(max(0, status.st_size - len(data))))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    if file.stat().st_size == status.st_size:
        assert run()[0] == before
    after, fields = run(verify=True)
    assert counts(fields) == (1, 3)
    assert {case for case in before if before[case] != after[case]} == {"phantom_020"}


def test_a_damaged_case_without_its_files_is_named_and_left_and_the_others_are_done(run: Run) -> None:
    dataset = run.dataset
    run()
    shutil.rmtree(run.root)
    damaged = damage(run, 22, hidden=False)
    before = damaged.read_bytes()
    with pytest.raises(CasesFailedError, match=r"phantom_022: .*not as it was written.*cannot be made anew") as caught:
        preprocess_cases(
            *(dataset, dataset.cases, run.plan, {"3d_fullres": run.store}),
            *(ContentIndex(run.folder / "sources.json"), SerialExecutor(), Listener(), lambda: False),
        )
    assert (set(caught.value.failures), caught.value.done) == ({"phantom_022"}, 3)
    assert damaged.read_bytes() == before


def test_older_content_that_a_training_still_needs_is_spared(run: Run) -> None:
    before, _ = run()
    change_label(run.file("labelsTr", 22))
    after, _ = run(spared=before.values())
    assert run.store.has("phantom_022", before["phantom_022"])
    assert run.store.has("phantom_022", after["phantom_022"])
    change_label(run.file("labelsTr", 22), 1)
    run()
    assert not run.store.has("phantom_022", before["phantom_022"])


@pytest.mark.skipif(os.name != "posix", reason="a limit of file sizes is POSIX")
@pytest.mark.parametrize("threads", [0, 3])
def test_a_full_disk_is_one_clear_error_and_the_next_run_goes_on(threads: int, run: Run) -> None:
    """The limit of a file's size stands for a full disk: no case can be written, and only the first says so."""
    import resource

    run.store = CaseStore(run.folder / "store", compressed=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(DiskFullError, match=r"no room on the disk of .*store.*repeat the command"):
            run(threads=threads)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(run.store.folder.iterdir()) == []
    assert counts(run()[1]) == (4, 0)
