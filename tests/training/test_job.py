"""Which training is done in a folder: never one that silently differs from the one that stands there."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from autoseg.errors import DocumentError, InputError
from autoseg.files import write_document
from autoseg.training.job import job_to_do
from autoseg.values import Fold, TrainJob

JOB = TrainJob(
    plan_id="0123456789abcdef",
    configuration="2d",
    fold="0",
    iterations=100,
    seed=1,
    cases=Fold(train=("a", "b"), val=("c",)),
    case_keys={"a": "1", "b": "2", "c": "3"},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of the document in the training's folder; not there yet."""
    return tmp_path / "fold_0" / "job.json"


def test_in_a_new_folder_the_wanted_job_is_done(path: Path) -> None:
    assert job_to_do(path, JOB, exact_length=True) is JOB
    assert not path.exists()


@pytest.mark.parametrize("exact_length", [True, False])
def test_the_same_job_goes_on(path: Path, exact_length: bool) -> None:
    write_document(path, JOB)
    assert job_to_do(path, msgspec.structs.replace(JOB), exact_length=exact_length) == JOB


def test_another_length_goes_on_only_where_none_was_asked_for(path: Path) -> None:
    write_document(path, JOB)
    longer = msgspec.structs.replace(JOB, iterations=500)
    assert job_to_do(path, longer, exact_length=False) == JOB
    with pytest.raises(InputError, match=r"found 100 iterations, expected 500") as caught:
        job_to_do(path, longer, exact_length=True)
    assert caught.value.file == path.parent


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"case_keys": {"a": "new", "b": "2", "c": "3"}}, "the content of cases changed since"),
        ({"cases": Fold(train=("a", "c"), val=("b",))}, "the folds changed since"),
        ({"plan_id": "fedcba9876543210"}, "the plan changed since"),
        ({"annotated": {"a": ("liver",)}}, "the labels that were looked for changed since"),
        ({"seed": 2, "plan_id": "fedcba9876543210"}, "the plan, the seed changed since"),
    ],
    ids=["content", "folds", "plan", "annotated", "plan and seed"],
)
@pytest.mark.parametrize("exact_length", [True, False])
def test_a_job_that_differs_is_refused_with_what_changed(
    path: Path, change: dict, named: str, exact_length: bool
) -> None:
    write_document(path, JOB)
    with pytest.raises(InputError, match=rf"other settings.*{named}.*move its folder away"):
        job_to_do(path, msgspec.structs.replace(JOB, **change), exact_length=exact_length)


def test_a_damaged_document_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"schema": "autoseg.train-job/1"')
    with pytest.raises(DocumentError, match=r"job\.json"):
        job_to_do(path, JOB, exact_length=True)
