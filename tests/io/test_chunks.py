"""Compressed arrays read like NumPy's, whatever the slice, and touch only the chunks that they need."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoseg.errors import DamagedCaseError
from autoseg.io.checked import checksum_of
from autoseg.io.chunks import VOXELS_IN_CHUNK, ChunkedArray, chunk_shape, write_chunks
from autoseg.io.levels import choose_levels

SHAPE, CHUNK = (2, 7, 9, 11), (1, 3, 4, 5)


def store(folder: Path, array: np.ndarray, chunk: tuple[int, ...]) -> ChunkedArray:
    path = folder / "array.chunks"
    return ChunkedArray(path, write_chunks(path, array, chunk), case_id="a")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, ChunkedArray]:
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    return array, store(tmp_path_factory.mktemp("chunks"), array, CHUNK)


sides = st.one_of(
    st.integers(-2, 1),
    st.builds(slice, st.none() | st.integers(-13, 13), st.none() | st.integers(-13, 13), st.sampled_from([None, 1])),
)


@given(index=st.lists(sides, max_size=4).map(tuple))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_integers_and_slices_give_what_numpy_gives(index: tuple[object, ...], pair) -> None:
    array, stored = pair
    expected, found = array[index], stored[index]
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "index",
    [
        ...,
        (..., 3),
        (0, ..., slice(2, 5)),
        slice(None, None, -1),
        (slice(None), [0, 2, 1]),
        (1, slice(None, None, 2)),
        np.int64(1),
    ],
    ids=str,
)
def test_other_ways_to_index_work_too(index: object, pair) -> None:
    array, stored = pair
    np.testing.assert_array_equal(stored[index], array[index])


@pytest.mark.parametrize("index", [2, -3, (0, 7), (0, 0, 0, 11), (0, 0, 0, 0, 0)], ids=str)
def test_what_lies_outside_is_an_error_as_in_numpy(index: object, pair) -> None:
    for array in pair:
        with pytest.raises(IndexError):
            array[index]


def test_it_says_what_it_is(pair) -> None:
    array, stored = pair
    assert (stored.shape, stored.ndim, stored.dtype, len(stored)) == (array.shape, 4, array.dtype, 2)
    np.testing.assert_array_equal(np.asarray(stored), array)
    assert np.asarray(stored, np.float64).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.uint32, np.uint64, np.float32])
def test_every_kind_of_number_comes_back(dtype: type, tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 100, (5, 6, 7)).astype(dtype)
    stored = store(tmp_path, array, (2, 2, 7))
    assert stored[1:4].dtype == dtype
    np.testing.assert_array_equal(stored, array)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 40), (0,), (3,)], ids=str)
def test_any_size_comes_back(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    np.testing.assert_array_equal(store(tmp_path, array, tuple(max(1, edge) for edge in shape)), array)


def test_a_slice_touches_only_the_chunks_that_it_needs(tmp_path: Path) -> None:
    """All others are destroyed first."""
    array = np.random.default_rng(2).integers(0, 9, SHAPE).astype(np.int8)
    stored = store(tmp_path, array, CHUNK)
    whole = bytearray(stored.path.read_bytes())
    needed = {(0, *place) for place in itertools.product((1,), (0, 1), (2,))}
    counts = [-(-size // edge) for size, edge in zip(SHAPE, CHUNK, strict=True)]
    for number, place in enumerate(itertools.product(*map(range, counts))):
        if place not in needed:
            whole[int(stored._ends[number])] ^= 255
    stored.path.write_bytes(whole)
    box = (0, slice(3, 6), slice(2, 7), slice(10, 11))
    np.testing.assert_array_equal(stored[box], array[box])
    with pytest.raises(DamagedCaseError, match=r"case a: .*array\.chunks: chunk \d+"):
        stored[0, 2:6, 2:7, 10:11]


def test_every_flipped_byte_is_found_by_reading(tmp_path: Path) -> None:
    """In chunks, in their places and in their checksums alike."""
    array = np.random.default_rng(3).integers(0, 9, (2, 4, 5)).astype(np.int16)
    path = tmp_path / "array.chunks"
    record = write_chunks(path, array, (1, 4, 5))
    whole = path.read_bytes()
    assert (record.bytes, record.checksum) == (len(whole), checksum_of(path))
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises(DamagedCaseError, match="case a"):
            np.asarray(ChunkedArray(path, record, case_id="a"))
        assert checksum_of(path) != record.checksum


def test_levels_are_those_of_each_channel_and_their_error_is_measured(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    image = np.stack([random.normal(0, 1, (20, 30, 40)), random.normal(50, 9, (20, 30, 40)), np.ones((20, 30, 40))])
    image = image.astype(np.float32)
    record = write_chunks(tmp_path / "i", image, (1, 8, 16, 16), [choose_levels(channel) for channel in image])
    stored = ChunkedArray(tmp_path / "i", record, case_id="a")
    for index, levels in enumerate(record.levels):
        error = np.abs(np.asarray(stored[index]) - image[index]).max()
        assert levels.error == pytest.approx(error, abs=1e-9)
    assert record.levels[2].error == 0
    np.testing.assert_array_equal(stored[1, 3:9, 5:30, 7:40], np.asarray(stored)[1, 3:9, 5:30, 7:40])


@pytest.mark.parametrize(
    ("shape", "patch", "expected"),
    [
        ((300, 300, 300), (128, 128, 128), (32, 32, 32)),
        ((300, 512, 512), (1, 512, 512), (1, 181, 181)),
        ((40, 512, 512), (20, 320, 320), (5, 81, 81)),
        ((8, 24, 24), (40, 56, 40), (8, 24, 24)),
        ((5, 6, 7), (1, 1, 1), (1, 1, 1)),
    ],
)
def test_chunks_have_the_proportions_of_patches(shape, patch, expected) -> None:
    assert chunk_shape(shape, patch) == expected
    assert np.prod(expected) <= 1.1 * VOXELS_IN_CHUNK
