"""The fingerprint: statistics against plain numpy, measured once per content, and all problems told together."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
import SimpleITK
from safetensors import safe_open
from safetensors.numpy import save as to_bytes
from scipy import ndimage

from autoseg.errors import FindingsError, InputError
from autoseg.executors import SerialExecutor, ThreadExecutor
from autoseg.fingerprinting import fingerprint_dataset
from autoseg.logs import SilentLogger
from autoseg.measuring import QUANTILES, _Kept, load_measurement, measure_case
from autoseg.values import (
    AxisMap,
    Case,
    Dataset,
    Finding,
    Fingerprint,
    IntensityProperties,
    Label,
    Labels,
    decode,
    encode,
)
from autoseg.workspace import Workspace

LABELS = Labels(foreground=(Label(name="a", values=(1,)), Label(name="b", values=(3,))), ignore=9)
SHAPE = (10, 24, 24)


@dataclasses.dataclass(frozen=True)
class Scan:
    """Two channels and a label map."""

    image: np.ndarray
    labels: np.ndarray

    @property
    def foreground(self) -> np.ndarray:
        """``(channels, voxels)`` in float64."""
        return self.image[:, np.isin(self.labels, (1, 3))].astype(np.float64)


def scan(seed: int, *, voxels: int = 4096, ignored: bool = True) -> Scan:
    """Intensities that differ between background, foreground and ignored voxels."""
    random = np.random.default_rng(seed)
    labels = np.zeros(np.prod(SHAPE), np.uint8)
    order = random.permutation(labels.size)
    labels[order[:voxels]] = random.choice([1, 3], voxels)
    labels[order[voxels : voxels + 500]] = 9 if ignored else 0
    image = random.normal(100 * (seed + 1), 30, (2, labels.size))
    image[:, labels == 9] = 1e6
    image[:, labels == 0] = -1e6
    return Scan(image=image.astype(np.float32).reshape(2, *SHAPE), labels=labels.reshape(SHAPE))


def write(path: Path, array: np.ndarray) -> str:
    path.parent.mkdir(exist_ok=True, parents=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing([0.5, 0.75, 3.0])
    SimpleITK.WriteImage(image, str(path))
    return path.name


def make_dataset(root: Path, scans: dict[str, Scan | None]) -> Dataset:
    """Writes a data set; None makes a case without label file."""
    cases = []
    for name, each in sorted(scans.items()):
        shown = each or scan(0)
        images = tuple(write(root / f"{name}_{channel}.mha", shown.image[channel]) for channel in range(2))
        label = write(root / f"{name}.mha", each.labels) if each else None
        cases.append(Case(id=name, images=images, label=label))
    return Dataset(
        name="D", root=str(root), channels=("T1", "T2"), labels=LABELS, file_ending=".mha", cases=tuple(cases)
    )


def fingerprint(dataset: Dataset, folder: Path, known: tuple[Finding, ...] = ()) -> tuple[Fingerprint, list[Finding]]:
    return fingerprint_dataset(dataset, known, Workspace(folder), SerialExecutor(), SilentLogger())


def statistics(values: np.ndarray) -> IntensityProperties:
    low, median, high = np.percentile(values, (0.5, 50, 99.5))
    return IntensityProperties(
        mean=values.mean(),
        median=median,
        std=values.std(),
        min=values.min(),
        max=values.max(),
        percentile_00_5=low,
        percentile_99_5=high,
    )


def assert_close(found: IntensityProperties, expected: IntensityProperties, **tolerance: float) -> None:
    for name in IntensityProperties.__struct_fields__:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), **tolerance), name


def test_intensities_are_those_of_all_foreground_voxels_together(tmp_path: Path) -> None:
    """With equally many voxels in each case; background and ignored voxels, which lie far off, have no part."""
    scans = {f"case_{seed}": scan(seed) for seed in range(3)}
    found, findings = fingerprint(make_dataset(tmp_path / "D", scans), tmp_path / "W")
    assert [finding.found for finding in findings] == ["0, 1, 3, 9"]  # the gaps between the labels' integers, a note
    pooled = np.concatenate([each.foreground for each in scans.values()], axis=1)
    for channel in range(2):
        assert_close(found.intensities[channel], statistics(pooled[channel]), rel=1e-6)


def test_every_case_has_equal_weight_however_many_voxels_it_has(tmp_path: Path) -> None:
    scans = {"few": scan(0, voxels=256), "many": scan(1, voxels=4096)}
    found, _ = fingerprint(make_dataset(tmp_path / "D", scans), tmp_path / "W")
    repeated = np.concatenate([np.repeat(scans["few"].foreground, 16, axis=1), scans["many"].foreground], axis=1)
    for channel in range(2):
        assert_close(found.intensities[channel], statistics(repeated[channel]), rel=1e-6)


def test_quantiles_of_uneven_cases_are_close(tmp_path: Path) -> None:
    scans = {"few": scan(0, voxels=1500), "many": scan(1, voxels=4500)}
    found, _ = fingerprint(make_dataset(tmp_path / "D", scans), tmp_path / "W")
    repeated = np.concatenate([np.repeat(scans["few"].foreground[0], 3), scans["many"].foreground[0]])
    expected = statistics(repeated)
    assert_close(found.intensities[0], expected, abs=0.02 * expected.std)
    assert found.intensities[0].mean == pytest.approx(expected.mean, rel=1e-9)
    assert found.intensities[0].std == pytest.approx(expected.std, rel=1e-9)


def test_a_case_without_foreground_has_no_part_in_intensities(tmp_path: Path) -> None:
    empty = Scan(image=scan(5).image, labels=np.zeros(SHAPE, np.uint8))
    with_it, findings = fingerprint(make_dataset(tmp_path / "D", {"a": scan(0), "b": empty}), tmp_path / "W")
    without, _ = fingerprint(make_dataset(tmp_path / "E", {"a": scan(0)}), tmp_path / "V")
    assert with_it.intensities == without.intensities
    assert [case.id for case in with_it.cases] == ["a", "b"]
    notes = [finding for finding in findings if finding.case]  # besides that of the gaps between the labels' integers
    assert [(finding.severity, finding.case) for finding in notes] == [("note", "b")]


def test_without_any_foreground_there_is_nothing_to_learn(tmp_path: Path) -> None:
    empty = Scan(image=scan(5).image, labels=np.where(scan(5).labels == 9, 9, 0).astype(np.uint8))
    with pytest.raises(InputError, match="nothing to learn"):
        fingerprint(make_dataset(tmp_path / "D", {"a": empty}), tmp_path / "W")


def test_a_label_that_no_case_has_is_told(tmp_path: Path) -> None:
    partly = Scan(image=scan(5).image, labels=np.where(scan(5).labels == 3, 0, scan(5).labels).astype(np.uint8))
    _, findings = fingerprint(make_dataset(tmp_path / "D", {"a": partly}), tmp_path / "W")
    assert [finding.severity for finding in findings if "no case has it" in finding.what] == ["warning"]


def test_intensities_outside_the_crop_do_not_count(tmp_path: Path) -> None:
    """Labels may lie where the image is all zero; nnU-Net crops first, too."""
    image, labels = scan(0).image.copy(), scan(0).labels.copy()
    image[:, :, :6] = 0
    labels[:, :6] = 3
    found, _ = fingerprint(make_dataset(tmp_path / "D", {"a": Scan(image=image, labels=labels)}), tmp_path / "W")
    inside = (labels > 0) & (labels != 9)
    inside[:, :6] = False
    assert found.intensities[0].mean == pytest.approx(image[0][inside].mean(), rel=1e-5)
    assert found.intensities[0].min == pytest.approx(image[0][inside].min(), rel=1e-6)


def test_sizes_spacing_and_label_counts_are_measured(tmp_path: Path) -> None:
    image = scan(0).image.copy()
    image[:, :2] = 0
    image[:, :, :, 20:] = 0
    labels = scan(0).labels.copy()
    found, _ = fingerprint(make_dataset(tmp_path / "D", {"a": Scan(image=image, labels=labels)}), tmp_path / "W")
    (case,) = found.cases
    assert case.spacing == pytest.approx((3.0, 0.75, 0.5))
    assert (case.shape, case.shape_after_crop) == (SHAPE, (8, 24, 20))
    assert case.label_counts == {str(value): int((labels == value).sum()) for value in (0, 1, 3, 9)}
    assert (case.to_canonical, case.planar) == (AxisMap(), False)


def test_centres_are_those_of_each_label_in_the_uncropped_image(tmp_path: Path) -> None:
    """The ignore label has one, too; background has none."""
    image, labels = scan(0).image.copy(), scan(0).labels.copy()
    image[:, :3] = 0
    labels[0, 0, :5] = 3
    found, _ = fingerprint(make_dataset(tmp_path / "D", {"a": Scan(image=image, labels=labels)}), tmp_path / "W")
    centres = found.cases[0].label_centres
    assert centres.keys() == {"1", "3", "9"}
    for name, centre in centres.items():
        expected = np.array(ndimage.center_of_mass(labels == int(name))) * (3.0, 0.75, 0.5)
        np.testing.assert_allclose(centre, expected, rtol=1e-6)


@pytest.mark.parametrize("at_once", [1, 577, SHAPE[0] * SHAPE[1] * SHAPE[2] - 1])
def test_how_many_voxels_are_looked_at_together_does_not_matter(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(tmp_path / "D", {"a": scan(0)})
    whole, _ = measure_case(dataset, dataset.cases[0])
    monkeypatch.setattr("autoseg.measuring.VOXELS_AT_ONCE", at_once)
    assert measure_case(dataset, dataset.cases[0])[0].case == whole.case


def test_cases_come_sorted_by_id_whatever_was_done_first(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "D", {name: scan(seed) for seed, name in enumerate("dbca")})
    threaded, _ = fingerprint_dataset(dataset, (), Workspace(tmp_path / "V"), ThreadExecutor(3), SilentLogger())
    assert [case.id for case in threaded.cases] == list("abcd")
    assert threaded == fingerprint(dataset, tmp_path / "W")[0]


def spoil_unnoticed(file: Path) -> None:
    """Other content of the same size and time: whoever reads it, fails; whoever trusts size and time, does not."""
    status = file.stat()
    file.write_bytes(b"x" * status.st_size)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_what_was_measured_before_is_not_read_again_and_its_findings_are_remembered(tmp_path: Path) -> None:
    empty = Scan(image=scan(5).image, labels=np.zeros(SHAPE, np.uint8))
    dataset = make_dataset(tmp_path / "D", {"a": scan(0), "b": empty})
    first = fingerprint(dataset, tmp_path / "W")
    for file in (tmp_path / "D").iterdir():
        spoil_unnoticed(file)
    assert fingerprint(dataset, tmp_path / "W") == first
    assert first[1]


def test_a_measurement_of_several_channels_comes_back_as_it_was(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "D", {"a": scan(0)})
    first, _ = fingerprint(dataset, tmp_path / "W")
    assert fingerprint(dataset, tmp_path / "W")[0].intensities == first.intensities


def test_a_changed_label_file_is_measured_anew_and_the_others_are_not(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "D", {"a": scan(0), "b": scan(1)})
    first, _ = fingerprint(dataset, tmp_path / "W")
    labels = scan(1).labels.copy()
    labels[labels == 3] = 0
    write(tmp_path / "D" / "b.mha", labels)
    spoil_unnoticed(tmp_path / "D" / "a.mha")
    second, _ = fingerprint(dataset, tmp_path / "W")
    assert second.cases[0] == first.cases[0]
    assert "3" in first.cases[1].label_counts
    assert "3" not in second.cases[1].label_counts
    assert second.intensities != first.intensities


def test_other_declared_labels_make_measurements_worthless(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "D", {"a": scan(0)})
    fingerprint(dataset, tmp_path / "W")
    fewer = msgspec.structs.replace(dataset, labels=Labels(foreground=LABELS.foreground[:1], ignore=9))
    with pytest.raises(FindingsError, match="3"):
        fingerprint(fewer, tmp_path / "W")


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_damaged_measurement_is_made_anew(kept: float, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "D", {"a": scan(0)})
    first = fingerprint(dataset, tmp_path / "W")
    path = Workspace(tmp_path / "W").case_fingerprint_path("a")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert fingerprint(dataset, tmp_path / "W") == first
    assert path.stat().st_size == len(whole)


def test_every_flipped_byte_of_a_measurement_is_found(tmp_path: Path) -> None:
    """Unless it means nothing, as a blank in the head of the file; and the measurement is made anew."""
    dataset = make_dataset(tmp_path / "D", {"a": scan(0)})
    first = fingerprint(dataset, tmp_path / "W")
    path = Workspace(tmp_path / "W").case_fingerprint_path("a")
    whole = path.read_bytes()
    key = decode(_Kept, safe_open(path, framework="np").metadata()["measurement"]).key
    kept = load_measurement(path, key)[0]
    for at in [*range(0, 4000, 7), *range(4000, len(whole), 211), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        found = load_measurement(path, key)
        assert found is None or (found[0].case == kept.case and (found[0].quantiles == kept.quantiles).all())
    path.write_bytes(whole[:-4001] + bytes([whole[-4001] ^ 0x40]) + whole[-4000:])
    assert load_measurement(path, key) is None
    assert fingerprint(dataset, tmp_path / "W") == first
    assert path.read_bytes() == whole


@pytest.mark.parametrize("quantiles", [np.zeros((2, 9), np.float32), np.zeros((1, QUANTILES)), np.zeros(3)])
def test_a_measurement_of_another_form_is_made_anew(quantiles: np.ndarray, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "D", {"a": scan(0)})
    first = fingerprint(dataset, tmp_path / "W")
    path = Workspace(tmp_path / "W").case_fingerprint_path("a")
    with safe_open(path, framework="np") as file:
        kept, moments = decode(_Kept, file.metadata()["measurement"]), file.get_tensor("moments")
    kept = msgspec.structs.replace(kept, checksum=kept.own_checksum(moments, quantiles))
    arrays = {"moments": moments, "quantiles": quantiles}
    path.write_bytes(to_bytes(arrays, {"measurement": encode(kept).decode()}))
    assert load_measurement(path, kept.key) is None
    assert fingerprint(dataset, tmp_path / "W") == first


def test_all_broken_cases_are_told_at_once_with_what_was_known(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "D", {name: scan(seed) for seed, name in enumerate("abcde")})
    (tmp_path / "D" / "b_0.mha").write_bytes(b"broken")
    (tmp_path / "D" / "c.mha").unlink()
    write(tmp_path / "D" / "d.mha", np.full(SHAPE, 200, np.uint8))
    known = (Finding(severity="warning", what="numTraining differs"),)
    with pytest.raises(FindingsError) as caught:
        fingerprint(dataset, tmp_path / "W", known)
    assert [finding.case for finding in caught.value.findings if finding.severity == "error"] == ["b", "c", "d"]
    assert known[0] in caught.value.findings
    assert "3 errors" in str(caught.value)
    for text in ("b_0.mha", "no such file", "200", "numTraining"):
        assert text in str(caught.value)


def test_good_cases_are_kept_when_others_are_broken(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "D", {"a": scan(0), "b": scan(1)})
    whole = (tmp_path / "D" / "b.mha").read_bytes()
    (tmp_path / "D" / "b.mha").write_bytes(b"broken")
    with pytest.raises(FindingsError):
        fingerprint(dataset, tmp_path / "W")
    (tmp_path / "D" / "b.mha").write_bytes(whole)
    spoil_unnoticed(tmp_path / "D" / "a.mha")
    assert len(fingerprint(dataset, tmp_path / "W")[0].cases) == 2


def test_a_known_error_stops_even_if_all_files_are_fine(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "D", {"a": scan(0)})
    with pytest.raises(FindingsError, match="a channel is missing"):
        fingerprint(dataset, tmp_path / "W", (Finding(severity="error", what="a channel is missing", case="z"),))


def test_a_data_set_without_annotated_case_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no annotated case"):
        fingerprint(make_dataset(tmp_path / "D", {"a": None}), tmp_path / "W")


def test_images_without_label_are_not_measured(tmp_path: Path) -> None:
    found, _ = fingerprint(make_dataset(tmp_path / "D", {"a": scan(0), "b": None}), tmp_path / "W")
    assert [case.id for case in found.cases] == ["a"]


def test_one_case_can_be_measured_alone(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "D", {"a": scan(0)})
    measurement, findings = measure_case(dataset, dataset.cases[0])
    assert findings == []
    foreground = scan(0).foreground
    expected = np.stack([foreground.mean(1), foreground.var(1), foreground.min(1), foreground.max(1)], axis=1)
    np.testing.assert_allclose(measurement.moments, expected, rtol=1e-9)
    np.testing.assert_allclose(measurement.quantiles, np.sort(foreground, axis=1), rtol=1e-6)
    (tmp_path / "D" / "a_1.mha").write_bytes(b"broken")
    measurement, findings = measure_case(dataset, dataset.cases[0])
    assert measurement is None
    assert [finding.severity for finding in findings] == ["error"]
