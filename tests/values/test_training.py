"""Folds and jobs: nobody is trained on and held out at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from autoseg.errors import UnknownNameError
from autoseg.values import ExecutionPath, Fold, Split, TrainJob, fold_folder, fold_names, select_fold
from autoseg.values.json_form import decode

SPLIT: Split = (Fold(train=("a", "b"), val=("c",)), Fold(train=("a", "c"), val=("b",)))


def test_a_case_in_train_and_val_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="b"):
        Fold(train=("a", "b"), val=("b",))


def test_a_fold_without_training_cases_is_refused() -> None:
    with pytest.raises(ValueError, match="training case"):
        Fold(train=(), val=("a",))


def test_a_fold_is_selected_by_its_number() -> None:
    assert select_fold(SPLIT, "1") is SPLIT[1]


def test_full_trains_on_every_case_and_holds_none_out() -> None:
    assert select_fold(SPLIT, "full") == Fold(train=("a", "b", "c"), val=())


@pytest.mark.parametrize("fold", ["2", "-1", "all", "", "0.5", "²", "01", " 1"])
def test_a_fold_that_is_not_there_is_refused(fold: str) -> None:
    with pytest.raises(UnknownNameError, match="0 to 1"):
        select_fold(SPLIT, fold)


def test_folders_of_folds() -> None:
    assert [fold_folder(fold) for fold in ("0", "12", "full")] == ["fold_0", "fold_12", "full"]


def test_a_job_without_iterations_is_refused() -> None:
    with pytest.raises(ValueError, match="iterations"):
        TrainJob(plan_id="p", configuration="2d", fold="0", iterations=0, seed=1, cases=SPLIT[0], case_keys={})


def test_folds_name_their_folders() -> None:
    assert (fold_folder("3"), fold_folder("full")) == ("fold_3", "full")


@pytest.mark.parametrize("parts", [0, -1])
def test_a_batch_has_one_part_at_least(parts: int) -> None:
    with pytest.raises(ValueError, match="parts"):
        ExecutionPath(device="cuda", parts=parts)


def test_a_path_from_before_there_were_parts_has_one() -> None:
    assert decode(ExecutionPath, b'{"schema":"autoseg.execution/1","device":"cuda"}', source=None).parts == 1


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("0", "0"),
        ("4", "4"),
        ("all", "01234"),
        ("0..4", "01234"),
        ("1..2", "12"),
        ("3..3", "3"),
        ("0,2", "02"),
        ("4, 0..1 ,1", "014"),
        ("full", ("full",)),
    ],
)
def test_folds_are_named_by_number_list_and_range(text: str, names: Sequence[str]) -> None:
    assert fold_names(text, 5) == tuple(names)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        *((text, text) for text in ["5", "-1", "", "none", "0..5", "3..1", "..", "0..", "0...2", "0-4", "1.0"]),
        ("0,5", "5"),
        ("0,", ""),
        ("0,all", "all"),
        ("full,0", "full"),
    ],
)
def test_a_fold_that_there_is_not_is_named_with_those_that_there_are(text: str, wrong: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        fold_names(text, 5)
    assert str(caught.value).startswith(f"there is no fold {wrong!r}")
    assert "0 to 4, several as in 0,2 or 0..4, all" in str(caught.value)
