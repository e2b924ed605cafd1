"""From logits to label maps: channel by channel, with the result of doing all at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from autoseg.inference.export import label_map, labels_from_logits
from autoseg.values import (
    AxisMap,
    Configuration,
    Geometry,
    Label,
    Labels,
    PreprocessRecord,
    ResamplingSpec,
)
from autoseg.volume.axes import reorder
from autoseg.volume.resample import SeparableResampler
from tests.small_plans import small_configuration

PLAIN = Labels(foreground=(Label(name="a", values=(2,)), Label(name="b", values=(5,)), Label(name="c", values=(300,))))
REGIONS = Labels(
    foreground=(
        Label(name="whole", values=(1, 2, 3)),
        Label(name="core", values=(2, 3)),
        Label(name="active", values=(3,)),
    ),
    region_values=(1, 2, 3),
)


def make_configuration(outputs: int, **resampling: object) -> Configuration:
    return small_configuration(outputs=outputs, resampling=ResamplingSpec(**resampling))


def make_record(
    crop_shape: tuple[int, int, int] = (5, 13, 11),
    spacing: tuple[float, float, float] = (1.6, 0.62, 0.73),
    shape: tuple[int, int, int] = (8, 8, 8),
    axes: AxisMap | None = None,
    target: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> PreprocessRecord:
    axes = axes or AxisMap()
    whole = (11, 17, 16)  # before cropping, after ``axes``
    return PreprocessRecord(
        case_id="case",
        key="",
        source=Geometry(shape=axes.inverse().reorder(whole), spacing=axes.inverse().reorder(spacing)),
        axes=axes,
        crop_start=(2, 3, 4),
        crop_shape=crop_shape,
        spacing=spacing,
        shape=shape,
        target_spacing=target,
    )


def make_logits(outputs: int, shape: tuple[int, int, int] = (8, 8, 8), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(outputs, *shape)).astype(np.float32)


RECORDS = {
    "other grid": make_record(),
    "same grid": make_record(crop_shape=(8, 8, 8), spacing=(1.0, 1.0, 1.0)),
    "coarse target": make_record(shape=(2, 8, 8), target=(4.0, 1.0, 1.0)),
    "coarse axis": make_record(crop_shape=(2, 13, 11), spacing=(4.0, 0.62, 0.73)),
}
records = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)


def resampled(logits: np.ndarray, record: PreprocessRecord, configuration: Configuration) -> np.ndarray:
    resampler = SeparableResampler(configuration.resampling)
    return resampler.logits(logits, record.crop_shape, record.target_spacing, record.spacing)


@records
@pytest.mark.parametrize("separate", [0, 1])
def test_labels_are_those_of_resampling_all_outputs_and_taking_the_largest(record, separate: int) -> None:
    configuration, logits = make_configuration(4, separate_axis_order=separate), make_logits(4, record.shape)
    labels = labels_from_logits(logits, record, configuration, PLAIN)
    expected = np.array(PLAIN.integers)[resampled(logits, record, configuration).argmax(0)]
    np.testing.assert_array_equal(labels, expected)
    assert set(np.unique(labels)) <= {0, 2, 5, 300}


@records
def test_regions_are_written_in_order_where_their_probability_exceeds_one_half(record) -> None:
    configuration, logits = make_configuration(3), make_logits(3, record.shape)
    expected = np.zeros(record.crop_shape, int)
    probabilities = 1 / (1 + np.exp(-resampled(logits, record, configuration).astype(np.float64)))
    for value, probability in zip((1, 2, 3), probabilities, strict=True):
        expected[probability > 0.5] = value
    np.testing.assert_array_equal(labels_from_logits(logits, record, configuration, REGIONS), expected)


def linearly(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A slow reference: float64, half-pixel centres, the outermost values beyond them."""
    for axis, size in enumerate(shape):
        places = np.clip((np.arange(size) + 0.5) * array.shape[axis] / size - 0.5, 0, array.shape[axis] - 1)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, array.shape[axis] - 1)
        share = (places - low).reshape([-1 if other == axis else 1 for other in range(array.ndim)])
        array = np.take(array, low, axis) * (1 - share) + np.take(array, high, axis) * share
    return array


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("labels", "outputs"), [(PLAIN, 4), (REGIONS, 3)], ids=["labels", "regions"])
def test_label_maps_are_those_of_a_slow_reference_in_float64(labels: Labels, outputs: int, seed: int) -> None:
    """But where rounding to float32 decides between two outputs, which are then as good as equal."""
    record = make_record(crop_shape=(9, 14, 12), spacing=(0.9, 0.47, 0.67))
    logits = make_logits(outputs, record.shape, seed)
    found = labels_from_logits(logits, record, make_configuration(outputs), labels)
    exact = np.stack([linearly(each.astype(np.float64), record.crop_shape) for each in logits])
    if labels.has_regions:
        expected = np.zeros(record.crop_shape, int)
        for value, each in zip(labels.region_values, exact, strict=True):
            expected[each > 0] = value
        sure = (np.abs(exact) > 1e-5).all(0)
    else:
        expected = np.array(labels.integers)[exact.argmax(0)]
        ordered = np.sort(exact, axis=0)
        sure = ordered[-1] - ordered[-2] > 1e-5
    assert sure.mean() > 0.999
    np.testing.assert_array_equal(found[sure], expected[sure])


def test_later_regions_overwrite_earlier_ones_with_the_written_value() -> None:
    reversed_values = msgspec.structs.replace(REGIONS, region_values=(30, 20, 10))
    logits = np.ones((3, 8, 8, 8), np.float32)
    logits[2, 4:] = -1
    labels = labels_from_logits(logits, RECORDS["same grid"], make_configuration(3), reversed_values)
    assert (labels[:4] == 10).all()
    assert (labels[4:] == 20).all()


def test_ties_go_to_the_first_output_as_in_argmax() -> None:
    labels = labels_from_logits(np.zeros((4, 8, 8, 8), np.float32), RECORDS["same grid"], make_configuration(4), PLAIN)
    assert not labels.any()


def test_the_number_type_holds_the_largest_label() -> None:
    record = RECORDS["same grid"]
    small = Labels(foreground=(Label(name="a", values=(255,)),))
    assert labels_from_logits(make_logits(2), record, make_configuration(2), small).dtype == np.uint8
    assert labels_from_logits(make_logits(4), record, make_configuration(4), PLAIN).dtype == np.uint16
    assert labels_from_logits(make_logits(2), record, make_configuration(2), small).max() == 255


def test_the_order_of_outputs_does_not_matter_where_there_is_no_tie() -> None:
    """Permuting outputs together with their integers gives the same map: they compete as equals."""
    record, logits = RECORDS["other grid"], make_logits(4)
    swapped = Labels(foreground=(Label(name="b", values=(2,)), Label(name="a", values=(5,)), PLAIN.foreground[2]))
    one = labels_from_logits(logits, record, make_configuration(4), PLAIN).astype(int)
    other = labels_from_logits(logits[[0, 2, 1, 3]], record, make_configuration(4), swapped)
    exchanged = np.select([one == 2, one == 5], [5, 2], one)
    np.testing.assert_array_equal(other, exchanged)


ALL_AXES = [
    AxisMap(order=order, flipped=flipped)
    for order in itertools.permutations(range(3))
    for flipped in ((False, False, False), (True, False, True), (False, True, False))
]


@pytest.mark.parametrize("axes", ALL_AXES, ids=str)
def test_the_label_map_lies_on_the_grid_and_in_the_order_of_the_files(axes: AxisMap) -> None:
    record, logits = make_record(axes=axes), make_logits(4)
    made = label_map(logits, record, make_configuration(4), PLAIN)
    assert made.geometry == record.source
    assert made.array.shape == (1, *record.source.shape)
    assert made.array.flags.c_contiguous
    working = reorder(made.array, axes)[0]  # forward again
    np.testing.assert_array_equal(
        working[2:7, 3:16, 4:15], labels_from_logits(logits, record, make_configuration(4), PLAIN)
    )
    working = working.copy()
    working[2:7, 3:16, 4:15] = 0
    assert not working.any()


@pytest.mark.parametrize(
    ("old", "new"),
    [((6, 20, 18), (47, 31, 18)), ((24, 20, 18), (24, 33, 40)), ((1, 40, 50), (1, 71, 63)), ((9, 8, 7), (9, 8, 7))],
)
def test_slabs_hold_the_bits_of_the_whole(old, new) -> None:
    channel = np.random.default_rng(0).normal(size=old).astype(np.float32)
    resampler, spacings = SeparableResampler(ResamplingSpec()), ((3.0, 1.0, 1.0), (0.5, 0.7, 0.6))
    whole = resampler.logits(channel[None], new, *spacings)[0]
    found = np.full(new, np.nan, np.float32)
    for slab in resampler.slabs(old, new, *spacings):
        found[slab.place] = slab.of(channel)
    assert np.array_equal(found, whole)
