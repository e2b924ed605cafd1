"""What a package's format has read is made anew when the package changes."""

from __future__ import annotations

from pathlib import Path

from autoseg.io.case_work import CaseFiles
from autoseg.io.formats import foreign_formats
from autoseg.values import Case
from tests.processes.glass import installed_glass, write_glass_tree

__all__ = ["installed_glass"]


def test_the_format_of_another_package_is_among_what_a_case_depends_on(tmp_path: Path, installed_glass: None) -> None:
    root = write_glass_tree(tmp_path / "D", {"a": 2})
    case = Case(id="a", images=("images/a.nrrd",), label="labels/a.glass")
    hashes, read = CaseFiles.of(case, root).look()
    assert hashes == [*(content.sha256 for content in read.values()), "glass of glass 1.0"]
    bare = Case(id="a", images=("images/a.nrrd",))
    assert len(CaseFiles.of(bare, root).look()[0]) == 1


def test_our_own_formats_have_a_version_of_their_own() -> None:
    assert foreign_formats(["a.nii.gz", "b.png", "c.tif", "d.nrrd", "folder"]) == []
