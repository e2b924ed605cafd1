"""Which normalization a channel gets, and where it looks."""

from __future__ import annotations

import msgspec
import pytest

from planners.intensity import normalization
from tests.planners.synthetic import fingerprint

GROUPS = [((1.0, 1.0, 1.0), (40, 30, 30), 5)]


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("CT", "ct"),
        ("ct", "ct"),
        ("noNorm", "none"),
        ("NONORM", "none"),
        ("Rescale_to_0_1", "rescale_to_0_1"),
        ("rgb_to_0_1", "rgb_to_0_1"),
        ("T1", "zscore"),
        ("CT angiography", "zscore"),
        ("zscore", "zscore"),
    ],
)
def test_the_name_of_a_channel_decides_in_any_case_of_letters(name, scheme):
    (spec,) = normalization(fingerprint(GROUPS, channels=[name]))
    assert spec.scheme == scheme
    assert repr(name) in spec.reason


def test_every_channel_has_its_own_statistics_and_only_ct_takes_them_along():
    data = fingerprint(GROUPS, channels=["CT", "T1", "CT"])
    different = tuple(msgspec.structs.replace(each, mean=float(i)) for i, each in enumerate(data.intensities))
    specs = normalization(msgspec.structs.replace(data, intensities=different))
    assert [spec.properties and spec.properties.mean for spec in specs] == [0.0, None, 2.0]


@pytest.mark.parametrize(("crop", "masked"), [(0.5, True), (0.74, True), (0.75, False), (1.0, False)])
def test_much_that_cropping_removes_is_masked_for_the_zscore_alone(crop, masked):
    data = fingerprint([((1.0, 1.0, 1.0), (3000, 30, 30), 5)], channels=["T1", "CT", "noNorm"], crop=crop)
    specs = normalization(data)
    assert [spec.use_mask for spec in specs] == [masked, False, False]
    assert (f"{crop:.0%}" in specs[0].reason) == masked


def test_the_median_case_decides_about_the_mask():
    data, cropped = fingerprint(GROUPS), fingerprint(GROUPS, crop=0.1)
    for count, masked in ((2, False), (3, True)):
        cases = cropped.cases[:count] + data.cases[count:]
        assert normalization(msgspec.structs.replace(data, cases=cases))[0].use_mask is masked
