"""What only several cases together tell: copies, label maps that were mixed up, units, and what is harmless."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from autoseg.files import content_hash
from autoseg.integrity.across import across_findings, equal_images
from autoseg.values import AxisMap, Case, CaseFingerprint, Dataset, Finding, Label, Labels

LABELS = Labels(foreground=(Label(name="a", values=(1,)), Label(name="b", values=(2,))))


def measured(
    name: str,
    image: str = "",
    label: str = "",
    spacing: tuple[float, float, float] = (3.0, 1.0, 1.0),
    counts: Sequence[str] = ("0", "1"),
    planar: bool = False,
) -> CaseFingerprint:
    return CaseFingerprint(
        id=name,
        spacing=spacing,
        shape=(1, 4, 4) if planar else (4, 4, 4),
        shape_after_crop=(1, 4, 4) if planar else (4, 4, 4),
        to_canonical=AxisMap(),
        planar=planar,
        label_counts=dict.fromkeys(counts, 8),
        image_digest=image,
        label_digest=label,
    )


def found(cases: Sequence[CaseFingerprint], root: Path, labels: Labels = LABELS, **files: str) -> list[Finding]:
    """Findings about cases of ``ID.img`` and ``ID.lab``; ``files`` name other label files."""
    listed = tuple(
        Case(id=each.id, images=(f"{each.id}.img",), label=files.get(each.id, f"{each.id}.lab")) for each in cases
    )
    dataset = Dataset(name="D", root=str(root), channels=("MRI",), labels=labels, file_ending=".img", cases=listed)
    return across_findings(dataset, [each for each in cases if each.image_digest != "unreadable"], content_hash)


def test_different_cases_have_nothing_to_tell(tmp_path: Path) -> None:
    cases = [measured(name, f"image {name}", f"label {name}") for name in "abcd"]
    assert found(cases, tmp_path) == []
    assert equal_images(cases) == []


@pytest.mark.parametrize(("label", "said"), [("x", "the same label map"), ("y", "another label map")])
def test_equal_images_are_a_warning_and_stay_together(label: str, said: str, tmp_path: Path) -> None:
    cases = [measured("a", "same", "x"), measured("b", "other", "z"), measured("c", "same", label)]
    (finding,) = found(cases, tmp_path)
    assert (finding.severity, finding.case, finding.file) == ("warning", "c", "c.img")
    assert said in finding.found
    assert "case a" in finding.found
    assert equal_images(cases) == [("a", "c")]


def test_equal_label_maps_of_different_images_are_a_warning_unless_they_show_nothing(tmp_path: Path) -> None:
    (finding,) = found([measured("a", "1", "x"), measured("b", "2", "x")], tmp_path)
    assert (finding.severity, finding.case, finding.file) == ("warning", "b", "b.lab")
    assert "a.lab" in finding.found
    assert found([measured("a", "1", "x", counts=["0"]), measured("b", "2", "x", counts=["0"])], tmp_path) == []
    assert found([measured("a", "1", "x", counts=["1"]), measured("b", "2", "x", counts=["1"])], tmp_path) == []


def test_a_copy_of_a_case_that_cannot_be_read_is_known_by_its_file(tmp_path: Path) -> None:
    for name, content in (("a", b"12345"), ("b", b"12345"), ("c", b"54321"), ("d", b"1234567")):
        (tmp_path / f"{name}.img").write_bytes(content)
    cases = [measured("a", "1", "x"), measured("b", "unreadable"), measured("c", "2", "y"), measured("d", "3", "z")]
    (finding,) = found(cases, tmp_path)
    assert (finding.severity, finding.case) == ("warning", "b")
    assert "case a" in finding.found


def test_a_label_file_that_two_cases_name_is_told_though_one_cannot_be_read(tmp_path: Path) -> None:
    (finding,) = found([measured("a", "1", "x"), measured("b", "unreadable")], tmp_path, b="a.lab")
    assert (finding.case, finding.file) == ("b", "a.lab")


@pytest.mark.parametrize(
    ("spacing", "severities"),
    [
        ((3.0, 1.0, 1.0), []),
        ((5.0, 0.4, 0.4), []),
        ((0.003, 0.001, 0.001), ["error"]),  # metres
        ((3000.0, 1000.0, 1000.0), ["error"]),  # micrometres
        ((0.1, 1.0, 1.0), ["warning"]),
        ((1.0, 1.0, 1.0), ["warning"]),  # the number of those who know none
    ],
)
def test_a_spacing_far_from_the_others_is_another_unit(
    spacing: tuple[float, float, float], severities: list[str], tmp_path: Path
) -> None:
    cases = [measured(name, name, name) for name in "abcd"]
    found_now = found([*cases, measured("e", "e", "e", spacing)], tmp_path)
    assert [finding.severity for finding in found_now] == severities
    assert all(finding.case == "e" for finding in found_now)


def test_a_spacing_of_one_is_not_odd_among_its_like_nor_in_pictures(tmp_path: Path) -> None:
    one = (1.0, 1.0, 1.0)
    assert found([measured(name, name, name, one) for name in "abcde"], tmp_path) == []
    assert (
        found(
            [*[measured(name, name, name, (1.2, 1.0, 0.9)) for name in "abcd"], measured("e", "e", "e", one)], tmp_path
        )
        == []
    )
    flat = [measured(name, name, name, (9.0, 9.0, 9.0), planar=True) for name in "abcd"]
    assert found([*flat, measured("e", "e", "e", one, planar=True)], tmp_path) == []


def test_gaps_odd_paths_and_system_files_are_notes(tmp_path: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._a.img", "readme.txt"):
        (tmp_path / name).touch()
    labels = Labels(foreground=(Label(name="a", values=(1,)),), ignore=255)
    gaps, paths, stray = found([measured("é a", "1", "x")], tmp_path, labels)
    assert {finding.severity for finding in (gaps, paths, stray)} == {"note"}
    assert gaps.found == "0, 1, 255"
    assert "declared" not in gaps.what  # they may have been found in the files
    many = Labels(foreground=tuple(Label(name=str(value), values=(value,)) for value in range(2, 90)))
    assert found([measured("x")], tmp_path, many)[0].found == "0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 …"
    assert paths.found == "2 paths: é a.img, é a.lab"
    assert "readme" not in stray.found
    assert ".DS_Store" in stray.found
