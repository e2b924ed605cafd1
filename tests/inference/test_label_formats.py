"""Predictions in the format that was asked for; a DICOM segmentation for each series, and what stands in its way."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import CasesFailedError, InputError, MissingPartError, UnknownNameError
from autoseg.inference.folder import predict_files
from autoseg.io.formats import format_of
from autoseg.io.label_files import label_files, label_formats
from autoseg.logs import SilentLogger
from autoseg.values import Case
from tests.command_line import failure
from tests.inference.test_cases import LABELS, THRESHOLD, Threshold, make_plan, make_predictor, scan, write_scan
from tests.io.dicom_phantoms import grid, write_series
from tests.io.dicom_segments import edit, pydicom

SHAPE = (8, 16, 14)


def series(folder: Path, way: str = "oblique") -> np.ndarray:
    array = np.where(np.random.default_rng(0).random(SHAPE) < 0.5, 220, 40).astype(np.int16)
    write_series(folder, array, grid(way, SHAPE), order=[3, 1, 5, 0, 2, 4, 7, 6])
    return array


def predict(
    folder: Path, names: list[str], network: Threshold | None = None, wanted: str = "dicom-seg"
) -> dict[str, Path]:
    plan = make_plan()
    output = label_files(wanted, LABELS, plan=plan.name, weights="ab" * 32)
    cases = [Case(id=name.split(".")[0], images=(name,)) for name in names]
    return predict_files(
        *(make_predictor(plan, network), plan, "weights", cases, folder / "in", folder / "out", SilentLogger()),
        output=output,
    )


def test_a_series_gets_a_segmentation_and_only_once(tmp_path: Path) -> None:
    array, network = series(tmp_path / "in" / "scan"), Threshold()
    written = predict(tmp_path, ["scan"], network)
    assert written["scan"] == tmp_path / "out" / "scan.dcm"
    dataset = pydicom.dcmread(written["scan"])
    assert (dataset.Modality, dataset.SegmentSequence[0].SegmentLabel) == ("SEG", "bright")
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    assert bits.sum() == (array > THRESHOLD).sum() > 0
    before, network.calls = written["scan"].read_bytes(), 0
    assert predict(tmp_path, ["scan"], network) == written
    assert (network.calls, written["scan"].read_bytes()) == (0, before)


def test_what_is_no_dicom_costs_itself_and_is_not_predicted(tmp_path: Path) -> None:
    series(tmp_path / "in" / "scan")
    write_scan(tmp_path / "in", "case_0", scan(0))
    network = Threshold()
    with pytest.raises(CasesFailedError) as caught:
        predict(tmp_path, ["case_0.nii.gz"], network)
    assert "case case_0: --format dicom-seg needs a DICOM series" in str(caught.value)
    assert (network.calls, caught.value.exit_code) == (0, 2)
    with pytest.raises(CasesFailedError):
        predict(tmp_path, ["case_0.nii.gz", "scan"])
    assert (tmp_path / "out" / "scan.dcm").is_file()
    assert not (tmp_path / "out" / "case_0.dcm").exists()


def test_a_series_that_says_too_little_is_not_predicted(tmp_path: Path) -> None:
    series(tmp_path / "in" / "scan")
    edit(tmp_path / "in" / "scan", StudyInstanceUID=None)
    network = Threshold()
    with pytest.raises(CasesFailedError, match="does not state StudyInstanceUID"):
        predict(tmp_path, ["scan"], network)
    assert network.calls == 0


@pytest.mark.parametrize("wanted", ["nrrd", ".mha", "NII"])
def test_label_maps_have_the_ending_that_was_asked_for(wanted: str, tmp_path: Path) -> None:
    array = series(tmp_path / "in" / "scan")
    file = predict(tmp_path, ["scan"], wanted=wanted)["scan"]
    assert file.name == f"scan.{wanted.lower().removeprefix('.')}"
    np.testing.assert_array_equal(format_of(file).read(file).array[0], array > THRESHOLD)


def test_one_folder_has_one_format(tmp_path: Path) -> None:
    series(tmp_path / "in" / "scan")
    predict(tmp_path, ["scan"], wanted="nii.gz")
    with pytest.raises(InputError, match=r"in another format; found scan\.nii\.gz"):
        predict(tmp_path, ["scan"])
    assert not (tmp_path / "out" / "scan.dcm").exists()


def test_formats_that_do_not_exist_or_hold_no_label_maps(tmp_path: Path) -> None:
    assert label_formats()[0] == "dicom-seg"
    assert {"nii.gz", "nrrd", "mha", "png", "tif"} < set(label_formats())
    for name in ("dicom", "jpg", ""):
        with pytest.raises(UnknownNameError, match=r"expected one of dicom-seg, .*nii\.gz"):
            label_files(name, LABELS)


def test_the_missing_package_is_told_before_anything_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingPartError, match=r"pip install 'autoseg\[dicom\]'"):
        label_files("dicom-seg", LABELS)


def test_the_command_names_the_formats(trained_pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series(tmp_path / "scan")
    told = failure(
        capsys, "predict", "-i", tmp_path / "scan", "-o", tmp_path / "out", "-w", trained_pair, "--format", "seg"
    )
    assert "there is no format 'seg' for label maps" in told
    assert not (tmp_path / "out").exists()
