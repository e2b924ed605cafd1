"""Stored predictions: whole or damaged, never wrong, and read as channels of zeros and ones."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import DamagedCaseError
from autoseg.io import earlier_store
from autoseg.io.earlier_store import EarlierStore, WithChannels
from autoseg.values import digest

KEY, OTHER, THIRD = (digest([name]) for name in "abc")
LABELS = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.uint8)


@pytest.fixture(params=[True, False], ids=["compressed", "mapped"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EarlierStore:
    monkeypatch.setattr(earlier_store, "can_compress", lambda: request.param)
    return EarlierStore(tmp_path / "maps")


@pytest.mark.parametrize("patch", [(2, 3, 4), (4, 4)], ids=["3D", "2D"])
@pytest.mark.parametrize("shape", [(5, 6, 7), (40, 60, 70)], ids=["small", "in chunks"])
def test_what_is_saved_is_read(store: EarlierStore, patch: tuple[int, ...], shape: tuple[int, int, int]) -> None:
    labels = np.random.default_rng(1).integers(0, 300, shape).astype(np.uint16)
    store.save("case", KEY, labels, patch_size=patch)
    assert store.is_whole("case", KEY)
    found = store.open("case", KEY)
    assert (found.shape, found.dtype, found.ndim) == (shape, np.uint16, 3)
    np.testing.assert_array_equal(found, labels)
    np.testing.assert_array_equal(found[1:3, 2:9], labels[1:3, 2:9])


def test_other_content_replaces_what_is_not_spared(store: EarlierStore) -> None:
    for key in (KEY, OTHER):
        store.save("case", key, LABELS, patch_size=(2, 2, 2), spared=[KEY])
    store.save("case-2", KEY, LABELS, patch_size=(2, 2, 2))
    assert store.is_whole("case", KEY)
    store.save("case", THIRD, LABELS, patch_size=(2, 2, 2), spared=[OTHER])
    assert [store.is_whole("case", key) for key in (KEY, OTHER, THIRD)] == [False, True, True]
    assert store.is_whole("case-2", KEY)


def test_every_damage_is_found_and_mended_by_saving_again(store: EarlierStore) -> None:
    store.save("case", KEY, LABELS, patch_size=(2, 2, 2))
    (folder,) = store.folder.iterdir()
    for file in folder.iterdir():
        data = file.read_bytes()
        flipped = bytes([*data[:-20], data[-20] ^ 1, *data[-19:]])
        for damaged in (data[:-7], b"", flipped, None):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            assert not store.is_whole("case", KEY)
            store.save("case", KEY, LABELS, patch_size=(2, 2, 2))
            assert store.is_whole("case", KEY)
    (folder / "record.json").unlink()
    with pytest.raises(DamagedCaseError, match="case case"):
        store.open("case", KEY)


def test_a_file_that_is_damaged_while_it_is_open_is_told(store: EarlierStore) -> None:
    store.save("case", KEY, LABELS, patch_size=(2, 2, 2))
    opened = store.open("case", KEY)
    (file,) = store.folder.glob("*/labels.*")
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(DamagedCaseError) as caught:
        opened[0]
    assert Path(str(caught.value.file)).is_relative_to(store.folder)


def test_no_file_stays_open(store: EarlierStore) -> None:
    """A training opens many cases, and the system allows only so many files."""
    store.save("case", KEY, LABELS, patch_size=(2, 2, 2))
    held = Path("/proc/self/maps")
    if not held.is_file():
        pytest.skip("looks into /proc for what is mapped")
    opened = [store.open("case", KEY) for _ in range(3)]
    assert [np.asarray(each[:2]).sum() for each in opened] == [LABELS[:2].sum()] * 3
    assert str(store.folder) not in held.read_text()


def test_channels_are_read_as_if_they_were_stored() -> None:
    image = np.random.default_rng(2).normal(size=(2, 5, 6, 7)).astype(np.float32)
    labels = LABELS.astype(np.int8)
    labels[0, 0] = -1
    whole = np.concatenate([image, [(labels == label) for label in (1, 2, 3)]]).astype(np.float32)
    found = WithChannels(image, labels, 3)
    assert (found.shape, found.ndim, found.dtype, len(found)) == (whole.shape, 4, whole.dtype, 5)
    np.testing.assert_array_equal(found, whole)
    sides = (slice(None), slice(1, 4), slice(2, None))
    for index in itertools.product([slice(None), slice(1, 3), 3, -1], sides, sides):
        np.testing.assert_array_equal(found[index], whole[index])
        assert np.asarray(found[index]).dtype == np.float32
    np.testing.assert_array_equal(found[..., 2], whole[..., 2])
    np.testing.assert_array_equal(np.asarray(found, np.float64), whole)
    with pytest.raises(ValueError, match="shape"):
        WithChannels(image, labels[1:], 3)
