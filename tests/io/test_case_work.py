"""One bad file costs one case: not what is asked of its files beforehand, nor what its work is said to cost."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from autoseg.errors import DocumentError, InputError, UnreadableFileError
from autoseg.executors import SerialExecutor
from autoseg.files import ContentIndex
from autoseg.io.case_work import CaseFiles, FileList, remember, run_admitted
from autoseg.io.formats import format_of, parts_of, read_header
from autoseg.io.headers import Header
from autoseg.io.layouts.items import walk
from autoseg.values import Case, Geometry

DEEP = b"[" * 200_000 + b"]" * 200_000


def picture(folder: Path, beside: bytes) -> Path:
    Image.new("L", (8, 8)).save(folder / "p.png")
    (folder / "p.json").write_bytes(beside)
    return folder / "p.png"


@pytest.mark.parametrize(
    "beside",
    [
        b'{"spacing":["\xff",1]}',
        b'{"spacing":[1e300,1e300]}',
        b'{"spacing":[1e400,1]}',
        b'{"spacing":[1e-300,1]}',
    ],
    ids=["bytes", "large", "infinite", "small"],
)
def test_a_spacing_that_cannot_be_meant_is_the_pictures_own_failure(beside: bytes, tmp_path: Path) -> None:
    path = picture(tmp_path, beside)
    assert CaseFiles.of(Case(id="a", images=("p.png",)), tmp_path).parts == (str(path),)
    with pytest.raises(DocumentError, match="two or three positive numbers"):
        read_header(path)


@pytest.mark.parametrize(
    "beside", [b'{"a":' + DEEP + b',"spacing":[1,1]}', b'{"spacing":' + DEEP + b"}", b'{"\xff":1}'], ids=["a", "b", "c"]
)
def test_a_file_beside_that_is_no_json_is_somebody_elses(beside: bytes, tmp_path: Path) -> None:
    path = picture(tmp_path, beside)
    assert parts_of(path) == (path,)
    assert not read_header(path).spaced


@pytest.mark.parametrize("step", [1e300, 1e7, 1e-10, 0.0, float("nan"), float("inf")])
def test_spacings_that_cannot_be_meant_are_refused(step: float) -> None:
    with pytest.raises(ValueError, match="from 1e-09 to 1e\\+06 mm"):
        Geometry(shape=(1, 2, 3), spacing=(1.0, step, 1.0))


@pytest.mark.parametrize("name", ["x" * 300 + ".nii.gz", "x" * 300, "a\0b.nii.gz"])
def test_a_path_that_cannot_be_is_a_case_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    item = CaseFiles.of(Case(id="a", images=(name,)), tmp_path, ContentIndex(tmp_path / "sources.json"))
    with pytest.raises(UnreadableFileError):
        item.look()
    with pytest.raises(InputError):
        read_header(tmp_path / name)


def test_a_folder_that_must_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert CaseFiles.of(Case(id="a", images=("set",)), tmp_path).parts == (str(tmp_path / "set"),)
    for look in (format_of, lambda path: walk(path, path)):
        with pytest.raises(UnreadableFileError, match="Permission denied"):
            look(tmp_path)


def test_a_format_that_fails_to_tell_its_parts_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OverflowError("a bug")

    monkeypatch.setattr("autoseg.io.formats.format_of", fail)
    assert parts_of(tmp_path / "a.png") == (tmp_path / "a.png",)


def test_a_cost_that_cannot_be_told_is_a_failure_of_its_item() -> None:
    def cost(item: FileList, headers: tuple[Header | None, ...]) -> int:
        if item.id == "bad":
            raise OverflowError("too large")
        return 1

    items = [FileList(id=name, paths=()) for name in ("good", "bad", "fine")]
    outcomes = list(run_admitted(SerialExecutor(), lambda item: item.id, items, cost))
    assert {each.item.id: each.result for each in outcomes} == {"good": "good", "bad": None, "fine": "fine"}
    assert [str(each.error) for each in outcomes if each.error] == ["too large"]


def test_a_case_of_several_parts_keeps_its_hashes_when_the_data_set_is_gone(tmp_path: Path) -> None:
    path, case = picture(tmp_path, b'{"spacing":[1,1]}'), Case(id="a", images=("p.png",))
    contents = ContentIndex(tmp_path / "sources.json")
    hashes, read = CaseFiles.of(case, tmp_path, contents).look()
    remember(contents, read)
    contents.save()
    path.unlink()
    path.with_name("p.json").unlink()
    again = CaseFiles.of(case, tmp_path, ContentIndex(tmp_path / "sources.json")).hashes
    assert again == hashes
    assert len(hashes) == 2
