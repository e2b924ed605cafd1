"""Data sets, cases and labels check themselves."""

from __future__ import annotations

import pytest

from autoseg.values import Case, Dataset, Label, Labels


def plain(*values: int, ignore: int | None = None) -> Labels:
    """Labels without regions."""
    return Labels(foreground=tuple(Label(name=f"label {v}", values=(v,)) for v in values), ignore=ignore)


def test_gaps_between_integers_vanish_inside() -> None:
    labels = plain(9, 2, ignore=200)
    assert labels.integers == (0, 2, 9)
    assert labels.region_indices == ((2,), (1,))  # in the order of declaration
    assert labels.ignore_index == 3
    assert labels.output_count == 3
    assert labels.declared_count == 4
    assert labels.written_values == (9, 2)
    assert not labels.has_regions


def test_an_ignore_integer_below_the_others_still_comes_last() -> None:
    labels = plain(1, 5, ignore=3)
    assert labels.integers == (0, 1, 5)
    assert labels.ignore_index == 3


def test_regions_have_one_output_each_and_share_integers() -> None:
    labels = Labels(
        foreground=(
            Label(name="whole", values=(1, 2, 4)),
            Label(name="core", values=(2, 4)),
            Label(name="enhancing", values=(4,)),
        ),
        ignore=5,
        region_values=(1, 2, 4),
    )
    assert labels.has_regions
    assert labels.integers == (0, 1, 2, 4)
    assert labels.region_indices == ((1, 2, 3), (2, 3), (3,))
    assert labels.output_count == 3
    assert labels.declared_count == 5
    assert labels.ignore_index == 4
    assert labels.written_values == (1, 2, 4)


def test_without_ignore_there_is_no_ignore_index() -> None:
    assert plain(1).ignore_index is None


@pytest.mark.parametrize("values", [(), (1, 1), (-1,), (2**15,)])
def test_a_label_with_impossible_integers_is_refused(values: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="organ"):
        Label(name="organ", values=values)


@pytest.mark.parametrize(
    "broken",
    [
        {"foreground": ()},
        {"foreground": (Label(name="a", values=(1,)), Label(name="a", values=(2,)))},
        {"foreground": (Label(name="a", values=(1,)), Label(name="b", values=(1,)))},
        {"foreground": (Label(name="a", values=(0,)),)},
        {"ignore": 1},
        {"ignore": 0},
        {"region_values": (1,)},
        {"palette": ((0, 0, 0),) * 257},
        {"palette": ((0, 0, 256),)},
        {"foreground": (Label(name="a", values=(1, 2)),)},
        {"foreground": (Label(name="a", values=(1, 2)),), "region_values": (1, 2)},
        {"foreground": (Label(name="a", values=(1, 2)),), "region_values": (1,), "ignore": 2},
    ],
    ids=str,
)
def test_labels_that_contradict_themselves_are_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Labels(**{"foreground": (Label(name="a", values=(1,)),), **broken})


@pytest.mark.parametrize("ignore", [-1, 2**15, 10**9])
def test_the_ignore_integer_is_held_to_the_range_of_labels(ignore: int) -> None:
    with pytest.raises(ValueError, match="ignore"):
        plain(1, ignore=ignore)


@pytest.mark.parametrize("written", [-1, 2**16])
def test_the_integers_written_for_regions_are_held_to_the_range_of_label_files(written: int) -> None:
    with pytest.raises(ValueError, match=r"region|class_order"):
        Labels(foreground=(Label(name="a", values=(1, 2)),), region_values=(written,))


@pytest.mark.parametrize(
    "id_", ["hippocampus_001", "Zoë 7", "患者1", "a.b", "a-0123456789abcdef", "x" * 200, "console", "com10", "nul_1"]
)
def test_ordinary_case_ids_are_accepted(id_: str) -> None:
    assert Case(id=id_, images=("a.nii.gz",)).id == id_


@pytest.mark.parametrize(
    "id_",
    [
        *("", "a/b", "a\\b", "..", ".hidden", " a", "a ", "a.", "a\n", "a:b", "a*", "a?", "é" * 101, "\x7f"),
        *("CON", "nul", "Aux.nii", "com1", "LPT9.x.y", "com¹", "conin$", "a\u202eb", "a\u2028", "\x85a", "a\udcff"),
    ],
)
def test_a_case_id_that_is_no_file_name_is_refused(id_: str) -> None:
    with pytest.raises(ValueError, match="case id"):
        Case(id=id_, images=("a.nii.gz",))


def test_a_case_without_image_is_refused() -> None:
    with pytest.raises(ValueError, match="no image"):
        Case(id="a", images=())


def dataset(*cases: Case, channels: tuple[str, ...] = ("MRI",)) -> Dataset:
    return Dataset(name="D", root="/d", channels=channels, labels=plain(1), file_ending=".nii.gz", cases=cases)


def test_only_cases_with_a_label_are_annotated() -> None:
    with_label = Case(id="b", images=("b_0000.nii.gz",), label="b.nii.gz")
    assert dataset(Case(id="a", images=("a_0000.nii.gz",)), with_label).annotated_cases == (with_label,)


def test_cases_out_of_order_or_twice_are_refused() -> None:
    one, other = (Case(id=id_, images=("x.nii.gz",)) for id_ in ("a", "b"))
    for cases in ((other, one), (one, one)):
        with pytest.raises(ValueError, match="sorted"):
            dataset(*cases)


@pytest.mark.parametrize("pair", [("A", "a"), ("Z\u006f\u0308", "Z\u00f6"), ("STRASSE", "stra\u00dfe")])
def test_ids_that_some_system_takes_for_one_are_refused(pair: tuple[str, str]) -> None:
    cases = tuple(Case(id=id_, images=(f"{number}.nii.gz",)) for number, id_ in enumerate(sorted(pair)))
    with pytest.raises(ValueError, match="letter case"):
        dataset(*cases)


def test_a_case_is_partly_annotated_if_any_label_was_not_looked_for() -> None:
    labels = plain(1, 2)
    cases = tuple(
        Case(id=id_, images=("x",), label=label, annotated=annotated)
        for id_, label, annotated in [
            ("all", "y", None),
            ("both", "y", ("label 2", "label 1")),
            ("none", "y", ()),
            ("one", "y", ("label 2",)),
            ("unlabelled", None, ("label 1",)),
        ]
    )
    found = Dataset(name="D", root="/d", channels=("MRI",), labels=labels, file_ending=".nii.gz", cases=cases)
    assert [case.id for case in found.partly_annotated] == ["none", "one"]


def test_a_data_set_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="channel"):
        dataset(channels=())


def test_a_case_is_annotated_for_declared_labels_only() -> None:
    case = Case(id="a", images=("x.nii.gz",), label="y.nii.gz", annotated=("liver",))
    with pytest.raises(ValueError, match=r"case a .* liver"):
        dataset(case)


def test_a_region_is_known_if_it_or_what_makes_it_up_was_looked_for() -> None:
    regions = {"whole": (1, 2, 3), "edema": (1,), "core": (2, 3), "enhancing": (3,)}
    labels = Labels(
        foreground=tuple(Label(name=name, values=values) for name, values in regions.items()),
        region_values=(1, 1, 2, 3),
    )
    for annotated, known in (
        (None, {*regions}),
        ((), set()),
        (("whole",), {"whole"}),  # a core within it was not looked for
        (("core", "enhancing"), {"core", "enhancing"}),
        (("edema", "core"), {"whole", "edema", "core"}),
        (("edema", "enhancing"), {"edema", "enhancing"}),
    ):
        found = labels.looked_for(annotated)
        assert {name for name, looked_for in zip(regions, found, strict=True) if looked_for} == known


def test_labels_are_known_that_were_looked_for_in_the_order_of_declaration() -> None:
    labels = Labels(foreground=(Label(name="b", values=(2,)), Label(name="a", values=(1,))))
    assert labels.looked_for(("a",)) == (False, True)
    assert labels.looked_for(None) == labels.looked_for(("a", "b")) == (True, True)
