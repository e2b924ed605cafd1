"""Stored cases that were changed on purpose, checksums and all: damage is told, and memory stays as it is."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from autoseg.errors import DamagedCaseError
from autoseg.io.case_store import CaseStore, _CaseDocument
from autoseg.io.checked import checksum_of, sealed, write_npy
from autoseg.io.chunks import ChunkedArray, write_chunks
from autoseg.io.levels import Levels
from autoseg.values import digest
from tests.io.test_case_store import case, key

Change = Callable[[dict[str, Any]], None]


def forge(store: CaseStore, change: Change) -> Path:
    """Changes the record, and makes its checksum anew as far as the form of records allows."""
    (file,) = store.folder.glob("*/record.json")
    document = msgspec.json.decode(file.read_bytes())
    change(document)
    document["checksum"] = ""
    try:
        document["checksum"] = sealed(msgspec.json.decode(msgspec.json.encode(document), type=_CaseDocument)).checksum
    except msgspec.ValidationError:
        document["checksum"] = digest("any")
    file.write_bytes(msgspec.json.encode(document))
    return file.parent


def use(store: CaseStore) -> None:
    """Reads all of the case, as training and scoring do."""
    found = store.open("a", key("first"))
    for array in (found.image, found.segmentation, found.reference, *found.locations.values()):
        np.asarray(array)


def put(name: str, **changes: Any) -> Change:
    return lambda document: document["arrays"][name].update(changes)


CHANGES: dict[str, Change] = {
    "pointers": put("reference", dtype="object"),
    "pointers in the segmentation": put("segmentation", dtype="object"),
    "nonsense type": put("segmentation", dtype="nonsense"),
    "structure": put("segmentation", dtype="i4,O"),
    "longer type": put("segmentation", dtype="int64"),
    "floating-point labels": put("segmentation", dtype="float64"),
    "too many bytes": put("image", bytes=10**18),
    "huge shape": put("image", shape=[2, 10**6, 10**6, 10**6]),
    "negative shape": put("image", shape=[2, -3, 4, 5]),
    "other axes": put("image", shape=[120]),
    "smaller": put("segmentation", shape=[1, 1, 1]),
    "file outside": put("segmentation", file="../../outside.npy"),
    "absolute file": put("segmentation", file="/etc/hostname"),
    "huge counts": lambda document: document.update(location_counts=[[1, 10**12]]),
    "negative counts": lambda document: document.update(location_counts=[[1, 10**12], [2, -(10**12)]]),
}
COMPRESSED: dict[str, Change] = {
    "chunk of nothing": put("image", chunk=[1, 0, 4, 5]),
    "negative chunk": put("image", chunk=[1, -3, 4, 5]),
    "chunk of other axes": put("image", chunk=[1, 4]),
    "huge chunk": put("image", shape=[2, 2**12, 2**12, 2**12], chunk=[1, 2**12, 2**12, 2**12]),
    "small chunk": put("segmentation", chunk=[1, 1, 1]),
    "not in chunks": put("segmentation", chunk=None),
    "too few levels": lambda document: document["arrays"]["image"]["levels"].pop(),
    "levels of labels": lambda document: document["arrays"]["segmentation"].update(
        levels=document["arrays"]["image"]["levels"]
    ),
    "levels far away": lambda document: document["arrays"]["image"]["levels"][0].update(first=10**15),
    "too few values": lambda document: document["arrays"]["image"]["levels"][0].update(codes=3, values=[0.0, 1.0, 2.0]),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("compressed", [False, True], ids=["mapped", "compressed"])
def test_a_forged_record_is_damage(name: str, compressed: bool, tmp_path: Path) -> None:
    store = CaseStore(tmp_path / "store", compressed=compressed)
    write_npy(tmp_path / "outside.npy", np.zeros((3, 4, 5), np.int8))
    store.save(case())
    forge(store, CHANGES[name])
    with pytest.raises(DamagedCaseError, match="case a"):
        use(store)


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_forged_record_of_compressed_arrays_is_damage(name: str, tmp_path: Path) -> None:
    store = CaseStore(tmp_path, compressed=True)
    store.save(case())
    forge(store, COMPRESSED[name])
    with pytest.raises(DamagedCaseError, match="case a"):
        use(store)


def npy(header: str) -> bytes:
    text = header.encode() + b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (3, 4, 5)}") + bytes(480),
        npy("{'descr': '|b1', 'fortran_order': False, 'shape': (3, 4, 5)}") + bytes(60),
        npy("{'descr': '|i1', 'fortran_order': True, 'shape': (3, 4, 5)}") + bytes(60),
        npy("{'descr': '|i1', 'fortran_order': False, 'shape': (5, 4, 3)}") + bytes(60),
        npy("{'descr': '|i1', 'fortran_order': False, 'shape': (-3, -4, 5)}") + bytes(60),
        npy("{'descr': '|i1', 'fortran_order': False, 'shape': (3, 4, 5)}") + bytes(59),
        npy("(" * 100) + bytes(60),
        b"PK\x03\x04" + bytes(200),
        b"PK\x05\x06" + bytes(18),
        b"\x80\x04cos\nsystem\n",
        b"",
    ],
    ids=["pointers", "type", "order", "shape", "negative", "short", "nested", "zip", "empty zip", "pickle", "nothing"],
)
def test_a_forged_npy_file_is_damage(content: bytes, tmp_path: Path) -> None:
    store = CaseStore(tmp_path, compressed=False)
    store.save(case())
    (file,) = tmp_path.glob("*/segmentation.npy")
    file.write_bytes(content)
    forge(store, put("segmentation", bytes=len(content), checksum=checksum_of(file)))
    with pytest.raises(DamagedCaseError, match="case a"):
        use(store)


def chunk_file(path: Path, data: bytes) -> None:
    path.write_bytes(data + np.array([0, len(data)], "<u8").tobytes() + np.array([zlib.crc32(data)], "<u4").tobytes())


def compressed(array: np.ndarray, **options: Any) -> bytes:
    blosc2 = pytest.importorskip("blosc2")
    shuffled = {"filters": [blosc2.Filter.SHUFFLE], "filters_meta": [0], "codec": blosc2.Codec.ZSTD}
    return blosc2.compress2(array, **{"typesize": array.itemsize, **shuffled, **options})


def changed(data: bytes, at: int, byte: int) -> bytes:
    return data[:at] + bytes([byte]) + data[at + 1 :]


NUMBERS = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: compressed(np.zeros(10**5, np.uint16)),
        lambda: compressed(np.arange(10**5, dtype=np.uint16)),
        lambda: compressed(NUMBERS[:2]),
        lambda: compressed(NUMBERS.astype(np.uint8)),
        lambda: compressed(NUMBERS, typesize=1),
        lambda: compressed(NUMBERS)[:-4],
        lambda: compressed(NUMBERS) + b"more",
        lambda: compressed(NUMBERS)[:20],
        lambda: b"x",
        lambda: changed(compressed(np.zeros_like(NUMBERS)), 31, 0x40),
        lambda: changed(compressed(NUMBERS), 31, 0x08),
        lambda: changed(compressed(NUMBERS), 16, 35),
        lambda: changed(compressed(NUMBERS), 2, 0xC5),
    ],
    ids=[
        *("many zeros", "much more", "less", "shorter", "bytes", "cut", "longer", "half a head", "one byte"),
        *("what was in memory", "elsewhere", "filter of others", "codec of others"),
    ],
)
def test_a_forged_chunk_is_damage(make: Callable[[], bytes], tmp_path: Path) -> None:
    """Blosc believes what a chunk says of itself, and writes as many bytes as that, wherever they end."""
    path = tmp_path / "array.chunks"
    stored = write_chunks(path, NUMBERS, NUMBERS.shape)
    chunk_file(path, compressed(NUMBERS))
    np.testing.assert_array_equal(ChunkedArray(path, stored, case_id="a"), NUMBERS)
    chunk_file(path, make())
    with pytest.raises(DamagedCaseError, match=r"case a: .*array\.chunks: chunk 0"):
        np.asarray(ChunkedArray(path, stored, case_id="a"))


@pytest.mark.parametrize("values", [(0.0, 1.0, 2.0), ()], ids=["table", "steps"])
def test_a_code_without_level_is_damage(values: tuple[float, ...], tmp_path: Path) -> None:
    path, image = tmp_path / "array.chunks", np.array([[0, 1, 2, 1]], np.float32)
    stored = write_chunks(path, image, image.shape, [Levels(values=values, codes=3)])
    np.testing.assert_array_equal(ChunkedArray(path, stored, case_id="a"), image)
    chunk_file(path, compressed(np.array([[0, 1, 3, 1]], np.uint8)))
    with pytest.raises(DamagedCaseError, match="codes without level"):
        np.asarray(ChunkedArray(path, stored, case_id="a"))


def test_places_outside_of_the_case_are_damage(tmp_path: Path) -> None:
    store = CaseStore(tmp_path, compressed=False)
    store.save(case())
    (file,) = tmp_path.glob("*/locations.npy")
    places = np.load(file)
    places[-1] = math.prod(case().record.shape)
    stored = write_npy(file, places)
    forge(store, put("locations", checksum=stored.checksum))
    with pytest.raises(DamagedCaseError, match="places outside"):
        use(store)


@pytest.mark.parametrize("compressed", [False, True], ids=["mapped", "compressed"])
@pytest.mark.parametrize(
    ("case_id", "asked"), [("b", key("first")), ("a", key("other")), ("a", key("first")[:16] + "0" * 48)]
)
def test_a_folder_with_the_name_of_another_case_or_content_is_damage(
    case_id: str, asked: str, compressed: bool, tmp_path: Path
) -> None:
    store = CaseStore(tmp_path, compressed=compressed)
    store.save(case())
    (folder,) = tmp_path.iterdir()
    folder.rename(tmp_path / f"{case_id}-{asked[:16]}")
    assert not store.is_known_whole(case_id, asked)
    for read in (store.check, store.open):
        with pytest.raises(DamagedCaseError, match=rf"case {case_id}: .*record\.json is that of case a"):
            read(case_id, asked)
