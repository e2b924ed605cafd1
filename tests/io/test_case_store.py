"""The store of preprocessed cases: what was saved comes back, whoever else saves, and damage is told by case."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy import ndimage

from autoseg.errors import DamagedCaseError, DiskFullError, InputError
from autoseg.io.case_store import CaseStore, StoredCase
from autoseg.values import AxisMap, Geometry, PreprocessRecord, encode
from autoseg.volume.normalize import ct, zscore
from tests.benchmarks.cache import hounsfield_units, save, statistics_of

ARRAYS = ("image", "segmentation", "locations", "reference")


@pytest.fixture(params=[False, True], ids=["mapped", "compressed"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CaseStore:
    """An empty store that writes in one of the two forms."""
    return CaseStore(tmp_path / "store", compressed=request.param)


def file_of(store: CaseStore, name: str) -> Path:
    """The one file of that name, whatever its ending."""
    (file,) = store.folder.glob(f"*/{name}.*")
    return file


def flip(file: Path, at: int, bit: int = 0) -> None:
    """Changes one bit and leaves size and time as they are: damage of which only the content tells."""
    times, whole = file.stat(), bytearray(file.read_bytes())
    whole[at] ^= 1 << bit
    file.write_bytes(whole)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


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


def test_a_saved_case_comes_back(store: CaseStore) -> None:
    store.save(case())
    assert_stored(store, case())


def test_large_arrays_are_mapped_and_cannot_be_changed(tmp_path: Path) -> None:
    store = CaseStore(tmp_path, compressed=False)
    store.save(case())
    found = store.open("a", key("first"))
    assert isinstance(found.image, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found.image[...] = 0


def test_a_case_without_foreground_has_no_locations(store: CaseStore) -> None:
    empty = dataclasses.replace(case(), locations={})
    store.save(empty)
    assert_stored(store, empty)
    assert store.open("a", key("first")).locations == {}


def test_what_is_not_stored_is_not_had(store: CaseStore) -> None:
    assert not store.has("a", key("first"))
    with pytest.raises(InputError, match="case a"):
        store.open("a", key("first"))


def test_other_content_replaces_the_old_entry(store: CaseStore) -> None:
    store.save(case())
    store.save(case(content="second"))
    assert not store.has("a", key("first"))
    assert_stored(store, case(content="second"))
    assert len(folders(store)) == 1


@pytest.mark.parametrize(
    "other", ["a-0123456789abcdef", "a-", "a-b", "aa", "A1", f"a-{key('first')[:16]}", "[a]", "*a"]
)
def test_other_cases_with_similar_names_stay(other: str, store: CaseStore) -> None:
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


def test_saving_again_is_harmless(store: CaseStore) -> None:
    store.save(case())
    store.save(case())
    assert_stored(store, case())
    assert len(folders(store)) == 1


@pytest.mark.parametrize("name", [*ARRAYS, "record"])
@pytest.mark.parametrize("kept", [None, 0.0, 0.3, 0.99], ids=str)
def test_a_missing_or_truncated_file_is_told_with_its_case(name: str, kept: float | None, store: CaseStore) -> None:
    store.save(case())
    file = file_of(store, name)
    if kept is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    with pytest.raises(DamagedCaseError, match=r"case a: .*damaged"):
        store.open("a", key("first"))
    with pytest.raises(DamagedCaseError, match=r"case a: .*damaged"):
        store.check("a", key("first"))


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("place", [0, 0.2, 0.5, 0.8, -1])
def test_a_flipped_bit_is_found(name: str, place: float, store: CaseStore) -> None:
    """Wherever it is: at once when asked to verify; and if the file's time tells of a change, without being asked."""
    store.save(case())
    store.check("a", key("first"), always=True)
    file = file_of(store, name)
    flip(file, place if place < 0 else int(place * file.stat().st_size), bit=3)
    with pytest.raises(DamagedCaseError, match="case a"):
        store.open("a", key("first"), verify=True)
    if place < 0:  # elsewhere may be the header of a file, which opening it looks at
        store.check("a", key("first"))
        file.touch()
    with pytest.raises(DamagedCaseError, match=rf"case a: .*{name}" if place < 0 else "case a"):
        store.check("a", key("first"), always=place >= 0)


def test_every_digit_of_the_record_is_guarded(store: CaseStore) -> None:
    store.save(case())
    file = file_of(store, "record")
    whole = file.read_bytes()
    document = json.loads(whole)
    places = [at for at, byte in enumerate(whole) if chr(byte).isalnum()]
    for at in places[::7]:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            changed = json.loads(file.read_bytes()) != document
        except ValueError:
            changed = True
        if changed:
            with pytest.raises(DamagedCaseError, match="case a"):
                store.open("a", key("first"))


def test_a_flipped_bit_in_compressed_chunks_is_found_when_they_are_read(tmp_path: Path) -> None:
    """Nobody asked to verify, and size and time are as before; what lies elsewhere is still read."""
    store = CaseStore(tmp_path, compressed=True)
    store.save(case(shape=(40, 50, 60)))
    found = store.open("a", key("first"))
    clean = np.asarray(found.image[0, :20])
    flip(file_of(store, "image"), 5 * file_of(store, "image").stat().st_size // 6)
    np.testing.assert_array_equal(found.image[0, :20], clean)
    store.check("a", key("first"))
    with pytest.raises(DamagedCaseError, match=r"case a: .*image\.chunks: chunk \d+ is not as it was written"):
        np.asarray(store.open("a", key("first")).image)


def test_what_was_found_right_is_not_read_again_until_it_changes(tmp_path: Path) -> None:
    """The content is read once; then size and time tell, as for the files of a data set."""
    store = CaseStore(tmp_path, compressed=False)
    store.save(case())
    (verified,) = tmp_path.glob("*/verified.json")
    verified.unlink()  # as in a copy of the folder
    flip(file_of(store, "image"), -1)
    with pytest.raises(DamagedCaseError):
        store.check("a", key("first"))
    flip(file_of(store, "image"), -1)
    store.check("a", key("first"))
    before = verified.read_bytes()
    file_of(store, "image").touch()
    store.check("a", key("first"))
    assert verified.read_bytes() != before
    flip(file_of(store, "image"), -1)
    store.check("a", key("first"))  # size and time say that it was right
    with pytest.raises(DamagedCaseError):
        store.check("a", key("first"), always=True)


def test_a_case_of_an_older_format_is_damaged_and_can_be_saved_again(store: CaseStore) -> None:
    store.save(case())
    file_of(store, "record").write_bytes(encode(case().record))
    with pytest.raises(DamagedCaseError, match="case a"):
        store.check("a", key("first"))
    store.discard("a", key("first"))
    assert not store.has("a", key("first"))
    store.save(case())
    assert_stored(store, case())


def test_one_store_holds_both_forms(tmp_path: Path) -> None:
    for name, compressed in (("a", True), ("b", False), ("c", True)):
        CaseStore(tmp_path, compressed=compressed).save(case(name, name))
    assert len(list(tmp_path.glob("*/image.npy"))) == 1
    assert len(list(tmp_path.glob("*/image.chunks"))) == 2
    for name in "abc":
        assert_stored(CaseStore(tmp_path), case(name, name))
        CaseStore(tmp_path).check(name, key(name), always=True)


def test_without_the_package_compressed_cases_are_refused_and_new_ones_mapped(tmp_path: Path) -> None:
    """A machine without blosc2 says what to install; it never takes the cases for damaged."""
    CaseStore(tmp_path, compressed=True).save(case())
    CaseStore(tmp_path, compressed=True).save(case("c", "c"))
    code = """
import sys
from pathlib import Path
sys.modules["blosc2"] = None
from autoseg.errors import MissingPartError
from autoseg.io.case_store import CaseStore
from tests.io.test_case_store import assert_stored, case, key
store = CaseStore(Path(sys.argv[1]))
for look in (store.open, store.check):
    try:
        look("a", key("first"))
    except MissingPartError as error:
        assert "pip install 'autoseg[blosc2]'" in str(error), error
    else:
        raise SystemExit("not refused")
store.save(case("b", "b"))
assert_stored(store, case("b", "b"))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*/image.npy"))) == 1
    assert_stored(CaseStore(tmp_path), case())


def test_entries_that_are_still_needed_are_spared(store: CaseStore) -> None:
    for content in ("first", "second", "third"):
        store.save(case(content=content), spared=[key("first")])
    assert_stored(store, case(content="first"))
    assert_stored(store, case(content="third"))
    assert not store.has("a", key("second"))
    assert store.case_ids() == {"a"}
    store.save(case(content="fourth"))
    assert len(folders(store)) == 1


def test_a_damaged_case_is_mended_by_whoever_can_make_it(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.save(case())
    damage = DamagedCaseError("a", "a chunk", file=tmp_path)
    with pytest.raises(DamagedCaseError, match="a chunk"):
        store.mend(damage, key("first"))
    asked: list[str] = []

    def rebuild(case_id: str) -> None:
        asked.append(case_id)
        store.discard(case_id, key("first"))
        CaseStore(tmp_path).save(case(content="first" if len(asked) == 1 else "changed since"))

    mending = CaseStore(tmp_path, rebuild=rebuild)
    mending.mend(damage, key("first"))
    assert_stored(mending, case())
    with pytest.raises(DamagedCaseError, match="a chunk"):
        mending.mend(damage, key("first"))
    assert asked == ["a", "a"]


@pytest.mark.skipif(os.name != "posix", reason="a limit of file sizes is POSIX")
def test_no_room_is_told_once_and_leaves_nothing_half_written(store: CaseStore) -> None:
    """The limit of a file's size stands for a full disk: both end a write in the middle."""
    import resource

    store.save(case())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(DiskFullError, match=r"no room on the disk of .*b could not be stored.*repeat the command"):
            store.save(case("b", "b", (30, 40, 50)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(folders(store)) == 1
    assert_stored(store, case())
    store.save(case("b", "b", (30, 40, 50)))
    assert store.has("b", key("b"))


def test_saving_completes_what_an_interrupted_removal_left(tmp_path: Path) -> None:
    """Old content is removed file by file; a kill in between, then the old content again, must not block the case."""
    store = CaseStore(tmp_path)
    store.save(case())
    file_of(store, "record").unlink()
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


def test_a_failed_save_leaves_the_old_entry_and_no_leftovers(store: CaseStore) -> None:
    store.save(case())
    broken = dataclasses.replace(case(content="second"), locations={1: np.array([[0, 0, 99]])})
    with pytest.raises(ValueError, match="invalid entry"):
        store.save(broken)
    assert_stored(store, case())
    assert len(folders(store)) == 1


def test_ct_takes_no_more_room_than_its_compressed_source(tmp_path: Path) -> None:
    """Per equal number of voxels, everything that is stored beside image and labels as they came, both as in .nii.gz."""
    units, labels = hounsfield_units(shape=(48, 128, 128))
    source = sum(len(gzip.compress(array.tobytes(), 6)) for array in (units, labels))
    smooth = ndimage.gaussian_filter(units.astype(np.float32), 0.6)  # no two voxels equal, as after resampling
    images = {
        "organs": ct(units, None, statistics_of(units[labels > 0])),
        "body": ct(units, None, statistics_of(units[units > -200])),
        "z-score": zscore(units, None, None),
        "interpolated": zscore(smooth, None, None),
    }
    for name, image in images.items():
        store = CaseStore(tmp_path / name, patch_size=(128, 128, 128), compressed=True)
        key = save(store, image[None], labels)
        size = sum(file.stat().st_size for file in store.folder.glob("*/*"))
        assert size <= 1.2 * source, name
        error = float(np.abs(np.asarray(store.open("case", key).image)[0] - image).max())
        assert error <= 2.0**-10 * 1.001
        assert (error == 0) == (name != "interpolated")
