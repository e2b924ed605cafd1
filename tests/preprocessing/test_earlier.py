"""What a first stage predicted, on the second stage's grid: it goes the way of the case's reference."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from autoseg.errors import InputError
from autoseg.files import content_hash
from autoseg.io.earlier_store import EarlierStore
from autoseg.io.formats import format_of
from autoseg.phantom import make_phantom
from autoseg.preprocessing.earlier import EarlierMap, StoreEarlier, earlier_key, earlier_on_grid
from autoseg.preprocessing.forward import preprocess_case
from autoseg.values import AxisMap, Geometry, Label, Labels, Plan, PreprocessRecord, Volume
from tests.small_plans import small_configuration, small_plan

ORGANS = Labels(foreground=tuple(Label(name=name, values=(value,)) for name, value in (("c", 9), ("a", 2), ("b", 5))))
IGNORING = msgspec.structs.replace(ORGANS, ignore=7)
REGIONS = Labels(
    foreground=(Label(name="whole", values=(2, 5, 9)), Label(name="core", values=(5, 9))), region_values=(4, 300)
)
AXES = {"as made": AxisMap(), "turned": AxisMap(order=(1, 2, 0), flipped=(True, False, True))}


def plan_for(labels: Labels, spacing: tuple[float, float, float] = (4.0, 2.0, 3.5)) -> Plan:
    first = small_configuration("low", outputs=labels.output_count)
    inputs = 1 + len(labels.foreground)
    second = small_configuration(
        "second", inputs=inputs, outputs=labels.output_count, previous_stage="low", spacing=spacing
    )
    return small_plan(first, second, labels=labels, axis_order=(2, 0, 1))


def scanned(stored: AxisMap, margin: int = 1) -> tuple[Volume, Volume]:
    """A phantom without zeros within an empty margin, and its labels in the integers 2, 5 and 9."""
    made = make_phantom(3, shape=(8, 16, 14), spacing=(5.0, 2.5, 3.0), stored=stored)
    image, labels = np.zeros_like(made.image.array), np.zeros_like(made.labels.array)
    inner = (slice(None), *(slice(margin, size - margin) for size in image.shape[1:]))
    image[inner] = np.maximum(made.image.array[inner], 1)
    labels[inner] = np.array([0, 2, 5, 9], np.uint8)[made.labels.array[inner]]
    return (
        Volume(array=image.astype(np.float32), geometry=made.image.geometry),
        Volume(array=labels, geometry=made.labels.geometry),
    )


@pytest.mark.parametrize("labels", [ORGANS, IGNORING], ids=["plain", "ignore"])
@pytest.mark.parametrize("stored", AXES.values(), ids=AXES)
@pytest.mark.parametrize("spacing", [(4.0, 2.0, 3.5), (1.5, 2.5, 2.0)], ids=["coarser", "finer"])
def test_the_reference_as_a_prediction_becomes_the_preprocessed_reference(
    labels: Labels, stored: AxisMap, spacing: tuple[float, float, float]
) -> None:
    plan = plan_for(labels, spacing)
    image, reference = scanned(stored)
    case = preprocess_case(image, reference, plan, plan.configuration("second"), case_id="a", key="k")
    found = earlier_on_grid(reference.array.astype(np.uint16), case.record, plan, "second")
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 1, 2, 3}
    assert case.record.shape != case.record.crop_shape
    np.testing.assert_array_equal(found, case.segmentation)


def record_of(shape: tuple[int, int, int]) -> PreprocessRecord:
    return PreprocessRecord(
        case_id="a",
        key="k",
        source=Geometry(shape=shape, spacing=(1.0, 1.0, 1.0)),
        axes=AxisMap(),
        crop_start=(0, 0, 0),
        crop_shape=shape,
        spacing=(1.0, 1.0, 1.0),
        shape=shape,
        target_spacing=(1.0, 1.0, 1.0),
    )


@pytest.mark.parametrize(
    ("labels", "written", "channels"),
    [
        (ORGANS, [0, 2, 5, 9], [0, 1, 2, 3]),
        (REGIONS, [0, 4, 300], [0, 1, 2]),
        (msgspec.structs.replace(REGIONS, region_values=(4, 4)), [0, 4], [0, 2]),
        (msgspec.structs.replace(REGIONS, region_values=(0, 4)), [0, 4], [0, 2]),
    ],
    ids=["labels", "regions", "two regions as one integer", "a region as background"],
)
def test_written_integers_become_numbers_of_channels(labels: Labels, written: list[int], channels: list[int]) -> None:
    array = np.array(written, np.uint16).reshape(1, 1, 1, -1)
    found = earlier_on_grid(array, record_of(array.shape[1:]), plan_for(labels), "second")
    assert found.ravel().tolist() == channels
    assert max(channels) <= len(labels.foreground)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([0, 7, 2, 8]), "integers that no model of this plan writes; found 7, 8, expected 0, 2, 5, 9"),
        (np.array([0, -1, 2]), "found -1"),
        (np.array([0, 2, 10]), "found 10"),
    ],
    ids=["the ignore label and another", "negative", "large"],
)
def test_integers_that_no_model_writes_are_refused(array: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said):
        earlier_on_grid(array.reshape(1, 1, 1, -1), record_of((1, 1, array.size)), plan_for(IGNORING), "second")


def test_a_label_map_of_another_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"no label map of this image; found \(1, 1, 4\) voxels, expected \(1, 1, 3\)"):
        earlier_on_grid(np.zeros((1, 1, 1, 4), np.uint8), record_of((1, 1, 3)), plan_for(ORGANS), "second")


def test_a_stored_label_map_is_that_of_its_file(tmp_path: Path) -> None:
    plan, (image, reference) = plan_for(ORGANS), scanned(AXES["turned"])
    record = preprocess_case(image, reference, plan, plan.configuration("second"), case_id="a", key="k").record
    file = tmp_path / "a.nii.gz"
    format_of(file).write(file, reference)
    task = StoreEarlier(plan=plan, configuration="second", folder=str(tmp_path / "maps"))
    item = EarlierMap(id="a", file=str(file), record=record, key=earlier_key(content_hash(file), "k"))
    assert task(item) is None
    assert "low" in task.stage
    stored = EarlierStore(tmp_path / "maps").open("a", item.key)
    np.testing.assert_array_equal(stored, earlier_on_grid(reference.array, record, plan, "second"))
    assert len({item.key, earlier_key(content_hash(file), "other"), earlier_key("other", "k")}) == 3
