"""Which training is done in a folder: never one that silently differs from the one that stands there."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
from filelock import FileLock

from autoseg.errors import DocumentError, InputError
from autoseg.files import read_document, write_document
from autoseg.networks.weights import save_tensors
from autoseg.training.job import Wish, ask_to_end, has_ended, job_to_do, length_to_do, stored_length
from autoseg.training.length import asked_to_end, fixed_length
from autoseg.values import Fold, Length, TrainJob
from autoseg.workspace import FoldFolder
from tests.small_plans import small_configuration, small_plan
from tests.training.test_state import make_state

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
        ({"previous_keys": {"b": "4"}}, "what the stage before predicted of b changed since"),
        ({"seed": 2, "plan_id": "fedcba9876543210"}, "the plan, the seed changed since"),
    ],
    ids=["content", "folds", "plan", "annotated", "predictions", "plan and seed"],
)
@pytest.mark.parametrize("exact_length", [True, False])
def test_a_job_that_differs_is_refused_with_what_changed(
    path: Path, change: dict, named: str, exact_length: bool
) -> None:
    write_document(path, JOB)
    with pytest.raises(InputError, match=rf"other settings.*{named}.*move its folder away"):
        job_to_do(path, msgspec.structs.replace(JOB, **change), exact_length=exact_length)


def test_other_weights_of_the_stage_before_make_another_training(path: Path) -> None:
    """Of one that began before they were recorded, the label maps alone count."""
    known = msgspec.structs.replace(JOB, previous_keys={"a": "4"}, previous_weights={"0": "f" * 64})
    write_document(path, known)
    with pytest.raises(InputError, match="the weights of the stage before changed since"):
        job_to_do(path, msgspec.structs.replace(known, previous_weights={"0": "e" * 64}), exact_length=False)
    before = msgspec.structs.replace(known, previous_weights={})
    write_document(path, before)
    assert job_to_do(path, known, exact_length=False) == before


def test_a_damaged_document_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"schema": "autoseg.train-job/1"')
    with pytest.raises(DocumentError, match=r"job\.json"):
        job_to_do(path, JOB, exact_length=True)


PLAN = small_plan(small_configuration("2d"), small_configuration("other"))
WITH_PLAN = msgspec.structs.replace(JOB, plan_id=PLAN.id)


def test_a_plan_that_changed_is_shown_field_by_field(path: Path) -> None:
    """Of what makes the experiment: its name and its reasons do not."""
    write_document(path, WITH_PLAN)
    write_document(path.parent / "plan.json", PLAN)
    first, second = PLAN.configurations
    first = msgspec.structs.replace(first, batch_size=4, reasons={"batch_size": "by hand"})
    training = msgspec.structs.replace(second.training, learning_rate=0.5)
    second = msgspec.structs.replace(second, training=training)
    changed = msgspec.structs.replace(PLAN, name="new", configurations=(first, second))
    with pytest.raises(InputError) as caught:
        job_to_do(path, msgspec.structs.replace(JOB, plan_id=changed.id), exact_length=False, plan=changed)
    assert caught.value.found == (
        "the plan changed since (configurations.2d.batch_size: 2 then, 4 now; "
        "configurations.other.training.learning_rate: 0.01 then, 0.5 now)"
    )


def test_of_very_many_changes_some_are_shown(path: Path) -> None:
    write_document(path, WITH_PLAN)
    write_document(path.parent / "plan.json", PLAN)
    changed = small_plan(small_configuration("2d"), seed=8)
    with pytest.raises(
        InputError, match=r"seed: 7 then, 8 now|configurations\.other.*then, nothing now; and \d+ more\)"
    ):
        job_to_do(path, msgspec.structs.replace(JOB, plan_id=changed.id), exact_length=False, plan=changed)


@pytest.fixture
def folder(path: Path) -> FoldFolder:
    return FoldFolder(path.parent)


def length(folder: FoldFolder, *, has_estimates: bool = True, **wish: object) -> Length:
    return length_to_do(folder, JOB, Wish(**wish), has_estimates=has_estimates)


def stand(folder: FoldFolder, there: Length, *, scored: bool = True) -> None:
    """A training of that length; where it has ended, with a model, its scores and the state before its cooldown."""
    write_document(folder.job, JOB)
    write_document(folder.length, there)
    if there.trained:
        folder.model.touch()
        state = make_state(job=JOB)
        state.save(folder.kept_checkpoint)
        if scored:
            write_document(folder.summary, {})


ENDED = Length(iterations=100, end=100, trained=100)


def test_a_new_training_is_as_long_as_it_is_wished(folder: FoldFolder) -> None:
    assert length(folder) == length(folder, iterations=100) == fixed_length(100)
    assert length(folder, hours=2.0) == Length(hours=2.0)
    assert length(folder, until_plateau=True) == Length(until_plateau=True)
    with pytest.raises(InputError, match="no training here that has ended"):
        length(folder, extend=10)


@pytest.mark.parametrize("there", [fixed_length(100), Length(hours=2.0), Length(until_plateau=True), ENDED])
def test_without_a_wish_the_training_that_stands_there_goes_on(folder: FoldFolder, there: Length) -> None:
    stand(folder, there)
    assert length(folder) == there


def test_a_training_of_known_length_can_be_limited_in_hours_later_and_the_limit_changed(folder: FoldFolder) -> None:
    stand(folder, fixed_length(100))
    assert length(folder, hours=2.0) == msgspec.structs.replace(fixed_length(100), hours=2.0)
    stand(folder, Length(hours=2.0))
    assert length(folder, hours=3.0) == Length(hours=3.0)


def test_a_length_is_not_changed_any_more_once_the_cooldown_was_decided(folder: FoldFolder) -> None:
    decided = asked_to_end(Length(hours=2.0), 300, "somebody asked for it")
    stand(folder, decided)
    assert length(folder) == length(folder, hours=2.0) == decided
    for wish in ({"hours": 8.0}, {"until_plateau": True}):
        with pytest.raises(InputError, match=r"cooldown .* has begun.*end after 325 iterations: somebody.*--extend"):
            length(folder, **wish)


@pytest.mark.parametrize(
    "wish", [{"iterations": 0}, {"hours": math.inf}, {"hours": math.nan}, {"hours": -1.0}, {"extend": 0}], ids=str
)
def test_wishes_that_are_no_length_are_refused(wish: dict) -> None:
    with pytest.raises(InputError, match=f"no length of a training: {next(iter(wish))}; found .*a number over 0"):
        Wish(**wish)


def test_two_wishes_are_refused() -> None:
    with pytest.raises(InputError, match="one length; found hours and until_plateau"):
        Wish(hours=2.0, until_plateau=True)


def test_an_open_training_has_no_number_of_iterations(folder: FoldFolder) -> None:
    stand(folder, Length(hours=2.0))
    with pytest.raises(InputError, match=r"open length.*100 iterations.*--finish"):
        length(folder, iterations=100)


def test_without_held_out_cases_there_is_no_plateau(folder: FoldFolder) -> None:
    with pytest.raises(InputError, match=r"nothing to see a plateau by.*--epochs or --hours"):
        length(folder, until_plateau=True, has_estimates=False)


def test_a_training_that_has_ended_is_told_so(folder: FoldFolder) -> None:
    stand(folder, ENDED)
    with pytest.raises(InputError, match=r"has ended; found 100 iterations.*--extend"):
        length(folder, hours=2.0)


def test_an_extension_that_is_repeated_goes_on_until_it_is_scored(folder: FoldFolder) -> None:
    stand(folder, ENDED)
    longer = length(folder, extend=50)
    assert (longer.end, longer.extended_by) == (150, 50)
    write_document(folder.length, longer)
    assert length(folder, extend=50) == length(folder) == longer
    with pytest.raises(InputError, match=r"not ended yet.*found an extension by 50 iterations"):
        length(folder, extend=70)
    done = msgspec.structs.replace(longer, trained=150)
    write_document(folder.length, done)
    folder.summary.unlink()
    assert length(folder, extend=50) == done
    write_document(folder.summary, {})
    assert length(folder, extend=50).end == 200


@pytest.mark.parametrize(("iteration", "taken"), [(119, True), (120, False)], ids=["before", "in"])
def test_an_extension_takes_hours_only_before_its_cooldown(folder: FoldFolder, iteration: int, taken: bool) -> None:
    stand(folder, ENDED)
    longer = length(folder, extend=50)
    assert (longer.cooldown_from, longer.end) == (120, 150)
    write_document(folder.length, longer)
    save_tensors(folder.checkpoint, {}, {"iteration": iteration})
    if taken:
        assert length(folder, hours=2.0).hours == 2.0
    else:
        with pytest.raises(InputError, match=r"cooldown .* has begun.*end after 150 iterations: extended by 50"):
            length(folder, hours=2.0)
    assert length(folder) == longer


def test_a_training_that_has_not_ended_is_not_extended(folder: FoldFolder) -> None:
    stand(folder, fixed_length(100))
    with pytest.raises(InputError, match="has not ended yet"):
        length(folder, extend=50)


def test_without_the_state_before_the_cooldown_there_is_no_extension_and_all_stays(folder: FoldFolder) -> None:
    stand(folder, ENDED)
    folder.kept_checkpoint.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"before_cooldown\.safetensors"):
        length(folder, extend=50)
    folder.kept_checkpoint.unlink()
    with pytest.raises(InputError, match="is not there, so the training cannot be extended"):
        length(folder, extend=50)
    assert read_document(Length, folder.length) == ENDED


def test_asking_to_end_reaches_a_running_training_only_by_its_file(folder: FoldFolder) -> None:
    with pytest.raises(InputError, match="no training has begun here"):
        ask_to_end(folder)
    stand(folder, fixed_length(100))
    assert not ask_to_end(folder)
    assert folder.stop_file.is_file()
    with FileLock(folder.lock):
        assert ask_to_end(folder)
    folder.stop_file.unlink()
    stand(folder, ENDED)
    assert not ask_to_end(folder)
    assert not folder.stop_file.exists()


def test_a_training_without_a_document_of_its_length_has_that_of_its_job(folder: FoldFolder) -> None:
    assert stored_length(folder, JOB) is None
    write_document(folder.job, JOB)
    assert stored_length(folder, JOB) == fixed_length(100)
    folder.model.touch()
    assert has_ended(folder, stored_length(folder, JOB))
