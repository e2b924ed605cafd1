"""Archives that are meant to do harm, or were damaged: each is refused with what was found, and leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from autoseg.errors import DiskFullError, InputError
from autoseg.files import write_document
from autoseg.sharing import reading, writing
from autoseg.sharing.layout import known_name
from autoseg.sharing.reading import check_folder, opened_model
from autoseg.sharing.writing import write_manifest, written_export
from tests.small_plans import small_plan

WEIGHTS = "tiny/fold_0/model.safetensors"
FILES = {"plan.json": b"", WEIGHTS: b"weights" * 100, "metrics.json": b"{}", "MODEL_CARD.md": b"# Card\n"}


def fill(folder: Path) -> None:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    write_document(folder / "plan.json", small_plan())
    write_manifest(folder, small_plan().id, {"tiny": ("0",)}, {"autoseg": "0"}, selected=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with written_export(tmp_path / "model.zip", 0) as folder:
        fill(folder)
    return tmp_path / "model.zip"


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where archives are unpacked."""
    (tmp_path / "room").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "room"))
    return tmp_path / "room"


def test_what_was_written_is_read_and_nothing_stays(archive: Path, room: Path, folder: Path) -> None:
    with opened_model(archive) as model:
        assert model.plan() == small_plan()
        assert model.trained("tiny") == ("0",)
        assert model.path.is_relative_to(room)
        found = {path.relative_to(model.path): path.read_bytes() for path in model.path.rglob("*") if path.is_file()}
    assert found == {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert not any(room.iterdir())
    with opened_model(folder) as model:
        assert model.path == folder
    assert folder.is_dir()


def packed(path: Path, change: Callable[[list[tuple[zipfile.ZipInfo, bytes]]], None]) -> Path:
    """The same archive with other entries."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    change(entries)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of names that stand there twice
        for info, data in entries:
            archive.writestr(info, data, info.compress_type)
    return path


def added(name: str, data: bytes = b"x", *, kind: int = stat.S_IFREG, compressed: int = zipfile.ZIP_STORED):
    def change(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr, info.compress_type = (kind | 0o644) << 16, compressed
        entries.append((info, data))

    return change


def removed(name: str):
    def change(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        entries[:] = [(info, data) for info, data in entries if info.filename != name]

    return change


def other_content(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    entries[:] = [(info, data[::-1] if info.filename == WEIGHTS else data) for info, data in entries]


def other_size(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    entries[:] = [(info, data + b"!" if info.filename == WEIGHTS else data) for info, data in entries]


def deflated(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    for info, _ in entries:
        info.compress_type = zipfile.ZIP_DEFLATED


def many(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    for number in range(1001):
        added(f"c{number}/fold_0/execution.json")(entries)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (added("../escaped.json"), r"no part of a model.*found '\.\./escaped\.json'"),
        (added("/tmp/escaped.json"), r"no part of a model"),
        (added("tiny/fold_0/../model.safetensors"), r"no part of a model"),
        (added("..\\plan.json"), r"no part of a model"),
        (added("../fold_0/model.safetensors"), r"no part of a model"),
        (added("C:/fold_0/model.safetensors"), r"no part of a model"),
        (added("tiny/fold_0/checkpoint.pth"), r"no part of a model.*checkpoint\.pth"),
        (added("tiny/fold_0/"), r"no part of a model"),
        (added("selection.json\x00.txt"), r"no part of a model|not whole"),
        (added("selection.json", kind=stat.S_IFLNK), r"something else than files.*selection\.json"),
        (added("selection.json", kind=stat.S_IFCHR), r"something else than files"),
        (added("selection.json", kind=stat.S_IFIFO), r"something else than files"),
        (added("plan.json"), r"names a file twice.*plan\.json"),
        (added("TINY/fold_0/model.safetensors"), r"names a file twice"),
        (added("selection.json", bytes(10**6), compressed=zipfile.ZIP_DEFLATED), r"compressed or encrypted"),
        (added("execution.json"), r"no part of a model"),
        (added("MODEL_CARD.md", bytes(2**22 + 1)), r"too large"),
        (added("selection.json"), r"files that its list does not name; found selection\.json"),
        (added("tiny/fold_1/model.safetensors"), r"its list does not name; found tiny/fold_1"),
        (removed(WEIGHTS), r"files are missing; found no tiny/fold_0/model\.safetensors"),
        (removed("manifest.json"), r"no exported model.*found no manifest\.json"),
        (other_content, r"model\.safetensors has another content than its list states"),
        (other_size, r"another size than its list states; found 701, expected 700"),
        (deflated, r"compressed or encrypted.*unpack it and name the folder"),
        (many, r"too many files.*found 1006, expected at most 1000"),
    ],
)
def test_what_is_no_exported_model_is_refused_and_nothing_is_unpacked(
    archive: Path, room: Path, change, said: str
) -> None:
    before = set(archive.parent.rglob("*"))
    packed(archive, change)
    with pytest.raises(InputError, match=said), opened_model(archive):
        pytest.fail("it was opened")
    assert set(archive.parent.rglob("*")) == before


def with_manifest(archive: Path, change: Callable[[dict], object]) -> Path:
    def entries_changed(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        for place, (info, data) in enumerate(entries):
            if info.filename == "manifest.json":
                document = json.loads(data)
                change(document)
                entries[place] = (info, json.dumps(document).encode())

    return packed(archive, entries_changed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda document: document["files"].update({"../x": {"bytes": 1, "sha256": "0" * 64}}), r"no part of a model"),
        (lambda document: document.update(schema="autoseg.export/9"), r"not a valid Exported document"),
        (lambda document: document.update(more=1), r"unknown field"),
        (lambda document: document["files"]["plan.json"].update(sha256="0" * 63), r"is no SHA-256"),
        (lambda document: document["files"]["plan.json"].update(sha256="0" * 64), r"plan\.json has another content"),
        (lambda document: document["members"].clear(), r"nothing predicts"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(archive: Path, room: Path, change, said: str) -> None:
    with_manifest(archive, change)
    with pytest.raises(InputError, match=said), opened_model(archive):
        pytest.fail("it was opened")
    assert not any(room.iterdir())


def central_directory(data: bytearray, name: bytes) -> int:
    """Where the entry of a file begins."""
    place = data.find(b"PK\x01\x02")
    while data[place + 46 : place + 46 + len(name)] != name:
        place = data.find(b"PK\x01\x02", place + 1)
    return place


@pytest.mark.parametrize("sizes", [(2**31, 2**31), (800, 800), (1, 1), (2**31, 700)])
def test_sizes_that_are_not_true_cost_no_disk(archive: Path, room: Path, sizes: tuple[int, int]) -> None:
    """Stated sizes are held against the size of the archive, of the list, and of what really comes."""
    data = bytearray(archive.read_bytes())
    struct.pack_into("<II", data, central_directory(data, WEIGHTS.encode()) + 20, *sizes)
    archive.write_bytes(data)
    said = r"too many bytes|another size than|compressed or encrypted|not whole"
    with pytest.raises(InputError, match=said), opened_model(archive):
        pytest.fail("it was opened")
    assert not any(room.iterdir())


@pytest.mark.parametrize("place", ["the data of the weights", "the name in front", "the end"])
def test_damage_is_told(archive: Path, room: Path, place: str) -> None:
    data = bytearray(archive.read_bytes())
    weights = data.find(b"weights" * 10)
    if place == "the end":
        data = data[:-30]
    else:
        data[weights + 5 if place == "the data of the weights" else weights - 3] ^= 1
    archive.write_bytes(data)
    with pytest.raises(InputError, match="not whole, or not what was exported"), opened_model(archive):
        pytest.fail("it was opened")
    assert not any(room.iterdir())


def test_it_is_not_unpacked_where_there_is_no_room(archive: Path, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "free_bytes", lambda folder: 100)
    with pytest.raises(DiskFullError, match="unpacks to"), opened_model(archive):
        pytest.fail("it was opened")
    monkeypatch.setattr(writing, "free_bytes", lambda folder: 100)
    with pytest.raises(DiskFullError, match="the export takes"), written_export(archive, 101):
        pytest.fail("it was begun")


def test_an_export_that_is_stopped_leaves_what_was_there(archive: Path) -> None:
    before = hashlib.sha256(archive.read_bytes()).digest()

    def stopped() -> None:
        with written_export(archive, 0) as folder:
            fill(folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert hashlib.sha256(archive.read_bytes()).digest() == before
    assert [path.name for path in archive.parent.iterdir()] == ["model.zip"]


def test_what_a_killed_export_left_is_swept_but_not_a_model_that_it_was_replacing(archive: Path) -> None:
    left, precious, young = (archive.parent / f".autoseg-export-{name}" for name in ("left", "precious", "young"))
    for room in (left, precious, young):
        (room / "export").mkdir(parents=True)
    (precious / "before").mkdir()
    for room in (left, precious):
        os.utime(room, (0, 0))
    with written_export(archive, 0) as folder:
        fill(folder)
    assert {path.name for path in archive.parent.iterdir()} == {"model.zip", precious.name, young.name}


def linked(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "elsewhere")
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / WEIGHTS).write_bytes(b"weightz" * 100), r"model\.safetensors has another content"),
        (lambda folder: (folder / "plan.json").unlink(), r"files are missing; found no plan\.json"),
        (lambda folder: (folder / "tiny" / "fold_0").rename(folder / "tiny" / "fold_1"), r"files are missing"),
        (lambda folder: (folder / "selection.json").write_text("{}"), r"does not name; found selection\.json"),
        (linked, r"model\.safetensors is a link"),
    ],
)
def test_a_folder_that_was_changed_is_refused(folder: Path, spoil, said: str) -> None:
    (folder / ".DS_Store").write_text("what systems leave")
    check_folder(folder)
    spoil(folder)
    with pytest.raises(InputError, match=said), opened_model(folder):
        pytest.fail("it was opened")


def test_only_files_of_a_model_have_known_names() -> None:
    assert all(map(known_name, [*FILES, "a b/full/model.safetensors", "3d/fold_12/execution.json"]))
    strange = [
        "plan.json/",
        "x/plan.json",
        "a/fold_/model.safetensors",
        "a/fold_0/x/model.safetensors",
        "",
        "con/full/",
    ]
    strange += ["con/full/model.safetensors", "./full/model.safetensors", " /full/model.safetensors", "Plan.json"]
    assert not any(map(known_name, strange))
