"""Folds: nnU-Net's for the same ids, patients together, and nobody moves when cases are added."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import KFold

from autoseg.errors import InputError
from autoseg.files import write_document
from autoseg.splitting import current_split, extend_split, group_by_patient, split_cases
from autoseg.values import Case, Dataset, Fold, Label, Labels, Split, encode
from autoseg.workspace import Workspace


def ids(count: int, prefix: str = "case") -> list[str]:
    return [f"{prefix}_{index:03d}" for index in range(count)]


def validation(split: Split) -> list[tuple[str, ...]]:
    return [fold.val for fold in split]


def assert_partition(split: Split, cases: list[str]) -> None:
    """Every case is held out once, and trained on in all other folds."""
    assert sorted(case for fold in split for case in fold.val) == sorted(cases)
    for fold in split:
        assert sorted((*fold.train, *fold.val)) == sorted(cases)


def test_ten_cases_are_divided_as_nnunet_divides_them() -> None:
    cases = ids(10)
    known = [(0, 7), (3, 9), (4, 6), (1, 8), (2, 5)]
    assert validation(split_cases(cases)) == [tuple(cases[index] for index in fold) for fold in known]


@pytest.mark.parametrize("count", [5, 6, 7, 11, 19, 20, 32, 33, 101, 260])
def test_folds_are_those_of_scikit_learn(count: int) -> None:
    cases = np.array(ids(count))
    expected = KFold(5, shuffle=True, random_state=12345).split(cases)
    for fold, (train, val) in zip(split_cases(list(cases)), expected, strict=True):
        assert fold.train == tuple(cases[train])
        assert fold.val == tuple(cases[val])


@pytest.mark.parametrize("folds", [2, 3, 10])
def test_any_number_of_folds_is_that_of_scikit_learn(folds: int) -> None:
    cases = np.array(ids(23))
    expected = [tuple(cases[val]) for _, val in KFold(folds, shuffle=True, random_state=12345).split(cases)]
    assert validation(split_cases(list(cases), folds=folds)) == expected


def test_the_order_of_the_cases_does_not_matter() -> None:
    cases = ids(17)
    shuffled = list(np.random.default_rng(0).permutation(cases))
    assert split_cases(shuffled) == split_cases(cases)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_with_few_cases_each_is_held_out_once(count: int) -> None:
    split = split_cases(ids(count))
    assert len(split) == count
    assert_partition(split, ids(count))


@pytest.mark.parametrize("cases", [[], ["a"]])
def test_too_few_cases_are_refused(cases: list[str]) -> None:
    with pytest.raises(InputError, match="two cases"):
        split_cases(cases)


def test_one_patient_cannot_be_split() -> None:
    with pytest.raises(InputError, match=r"3 case\(s\) of 1 patient"):
        split_cases(ids(3), dict.fromkeys(ids(3), "P"))


def visits(patients: int, each: int) -> tuple[list[str], dict[str, str]]:
    groups = {f"P{patient:02d}_t{visit}": f"P{patient:02d}" for patient in range(patients) for visit in range(each)}
    return sorted(groups), groups


@pytest.mark.parametrize(("patients", "each"), [(5, 2), (7, 3), (12, 2), (3, 4)])
def test_patients_are_never_divided(patients: int, each: int) -> None:
    cases, groups = visits(patients, each)
    split = split_cases(cases, groups)
    assert_partition(split, cases)
    for fold in split:
        assert not {groups[case] for case in fold.train} & {groups[case] for case in fold.val}


def test_patients_are_divided_as_cases_of_their_names_would_be() -> None:
    cases, groups = visits(10, 2)
    alone = split_cases(sorted(set(groups.values())))
    for fold, expected in zip(split_cases(cases, groups), alone, strict=True):
        assert sorted({groups[case] for case in fold.val}) == list(expected.val)


@pytest.mark.parametrize("count", [5, 8, 20])
@pytest.mark.parametrize("added", [1, 4, 13])
def test_new_cases_join_and_nobody_moves(count: int, added: int) -> None:
    old, new = ids(count), ids(added, "an earlier name")
    before = split_cases(old)
    after = extend_split(before, [*new, *old])
    assert_partition(after, [*old, *new])
    for mine, theirs in zip(before, after, strict=True):
        assert set(mine.val) <= set(theirs.val)
        assert set(mine.train) <= set(theirs.train)
    sizes = [len(fold.val) for fold in after]
    assert max(sizes) - min(sizes) <= 1  # each joined the smallest


def test_extending_with_nothing_new_changes_nothing() -> None:
    split = split_cases(ids(12))
    assert extend_split(split, ids(12)) == split


def test_cases_that_are_gone_are_dropped_and_may_come_back() -> None:
    split = split_cases(ids(12))
    fewer = extend_split(split, ids(9))
    assert_partition(fewer, ids(9))
    for mine, theirs in zip(split, fewer, strict=True):
        assert theirs.val == tuple(case for case in mine.val if case in ids(9))


def test_a_new_visit_joins_its_patients_fold() -> None:
    cases, groups = visits(6, 2)
    before = split_cases(cases, groups)
    more, groups = visits(6, 3)
    after = extend_split(before, more, groups)
    assert_partition(after, more)
    for fold in after:
        assert not {groups[case] for case in fold.train} & {groups[case] for case in fold.val}


def test_several_visits_of_a_new_patient_stay_together() -> None:
    cases, groups = visits(5, 2)
    before = split_cases(cases, groups)
    more, groups = visits(7, 2)
    for fold in extend_split(before, more, groups):
        assert not {groups[case] for case in fold.train} & {groups[case] for case in fold.val}


#: Somebody's own folds: they leave out x, and hold out only some of the cases.
OWN: Split = (Fold(train=("a", "b", "c"), val=("d",)), Fold(train=("a", "d"), val=("b",)))


def test_somebodys_own_folds_gain_new_cases_and_keep_what_they_left_out() -> None:
    after = extend_split(OWN, ["a", "b", "c", "d", "n"])
    for mine, theirs in zip(OWN, after, strict=True):
        assert set(mine.train) <= set(theirs.train)
        assert set(mine.val) <= set(theirs.val)
        assert "n" in (*theirs.train, *theirs.val)
    assert "c" not in (*after[1].train, *after[1].val)
    assert sum("n" in fold.val for fold in after) == 1


def test_a_new_visit_of_a_patient_who_is_trained_on_is_never_held_out() -> None:
    own: Split = (Fold(train=("P1_t0", "P2_t0", "P3_t0"), val=("P4_t0", "P4_t1")),)
    cases = ["P1_t0", "P1_t1", "P2_t0", "P3_t0", "P4_t0", "P4_t1"]
    (fold,) = extend_split(own, cases, {case: case[:2] for case in cases})
    assert not {case[:2] for case in fold.train} & {case[:2] for case in fold.val}


@pytest.mark.parametrize(
    "cases",
    [
        ids(20, "hippocampus"),
        ids(5, "em"),
        [*ids(20, "site1"), *ids(3, "site2")],  # one stem owns more than half
        ["a", "b", "c"],
        ["P01_t0", "P01_t1", "P02_t0", "P03_t0", "P04_t0"],  # only one stem owns several
        [f"P{patient:02d}_t0" for patient in range(8)],
        ["001", "002", "003"],
        [],
    ],
    ids=str,
)
def test_names_of_single_cases_are_not_grouped(cases: list[str]) -> None:
    assert group_by_patient(cases) is None


@pytest.mark.parametrize(
    "pattern", ["P{0:02d}_t{1}", "patient{0:02d}_frame{1:02d}", "sub-{0}-ses{1}", "{0}x.{1}", "A{0} {1}"]
)
def test_visits_of_patients_are_grouped(pattern: str) -> None:
    visits_of = {patient: [pattern.format(patient, visit) for visit in range(2)] for patient in range(1, 5)}
    groups = group_by_patient([case for cases in visits_of.values() for case in cases])
    assert groups is not None
    stems = {patient: {groups[case] for case in cases} for patient, cases in visits_of.items()}
    assert all(len(each) == 1 for each in stems.values())
    assert len({next(iter(each)) for each in stems.values()}) == 4


def test_a_stem_that_owns_exactly_half_is_a_patient() -> None:
    assert group_by_patient(["P1_t0", "P1_t1", "P2_t0", "P2_t1"]) is not None


def test_a_case_that_is_nobodys_visit_is_its_own_patient() -> None:
    groups = group_by_patient(["P1_t0", "P1_t1", "P2_t0", "P2_t1", "odd"])
    assert groups["odd"] == "odd"
    assert groups["P1_t0"] == groups["P1_t1"] != groups["P2_t0"]


def dataset(root: Path, cases: list[str], unlabelled: tuple[str, ...] = ()) -> Dataset:
    return Dataset(
        name="D",
        root=str(root),
        channels=("MRI",),
        labels=Labels(foreground=(Label(name="a", values=(1,)),)),
        file_ending=".mha",
        cases=tuple(
            Case(id=id_, images=(f"{id_}_0000.mha",), label=None if id_ in unlabelled else f"{id_}.mha")
            for id_ in sorted(cases)
        ),
    )


def test_without_folds_they_are_made_from_the_annotated_cases(tmp_path: Path) -> None:
    found = current_split(Workspace(tmp_path / "W"), dataset(tmp_path, [*ids(10), "unseen"], ("unseen",)))
    assert found == split_cases(ids(10))


def test_folds_that_came_with_the_data_set_are_used(tmp_path: Path) -> None:
    brought = [{"train": ["a", "b"], "val": ["c"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(brought))
    assert current_split(Workspace(tmp_path / "W"), dataset(tmp_path, list("abc"))) == (
        Fold(train=("a", "b"), val=("c",)),
    )


def test_folds_of_the_workspace_are_extended(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "W")
    write_document(workspace.split_path, split_cases(ids(10)))
    found = current_split(workspace, dataset(tmp_path, ids(11)))
    assert found == extend_split(split_cases(ids(10)), ids(11))


def test_folds_that_came_with_the_data_set_are_taken_as_they_are_and_not_exchanged_later(tmp_path: Path) -> None:
    workspace, file = Workspace(tmp_path / "W"), tmp_path / "splits_final.json"
    brought = (Fold(train=("case_000",), val=("case_001",)),)
    file.write_bytes(encode(brought))
    for _ in range(2):
        assert current_split(workspace, dataset(tmp_path, ids(11))) == brought
        write_document(workspace.split_path, brought)
    file.write_bytes(encode((Fold(train=("case_001",), val=("case_000",)),)))
    with pytest.raises(InputError, match="differ"):
        current_split(workspace, dataset(tmp_path, ids(11)))


@pytest.mark.parametrize("sizes", list(itertools.permutations((3, 1, 2))))
def test_the_smallest_fold_grows_first(sizes: tuple[int, ...]) -> None:
    names = iter(ids(6))
    held_out = [tuple(next(names) for _ in range(size)) for size in sizes]
    split = tuple(Fold(train=tuple(sorted(set(ids(6)) - set(val))), val=val) for val in held_out)
    after = extend_split(split, [*ids(6), "new"])
    assert "new" in after[sizes.index(1)].val
