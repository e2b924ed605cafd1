"""Many cases: scored on their own grids, written on their own grids, done once, and one bad case costs one case."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

from autoseg.errors import CasesFailedError, InterruptedRunError
from autoseg.files import read_document
from autoseg.inference.cases import validate_cases
from autoseg.inference.folder import predict_files
from autoseg.inference.predict import Predictor
from autoseg.io.case_store import CaseStore, StoredCase
from autoseg.io.cases import grid_conflict
from autoseg.io.formats import format_of
from autoseg.logs import SilentLogger
from autoseg.networks.build import build_network
from autoseg.phantom import make_phantom
from autoseg.preprocessing.forward import preprocess_case
from autoseg.values import (
    PREDICTION_RECORD,
    AxisMap,
    Case,
    ExecutionPath,
    Label,
    Labels,
    NormalizationSpec,
    Plan,
    PredictionRecord,
    Summary,
    Volume,
    digest,
)
from autoseg.volume.axes import reorder
from autoseg.workspace import FoldFolder
from tests.io.dicom_phantoms import grid, write_series
from tests.small_plans import small_configuration, small_plan

LABELS = Labels(foreground=(Label(name="bright", values=(1,)),))
THRESHOLD = 120
ORIENTATIONS = {
    "as made": AxisMap(),
    "reversed": AxisMap(order=(2, 1, 0)),
    "rotated and flipped": AxisMap(order=(1, 2, 0), flipped=(True, False, True)),
    "flipped": AxisMap(flipped=(True, True, True)),
}


@pytest.fixture(autouse=True)
def _threads_as_before():
    """Predictors set torch's threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Threshold(nn.Module):
    """Label 1 where the image is brighter than the threshold; counts its calls."""

    deep_supervision = True
    calls = 0

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        self.calls += 1
        if x.max() > 20_000:
            raise RuntimeError("the network chokes on this image")
        return [torch.cat([torch.zeros_like(x), x - THRESHOLD], dim=1)]


class FarHalf(nn.Module):
    """Label 1 in the half of the tile with the larger indices along an axis, whatever the image shows."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.deep_supervision = axis, True

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        size = x.shape[self.axis + 2]
        ramp = torch.arange(size) - (size - 1) / 2
        logits = torch.zeros_like(x) + ramp.reshape([-1 if axis == self.axis + 2 else 1 for axis in range(x.ndim)])
        return [torch.cat([torch.zeros_like(x), logits], dim=1)]


def make_plan(
    *,
    spacing: Sequence[float | None] = (None, None, None),
    patch: Sequence[int] = (8, 8, 8),
    axis_order: tuple[int, int, int] = (0, 1, 2),
    scheme: str = "none",
) -> Plan:
    configuration = small_configuration(
        patch=patch, spacing=tuple(spacing), median_shape=(8.0, 16.0, 14.0), mirror_axes=(0,)
    )
    normalization = (NormalizationSpec(scheme=scheme),)
    return small_plan(configuration, labels=LABELS, axis_order=axis_order, normalization=normalization)


def make_predictor(plan: Plan, network: nn.Module | None = None, **options: bool) -> Predictor:
    path = ExecutionPath(device="cpu", threads=1)
    return Predictor([network or Threshold()], plan.configuration("tiny"), path, **options)


def scan(seed: int, stored: AxisMap | None = None) -> Volume:
    """A small oblique phantom with an empty margin, so that cropping has something to do."""
    made = make_phantom(seed, shape=(8, 16, 14), spacing=(5.0, 2.5, 3.0), stored=stored).image
    array = np.zeros_like(made.array)
    inner = (slice(None), slice(1, -1), slice(1, -2), slice(2, -1))
    array[inner] = np.maximum(made.array[inner], 1)
    return Volume(array=array, geometry=made.geometry)


def write_scan(folder: Path, name: str, volume: Volume, ending: str = ".nii.gz") -> Case:
    file = f"{name}{ending}"
    format_of(Path(file)).write(folder / file, volume)
    return Case(id=name, images=(file,))


@pytest.fixture
def scans(tmp_path: Path) -> tuple[Path, list[Case]]:
    """A folder of scans, each stored in another orientation."""
    folder = tmp_path / "images"
    return folder, [
        write_scan(folder, f"case_{index}", scan(index, stored)) for index, stored in enumerate(ORIENTATIONS.values())
    ]


def predict(
    predictor: Predictor, plan: Plan, scans: tuple[Path, list[Case]], target: Path, key: str = "weights"
) -> dict[str, Path]:
    return predict_files(predictor, plan, key, scans[1], scans[0], target, SilentLogger())


def read(file: Path) -> Volume:
    return format_of(file).read(file)


@pytest.mark.parametrize(
    ("patch", "axis_order"), [((8, 8, 8), (0, 1, 2)), ((4, 8, 6), (2, 0, 1)), ((8, 8), (1, 2, 0))], ids=str
)
def test_label_maps_show_the_same_voxels_as_their_images(tmp_path: Path, scans, patch, axis_order) -> None:
    plan = make_plan(patch=patch, axis_order=axis_order)
    written = predict(make_predictor(plan), plan, scans, tmp_path / "out")
    assert list(written) == [case.id for case in scans[1]]
    for case in scans[1]:
        image, labels = read(scans[0] / case.images[0]), read(written[case.id])
        assert grid_conflict(image.geometry, labels.geometry) is None
        assert image.geometry.displacement_from(labels.geometry) < 1e-3
        np.testing.assert_array_equal(labels.array, image.array > THRESHOLD)
        assert 0 < labels.array.mean() < 1


@pytest.mark.parametrize("axis_order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("spacing", [(None, None, None), (4.0, 2.0, 2.0)], ids=["own grid", "resampled"])
def test_what_the_network_sees_on_one_side_is_on_that_side_of_the_patient(
    tmp_path: Path, axis_order: tuple[int, int, int], spacing
) -> None:
    """However a scan is stored, its left half (canonical x, running to the left) is labelled."""
    full = [make_phantom(seed, shape=(8, 16, 16), stored=axes).image for seed, axes in enumerate(ORIENTATIONS.values())]
    bright = [Volume(array=np.maximum(volume.array, 1), geometry=volume.geometry) for volume in full]
    folder = tmp_path / "images"
    cases = [write_scan(folder, f"case_{index}", volume) for index, volume in enumerate(bright)]
    ordered = tuple(spacing[axis] for axis in axis_order)
    plan = make_plan(patch=(32, 32, 32), axis_order=axis_order, spacing=ordered)
    network = FarHalf(axis_order.index(2))
    written = predict(make_predictor(plan, network, mirroring=False), plan, (folder, cases), tmp_path / "out")
    for case in cases:
        labels = read(written[case.id])
        canonical = reorder(labels.array, labels.geometry.to_canonical())[0]
        np.testing.assert_array_equal(canonical[..., :8], 0)
        np.testing.assert_array_equal(canonical[..., 8:], 1)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_label_maps_have_the_ending_of_their_images(tmp_path: Path, ending: str) -> None:
    case = write_scan(tmp_path / "in", "case_0", scan(0), ending)
    plan = make_plan()
    written = predict(make_predictor(plan), plan, (tmp_path / "in", [case]), tmp_path / "out")
    assert written["case_0"] == tmp_path / "out" / f"case_0{ending}"
    np.testing.assert_array_equal(read(written["case_0"]).array, scan(0).array > THRESHOLD)


PALETTE = ((0, 0, 0), (0, 200, 40))


def with_palette(plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, labels=msgspec.structs.replace(plan.labels, palette=PALETTE))


@pytest.mark.parametrize(
    ("ending", "expected"), [(".jpg", ".png"), (".bmp", ".png"), (".png", ".png"), (".tif", ".tif")]
)
def test_label_maps_of_pictures_are_exact_and_have_their_palette(tmp_path: Path, ending: str, expected: str) -> None:
    pixels = np.full((24, 20), 40, np.uint8)
    pixels[5:15, 4:12] = 220
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / f"case_0{ending}", quality=95)
    case = Case(id="case_0", images=(f"case_0{ending}",))
    plan = with_palette(make_plan(patch=(8, 8)))
    written = predict(make_predictor(plan), plan, (tmp_path / "in", [case]), tmp_path / "out")
    assert written["case_0"] == tmp_path / "out" / f"case_0{expected}"
    with Image.open(written["case_0"]) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), pixels > THRESHOLD)
        assert np.asarray(picture.convert("RGB"))[10, 10].tolist() == [0, 200, 40]


def test_a_stack_of_pages_gets_a_stack_with_its_spacing(tmp_path: Path) -> None:
    pixels = np.full((6, 16, 14), 40, np.uint8)
    pixels[2:5, 5:12, 4:10] = 220
    (tmp_path / "in").mkdir()
    metadata = {"axes": "ZYX", "spacing": 3.0, "unit": "mm"}
    tifffile.imwrite(tmp_path / "in" / "case_0.tif", pixels, imagej=True, resolution=(2.0, 4.0), metadata=metadata)
    plan, case = with_palette(make_plan()), Case(id="case_0", images=("case_0.tif",))
    written = predict(make_predictor(plan), plan, (tmp_path / "in", [case]), tmp_path / "out")
    volume = read(written["case_0"])
    np.testing.assert_array_equal(volume.array[0], pixels > THRESHOLD)
    assert volume.geometry.spacing == pytest.approx((3.0, 0.25, 0.5))
    assert volume.palette[:2] == PALETTE


@pytest.mark.parametrize("named", ["scan", "scan/IM0003.dcm"])
def test_a_dicom_series_gets_a_nifti_label_map_on_its_grid(tmp_path: Path, named: str) -> None:
    geometry = grid("oblique", (8, 16, 14))
    array = np.where(np.random.default_rng(0).random(geometry.shape) < 0.5, 220, 40).astype(np.int16)
    write_series(tmp_path / "in" / "scan", array, geometry, order=[3, 1, 5, 0, 2, 4, 7, 6])
    plan, network = make_plan(), Threshold()
    case = Case(id="scan", images=(named,))
    written = predict(make_predictor(plan, network), plan, (tmp_path / "in", [case]), tmp_path / "out")
    assert written["scan"] == tmp_path / "out" / "scan.nii.gz"
    np.testing.assert_array_equal(read(written["scan"]).array[0], array > THRESHOLD)
    assert read(written["scan"]).geometry.displacement_from(geometry) < 1e-3
    network.calls = 0
    predict(make_predictor(plan, network), plan, (tmp_path / "in", [case]), tmp_path / "out")
    assert network.calls == 0
    write_series(tmp_path / "in" / "scan", array[:, ::-1], geometry, order=[3, 1, 5, 0, 2, 4, 7, 6])
    predict(make_predictor(plan, network), plan, (tmp_path / "in", [case]), tmp_path / "out")
    np.testing.assert_array_equal(read(written["scan"]).array[0], array[:, ::-1] > THRESHOLD)


def test_what_is_done_is_not_done_again(tmp_path: Path, scans) -> None:
    plan, network = make_plan(), Threshold()
    first = predict(make_predictor(plan, network), plan, scans, tmp_path / "out")
    calls, times = network.calls, {file: file.stat().st_mtime_ns for file in first.values()}
    assert calls > 0
    assert predict(make_predictor(plan, network), plan, scans, tmp_path / "out") == first
    assert network.calls == calls
    assert {file: file.stat().st_mtime_ns for file in first.values()} == times


def test_a_changed_image_is_predicted_anew_and_no_other(tmp_path: Path, scans) -> None:
    plan = make_plan()
    first = predict(make_predictor(plan), plan, scans, tmp_path / "out")
    times = {name: file.stat().st_mtime_ns for name, file in first.items()}
    write_scan(scans[0], "case_1", scan(50))
    written = predict(make_predictor(plan), plan, scans, tmp_path / "out")
    np.testing.assert_array_equal(read(written["case_1"]).array, scan(50).array > THRESHOLD)
    assert {name for name, file in written.items() if file.stat().st_mtime_ns != times[name]} == {"case_1"}


@pytest.mark.parametrize("change", ["weights", "mirroring", "file lost", "plan"])
def test_what_was_made_otherwise_is_made_anew(tmp_path: Path, scans, change: str) -> None:
    plan, network = make_plan(), Threshold()
    predict(make_predictor(plan, network), plan, scans, tmp_path / "out")
    network.calls = 0
    if change == "file lost":
        (tmp_path / "out" / "case_2.nii.gz").unlink()
    predict(
        make_predictor(plan, network, mirroring=change != "mirroring"),
        make_plan(scheme="none", axis_order=(1, 0, 2)) if change == "plan" else plan,
        scans,
        tmp_path / "out",
        key="other" if change == "weights" else "weights",
    )
    assert network.calls > 0
    assert (tmp_path / "out" / "case_2.nii.gz").is_file()


def test_a_label_map_that_somebody_corrected_is_not_lost(tmp_path: Path, scans) -> None:
    plan = make_plan()
    corrected = predict(make_predictor(plan), plan, scans, tmp_path / "out")["case_1"]
    corrected.write_bytes((tmp_path / "out" / "case_2.nii.gz").read_bytes())
    before = corrected.read_bytes()
    predict(make_predictor(plan), plan, scans, tmp_path / "out")  # nothing to do
    with pytest.raises(CasesFailedError, match="1 of 4 cases failed") as caught:
        predict(make_predictor(plan), plan, scans, tmp_path / "out", key="another model")
    assert "changed by hand" in str(caught.value.failures["case_1"])
    assert corrected.read_bytes() == before
    corrected.unlink()
    predict(make_predictor(plan), plan, scans, tmp_path / "out", key="another model")
    assert corrected.is_file()


def test_a_broken_image_costs_one_case_and_is_named(tmp_path: Path, scans) -> None:
    plan, network = make_plan(), Threshold()
    (scans[0] / "case_1.nii.gz").write_bytes(b"this is no image")
    with pytest.raises(
        CasesFailedError, match=r"predict: 1 of 4 cases failed.*\n.*case_1: .*case_1\.nii\.gz"
    ) as caught:
        predict(make_predictor(plan, network), plan, scans, tmp_path / "out")
    assert list(caught.value.failures) == ["case_1"]
    assert caught.value.done == 3
    assert sorted(file.name for file in (tmp_path / "out").glob("*.nii.gz")) == [
        "case_0.nii.gz",
        "case_2.nii.gz",
        "case_3.nii.gz",
    ]
    network.calls = 0
    write_scan(scans[0], "case_1", scan(1))
    assert len(predict(make_predictor(plan, network), plan, scans, tmp_path / "out")) == 4
    alone = Threshold()
    predict(make_predictor(plan, alone), plan, (scans[0], scans[1][1:2]), tmp_path / "elsewhere")
    assert network.calls == alone.calls  # only the mended case was predicted


def test_every_kind_of_failure_costs_one_case(tmp_path: Path, scans) -> None:
    folder, cases = scans
    (folder / "case_0.nii.gz").unlink()
    glaring = scan(1)
    glaring.array[0, 4, 4, 4] = 30_000
    write_scan(folder, "case_1", glaring)
    cases[2] = Case(id="case_2", images=("case_2.nii.gz", "case_3.nii.gz"))
    plan = make_plan()
    with pytest.raises(CasesFailedError) as caught:
        predict(make_predictor(plan), plan, scans, tmp_path / "out")
    failures = {case: str(error) for case, error in caught.value.failures.items()}
    assert failures.keys() == {"case_0", "case_1", "case_2"}
    assert "cannot read the file" in failures["case_0"]
    assert "chokes" in failures["case_1"]
    assert "grids" in failures["case_2"] or "channels" in failures["case_2"]
    assert (tmp_path / "out" / "case_3.nii.gz").is_file()


def test_the_record_tells_what_made_the_label_maps(tmp_path: Path, scans) -> None:
    plan = make_plan()
    predict(make_predictor(plan), plan, scans, tmp_path / "out", key="0123456789abcdef-and-more")
    record = read_document(PredictionRecord, tmp_path / "out" / PREDICTION_RECORD)
    assert record.labels == LABELS
    assert list(record.cases) == [case.id for case in scans[1]]
    assert len({made.key for made in record.cases.values()}) == 4
    for made in record.cases.values():
        assert (made.plan, made.model, made.mirroring) == (plan.id, "tiny, weights 0123456789abcdef", True)


def test_a_real_network_predicts_the_same_in_every_stored_orientation(tmp_path: Path) -> None:
    """The same scan, stored in four ways, gives the same label map in space."""
    folder, plan = tmp_path / "images", make_plan(scheme="zscore", spacing=(5.0, 2.5, 3.0))
    volumes = [make_phantom(3, shape=(8, 16, 14), stored=axes).image for axes in ORIENTATIONS.values()]
    cases = [write_scan(folder, f"case_{index}", volume) for index, volume in enumerate(volumes)]
    network = build_network(plan.configuration("tiny").network, seed=0)
    written = predict(make_predictor(plan, network), plan, (folder, cases), tmp_path / "out")
    maps = [read(written[case.id]) for case in cases]
    canonical = [reorder(labels.array, labels.geometry.to_canonical()) for labels in maps]
    assert 0.02 < canonical[0].mean() < 0.98
    for other in canonical[1:]:
        assert (other != canonical[0]).mean() < 1e-3  # rounding of coordinates in the file


def fill_store(folder: Path, plan: Plan, names: Sequence[str]) -> tuple[CaseStore, dict[str, str], dict[str, Volume]]:
    """Preprocessed scans whose references are what the threshold finds."""
    store, keys, references = CaseStore(folder), {}, {}
    for seed, name in enumerate(names):
        image = scan(seed, list(ORIENTATIONS.values())[seed % 4])
        reference = Volume(array=(image.array > THRESHOLD).astype(np.int32), geometry=image.geometry)
        keys[name], references[name] = digest([name]), reference
        ready = preprocess_case(
            Volume(array=image.array.astype(np.float32), geometry=image.geometry),
            reference,
            plan,
            plan.configuration("tiny"),
            case_id=name,
            key=keys[name],
        )
        store.save(
            StoredCase(
                record=ready.record,
                image=ready.image,
                segmentation=ready.segmentation,
                locations=ready.locations,
                reference=reference.array[0].astype(np.uint8),
            )
        )
    return store, keys, references


def validate(predictor, plan, store, keys, folder: Path, stop=lambda: False, annotated=None) -> Summary:
    return validate_cases(
        predictor, plan, store, keys, annotated or {}, FoldFolder(folder.parent), SilentLogger(), stop
    )


def test_held_out_cases_are_scored_on_their_original_grids(tmp_path: Path) -> None:
    plan = make_plan(axis_order=(1, 0, 2))
    store, keys, references = fill_store(tmp_path / "store", plan, "dbca")
    summary = validate(make_predictor(plan), plan, store, keys, tmp_path / "validation")
    assert summary.foreground_mean.dice == 1.0
    assert summary.foreground_mean.cases == 4
    assert [score.prediction_file for score in summary.metric_per_case] == [f"{name}.nii.gz" for name in "abcd"]
    for name, reference in references.items():
        written = read(tmp_path / "validation" / f"{name}.nii.gz")
        np.testing.assert_array_equal(written.array, reference.array)
        assert written.geometry.displacement_from(reference.geometry) < 1e-3


def test_the_summary_on_disk_is_the_one_returned_under_nnunets_keys(tmp_path: Path) -> None:
    plan = make_plan()
    store, keys, _ = fill_store(tmp_path / "store", plan, "ab")
    summary = validate(make_predictor(plan), plan, store, keys, tmp_path / "validation")
    assert read_document(Summary, tmp_path / "validation" / "summary.json") == summary
    written = json.loads((tmp_path / "validation" / "summary.json").read_text())
    assert {"foreground_mean", "mean", "metric_per_case"} <= written.keys()
    assert written["metric_per_case"][0]["metrics"]["1"]["Dice"] == 1.0


def test_held_out_cases_are_measured_in_millimetres_and_tabled(tmp_path: Path) -> None:
    plan = make_plan()
    store, keys, _ = fill_store(tmp_path / "store", plan, "ab")
    summary = validate(make_predictor(plan), plan, store, keys, tmp_path / "validation")
    score = summary.metric_per_case[0].metrics["1"]
    assert (score.hd, score.assd, score.nsd, score.lesion_f1) == (0, 0, 1, 1)
    assert summary.measured_with
    lines = (tmp_path / "validation" / "scores.csv").read_text().splitlines()
    assert lines[0].startswith("case,label,name,Dice,IoU,Precision")
    assert lines[1].startswith("a.nii.gz,1,")


@pytest.mark.parametrize("within", [False, True], ids=["between two cases", "within a case"])
def test_a_stopped_validation_goes_on_with_the_cases_that_are_left(tmp_path: Path, within: bool) -> None:
    plan, network, last = make_plan(), Threshold(), []
    store, keys, _ = fill_store(tmp_path / "store", plan, "abc")

    def stop() -> bool:
        """Once two cases are scored: at once, or after the first tiles of the third."""
        if len(list((tmp_path / "one" / "validation" / "scores").glob("*.json"))) == 2:
            last.append(network.calls)
        return bool(last) and (not within or network.calls > last[0])

    with pytest.raises(InterruptedRunError, match="before c was validated"):
        validate(make_predictor(plan, network), plan, store, keys, tmp_path / "one" / "validation", stop=stop)
    assert not (tmp_path / "one" / "validation" / "summary.json").exists()
    calls = network.calls
    resumed = validate(make_predictor(plan, network), plan, store, keys, tmp_path / "one" / "validation")
    assert network.calls - calls < last[0]  # one case after two
    whole = validate(make_predictor(plan), plan, store, keys, tmp_path / "whole" / "validation")
    assert resumed == whole


@pytest.mark.parametrize("name", ["image", "reference"])
def test_a_case_that_turns_out_damaged_in_validation_is_made_anew_and_scored(tmp_path: Path, name: str) -> None:
    plan, asked = make_plan(), []
    whole, keys, _ = fill_store(tmp_path / "whole", plan, "ab")
    expected = validate(make_predictor(plan), plan, whole, keys, tmp_path / "expected" / "validation")
    shutil.copytree(tmp_path / "whole", tmp_path / "store")

    def rebuild(case_id: str) -> None:
        asked.append(case_id)
        shutil.rmtree(tmp_path / "store")
        shutil.copytree(tmp_path / "whole", tmp_path / "store")

    (file,) = (tmp_path / "store").glob(f"b-*/{name}.*")
    file.write_bytes(file.read_bytes()[:-1])
    store = CaseStore(tmp_path / "store")
    refused = tmp_path / "refused" / "validation"
    with pytest.raises(
        CasesFailedError, match=rf"(?s)validate: 1 of 2 cases failed, the others are done:.*b: .*{name}"
    ):
        validate(make_predictor(plan), plan, store, keys, refused)
    assert [path.stem for path in (refused / "scores").iterdir()] == ["a"]
    assert not (refused / "summary.json").exists()
    store = CaseStore(tmp_path / "store", rebuild=rebuild)
    assert validate(make_predictor(plan), plan, store, keys, tmp_path / "found" / "validation") == expected
    assert asked == ["b"]
