"""The store of preprocessed cases: what was saved comes back, whoever else saves, and damage is told by case."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from autoseg.errors import InputError
from autoseg.io.case_store import CaseStore, StoredCase
from autoseg.values import AxisMap, Geometry, PreprocessRecord

FILES = ("image.npy", "segmentation.npy", "locations.npy", "reference.npy", "record.json")


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def case(id_: str = "a", content: str = "first", shape: tuple[int, int, int] = (3, 4, 5)) -> StoredCase:
    """A case whose arrays depend on its content."""
    random = np.random.default_rng(int(key(content)[:8], 16))
    segmentation = random.integers(-1, 3, shape).astype(np.int8)
    record = PreprocessRecord(
        case_id=id_,
        key=key(content),
        source=Geometry(shape=(6, 4, 5), spacing=(2.0, 1.0, 1.0)),
        axes=AxisMap(),
        crop_start=(0, 0, 0),
        crop_shape=(6, 4, 5),
        spacing=(2.0, 1.0, 1.0),
        shape=shape,
        target_spacing=(4.0, 1.0, 1.0),
    )
    return StoredCase(
        record=record,
        image=random.standard_normal((2, *shape)).astype(np.float32),
        segmentation=segmentation,
        locations={label: np.argwhere(segmentation == label) for label in (1, 2)},
        reference=random.integers(0, 3, (6, 4, 5)).astype(np.uint8),
    )


def assert_stored(store: CaseStore, expected: StoredCase) -> None:
    """The store has the case, whole."""
    assert store.has(expected.record.case_id, expected.record.key)
    found = store.open(expected.record.case_id, expected.record.key)
    assert found.record == expected.record
    for name in ("image", "segmentation", "reference"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    assert {label for label, at in expected.locations.items() if len(at)} == set(found.locations)
    for label, at in found.locations.items():
        np.testing.assert_array_equal(at, expected.locations[label])


def folders(store: CaseStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_a_saved_case_comes_back(tmp_path: Path) -> None:
    store = CaseStore(tmp_path / "new")
    store.save(case())
    assert_stored(store, case())


def test_large_arrays_are_mapped_and_cannot_be_changed(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.save(case())
    found = store.open("a", key("first"))
    assert isinstance(found.image, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found.image[...] = 0


def test_a_case_without_foreground_has_no_locations(tmp_path: Path) -> None:
    store, empty = CaseStore(tmp_path), dataclasses.replace(case(), locations={})
    store.save(empty)
    assert_stored(store, empty)
    assert store.open("a", key("first")).locations == {}


def test_what_is_not_stored_is_not_had(tmp_path: Path) -> None:
    store = CaseStore(tmp_path / "nothing")
    assert not store.has("a", key("first"))
    with pytest.raises(InputError, match="case a"):
        store.open("a", key("first"))


def test_other_content_replaces_the_old_entry(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.save(case())
    store.save(case(content="second"))
    assert not store.has("a", key("first"))
    assert_stored(store, case(content="second"))
    assert len(folders(store)) == 1


@pytest.mark.parametrize(
    "other", ["a-0123456789abcdef", "a-", "a-b", "aa", "A1", f"a-{key('first')[:16]}", "[a]", "*a"]
)
def test_other_cases_with_similar_names_stay(other: str, tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    bystander = case().record
    bystander = dataclasses.replace(
        case(content="bystander"), record=msgspec.structs.replace(bystander, case_id=other, key=key("bystander"))
    )
    store.save(bystander)
    for content in ("first", "second", "third"):
        store.save(case(content=content))
        assert_stored(store, bystander)
        assert_stored(store, case(content=content))
    store.save(case(other, "newer"))
    assert_stored(store, case(content="third"))
    assert_stored(store, case(other, "newer"))
    assert len(folders(store)) == 2


def test_saving_again_is_harmless(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.save(case())
    store.save(case())
    assert_stored(store, case())
    assert len(folders(store)) == 1


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [None, 0.0, 0.3, 0.99], ids=str)
def test_a_missing_or_truncated_file_is_told_with_its_case(name: str, kept: float | None, tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.save(case())
    (file,) = tmp_path.glob(f"*/{name}")
    if kept is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    with pytest.raises(InputError, match=r"case a: .*damaged"):
        store.open("a", key("first"))


@pytest.mark.parametrize("name", FILES[:-1])
def test_a_damaged_header_is_told_with_its_case(name: str, tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.save(case())
    (file,) = tmp_path.glob(f"*/{name}")
    whole = file.read_bytes()
    file.write_bytes(whole[:11] + b"(" + whole[12:])  # within the description of type and shape
    with pytest.raises(InputError, match=r"case a: .*damaged"):
        store.open("a", key("first"))


def test_arrays_of_another_shape_than_recorded_are_damage(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.save(case())
    for name, shape in (("image", (2, 3, 4, 4)), ("segmentation", (3, 4, 4)), ("reference", (6, 4, 4))):
        (file,) = tmp_path.glob(f"*/{name}.npy")
        whole = file.read_bytes()
        np.save(file, np.zeros(shape, np.int8))
        with pytest.raises(InputError, match=r"case a: .*damaged"):
            store.open("a", key("first"))
        file.write_bytes(whole)


def test_saving_completes_what_an_interrupted_removal_left(tmp_path: Path) -> None:
    """Old content is removed file by file; a kill in between, then the old content again, must not block the case."""
    store = CaseStore(tmp_path)
    store.save(case())
    (record,) = tmp_path.glob("*/record.json")
    record.unlink()
    assert not store.has("a", key("first"))
    store.save(case())
    assert_stored(store, case())


def test_concurrent_saves_of_one_case_leave_one_whole_entry(tmp_path: Path) -> None:
    store, errors = CaseStore(tmp_path), []
    start = threading.Barrier(6)

    def save() -> None:
        start.wait()
        try:
            CaseStore(tmp_path).save(case())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=save) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert_stored(store, case())
    assert len(folders(store)) == 1


def test_concurrent_saves_of_different_cases_all_arrive(tmp_path: Path) -> None:
    names = [f"a{'-0123456789abcdef' * depth}" for depth in range(4)]
    threads = [threading.Thread(target=CaseStore(tmp_path).save, args=(case(name, name),)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        assert_stored(CaseStore(tmp_path), case(name, name))


def test_a_failed_save_leaves_the_old_entry_and_no_leftovers(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.save(case())
    broken = dataclasses.replace(case(content="second"), locations={1: np.zeros((3, 2)), 2: np.zeros((3, 3))})
    with pytest.raises(ValueError, match="dimensions"):
        store.save(broken)
    assert_stored(store, case())
    assert len(folders(store)) == 1
