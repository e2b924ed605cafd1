"""A fingerprint gives sizes and spacings in the order that a planner asks for."""

from __future__ import annotations

import msgspec
import pytest

from autoseg.values import AxisMap, CaseFingerprint, Fingerprint, Label, Labels

LABELS = Labels(foreground=(Label(name="organ", values=(1,)),))


def case(id_: str, axes: AxisMap) -> CaseFingerprint:
    return CaseFingerprint(
        id=id_,
        spacing=(1.0, 2.0, 3.0),
        shape=(10, 20, 30),
        shape_after_crop=(5, 20, 15),
        to_canonical=axes,
        planar=False,
        label_counts={"0": 1},
    )


def fingerprint(*cases: CaseFingerprint, intensities: int = 1) -> Fingerprint:
    return Fingerprint(
        dataset="D",
        channels=("MRI",),
        labels=LABELS,
        file_ending=".nii.gz",
        cases=cases,
        intensities=(None,) * intensities,
    )


def test_canonical_order_is_each_cases_own_reordering_and_stored_order_is_none() -> None:
    both = fingerprint(case("a", AxisMap()), case("b", AxisMap(order=(2, 0, 1), flipped=(True, True, False))))
    assert both.spacings("canonical") == [(1.0, 2.0, 3.0), (3.0, 1.0, 2.0)]
    assert both.spacings("as_stored") == [(1.0, 2.0, 3.0), (1.0, 2.0, 3.0)]
    assert both.shapes_after_crop("canonical") == [(5, 20, 15), (15, 5, 20)]
    assert both.shapes_after_crop("as_stored") == [(5, 20, 15), (5, 20, 15)]


def test_the_share_kept_by_the_crop_is_one_of_volumes() -> None:
    assert case("a", AxisMap()).size_kept_by_crop == 0.25


@pytest.mark.parametrize(
    ("centres", "message"), [({"1": (1.0, 2.0, 3.0)}, "'1'"), ({"0": (1.0, float("nan"), 3.0)}, "finite")]
)
def test_centres_are_finite_and_of_labels_that_were_counted(centres: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        msgspec.structs.replace(case("a", AxisMap()), label_centres=centres)


def test_a_fingerprint_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        fingerprint()


def test_intensities_and_channels_must_agree_in_number() -> None:
    with pytest.raises(ValueError, match="channels"):
        fingerprint(case("a", AxisMap()), intensities=2)
