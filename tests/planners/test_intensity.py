"""Which normalization a channel gets, and where it looks."""

from __future__ import annotations

import msgspec
import pytest

from autoseg.errors import InputError, UnknownNameError
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


def test_a_wish_names_the_channel_in_any_case_of_letters_or_its_place():
    data = fingerprint(GROUPS, channels=["CT", "T1", "PET"])
    for wish in ("t1", "T1", "1"):
        specs = normalization(data, [(wish, "none")])
        assert [spec.scheme for spec in specs] == ["ct", "none", "zscore"]
        assert specs[1].reason == "as asked for"
        assert "'CT'" in specs[0].reason


def test_a_channel_that_is_named_by_a_number_is_found_by_name_first():
    assert [spec.scheme for spec in normalization(fingerprint(GROUPS, channels=["1", "0"]), [("0", "none")])] == [
        "zscore",
        "none",
    ]


def test_the_later_of_two_wishes_counts_and_one_s_own_scheme_may_be_wished():
    (spec,) = normalization(fingerprint(GROUPS), [("MRI", "none"), ("0", "my_module:scheme")])
    assert spec.scheme == "my_module:scheme"


def test_a_wished_scheme_gets_what_it_needs():
    data = fingerprint([((1.0, 1.0, 1.0), (3000, 30, 30), 5)], channels=["T1", "CT"], crop=0.5)
    ct, zscore = normalization(data, [("T1", "ct"), ("CT", "zscore")])
    assert ct.properties == data.intensities[0]
    assert (zscore.properties, zscore.use_mask) == (None, True)
    assert "50%" in zscore.reason


@pytest.mark.parametrize("wish", ["T2", "3", "-1", ""])
def test_a_wish_for_a_channel_that_is_not_there_is_refused_with_those_that_are(wish):
    with pytest.raises(UnknownNameError, match=f"no channel {wish!r}.*CT or T1 or PET"):
        normalization(fingerprint(GROUPS, channels=["CT", "T1", "PET"]), [(wish, "none")])


def test_ct_needs_foreground_to_take_its_statistics_from():
    empty = msgspec.structs.replace(fingerprint(GROUPS, channels=["CT"]), intensities=(None,))
    with pytest.raises(InputError, match="--normalization CT=zscore"):
        normalization(empty)
    (spec,) = normalization(empty, [("CT", "zscore")])
    assert spec.scheme == "zscore"
