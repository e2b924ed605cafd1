"""Files: whole or absent, documents read strictly, content known by its hash."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from autoseg.errors import DocumentError, UnreadableFileError
from autoseg.files import (
    ContentIndex,
    content_hash,
    keep,
    read_document,
    replacing,
    sweep,
    write_atomically,
    write_document,
    written_folder,
)
from autoseg.values import (
    AxisMap,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_into_new_folders_and_over_old_content(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "file.json"
    for content in (b"first", b"second, longer", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert names(path.parent) == ["file.json"]


def test_what_is_to_be_done_before_comes_when_the_new_file_is_safe_and_the_old_one_still_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, order, sync = tmp_path / "file.json", [], os.fsync
    write_atomically(path, b"old")

    def failing(handle: int) -> None:
        order.append("synchronised")
        if fails:
            raise OSError("the disk is gone")
        sync(handle)

    monkeypatch.setattr(os, "fsync", failing)
    for fails in (True, False):
        with pytest.raises(OSError, match="gone") if fails else contextlib.nullcontext():
            write_atomically(path, b"new", lambda: order.append(path.read_bytes()))
        assert path.read_bytes() == (b"old" if fails else b"new")
    assert order[:3] == ["synchronised", "synchronised", b"old"]


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt()], ids=repr)
def test_an_exception_while_writing_leaves_the_old_content_and_no_temporary_file(
    error: BaseException, tmp_path: Path
) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b"old")

    def write_half() -> None:
        with replacing(path) as beside:
            beside.write_bytes(b"half of the ne")
            assert path.read_bytes() == b"old"
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.json"]


def test_the_file_beside_has_the_same_ending_and_folder(tmp_path: Path) -> None:
    with replacing(tmp_path / "case.nii.gz") as beside:
        beside.write_bytes(b"x")
        assert beside.parent == tmp_path
        assert beside.name.startswith(".")
        assert beside.name.endswith("case.nii.gz")


def test_a_write_that_cannot_take_its_place_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_atomically(tmp_path / "taken", b"x")
    assert names(tmp_path) == ["taken"]


def test_two_writers_of_one_file_leave_the_whole_of_one(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [bytes([65 + index]) * 100_000 for index in range(8)]
    threads = [threading.Thread(target=write_atomically, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is of POSIX systems")
def test_a_killed_writer_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b"old")
    program = (
        "import os, pathlib, signal, sys\n"
        "from autoseg.files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as beside:\n"
        "    beside.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "case"
    with written_folder(target) as folder:
        (folder / "a").write_bytes(b"1")
        assert not target.exists()
    assert names(target) == ["a"]
    assert names(target.parent) == ["case"]


def test_an_exception_while_filling_a_folder_leaves_nothing(tmp_path: Path) -> None:
    def fill_half() -> None:
        with written_folder(tmp_path / "case") as folder:
            (folder / "a").write_bytes(b"1")
            raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        fill_half()
    assert names(tmp_path) == []


def test_of_two_who_fill_one_folder_the_first_stays(tmp_path: Path) -> None:
    with written_folder(tmp_path / "case") as slow:
        (slow / "a").write_bytes(b"slow")
        with written_folder(tmp_path / "case") as fast:
            (fast / "a").write_bytes(b"fast")
    assert (tmp_path / "case" / "a").read_bytes() == b"fast"
    assert names(tmp_path) == ["case"]


def test_an_equal_document_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "axes.json"
    write_document(path, AxisMap())
    before = path.stat().st_mtime_ns
    write_document(path, AxisMap())
    assert path.stat().st_mtime_ns == before
    write_document(path, AxisMap(order=(1, 0, 2)))
    assert read_document(AxisMap, path) == AxisMap(order=(1, 0, 2))


def test_a_document_that_is_not_there_or_damaged_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=r"axes\.json"):
        read_document(AxisMap, tmp_path / "axes.json")
    (tmp_path / "axes.json").write_bytes(b'{"order": [0, 1')
    with pytest.raises(DocumentError, match=r"axes\.json"):
        read_document(AxisMap, tmp_path / "axes.json")


def test_keep_makes_once_and_then_reads(tmp_path: Path) -> None:
    made = []

    def make() -> AxisMap:
        made.append(1)
        return AxisMap(order=(2, 1, 0))

    for _ in range(3):
        assert keep(tmp_path / "new" / "a.json", AxisMap, make) == AxisMap(order=(2, 1, 0))
    assert len(made) == 1


@pytest.mark.parametrize("damage", [b"", b"{", b'{"order": [0, 0, 0]}', b'{"surprise": 1}', b"\xff"])
def test_keep_makes_a_damaged_value_anew(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(damage)
    assert keep(path, AxisMap, AxisMap) == AxisMap()
    assert read_document(AxisMap, path) == AxisMap()


def test_keep_makes_a_value_anew_that_is_no_longer_valid(tmp_path: Path) -> None:
    path, wanted = tmp_path / "a.json", AxisMap(order=(1, 0, 2))
    write_document(path, AxisMap())
    assert keep(path, AxisMap, lambda: wanted, valid=lambda value: value == wanted) == wanted
    assert read_document(AxisMap, path) == wanted


def test_a_failed_make_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_document(path, AxisMap())

    def fail() -> AxisMap:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        keep(path, AxisMap, fail, valid=lambda value: False)
    assert read_document(AxisMap, path) == AxisMap()


def test_the_content_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert content_hash(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    with pytest.raises(UnreadableFileError, match="nothing"):
        content_hash(tmp_path / "nothing")


@pytest.fixture
def indexed(tmp_path: Path) -> tuple[Path, Path]:
    """A file, and an index that knows it."""
    file, index = tmp_path / "image.mha", tmp_path / "W" / "sources.json"
    file.write_bytes(b"one")
    contents = ContentIndex(index)
    contents.sha256(file)
    contents.save()
    return file, index


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def set_time(file: Path, time_ns: int) -> None:
    os.utime(file, ns=(time_ns, time_ns))


def test_an_index_trusts_size_and_time(indexed: tuple[Path, Path]) -> None:
    file, index = indexed
    time = file.stat().st_mtime_ns
    file.write_bytes(b"two")
    set_time(file, time)
    assert ContentIndex(index).sha256(file) == sha256(b"one")


def test_an_index_notices_another_time_and_another_size(indexed: tuple[Path, Path]) -> None:
    file, index = indexed
    time = file.stat().st_mtime_ns
    contents = ContentIndex(index)
    file.write_bytes(b"two")
    set_time(file, time + 1)
    assert contents.sha256(file) == sha256(b"two")
    file.write_bytes(b"four")
    set_time(file, time + 1)
    assert contents.sha256(file) == sha256(b"four")
    file.write_bytes(b"five")
    set_time(file, time - 10**9)  # an older copy was put in its place
    assert contents.sha256(file) == sha256(b"five")


def test_a_folder_has_the_content_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(b"one")
    (folder / "b.dcm").write_bytes(b"two")
    index = ContentIndex(tmp_path / "index.json")
    before = index.sha256(folder)
    assert before == content_hash(folder)
    (folder / ".DS_Store").write_bytes(b"x")
    assert index.sha256(folder) == before
    (folder / "b.dcm").write_bytes(b"three")
    changed = index.sha256(folder)
    (folder / "b.dcm").rename(folder / "c.dcm")
    assert len({before, changed, content_hash(folder)}) == 3


def test_an_index_notices_files_of_a_folder_that_are_replaced_by_older_ones_or_renamed(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_bytes(name.encode())
    index = ContentIndex(tmp_path / "index.json")
    before = index.sha256(folder)
    assert index.known(folder) == before
    (folder / "b").write_bytes(b"x")
    set_time(folder / "b", 10**18)  # as cp -p leaves an older copy
    changed = index.sha256(folder)
    (folder / "a").rename(folder / "d")
    assert len({before, changed, index.sha256(folder)}) == 3


def test_a_file_that_is_gone_keeps_its_last_hash_and_an_unknown_one_is_refused(indexed: tuple[Path, Path]) -> None:
    file, index = indexed
    file.unlink()
    assert ContentIndex(index).sha256(file) == sha256(b"one")
    with pytest.raises(UnreadableFileError, match="other"):
        ContentIndex(index).sha256(file.with_name("other"))


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"x": {"size": 1}}'])
def test_a_damaged_index_is_as_good_as_none(damage: bytes, indexed: tuple[Path, Path]) -> None:
    file, index = indexed
    index.write_bytes(damage)
    contents = ContentIndex(index)
    assert contents.sha256(file) == sha256(b"one")
    contents.save()
    assert str(file).encode() in index.read_bytes()


def test_an_index_without_news_is_not_written(indexed: tuple[Path, Path]) -> None:
    file, index = indexed
    before = index.stat().st_mtime_ns
    contents = ContentIndex(index)
    contents.sha256(file)
    contents.save()
    assert index.stat().st_mtime_ns == before


def test_an_index_is_used_by_several_threads(tmp_path: Path) -> None:
    files = [tmp_path / f"{index}" for index in range(40)]
    for file in files:
        file.write_bytes(file.name.encode())
    contents = ContentIndex(tmp_path / "W" / "sources.json")
    threads = [threading.Thread(target=lambda: [contents.sha256(file) for file in files]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    contents.save()
    shutil.copy(tmp_path / "W" / "sources.json", tmp_path / "copy.json")
    again = ContentIndex(tmp_path / "copy.json")
    for file in files:
        file.unlink()
    assert [again.sha256(file) for file in files] == [sha256(file.name.encode()) for file in files]


def test_what_a_kill_left_half_written_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".0123456789ab-case").mkdir()
    (tmp_path / ".0123456789ab-case" / "image.npy").write_bytes(b"half")
    (tmp_path / ".ffffffffffff-model.safetensors").write_bytes(b"half")
    for kept in (".lock", "model.safetensors", ".hidden-file"):
        (tmp_path / kept).write_bytes(b"whole")
    sweep(tmp_path)  # young: another process may be writing
    assert len(list(tmp_path.iterdir())) == 5
    sweep(tmp_path, older_than_seconds=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden-file", ".lock", "model.safetensors"]
