"""A case on its way to the network: the same however it was stored, and every step as the plan says."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from autoseg.phantom import make_phantom
from autoseg.preprocessing import forward
from autoseg.preprocessing.forward import (
    PreprocessedCase,
    case_key,
    parameters_key,
    preprocess_case,
    preprocess_image,
    working_axes,
)
from autoseg.values import (
    AxisMap,
    Geometry,
    IntensityProperties,
    Label,
    Labels,
    NormalizationSpec,
    Plan,
    ResamplingSpec,
    Volume,
    decode,
    encode,
)
from autoseg.volume.resample import SeparableResampler

MAPS = [
    AxisMap(order=order, flipped=flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]
MakePlan = Callable[..., Plan]
INTENSITIES = IntensityProperties(
    mean=5.0, median=5.0, std=2.0, min=0.0, max=9.0, percentile_00_5=1.0, percentile_99_5=8.0
)


def volume(array: np.ndarray, spacing: tuple[float, float, float] = (2.0, 1.0, 1.0)) -> Volume:
    """An array in canonical orientation; a channel axis is put first if there is none."""
    array = array if array.ndim == 4 else array[None]
    return Volume(array=array, geometry=Geometry(shape=array.shape[1:], spacing=spacing))


def scan(stored: AxisMap, seed: int = 5) -> tuple[Volume, Volume]:
    """An oblique phantom and its labels in some stored order, with air (zeros) around the body."""
    phantom = make_phantom(seed, shape=(9, 22, 20), spacing=(5.0, 2.4, 2.6), stored=stored)
    image = np.where(phantom.image.array > 60, phantom.image.array, 0).astype(np.float32)
    image[phantom.labels.array > 0] += 1
    return Volume(array=image, geometry=phantom.image.geometry), phantom.labels


def preprocess(image: Volume, labels: Volume, plan: Plan) -> PreprocessedCase:
    return preprocess_case(image, labels, plan, plan.configurations[0], case_id="a", key="k")


@pytest.mark.parametrize("spacing", [(None, None, None), (4.0, 2.0, 3.0)], ids=str)
def test_all_48_stored_orders_of_a_scan_give_the_same_arrays(spacing: tuple, make_plan: MakePlan) -> None:
    plan = make_plan(spacing=spacing, normalization=(NormalizationSpec(scheme="zscore", use_mask=True),))
    expected = preprocess(*scan(AxisMap()), plan)
    assert set(np.unique(expected.segmentation)) == {-1, 0, 1, 2, 3}
    for stored in MAPS:
        found = preprocess(*scan(stored), plan)
        np.testing.assert_array_equal(found.image, expected.image)
        np.testing.assert_array_equal(found.segmentation, expected.segmentation)
        assert found.locations.keys() == expected.locations.keys()
        for label, positions in found.locations.items():
            np.testing.assert_array_equal(positions, expected.locations[label])
        np.testing.assert_allclose(found.record.spacing, expected.record.spacing)


def test_as_stored_keeps_the_stored_order(make_plan: MakePlan) -> None:
    image, labels = scan(MAPS[29])
    found = preprocess(image, labels, make_plan(orientation="as_stored"))
    crop = found.record.crop
    np.testing.assert_array_equal(found.image, image.array[(slice(None), *crop)])
    assert found.record.axes == AxisMap()


@pytest.mark.parametrize("axis_order", list(itertools.permutations(range(3))))
def test_the_axis_order_of_the_plan_comes_after_the_orientation(axis_order: tuple, make_plan: MakePlan) -> None:
    plain = preprocess(*scan(MAPS[29]), make_plan())
    turned = preprocess(*scan(MAPS[29]), make_plan(axis_order=axis_order))
    np.testing.assert_array_equal(turned.image[0], plain.image[0].transpose(axis_order))
    np.testing.assert_array_equal(turned.segmentation, plain.segmentation.transpose(axis_order))
    assert turned.record.spacing == tuple(plain.record.spacing[axis] for axis in axis_order)


def test_working_axes_bring_the_grid_to_canonical_orientation(make_plan: MakePlan) -> None:
    for stored in MAPS[::7]:
        geometry = scan(stored)[0].geometry
        mapped = geometry.mapped(working_axes(geometry, make_plan()))
        np.testing.assert_allclose(mapped.directions, scan(AxisMap())[0].geometry.directions, atol=1e-12)


def test_the_crop_is_the_box_of_what_is_not_zero(make_plan: MakePlan) -> None:
    image = np.zeros((6, 7, 8), np.float32)
    image[1, 2, 3], image[4, 5, 6] = -1, 2
    found, record = preprocess_image(volume(image), make_plan(), make_plan().configurations[0], case_id="a")
    assert (record.crop_start, record.crop_shape) == ((1, 2, 3), (4, 4, 4))
    np.testing.assert_array_equal(found[0], image[1:5, 2:6, 3:7])
    assert record.source == volume(image).geometry


def test_background_outside_the_nonzero_region_is_minus_one(make_plan: MakePlan) -> None:
    image = np.ones((4, 4, 4), np.float32)
    image[:, 0, :] = 0  # would be cropped away, but for one corner
    image[0, 0, 0] = 1
    labels = np.zeros((4, 4, 4), np.int32)
    labels[2, 0, 2] = 3  # a label outside stays a label
    labels[2, 2, 2] = 1
    expected = labels.copy()
    expected[:, 0, :] = -1
    expected[0, 0, 0], expected[2, 0, 2] = 0, 3
    np.testing.assert_array_equal(preprocess(volume(image), volume(labels), make_plan()).segmentation, expected)


def test_gaps_between_integers_and_the_ignore_label_become_indices(make_plan: MakePlan) -> None:
    declared = Labels(
        foreground=(Label(name="b", values=(300,)), Label(name="a", values=(7,))),
        ignore=20,
    )
    labels = np.array([0, 7, 20, 300, 7, 0, 300, 20], np.int32).reshape(2, 2, 2)
    found = preprocess(volume(np.ones((2, 2, 2), np.float32)), volume(labels), make_plan(labels=declared))
    np.testing.assert_array_equal(found.segmentation.ravel(), [0, 1, 3, 2, 1, 0, 2, 3])


def test_many_labels_do_not_overflow(make_plan: MakePlan) -> None:
    declared = Labels(foreground=tuple(Label(name=str(value), values=(value,)) for value in range(1, 200)))
    labels = np.arange(200, dtype=np.int32).reshape(2, 10, 10)
    found = preprocess(volume(np.ones((2, 10, 10), np.float32)), volume(labels), make_plan(labels=declared))
    np.testing.assert_array_equal(found.segmentation, labels)


def test_every_channel_is_normalized_by_its_own_scheme_before_resampling(make_plan: MakePlan) -> None:
    image = np.random.default_rng(0).uniform(1, 9, (3, 4, 5, 6)).astype(np.float32)
    image[:, 0, :2, :2] = 0
    schemes = (
        NormalizationSpec(scheme="zscore"),
        NormalizationSpec(scheme="zscore", use_mask=True),
        NormalizationSpec(scheme="ct", properties=INTENSITIES),
    )
    plan = make_plan(channels=("T1", "T2", "CT"), normalization=schemes, spacing=(1.0, 1.0, 0.5))
    exact, inside = image.astype(np.float64), image[0] != 0
    masked = np.where(inside, (exact[1] - exact[1][inside].mean()) / exact[1][inside].std(), 0)
    expected = [(exact[0] - exact[0].mean()) / exact[0].std(), masked, (np.clip(exact[2], 1, 8) - 5) / 2]
    resampler = SeparableResampler(ResamplingSpec())
    resampled = resampler.image(np.stack(expected), (8, 5, 12), (2.0, 1.0, 1.0), (1.0, 1.0, 0.5))
    found, _ = preprocess_image(volume(image), plan, plan.configurations[0], case_id="a")
    np.testing.assert_allclose(found, resampled, atol=1e-5)


@pytest.mark.parametrize(
    ("spacing", "shape", "target"),
    [
        ((1.0, 1.0, 1.0), (8, 5, 6), (1.0, 1.0, 1.0)),
        ((None, 0.5, 2.0), (4, 10, 3), (2.0, 0.5, 2.0)),
    ],
)
def test_the_grid_of_the_configuration_is_recorded(
    spacing: tuple, shape: tuple, target: tuple, make_plan: MakePlan
) -> None:
    found = preprocess(
        volume(np.ones((4, 5, 6), np.float32)), volume(np.ones((4, 5, 6), np.int32)), make_plan(spacing=spacing)
    )
    record = found.record
    assert (record.spacing, record.target_spacing, record.shape) == ((2.0, 1.0, 1.0), target, shape)
    assert found.image.shape == (1, *shape)
    assert found.segmentation.shape == shape


def test_every_location_lies_in_its_class(make_plan: MakePlan) -> None:
    found = preprocess(*scan(MAPS[7]), make_plan(spacing=(2.5, 2.0, 2.0)))
    assert sorted(found.locations) == [1, 2, 3]
    for label, positions in found.locations.items():
        assert (found.segmentation[tuple(positions.T)] == label).all()
        assert len(positions) == (found.segmentation == label).sum()  # few: all of them


def test_of_many_voxels_a_fixed_sample_without_repetition_is_kept(make_plan: MakePlan) -> None:
    labels = np.zeros((12, 50, 50), np.int32)
    labels[:6] = 1  # 15,000 voxels
    labels[6, :2] = 2
    image = volume(np.ones(labels.shape, np.float32))
    one, other = (preprocess(image, volume(labels), make_plan()).locations for _ in range(2))
    assert {label: len(positions) for label, positions in one.items()} == {1: 10_000, 2: 100}
    assert len(np.unique(one[1], axis=0)) == 10_000
    np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_of_very_many_voxels_one_in_a_hundred_is_kept_spread_over_all(share: float) -> None:
    mask = np.random.default_rng(0).random((10, 600, 700)) < share
    one, other = (forward._some(mask, np.random.RandomState(1)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert len(one) == int(np.ceil(mask.sum() / 100))
    assert mask[tuple(one.T)].all()
    places = np.ravel_multi_index(tuple(one.T), mask.shape)
    assert (np.diff(places) > 0).all()
    # a tenth of them in every slice, and no column of the picture preferred
    assert np.abs(np.bincount(one[:, 0], minlength=10) * 10 / len(one) - 1).max() < 0.05
    columns = np.bincount(one[:, 2] // 100, minlength=7) * 7 / len(one)
    assert np.abs(columns - 1).max() < 6 * np.sqrt(7 / len(one))


@pytest.mark.parametrize("at_once", [1, 7, 64, 10**6])
def test_locations_do_not_depend_on_how_many_voxels_are_looked_at_together(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.random.default_rng(1).random((5, 9, 11)) < 0.4
    monkeypatch.setattr(forward, "VOXELS_AT_ONCE", at_once)
    np.testing.assert_array_equal(forward._some(mask, np.random.RandomState(1)), np.argwhere(mask))
    assert forward._some(np.zeros((2, 3, 4), bool), np.random.RandomState(1)).shape == (0, 3)


def test_regions_have_locations_in_any_of_their_integers(make_plan: MakePlan) -> None:
    declared = Labels(
        foreground=(Label(name="whole", values=(1, 5)), Label(name="core", values=(5,))), region_values=(1, 2)
    )
    labels = np.zeros((3, 4, 4), np.int32)
    labels[1, 1:3, 1:3] = 1
    labels[1, 2, 2] = 5
    found = preprocess(volume(np.ones((3, 4, 4), np.float32)), volume(labels), make_plan(labels=declared))
    np.testing.assert_array_equal(found.locations[1], np.argwhere(labels > 0))
    np.testing.assert_array_equal(found.locations[2], np.argwhere(labels == 5))


def test_with_an_ignore_label_any_annotated_voxel_is_a_location_too(make_plan: MakePlan) -> None:
    declared = Labels(foreground=(Label(name="organ", values=(1,)),), ignore=2)
    labels = np.full((3, 4, 4), 2, np.int32)
    labels[1, 1:3, 1:3] = 0
    labels[1, 2, 2] = 1
    found = preprocess(volume(np.ones((3, 4, 4), np.float32)), volume(labels), make_plan(labels=declared))
    np.testing.assert_array_equal(found.locations[0], np.argwhere(labels != 2))
    np.testing.assert_array_equal(found.locations[1], np.argwhere(labels == 1))


def test_the_arguments_are_not_changed(make_plan: MakePlan) -> None:
    image, labels = scan(AxisMap())
    before = image.array.copy(), labels.array.copy()
    preprocess(image, labels, make_plan(normalization=(NormalizationSpec(scheme="rescale_to_0_1"),)))
    np.testing.assert_array_equal(image.array, before[0])
    np.testing.assert_array_equal(labels.array, before[1])


def key_of(plan: Plan) -> str:
    return parameters_key(plan, plan.configurations[0])


def test_equal_parameters_have_equal_keys_whatever_else_differs(make_plan: MakePlan) -> None:
    one = make_plan(normalization=(NormalizationSpec(scheme="zscore", reason="because"),))
    renamed = msgspec.structs.replace(one.configurations[0], name="other", batch_size=7, reasons={"a": "b"})
    other = make_plan(
        name="other",
        seed=9,
        dataset="E",
        normalization=(NormalizationSpec(scheme="zscore", reason="for fun"),),
        configurations=(renamed,),
    )
    assert key_of(one) == key_of(other) == key_of(decode(Plan, encode(one)))


def test_keys_differ_with_everything_that_the_arrays_depend_on(make_plan: MakePlan) -> None:
    other_labels = Labels(foreground=tuple(Label(name=name, values=(value,)) for value, name in enumerate("abc", 2)))
    plans = [
        make_plan(),
        make_plan(spacing=(1.0, None, None)),
        make_plan(spacing=(1.0, 1.0, None)),
        make_plan(resampling=ResamplingSpec(image_order=1)),
        make_plan(resampling=ResamplingSpec(label_order=0)),
        make_plan(resampling=ResamplingSpec(separate_axis_order=0)),
        make_plan(resampling=ResamplingSpec(anisotropy_threshold=2.0)),
        make_plan(orientation="as_stored"),
        make_plan(axis_order=(1, 0, 2)),
        make_plan(normalization=(NormalizationSpec(scheme="zscore"),)),
        make_plan(normalization=(NormalizationSpec(scheme="zscore", use_mask=True),)),
        make_plan(normalization=(NormalizationSpec(scheme="ct", properties=INTENSITIES),)),
        make_plan(labels=other_labels),
    ]
    assert len({key_of(plan) for plan in plans}) == len(plans)


def test_the_key_of_a_case_depends_on_parameters_content_and_order() -> None:
    keys = [case_key("p", ["1", "2"]), case_key("p", ["2", "1"]), case_key("q", ["1", "2"]), case_key("p", ["1"])]
    assert len(set(keys)) == 4
    assert case_key("p", ["1", "2"]) == keys[0]
