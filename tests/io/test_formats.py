"""A file's ending chooses its format, whatever dots and capitals its name has."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoseg.errors import InputError
from autoseg.io.formats import format_of, known_endings, split_ending


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("case_01.nii.gz", ("case_01", ".nii.gz")),
        ("case_01.nii", ("case_01", ".nii")),
        ("a.b.c.NII.GZ", ("a.b.c", ".NII.GZ")),
        ("scan.2024.mha", ("scan.2024", ".mha")),
        ("x.png", ("x", ".png")),
        ("notes.txt", ("notes.txt", "")),
        ("archive.gz", ("archive.gz", "")),
        (".nii.gz", (".nii.gz", "")),
        ("Zoë 7.nrrd", ("Zoë 7", ".nrrd")),
        ("", ("", "")),
    ],
)
def test_a_name_is_its_stem_and_a_known_ending(name: str, expected: tuple[str, str]) -> None:
    assert split_ending(name) == expected
    assert "".join(split_ending(name)) == name


def test_endings_come_longest_first_so_that_none_hides_another() -> None:
    lengths = [len(ending) for ending in known_endings()]
    assert lengths == sorted(lengths, reverse=True)
    assert {".nii.gz", ".nii", ".nrrd", ".mha", ".png"} <= set(known_endings())


def test_the_format_of_a_file_reads_its_ending() -> None:
    for ending in known_endings():
        assert ending in format_of(Path(f"folder/CASE{ending.upper()}")).endings


def test_an_unknown_ending_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"a\.xyz\b") as caught:
        format_of(Path("a.xyz"))
    assert all(ending in str(caught.value) for ending in known_endings())
