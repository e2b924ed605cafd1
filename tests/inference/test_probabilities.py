"""Kept probabilities and ensembles of them: known answers by hand, and the mean of softmax in double precision."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy.special import expit, softmax

from autoseg.errors import InputError
from autoseg.inference import probabilities
from autoseg.inference.ensembles import ensemble_label_maps
from autoseg.inference.export import label_map
from autoseg.inference.probabilities import LEVELS, KeptProbabilities, keep_probabilities, levels_of, parts_of_box
from autoseg.values import AxisMap, Configuration, Geometry, Label, Labels, PreprocessRecord
from autoseg.volume.resample import SeparableResampler
from tests.small_plans import small_configuration

TWO = Labels(foreground=(Label(name="heart", values=(1,)), Label(name="lung", values=(4,))))
REGIONS = Labels(foreground=(Label(name="whole", values=(1, 2)), Label(name="core", values=(2,))), region_values=(1, 2))
ONE = Labels(foreground=(Label(name="heart", values=(1,)),))


def record_of(crop: tuple[int, int, int], shape: tuple[int, int, int] | None = None) -> PreprocessRecord:
    """A case with a margin of one voxel before its box and two behind, stored with its axes turned round."""
    whole = tuple(size + 3 for size in crop)
    return PreprocessRecord(
        case_id="case",
        key="k",
        source=Geometry(shape=whole[::-1], spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)),
        axes=AxisMap(order=(2, 1, 0)),
        crop_start=(1, 1, 1),
        crop_shape=crop,
        spacing=(1.0, 1.0, 1.0),
        shape=shape or crop,
        target_spacing=(1.0, 1.0, 1.0) if shape is None else tuple(c / s for c, s in zip(crop, shape, strict=True)),
    )


def row(*logits: tuple[float, ...]) -> np.ndarray:
    """Logits ``(outputs, 1, 1, voxels)``."""
    return np.array(logits, np.float32)[:, None, None]


def keep(folder: Path, logits: np.ndarray, labels: Labels, record: PreprocessRecord) -> KeptProbabilities:
    keep_probabilities(folder, logits, record, configuration(labels), labels, "weights")
    return KeptProbabilities(folder)


def configuration(labels: Labels) -> Configuration:
    return small_configuration(outputs=labels.output_count)


def in_box(label: np.ndarray, record: PreprocessRecord) -> np.ndarray:
    """The part of a label map in which probabilities are."""
    return np.transpose(label[0], (2, 1, 0))[record.crop]


def test_levels_of_known_logits() -> None:
    """1 to 3 is 0.25 and 0.75; a hundred to nothing is certain, whatever the size of the logits."""
    logits = row((0.0, 500.0, 1.0), (np.log(3.0), 400.0, 1.0))
    first, second = levels_of(logits, record_of((1, 1, 3)), configuration(ONE), ONE)
    assert (first.ravel().tolist(), second.ravel().tolist()) == ([16384, LEVELS, 32767], [49151, 0, 32767])
    (whole, _) = levels_of(
        row((0.0, 1e-3, -1e4, 1e4), (0.0,) * 4), record_of((1, 1, 4)), configuration(REGIONS), REGIONS
    )
    assert whole.ravel().tolist() == [32767, 32784, 0, LEVELS]


def test_the_mean_of_two_decides(tmp_path: Path) -> None:
    """0.6 and 0.1 for background are 0.35; 0.6 and 0.45 are 0.525; equal means go to the first."""
    record = record_of((1, 1, 3))
    likely = np.log([[[0.6, 0.6, 0.3], [0.4, 0.4, 0.7]], [[0.1, 0.45, 0.7], [0.9, 0.55, 0.3]]]).astype(np.float32)
    kept = {
        name: keep(tmp_path / name, each[:, None, None], ONE, record) for name, each in zip("ab", likely, strict=True)
    }
    both, alone = ensemble_label_maps(kept, [("a", "b"), ("b",)], ONE)
    assert in_box(both.array, record).ravel().tolist() == [1, 0, 0]
    assert in_box(alone.array, record).ravel().tolist() == [1, 1, 0]
    assert (both.geometry, both.array.shape) == (record.source, (1, 6, 4, 4))
    assert both.array.sum() == 1, "nothing outside of the box"


def test_regions_are_decided_one_by_one_and_later_ones_overwrite(tmp_path: Path) -> None:
    """Whole: 0.9 and 0.3 are 0.6. Core: 0.2 and 0.9 are 0.55; one half is not enough."""
    record = record_of((1, 1, 3))
    odds = [[[0.9, 0.9, 0.5], [0.2, 0.3, 0.1]], [[0.3, 0.3, 0.5], [0.9, 0.5, 0.1]]]
    logits = np.log(np.array(odds) / (1 - np.array(odds))).astype(np.float32)
    kept = {
        name: keep(tmp_path / name, each[:, None, None], REGIONS, record)
        for name, each in zip("ab", logits, strict=True)
    }
    (both,) = ensemble_label_maps(kept, [("a", "b")], REGIONS)
    assert in_box(both.array, record).ravel().tolist() == [2, 1, 0]


def smooth(seed: int, outputs: int, shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (outputs, *shape)).astype(np.float32)


@pytest.mark.parametrize("labels", [TWO, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("shape", [None, (5, 9, 8)], ids=["own grid", "resampled"])
def test_alone_it_is_the_validations_label_map(tmp_path: Path, labels: Labels, shape) -> None:
    record = record_of((10, 12, 11), shape)
    logits = smooth(1, labels.output_count, record.shape)
    expected = label_map(logits, record, configuration(labels), labels)
    (found,) = ensemble_label_maps({"a": keep(tmp_path / "a", logits, labels, record)}, [("a",)], labels)
    assert found.geometry == expected.geometry
    assert (found.array != expected.array).sum() <= 1, "but for a tie within a level"
    assert len(np.unique(found.array)) == 3


@pytest.mark.parametrize("labels", [TWO, REGIONS], ids=["labels", "regions"])
def test_what_16_bits_change_is_within_the_stated_bound(tmp_path: Path, labels: Labels) -> None:
    """Against the mean in double precision: other answers only where the two best are within 1 / 65,535."""
    record = record_of((9, 20, 21), (6, 10, 12))
    resampler = SeparableResampler(configuration(labels).resampling)
    exact, kept = [], {}
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        logits = smooth(seed, labels.output_count, record.shape)
        own = resampler.logits(logits, record.crop_shape, record.target_spacing, record.spacing).astype(np.float64)
        exact.append(expit(own) if labels.has_regions else softmax(own, axis=0))
        kept[name] = keep(tmp_path / name, logits, labels, record)
        held = np.stack([kept[name].levels(each, (slice(None),) * 3) for each in range(labels.output_count)])
        assert np.abs(held / LEVELS - exact[-1]).max() <= 0.5 / LEVELS + 1e-6
    mean = np.mean(exact, axis=0)
    (found,) = ensemble_label_maps(kept, [("a", "b", "c")], labels)
    if labels.has_regions:
        expected = np.where(mean[1] > 0.5, 2, np.where(mean[0] > 0.5, 1, 0))
        gap = np.abs(mean - 0.5).min(axis=0)
    else:
        expected = np.array([0, 1, 4])[mean.argmax(axis=0)]
        gap = np.diff(np.sort(mean, axis=0)[-2:], axis=0)[0]
    differ = in_box(found.array, record) != expected
    assert differ.sum() <= 2
    assert (gap[differ] <= 1 / LEVELS + 1e-6).all()


def test_uncompressed_they_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = record_of((6, 7, 8))
    logits = smooth(4, 3, record.shape)
    compressed = keep(tmp_path / "a", logits, TWO, record)
    monkeypatch.setattr(probabilities, "can_compress", lambda: False)
    plain = keep(tmp_path / "b", logits, TWO, record)
    assert (tmp_path / "b" / "levels.npy").is_file()
    box = (slice(1, 4), slice(0, 7), slice(2, 8))
    for output in range(3):
        np.testing.assert_array_equal(plain.levels(output, box), compressed.levels(output, box))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 40, 50), (1, 3000, 900), (2, 5, 70_000), (300, 64, 64)], ids=str)
def test_parts_cover_a_box_once_and_are_not_large(shape) -> None:
    counts = np.zeros(shape, np.uint8)
    for part in parts_of_box(shape, 2**18):
        counts[part] += 1
        assert counts[part].size <= max(2**18, 2 * shape[2])
    assert (counts == 1).all()


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "record"])
def test_damaged_ones_are_named_and_never_averaged(tmp_path: Path, damage: str) -> None:
    record = record_of((6, 7, 8))
    keep(tmp_path / "a", smooth(5, 3, record.shape), TWO, record)
    (file,) = (tmp_path / "a").glob("levels.*")
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "record":
        text = (tmp_path / "a" / "record.json").read_text()
        (tmp_path / "a" / "record.json").write_text(text.replace('"weights": "weights"', '"weights": "others"'))
    else:
        data[60] ^= 1
        file.write_bytes(data[:-1] if damage == "cut" else data)
    with pytest.raises(InputError, match=r"kept probabilities .* missing or damaged.*autoseg train"):
        ensemble_label_maps({"a": KeptProbabilities(tmp_path / "a")}, [("a",)], TWO)


def test_of_different_images_or_labels_they_are_refused(tmp_path: Path) -> None:
    record = record_of((6, 7, 8))
    kept = {"a": keep(tmp_path / "a", smooth(5, 3, record.shape), TWO, record)}
    moved = msgspec.structs.replace(record, crop_start=(0, 1, 1))
    kept["b"] = keep(tmp_path / "b", smooth(6, 3, record.shape), TWO, moved)
    with pytest.raises(InputError, match="a and b are not of the same image"):
        ensemble_label_maps(kept, [("a", "b")], TWO)
    kept["b"] = keep(tmp_path / "c", smooth(6, 2, record.shape), ONE, record)
    with pytest.raises(InputError, match=r"found 2 outputs.*expected 3 outputs"):
        ensemble_label_maps(kept, [("a", "b")], TWO)
