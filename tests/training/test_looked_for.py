"""What was looked for in a sample: of its case, and of the other side where mirroring exchanged the sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.augmentation.cascade import OnlyImages
from autoseg.augmentation.contract import AsBatchgenerators, Recipe, Transform
from autoseg.augmentation.spatial import Mirror
from autoseg.errors import InputError
from autoseg.training.looked_for import LookedFor
from autoseg.training.records import SampleRecord
from autoseg.values import Label, Labels
from tests.training.test_batches import make_loader

#: Not declared in the order of their integers: positions 1, 2, 3 are left kidney, liver and right kidney.
KIDNEYS = Labels(
    foreground=(
        Label(name="liver", values=(5,)),
        Label(name="left kidney", values=(2,)),
        Label(name="right kidney", values=(9,)),
    )
)
SIDES = Mirror((0, 1, 2), swap_axis=2, swapped_labels=((1, 3),))
#: Each kidney with its tumour, the tumours alone, and all of it.
REGIONS = Labels(
    foreground=(
        Label(name="left", values=(1, 2)),
        Label(name="right", values=(3, 4)),
        Label(name="left tumour", values=(2,)),
        Label(name="right tumour", values=(4,)),
        Label(name="kidneys", values=(1, 2, 3, 4)),
    ),
    region_values=(1, 3, 2, 4, 5),
)
SIDES_OF_REGIONS = Mirror((0, 1, 2), swap_axis=2, swapped_labels=((1, 3), (2, 4)))
#: Exchanges the tumours, and not the kidneys.
TUMOURS_ONLY = Mirror((2,), swap_axis=2, swapped_labels=((2, 4),))


def sample(*axes: list[int] | None, case: str = "partly") -> SampleRecord:
    """Of a recipe with one step for each list of axes that are flipped."""
    parameters = tuple(None if each is None else {"axes": each} for each in axes)
    return SampleRecord(case=case, key="", corner=(0, 0, 0), matrix=None, parameters=parameters)


def row(labels: Labels, names: tuple[str, ...], steps: list[Transform], *axes: list[int] | None) -> list[bool]:
    return LookedFor(labels, {"partly": names}).rows([sample(*axes)], steps)[0].tolist()


@pytest.mark.parametrize("step", [SIDES, OnlyImages(SIDES, 1)], ids=["alone", "in another"])
def test_the_other_side_is_known_where_the_sides_are_exchanged(step: Transform) -> None:
    left, right = [False, True, False], [False, False, True]
    assert row(KIDNEYS, ("left kidney",), [step], [2]) == right
    assert row(KIDNEYS, ("left kidney",), [step], [0, 1, 2]) == right
    assert row(KIDNEYS, ("left kidney",), [step], [0, 1]) == left
    assert row(KIDNEYS, ("left kidney",), [step], None) == left
    assert row(KIDNEYS, ("liver", "right kidney"), [step], [2]) == [True, True, False]
    assert row(KIDNEYS, (), [step], [2]) == [False] * 3


def test_exchanging_twice_is_to_leave_everything_as_it_was() -> None:
    assert row(KIDNEYS, ("left kidney",), [SIDES, SIDES], [2], [2]) == [False, True, False]


def test_rows_are_of_the_samples_and_cases_that_are_not_named_are_known_whole() -> None:
    looked_for = LookedFor(KIDNEYS, {"partly": ("left kidney",)})
    rows = looked_for.rows([sample([2]), sample(None), sample([2], case="whole")], [SIDES])
    assert rows.tolist() == [[False, False, True], [False, True, False], [True, True, True]]
    assert rows.dtype == bool
    assert looked_for.concerns({"whole", "partly"})
    assert not looked_for.concerns({"whole"})


def test_regions_are_known_by_what_they_were_made_of_before() -> None:
    assert row(REGIONS, ("left",), [SIDES_OF_REGIONS], [2]) == [False, True, False, False, False]
    assert row(REGIONS, ("left", "right tumour"), [SIDES_OF_REGIONS], [2]) == [False, True, True, False, False]
    assert row(REGIONS, ("left", "right"), [SIDES_OF_REGIONS], [2]) == [True, True, False, False, True]
    # what lies in a region now was the left kidney without its tumour and the right one's tumour: nobody looked for that
    assert row(REGIONS, ("left",), [TUMOURS_ONLY], [2]) == [False] * 5
    assert row(REGIONS, ("kidneys", "left tumour"), [TUMOURS_ONLY], [2]) == [False, False, False, True, True]


@pytest.mark.parametrize("annotated", [True, False])
def test_a_transform_that_does_not_tell_what_it_exchanges_is_refused_where_that_matters(
    tmp_path: Path, annotated: bool
) -> None:
    """Through batchgenerators' interface nothing can be told."""
    drawn = np.zeros((8, 8, 8), np.int8)
    drawn[2:6, 2:6, 6:] = 1
    loader = make_loader(
        tmp_path,
        {"one": drawn},
        batch=8,
        recipe=Recipe(transforms=(AsBatchgenerators(SIDES),)),
        looked_for=LookedFor(KIDNEYS, {"one": ("left kidney",)} if annotated else {}),
        share=1.0,
    )
    if annotated:
        with pytest.raises(InputError, match=r"AsBatchgenerators exchanges labels.*not tell.*labels_exchanged"):
            loader.batch(0)
    else:
        assert set(np.unique(loader.batch(0)["seg"])) == {0, 1, 3}


@pytest.mark.parametrize("swap_axis", [2, None], ids=["sides", "no sides"])
def test_a_batch_holds_no_label_that_was_not_looked_for(tmp_path: Path, swap_axis: int | None) -> None:
    """Of the left kidney alone there is a label; mirrored, it is that of the right one, and that one was looked for."""
    drawn = np.zeros((8, 8, 8), np.int8)
    drawn[2:6, 2:6, 6:] = 1
    mirror = Mirror((0, 1, 2), swap_axis=swap_axis, swapped_labels=((1, 3),) if swap_axis else ())
    loader = make_loader(
        tmp_path,
        {"one": drawn},
        batch=8,
        recipe=Recipe(transforms=(mirror,)),
        looked_for=LookedFor(KIDNEYS, {"one": ("left kidney",)}),
        share=1.0,
    )
    batch = loader.batch(0)
    position = {2: 0, 1: 1, 3: 2}  # of the integer inside autoseg among the declared labels
    found = [[position[label] for label in np.unique(each) if label > 0] for each in batch["seg"]]
    known = [np.flatnonzero(each).tolist() for each in batch["looked_for"]]
    assert found == known
    assert {tuple(each) for each in known} == ({(1,), (2,)} if swap_axis else {(1,)})
    again = loader.make(loader.draw(0))
    np.testing.assert_array_equal(again["looked_for"], batch["looked_for"])
