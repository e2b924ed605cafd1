"""Folds: nnU-Net's for the same ids, patients together, and nobody moves when cases are added."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import KFold

from autoseg.errors import FindingsError, InputError
from autoseg.files import read_document, write_document
from autoseg.plan_stage import plan_dataset
from autoseg.splitting import current_split, division_findings, extend_split, split_cases
from autoseg.values import Case, Dataset, Fold, Label, Labels, Patients, Split, encode, select_fold
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
    with pytest.raises(InputError, match=r"3 cases of 1 patient"):
        split_cases(ids(3), dict.fromkeys(ids(3), "P"))


def sides(split: Split, groups: dict[str, str]) -> list[set[str]]:
    """Of every fold, the patients who stand on both sides."""
    return [{groups[case] for case in fold.train} & {groups[case] for case in fold.val} for fold in split]


def visits(patients: int, each: int) -> tuple[list[str], dict[str, str]]:
    groups = {f"P{patient:02d}_t{visit}": f"P{patient:02d}" for patient in range(patients) for visit in range(each)}
    return sorted(groups), groups


@pytest.mark.parametrize(("patients", "each"), [(5, 2), (7, 3), (12, 2), (3, 4)])
def test_patients_are_never_divided(patients: int, each: int) -> None:
    cases, groups = visits(patients, each)
    split = split_cases(cases, groups)
    assert_partition(split, cases)
    assert not any(sides(split, groups))


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
    assert not any(sides(after, groups))


def test_several_visits_of_a_new_patient_stay_together() -> None:
    cases, groups = visits(5, 2)
    before = split_cases(cases, groups)
    more, groups = visits(7, 2)
    assert not any(sides(extend_split(before, more, groups), groups))


#: Seeds of random data sets.
SEEDS = range(200)


def random_groups(random: np.random.Generator, size: int) -> dict[str, str]:
    """Cases of few or many patients, of very different sizes; ids say nothing about the patient."""
    weights = random.dirichlet(np.full(int(random.integers(2, 15)), float(random.choice([0.3, 1.0, 10.0]))))
    drawn = random.choice(len(weights), size, p=weights)
    drawn[:2] = (0, 1)  # at least two
    return {f"c{number}": f"p{patient}" for number, patient in zip(random.permutation(size), drawn, strict=True)}


@pytest.mark.parametrize("seed", SEEDS)
def test_no_random_patient_is_ever_divided_however_cases_come_and_go(seed: int) -> None:
    random = np.random.default_rng(seed)
    groups = random_groups(random, int(random.integers(4, 40)))
    cases = sorted(groups)
    while True:
        present = [case for case in cases if random.random() < 0.6]
        if len({groups[case] for case in present}) > 1:
            break
    split = split_cases(present, groups)
    assert_partition(split, present)
    assert not any(sides(split, groups))
    for _ in range(4):
        kept = {case for case in cases if random.random() < 0.7} | {fold.val[0] for fold in split}
        after = extend_split(split, sorted(kept), groups)
        assert_partition(after, sorted(kept))
        assert not any(sides(after, groups))
        for mine, theirs in zip(split, after, strict=True):
            assert kept.intersection(mine.val) <= set(theirs.val)  # nobody moves
        split = after


@pytest.mark.parametrize("seed", SEEDS)
def test_somebodys_own_folds_are_extended_without_dividing_a_patient(seed: int) -> None:
    """Folds that hold out some patients once, some several times, some never, and leave cases out."""
    random = np.random.default_rng(seed)
    groups = random_groups(random, int(random.integers(6, 30)))
    patients = sorted(set(groups.values()))
    present = [case for number, case in enumerate(sorted(groups)) if number < 2 or random.random() < 0.6]
    own = []
    for _ in range(int(random.integers(1, 6))):
        held = {patient for patient in patients if random.random() < 0.4}
        used = [case for case in present if random.random() < 0.8]
        train = tuple(case for case in used if groups[case] not in held)
        val = tuple(case for case in used if groups[case] in held)
        if train and val:
            own.append(Fold(train=train, val=val))
    if not own or len({groups[case] for case in groups}) < 2:
        return
    after = extend_split(tuple(own), sorted(groups), groups)
    assert not any(sides(after, groups))
    for mine, theirs in zip(own, after, strict=True):
        assert set(mine.val) <= set(theirs.val)
        assert set(mine.train) <= set(theirs.train)


@pytest.mark.parametrize("seed", SEEDS)
def test_without_grouping_the_folds_are_nnunets_whatever_the_ids(seed: int) -> None:
    random = np.random.default_rng(seed)
    cases = np.array(sorted({f"x{number}" for number in random.integers(0, 500, int(random.integers(8, 60)))}))
    alone = {case: case for case in cases.tolist()}
    expected = KFold(5, shuffle=True, random_state=12345).split(cases)
    expected = tuple(
        Fold(train=tuple(cases[train].tolist()), val=tuple(cases[val].tolist())) for train, val in expected
    )
    assert split_cases(list(alone)) == split_cases(list(alone), alone) == expected
    assert extend_split(expected, list(alone), alone) == expected


def test_a_patient_who_is_held_out_twice_is_so_with_the_new_visit() -> None:
    own: Split = (Fold(train=("b",), val=("a_1",)), Fold(train=("b", "c"), val=("a_1",)))
    after = extend_split(own, ["a_1", "a_2", "b", "c"], {"a_1": "a", "a_2": "a", "b": "b", "c": "c"})
    assert validation(after) == [("a_1", "a_2")] * 2


def test_a_visit_may_go_while_the_patient_stays() -> None:
    cases, groups = visits(6, 2)
    rest = cases[1:]
    after = extend_split(split_cases(cases, groups), rest, {case: groups[case] for case in rest})
    assert_partition(after, rest)


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


def by_names(data: Dataset, groups: dict[str, str] | None = None) -> Patients:
    """What the names tell; without groups every case is its own patient."""
    groups = groups or {}
    return Patients(source="names", patient_of={case.id: groups.get(case.id, case.id) for case in data.annotated_cases})


def test_without_folds_they_are_made_from_the_annotated_cases(tmp_path: Path) -> None:
    data = dataset(tmp_path, [*ids(10), "unseen"], ("unseen",))
    found = current_split(Workspace(tmp_path / "W"), data, by_names(data))
    assert found == split_cases(ids(10))


def test_folds_that_came_with_the_data_set_are_used(tmp_path: Path) -> None:
    brought = [{"train": ["a", "b"], "val": ["c"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(brought))
    data = dataset(tmp_path, list("abc"))
    assert current_split(Workspace(tmp_path / "W"), data, by_names(data)) == (Fold(train=("a", "b"), val=("c",)),)


def test_folds_of_the_workspace_are_extended(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "W")
    write_document(workspace.split_path, split_cases(ids(10)))
    data = dataset(tmp_path, ids(11))
    found = current_split(workspace, data, by_names(data))
    assert found == extend_split(split_cases(ids(10)), ids(11))


def test_folds_that_came_with_the_data_set_are_taken_as_they_are_and_not_exchanged_later(tmp_path: Path) -> None:
    workspace, file = Workspace(tmp_path / "W"), tmp_path / "splits_final.json"
    brought = (Fold(train=("case_000",), val=("case_001",)),)
    file.write_bytes(encode(brought))
    data = dataset(tmp_path, ids(11))
    for _ in range(2):
        assert current_split(workspace, data, by_names(data)) == brought
        write_document(workspace.split_path, brought)
    file.write_bytes(encode((Fold(train=("case_001",), val=("case_000",)),)))
    with pytest.raises(InputError, match="differ"):
        current_split(workspace, data, by_names(data))


@pytest.mark.parametrize("sizes", list(itertools.permutations((3, 1, 2))))
def test_the_smallest_fold_grows_first(sizes: tuple[int, ...]) -> None:
    names = iter(ids(6))
    held_out = [tuple(next(names) for _ in range(size)) for size in sizes]
    split = tuple(Fold(train=tuple(sorted(set(ids(6)) - set(val))), val=val) for val in held_out)
    after = extend_split(split, [*ids(6), "new"])
    assert "new" in after[sizes.index(1)].val


def planned_with(workspace: Workspace, data: Dataset, patients: Patients) -> Split:
    """The folds as a planning leaves them in the workspace."""
    split = current_split(workspace, data, patients)
    write_document(workspace.split_path, split)
    write_document(workspace.patients_path, patients)
    return split


def stated(groups: dict[str, str], source: str = "pattern") -> Patients:
    return Patients(source=source, rule="the rule", patient_of=groups)


CASES, GROUPS = visits(8, 2)


@pytest.fixture
def divided(tmp_path: Path) -> tuple[Workspace, Dataset]:
    """A workspace whose folds were made without a grouping, so that they divide patients."""
    workspace, data = Workspace(tmp_path / "W"), dataset(tmp_path, CASES)
    assert any(sides(planned_with(workspace, data, by_names(data)), GROUPS))
    return workspace, data


def begin_training(workspace: Workspace) -> None:
    job = workspace.path / "models" / "default" / "2d" / "fold_0" / "job.json"
    job.parent.mkdir(parents=True)
    job.write_text("{}")


@pytest.mark.parametrize("source", ["names", "pattern"])
def test_folds_that_nobody_has_trained_on_are_made_anew_for_a_grouping(divided, source) -> None:
    workspace, data = divided
    patients = by_names(data, GROUPS) if source == "names" else stated(GROUPS)
    assert current_split(workspace, data, patients) == split_cases(CASES, GROUPS)


@pytest.mark.parametrize(("source", "remedy"), [("pattern", "-w, or plan"), ("table", "correct the table")])
def test_folds_that_are_used_and_divide_a_stated_patient_are_refused(divided, source, remedy) -> None:
    workspace, data = divided
    begin_training(workspace)
    with pytest.raises(InputError, match=r"found patient P0\d \(P0\d_t0, P0\d_t1\)") as caught:
        current_split(workspace, data, stated(GROUPS, source))
    assert remedy in caught.value.remedy
    assert caught.value.file == workspace.split_path


def test_folds_that_somebody_changed_are_not_made_anew(divided) -> None:
    workspace, data = divided
    split = read_document(Split, workspace.split_path)
    write_document(workspace.split_path, (*split[1:], split[0]))
    with pytest.raises(InputError, match="hold out another"):
        current_split(workspace, data, stated(GROUPS))


def test_used_folds_stay_when_only_names_speak_against_them_and_that_is_said(divided) -> None:
    workspace, data = divided
    begin_training(workspace)
    patients = by_names(data, GROUPS)
    split = current_split(workspace, data, patients)
    assert split == split_cases(CASES)
    (finding,) = division_findings(split, patients)
    assert finding.severity == "warning"
    assert "P00 (P00_t0, P00_t1)" in str(finding)
    assert "--group-by" in str(finding)


def test_used_folds_stay_when_a_stated_grouping_agrees_with_them(tmp_path: Path) -> None:
    workspace, data = Workspace(tmp_path / "W"), dataset(tmp_path, CASES)
    before = planned_with(workspace, data, by_names(data, GROUPS))
    begin_training(workspace)
    assert current_split(workspace, data, stated(GROUPS)) == before
    assert division_findings(before, stated(GROUPS)) == ()


def test_folds_of_the_data_set_may_divide_what_only_the_names_group(tmp_path: Path) -> None:
    brought: Split = (Fold(train=("P00_t0", "P01_t0"), val=("P00_t1", "P02_t0")),)
    (tmp_path / "splits_final.json").write_bytes(encode(brought))
    workspace, data = Workspace(tmp_path / "W"), dataset(tmp_path, CASES)
    assert current_split(workspace, data, by_names(data, GROUPS)) == brought
    (finding,) = division_findings(brought, by_names(data, GROUPS))
    assert "P00 (P00_t0, P00_t1)." in str(finding)
    with pytest.raises(InputError, match=r"P00 \(P00_t0, P00_t1\), expected.*splits_final") as caught:
        current_split(workspace, data, stated(GROUPS))
    assert "Correct the file" in caught.value.remedy


def test_one_model_on_all_cases_has_all_of_them(tmp_path: Path) -> None:
    assert select_fold(split_cases(CASES, GROUPS), "full").train == tuple(CASES)


def test_what_was_noticed_is_told_where_there_can_be_no_folds(phantoms: Path, tmp_path: Path) -> None:
    for kind, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (tmp_path / "D" / kind).mkdir(parents=True)
        for name in ("a", "b"):
            shutil.copy(phantoms / kind / f"phantom_000{ending}", tmp_path / "D" / kind / f"{name}{ending}")
    shutil.copy(phantoms / "dataset.json", tmp_path / "D")
    (tmp_path / "D" / "dataset.json").write_text(
        (phantoms / "dataset.json").read_text().replace('"numTraining": 6', '"numTraining": 2')
    )
    with pytest.raises(
        FindingsError, match=r"2 cases of 1 patient\. Cases with identical images count as one"
    ) as caught:
        plan_dataset(tmp_path / "D", Workspace(tmp_path / "W"), device="cpu", memory_gib=2)
    assert "image is that of another case, too" in str(caught.value)
