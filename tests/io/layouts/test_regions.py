"""Regions: written three ways they are the same; their order follows from their nesting; what is ambiguous is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.errors import DocumentError, InputError
from autoseg.io.layouts import describe_dataset, read_dataset, read_labels_of
from autoseg.io.layouts.regions import in_writing_order
from autoseg.values import Label, Labels
from tests.io.layouts.trees import write_tree

WHOLE, CORE, ENHANCING = "whole tumour", "tumour core", "enhancing tumour"
BRATS: dict[str, dict[str, Any]] = {
    "nnU-Net's integers with their order": {
        "labels": {"background": 0, WHOLE: [1, 2, 3], CORE: [2, 3], ENHANCING: 3},
        "regions_class_order": [1, 2, 3],
    },
    "integers without an order": {"labels": {"background": 0, ENHANCING: 3, WHOLE: [1, 2, 3], CORE: [2, 3]}},
    "names": {
        "labels": {"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3},
        "regions": {
            CORE: ["enhancing", "necrosis"],
            WHOLE: ["edema", "necrosis", "enhancing"],
            ENHANCING: ["enhancing"],
        },
    },
    "names, in the Decathlon's form": {
        "labels": {"0": "background", "1": "edema", "2": "necrosis", "3": "enhancing"},
        "regions": {
            WHOLE: ["necrosis", "edema", "enhancing"],
            CORE: ["necrosis", "enhancing"],
            ENHANCING: ["enhancing"],
        },
    },
}
EXPECTED = Labels(
    foreground=(
        Label(name=WHOLE, values=(1, 2, 3)),
        Label(name=CORE, values=(2, 3)),
        Label(name=ENHANCING, values=(3,)),
    ),
    region_values=(1, 2, 3),
)


def labels_of(tmp_path: Path, stated: dict[str, Any]) -> Labels:
    (tmp_path / "dataset.json").write_text(json.dumps(stated))
    return read_labels_of(tmp_path / "dataset.json")


@pytest.mark.parametrize("way", BRATS)
def test_brats_written_in_any_way_is_the_same(way: str, tmp_path: Path) -> None:
    assert labels_of(tmp_path, BRATS[way]) == EXPECTED


def test_names_of_integers_that_nobody_named_can_be_joined(tmp_path: Path) -> None:
    write_tree(tmp_path, ["images/a.mha"], ["labels/a.mha"], (1, 2))
    (tmp_path / "autoseg.json").write_text('{"regions": {"both": ["label_1", "label_2"], "inner": ["label_2"]}}')
    labels = read_dataset(tmp_path)[0].labels
    assert [(label.name, label.values) for label in labels.foreground] == [("both", (1, 2)), ("inner", (2,))]
    assert labels.region_values == (1, 2)


def test_a_label_in_no_region_is_kept(tmp_path: Path) -> None:
    labels = labels_of(
        tmp_path, {"labels": {"liver": 9, "left": 1, "right": 2, "ignore": 5}, "regions": {"kidney": ["left", "right"]}}
    )
    assert [(label.name, label.values) for label in labels.foreground] == [("kidney", (1, 2)), ("liver", (9,))]
    assert (labels.region_values, labels.ignore) == ((1, 9), 5)


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        ({"a": ["x", "y"], "b": ["y", "z"]}, "overlap, and neither lies within the other"),
        ({"a": ["x", "y"], "b": ["y", "x"]}, "are the same"),
        ({"a": ["x", "y"], "b": ["x"], "c": ["y"]}, "no integer of its own: all of it belongs to 'b', 'c'"),
        ({"a": ["x", "heart"]}, "names 'heart'; there are 'x' [1], 'y' [2], 'z' [3]"),
        ({"a": []}, "no label"),
    ],
)
def test_ambiguous_regions_are_refused_with_an_example(regions: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        labels_of(tmp_path, {"labels": {"x": 1, "y": 2, "z": 3}, "regions": regions})
    assert said in str(caught.value)
    assert "dataset.json" in str(caught.value)
    if "names" not in said and "no label" not in said:
        assert '"regions": {"whole tumour": ["edema", "necrosis", "enhancing"]' in str(caught.value)


def test_the_example_of_the_refusal_is_itself_legal(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        labels_of(tmp_path, {"labels": {"x": 1, "y": 2}, "regions": {"a": ["x"], "b": ["x"], "c": ["x", "y"]}})
    text = str(caught.value)
    example = text[text.index('"labels"') : text.rindex("}") + 1]
    assert labels_of(tmp_path, json.loads("{" + example + "}")).region_values == (1, 2, 3)


def test_a_stated_order_is_followed_and_warned_of_where_it_does_not_fit(tmp_path: Path) -> None:
    write_tree(tmp_path, ["imagesTr/a_0000.mha"], ["labelsTr/a.mha"])
    stated = {
        "channel_names": {"0": "MRI"},
        "file_ending": ".mha",
        "labels": {"background": 0, "core": [2, 3], "whole": [1, 2, 3]},
        "regions_class_order": [2, 4],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(stated))
    dataset, findings = read_dataset(tmp_path)
    assert dataset.labels.region_values == (2, 4)
    assert [finding.severity for finding in findings] == ["warning", "warning"]
    assert "'whole' after 'core'" in findings[0].what
    assert "not one of its own" in findings[1].what


@st.composite
def nested_regions(draw: st.DrawFn) -> list[Label]:
    """Regions that lie in one another or apart, each with an integer of its own."""
    parents = draw(st.lists(st.integers(-1, 6), min_size=1, max_size=7))
    members: list[set[int]] = [set() for _ in parents]
    for index in range(len(parents)):
        integers = {10 * index + extra for extra in range(1, 1 + draw(st.integers(1, 2)))}
        place = index
        while place >= 0:
            members[place] |= integers
            place = parents[place] if parents[place] < place else -1
    regions = [Label(name=f"region {index}", values=tuple(sorted(each))) for index, each in enumerate(members)]
    return draw(st.permutations(regions))


@given(nested_regions())
def test_writing_in_the_derived_order_means_the_same_as_what_was_learned_from(regions: list[Label]) -> None:
    """Whatever integer a voxel has, writing its regions gives one that belongs to exactly the same regions."""
    ordered, written = in_writing_order(regions)
    for integer in sorted({value for region in regions for value in region.values}):
        result = 0
        for region, value in zip(ordered, written, strict=True):
            if integer in region.values:
                result = value
        assert {r.name for r in regions if result in r.values} == {r.name for r in regions if integer in r.values}
    for one, other in itertools.pairwise(ordered):
        assert len(one.values) >= len(other.values)


def test_regions_of_integers_and_labels_that_are_only_parts_of_them(tmp_path: Path) -> None:
    write_tree(tmp_path, ["images/a.nii.gz"], ["labels/a.nii.gz"], (1, 7, 9))
    stated = {"labels": {"liver": 1, "spleen": 7, "bone": 9}, "regions": {"abdomen": [1, "spleen"]}}
    (tmp_path / "autoseg.json").write_text(json.dumps(stated))
    dataset, findings = read_dataset(tmp_path)
    assert [(label.name, label.values) for label in dataset.labels.foreground] == [("abdomen", (1, 7)), ("bone", (9,))]
    assert "liver, spleen only as parts of regions" in describe_dataset(dataset, findings)
    (tmp_path / "autoseg.json").write_text('{"regions": {"y": [1, 8]}}')
    with pytest.raises(InputError, match=r"the region 'y' names 8; there are 'label_1' \[1\]"):
        read_dataset(tmp_path)
