"""DICOM segmentations before judges of their own: a validator of the standard, and an archive as hospitals run them.

``dciodvfy`` is in Debian's package dicom3tools, Orthanc in its package orthanc. What is not installed is skipped.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autoseg.io.formats import format_of
from autoseg.values import Volume
from tests.io.dicom_phantoms import DIRECTIONS, grid, noise, write_series
from tests.io.dicom_segments import blobs, edit, make, pydicom, segmented, voxels_of_nifti, voxels_of_segmentation

pytestmark = pytest.mark.dicom_tools

SHAPE = (6, 7, 9)
#: Seconds that an archive may take to start.
PATIENCE = 30


@pytest.fixture(scope="module")
def dciodvfy() -> str:
    """The validator's program."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (Debian's package dicom3tools)")
    return program


def complaints(program: str, file: Path) -> list[str]:
    """What the validator does not like; without what only an index of a disc would need."""
    told = subprocess.run([program, str(file)], capture_output=True, text=True, check=False, timeout=60)
    lines = (told.stderr + told.stdout).splitlines()
    assert "Segmentation" in lines, lines  # what it took the file for
    return [line for line in lines if re.match(r"(Error|Warning)", line) and "DICOMDIR" not in line]


@pytest.mark.parametrize("way", DIRECTIONS)
def test_the_validator_finds_nothing(way: str, dciodvfy: str, tmp_path: Path) -> None:
    assert complaints(dciodvfy, make(tmp_path, grid(way, SHAPE), blobs(SHAPE))) == []


def test_the_validator_finds_nothing_in_an_empty_one(dciodvfy: str, tmp_path: Path) -> None:
    assert complaints(dciodvfy, make(tmp_path, grid(shape=SHAPE), np.zeros(SHAPE, np.uint8))) == []


def test_the_validator_finds_nothing_where_the_source_says_much_or_wrongly(dciodvfy: str, tmp_path: Path) -> None:
    write_series(tmp_path / "scan", noise(grid(shape=SHAPE)), grid(shape=SHAPE))
    edit(
        tmp_path / "scan",
        SpecificCharacterSet="ISO_IR 100",
        PatientName="Müller^Jörg",
        PatientSex="unknown",
        StudyDate="04.03.2025",
        PatientAge="60",
        FrameOfReferenceUID=None,
    )
    assert complaints(dciodvfy, segmented(tmp_path, blobs(SHAPE))) == []


def test_the_validator_does_find_what_is_wrong(dciodvfy: str, tmp_path: Path) -> None:
    """Or else its silence would say nothing."""
    file = make(tmp_path, grid(shape=SHAPE), blobs(SHAPE))
    dataset = pydicom.dcmread(file)
    del dataset.SegmentSequence[0].SegmentAlgorithmType
    dataset.save_as(file)
    assert any("SegmentAlgorithmType" in line for line in complaints(dciodvfy, file))


@pytest.mark.real_data
def test_a_real_series(dciodvfy: str, real_data: Path, tmp_path: Path) -> None:
    shutil.copytree(real_data / "dicom" / "hippocampus_crop", tmp_path / "scan")
    image = format_of(tmp_path / "scan").read(tmp_path / "scan")
    labels = np.digitize(image.array[0], np.percentile(image.array, [80, 95]))
    labels = np.array([0, 2, 7], np.uint8)[labels]
    file = segmented(tmp_path, labels)
    assert complaints(dciodvfy, file) == []
    format_of(tmp_path / "a.nii.gz").write(tmp_path / "a.nii.gz", Volume(array=labels[None], geometry=image.geometry))
    assert voxels_of_segmentation(file) == voxels_of_nifti(tmp_path / "a.nii.gz")
    source = pydicom.dcmread(next((tmp_path / "scan").iterdir()))
    written = pydicom.dcmread(file)
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert written[name].value == source[name].value


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[str]:
    """An archive of this test's own, that only this machine can reach; its address."""
    program = shutil.which("Orthanc")
    if program is None:
        pytest.skip("Orthanc is not installed (Debian's package orthanc)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "StorageDirectory": str(tmp_path / "archive"),
        "IndexDirectory": str(tmp_path / "archive"),
        "HttpPort": port,
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "Plugins": [],
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                asked(f"{address}/system")
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, (tmp_path / "orthanc.log").read_text()
                assert time.monotonic() < until, "Orthanc does not answer"
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def asked(address: str, data: bytes | None = None) -> bytes:
    """What the archive answers."""
    with urllib.request.urlopen(urllib.request.Request(address, data=data), timeout=PATIENCE) as answer:
        content: bytes = answer.read()
    return content


def test_an_archive_keeps_it_in_the_study_of_its_source(orthanc: str, tmp_path: Path) -> None:
    labels, geometry = blobs(SHAPE), grid("oblique", SHAPE)
    write_series(tmp_path / "scan", noise(geometry), geometry)
    edit(tmp_path / "scan", PatientID="4711", PatientName="A^B")
    file = segmented(tmp_path, labels)
    for path in (*sorted((tmp_path / "scan").iterdir()), file):
        assert json.loads(asked(f"{orthanc}/instances", path.read_bytes()))["Status"] == "Success"
    sent = pydicom.dcmread(file)
    assert len(json.loads(asked(f"{orthanc}/patients"))) == 1
    assert len(json.loads(asked(f"{orthanc}/studies"))) == 1
    query = {"Level": "Instance", "Query": {"Modality": "SEG"}, "Expand": True}
    (found,) = json.loads(asked(f"{orthanc}/tools/find", json.dumps(query).encode()))
    assert found["MainDicomTags"]["SOPInstanceUID"] == sent.SOPInstanceUID
    kept = tmp_path / "kept.dcm"
    kept.write_bytes(asked(f"{orthanc}/instances/{found['ID']}/file"))
    assert pydicom.dcmread(kept) == sent
    assert voxels_of_segmentation(kept) == voxels_of_segmentation(file)
    assert len(voxels_of_segmentation(kept)) == np.count_nonzero(labels)
    again = segmented(tmp_path, labels)  # the same result once more
    assert json.loads(asked(f"{orthanc}/instances", again.read_bytes()))["Status"] == "AlreadyStored"
