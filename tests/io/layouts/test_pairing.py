"""Pairing by names, for any ids and any of the namings that people use."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.io.layouts.items import Item
from autoseg.io.layouts.names import bare_forms, folder_part, folder_role, is_label_name, natural_order, plain_id
from autoseg.io.layouts.pairing import pair_up

#: How images of a case with channels are named, and its label map.
NAMINGS = [
    ("{case}_{channel}", "{case}"),
    ("{case}_{channel}", "{case}_seg"),
    ("{case}-{channel}", "{case}-label"),
    ("{channel}_{case}", "mask_{case}"),
    ("{case}/{channel}", "{case}/seg"),
    ("{case}/{case}_{channel}", "{case}/{case}_seg"),
    ("{case}/{channel}/image", "{case}"),
]
#: The same for one channel that nobody names.
SINGLE = [
    ("{case}", "{case}"),
    ("{case}_0000", "{case}"),
    ("{case}_image", "{case}_mask"),
    ("img_{case}", "label_{case}"),
    ("{case}", "{case}_manual_seg"),
    ("{case}/imaging", "{case}/segmentation"),
    ("volume-{case}", "segmentation-{case}"),
]
CHANNELS = ("t1", "t2", "flair", "adc")
#: Ids of data sets: a stem that all share, and a number or a code; with separators within, as real ones have.
STEMS = ["case_", "sub-", "Patient ", "BraTS-GLI-", "p", "", "a.b_", "患者"]
CODES = st.one_of(
    st.integers(0, 9999).map(str),
    st.integers(0, 9999).map("{:05d}".format),
    st.from_regex(r"[A-Z]\d{1,3}-[xyz]", fullmatch=True),
)


def item(stem: str) -> Item:
    return Item(path=f"{stem}.nii.gz", stem=stem, ending=".nii.gz")


@st.composite
def ids(draw: st.DrawFn) -> list[str]:
    stem = draw(st.sampled_from(STEMS))
    return [stem + code for code in draw(st.lists(CODES, min_size=2, max_size=12, unique=True))]


@given(ids(), st.sampled_from(NAMINGS), st.integers(2, 4), st.randoms(use_true_random=False))
def test_any_ids_and_channels_are_told_apart(
    cases: list[str], naming: tuple[str, str], count: int, shuffled: random.Random
) -> None:
    image, label = naming
    files = [(case, channel) for case in cases for channel in CHANNELS[:count]]
    images = [item(image.format(case=case, channel=channel)) for case, channel in files]
    shuffled.shuffle(images)
    pairs = pair_up(images, [item(label.format(case=case)) for case in cases])
    assert pairs.findings == ()
    order = sorted(CHANNELS[:count])
    assert list(pairs.channels) == order
    assert {case.label: case.images for case in pairs.cases} == {
        f"{label.format(case=case)}.nii.gz": tuple(f"{image.format(case=case, channel=c)}.nii.gz" for c in order)
        for case in cases
    }
    assert len({case.id for case in pairs.cases}) == len(cases)


@given(ids(), st.sampled_from(SINGLE), st.data())
def test_any_ids_of_one_channel_are_told_apart_and_unlabelled_ones_are_not_lost(
    cases: list[str], naming: tuple[str, str], data: st.DataObject
) -> None:
    image, label = naming
    labelled = data.draw(st.lists(st.sampled_from(cases), min_size=1, unique=True))
    pairs = pair_up(
        [item(image.format(case=case)) for case in cases], [item(label.format(case=case)) for case in labelled]
    )
    found = {case.images: case.label for case in pairs.cases}
    for case in labelled:
        assert found[(f"{image.format(case=case)}.nii.gz",)] == f"{label.format(case=case)}.nii.gz"
    if len(labelled) * 2 > len(cases):  # with fewer, a case whose name begins another's may be taken for its channel
        assert len(found) == len(cases)
        assert pairs.findings == ()


@pytest.mark.parametrize(
    ("stem", "yes"),
    [
        *(("case_seg", True), ("case-mask", True), ("mask_01", True), ("label0001", True), ("CASE/segmentation", True)),
        *(
            ("case", False),
            ("masked_case", False),
            ("segment_7", False),
            ("CASE/t1", False),
            ("segmentations/p1", False),
        ),
    ],
)
def test_stems_that_say_they_are_labels(stem: str, yes: bool) -> None:
    assert is_label_name(stem) == yes


@pytest.mark.parametrize(
    ("name", "role", "part"),
    [
        ("imagesTr", "image", "train"),
        ("labelsTs", "label", "test"),
        ("Images", "image", None),
        ("GroundTruth", "label", None),
        ("image_masks", "label", None),
        ("test", None, "test"),
        ("validation", None, "validation"),
        ("test_007", None, None),
        ("derivatives", None, None),
        ("JPEGImages", "image", None),
        ("SegmentationClass", "label", None),
    ],
)
def test_folders_say_what_they_hold(name: str, role: str | None, part: str | None) -> None:
    assert (folder_role(name), folder_part(name)) == (role, part)


def test_bare_forms_end_and_never_are_empty() -> None:
    assert list(bare_forms("mask_seg_label", "label")) == [
        "mask_seg_label",
        "mask_seg",
        "seg_label",
        "mask",
        "seg",
        "label",
    ]
    assert list(bare_forms("seg", "label")) == ["seg"]


def test_names_sort_as_people_count() -> None:
    names = ["t10", "T2", "t1", "0010", "2", "b", "1a"]
    assert sorted(names, key=natural_order) == ["1a", "2", "0010", "b", "t1", "T2", "t10"]


@pytest.mark.parametrize(
    ("stem", "id_"), [("a/a_01", "a_01"), ("a/01", "a_01"), ("a", "a"), ("x/p1/P1-t0", "x_P1-t0"), ("p1/p1", "p1")]
)
def test_ids_repeat_no_folder(stem: str, id_: str) -> None:
    assert plain_id(stem) == id_
