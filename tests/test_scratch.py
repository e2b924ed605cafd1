"""Arrays for which memory has no room: the same bits in files, and nothing left of them."""

from __future__ import annotations

import gzip
import os
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from autoseg import scratch
from autoseg.inference import folder as folder_module
from autoseg.inference import inputs as inputs_module
from autoseg.inference.folder import predict_files
from autoseg.inference.inputs import PrepareInput
from autoseg.io.case_work import CaseFiles
from autoseg.io.cases import read_image
from autoseg.io.formats import format_of, read_header
from autoseg.io.nifti_voxels import can_be_mapped, plain_voxels
from autoseg.logs import SilentLogger
from autoseg.machine import Memory
from autoseg.preprocessing.forward import preprocess_image
from autoseg.values import AxisMap, Case, Geometry, Volume
from tests.inference.test_cases import ORIENTATIONS, make_plan, make_predictor, read, scan, write_scan


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "SMALL", 0)


def lies_in_a_file(array: np.ndarray) -> bool:
    while array is not None:
        if isinstance(array, np.memmap):
            return True
        array = getattr(array, "base", None)
    return False


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
def test_large_arrays_lie_in_files_without_a_name_and_others_in_memory(tmp_path: Path, dtype) -> None:
    few, many = (4, 4), (2**13, 2**14)
    assert not lies_in_a_file(scratch.zeros(few, dtype))
    with scratch.arrays_in(tmp_path):
        assert scratch.in_files()
        assert not lies_in_a_file(scratch.zeros(few, dtype))
        large = scratch.zeros(many, dtype)
        assert lies_in_a_file(large)
        assert not large[::1000].any()
        assert not list(tmp_path.iterdir())
        with scratch.arrays_in(None):
            assert not scratch.in_files()
    assert not scratch.in_files()


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("shape", [(7, 30, 20), (2, 7, 30, 20), (1, 3)])
def test_a_converted_array_has_the_same_numbers(tmp_path: Path, all_large, monkeypatch, shape, copy: bool) -> None:
    monkeypatch.setattr(scratch, "AT_ONCE", 100)
    array = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
    for each in (array, array[..., ::-1], np.moveaxis(array, 0, -1)):
        expected = np.array(each, np.float32, order="C")
        with scratch.arrays_in(tmp_path):
            made = scratch.contiguous(each, np.float32, copy=copy)
            assert scratch.contiguous(made, np.float32) is made
            assert scratch.contiguous(made, np.float32, copy=True) is not made
        assert lies_in_a_file(made)
        assert made.flags.c_contiguous
        np.testing.assert_array_equal(made, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="limits a file's size")
def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(OSError, match="large"):
            scratch.nameless(tmp_path, (2**20,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_mapped_voxels_are_those_that_are_read(tmp_path: Path, all_large, monkeypatch, ending: str) -> None:
    monkeypatch.setattr("autoseg.io.nifti_voxels.PIECE", 1000)
    path = tmp_path / f"a{ending}"
    array = np.random.default_rng(0).integers(-1000, 1000, (1, 9, 14, 11)).astype(np.int16)
    format_of(path).write(path, Volume(array=array, geometry=Geometry(shape=(9, 14, 11), spacing=(2.0, 1.0, 1.0))))
    assert can_be_mapped(path)
    expected = plain_voxels(path)
    with scratch.arrays_in(tmp_path):
        mapped = plain_voxels(path)
        assert mapped is not None
        assert lies_in_a_file(mapped)
        np.testing.assert_array_equal(mapped, expected)
        whole = path.read_bytes()
        damaged = [whole[:-200], whole + b"more"]
        if ending == ".nii.gz":
            raw = gzip.decompress(whole)
            damaged += [gzip.compress(raw[:-2]), gzip.compress(raw + b"xx"), whole[:300] + b"\xff" * 50 + whole[350:]]
        for each in damaged:
            path.write_bytes(each)
            assert plain_voxels(path) is None


@pytest.mark.parametrize("scheme", ["none", "zscore"])
@pytest.mark.parametrize("spacing", [(None, None, None), (4.0, 2.0, 2.0)], ids=["own grid", "other grid"])
@pytest.mark.parametrize("stored", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_an_image_larger_than_memory_is_prepared_in_files_to_the_same_bits(
    tmp_path: Path, all_large, monkeypatch, stored: AxisMap, spacing, scheme: str
) -> None:
    plan, case = make_plan(spacing=spacing, scheme=scheme), write_scan(tmp_path / "in", "a", scan(0, stored))
    image, record = preprocess_image(
        read_image(case, tmp_path / "in", plan.channels), plan, plan.configuration("tiny"), case_id="a"
    )
    (tmp_path / "out").mkdir()
    task = PrepareInput(plan=plan, configuration="tiny", root=str(tmp_path / "in"), folder=str(tmp_path / "out"))
    item = CaseFiles.of(case, str(tmp_path / "in"))
    seen = []
    monkeypatch.setattr(inputs_module, "machine_memory", lambda: Memory(limit=1000, used=0))

    def seeing(volume: Volume, *given: object, **how: object) -> object:
        seen.append(volume)
        return preprocess_image(volume, *given, **how)

    monkeypatch.setattr(inputs_module, "preprocess_image", seeing)
    prepared = task(item)
    assert scratch.in_files() is False
    assert lies_in_a_file(seen[0].array)
    with prepared.image() as made:
        np.testing.assert_array_equal(made, image)
    assert msgspec.structs.replace(prepared.record, key="") == msgspec.structs.replace(record, key="")


@pytest.mark.parametrize(("ending", "mapped"), [(".nii", True), (".nii.gz", True), (".nrrd", False)])
def test_what_the_machine_has_no_room_for_costs_only_what_is_not_in_files(
    tmp_path: Path, monkeypatch, ending: str, mapped: bool
) -> None:
    shape, path = (160, 512, 512), tmp_path / f"a{ending}"
    array = np.broadcast_to(np.arange(512, dtype=np.int16), (1, *shape))
    format_of(path).write(path, Volume(array=array, geometry=Geometry(shape=shape, spacing=(5.0, 1.0, 1.0))))
    task = PrepareInput(plan=make_plan(), configuration="tiny", root=str(tmp_path), folder=str(tmp_path))
    item = CaseFiles.of(Case(id="a", images=(path.name,)), str(tmp_path))
    costs = []
    for limit in (2**40, 2**20):
        monkeypatch.setattr(inputs_module, "machine_memory", lambda limit=limit: Memory(limit=limit, used=0))
        costs.append(task.bytes(item, (read_header(path),)))
    voxels = 160 * 512 * 512
    assert costs[0] > 8 * voxels
    assert costs[1] < 5 * voxels if mapped else costs[1] == costs[0]


def test_a_whole_prediction_of_an_image_larger_than_memory(tmp_path: Path, all_large, monkeypatch) -> None:
    """Reading, preparing, summing up, deciding and writing, each told that there is hardly any memory."""
    plan = make_plan(spacing=(4.0, 2.0, 2.0))
    cases = [write_scan(tmp_path / "in", f"case_{number}", scan(number)) for number in range(2)]
    expected = predict_files(make_predictor(plan), plan, "k", cases, tmp_path / "in", tmp_path / "a", SilentLogger())
    for module in (inputs_module, folder_module):
        monkeypatch.setattr(module, "machine_memory", lambda: Memory(limit=1000, used=0))
    predictor = make_predictor(plan)
    predictor.room_for_sums = 0
    made = predict_files(predictor, plan, "k", cases, tmp_path / "in", tmp_path / "b", SilentLogger())
    for case, file in expected.items():
        np.testing.assert_array_equal(read(made[case]).array, read(file).array)
    assert {path.name for path in (tmp_path / "b").iterdir()} == {path.name for path in (tmp_path / "a").iterdir()}
    assert os.listdir(tmp_path / "b")
