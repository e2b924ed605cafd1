"""The truth while training: in rotation, kept over any interruption, without influence on the weights, equal to the end."""

from __future__ import annotations

import errno
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch

from autoseg.errors import InterruptedRunError
from autoseg.evaluation.summarize import summarize
from autoseg.files import read_document, write_document
from autoseg.inference.cases import validate_cases
from autoseg.inference.held_out import prediction_bytes, running_scorer
from autoseg.inference.model import Choice, load_predictor
from autoseg.networks.build import build_network
from autoseg.networks.weights import load_tensors
from autoseg.training.length import extended
from autoseg.training.loop import train_fold
from autoseg.training.truth import Truth, due_cases, pace_for, truth_of
from autoseg.training.truth_record import Pace, TruthRecord, TruthScore
from autoseg.values import CaseScore, ExecutionPath, Fold, LabelScore, Length, Plan, TrainingSpec, TrainJob, digest
from autoseg.workspace import ModelFolder
from tests.training.test_loop import (
    PLAIN,
    TRAINING,
    Listening,
    assert_same_weights,
    make_job,
    make_plan,
    make_store,
)

CASES = tuple("abcdefg")
NAMES = ["ball", "core"]
EACH = Pace(device="cpu", cases=1, reason="chosen before")
ALL = Pace(device="cpu", cases=3, mirroring=True, reason="chosen before")
HELD_OUT = Fold(train=("a", "b"), val=("c", "d", "e"))
KEYS = {name: digest([name]) for name in "abcde"}


@pytest.fixture(autouse=True)
def _threads_as_before():
    """Trainings set torch's threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def score(case: str, iteration: int, **dice: float | None) -> TruthScore:
    return TruthScore(epoch=iteration, iteration=iteration, case=case, mirroring=False, seconds=1.0, dice=dice)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9])
def test_every_case_has_its_turn_equally_often(count: int) -> None:
    pace = Pace(cases=count)
    turns = [due_cases(CASES, 5, epoch, pace) for epoch in range(1, 15)]
    assert all(len(turn) == len(set(turn)) == min(count, 7) for turn in turns)
    times = [sum(case in turn for turn in turns) for case in CASES]
    assert max(times) - min(times) <= 1
    assert sum(times) == 14 * min(count, 7)


def test_the_turns_follow_from_seed_epoch_and_cases_alone() -> None:
    pace = Pace(cases=3)
    one, other = ([due_cases(cases, 5, epoch, pace) for epoch in range(1, 9)] for cases in (CASES, CASES[::-1]))
    assert one == other
    assert one != [due_cases(CASES, 6, epoch, pace) for epoch in range(1, 9)]
    assert due_cases((), 5, 1, pace) == []
    rare = Pace(cases=1, every=3)
    turns = [due_cases(CASES, 5, epoch, rare) for epoch in range(1, 22)]
    assert [len(turn) for turn in turns] == [0, 0, 1] * 7
    assert sorted(case for turn in turns for case in turn) == list(CASES)


@pytest.mark.parametrize(
    ("case_seconds", "epochs", "cases", "every", "mirroring"),
    [
        (0.1, 3, 10, 1, True),
        (0.126, 10, 10, 1, False),
        (0.126, 19, 9, 1, True),
        (2.0, 10, 5, 1, False),
        (2.0, 160, 1, 2, True),
        (10.0, 10, 1, 1, False),
        (25.0, 10, 1, 3, False),
    ],
)
def test_the_pace_costs_a_tenth_of_an_epoch_at_most(
    case_seconds: float, epochs: int, cases: int, every: int, mirroring: bool
) -> None:
    """Ten cases, eight passes with mirroring, an epoch of 100 seconds."""
    pace = pace_for(10, 8, case_seconds, 100.0, epochs, "cpu")
    assert (pace.cases, pace.every, pace.mirroring) == (cases, every, mirroring)
    assert case_seconds * (8 if mirroring else 1) * cases / every <= 10.0


def test_the_truth_is_made_of_the_newest_scores_as_the_final_summary_is() -> None:
    dice = {"x": {"ball": 0.9, "core": None}, "y": {"ball": 0.7, "core": 0.4}, "z": {"ball": None, "core": 0.6}}
    scores = [score("x", 4, ball=0.1, core=0.1), *(score(case, 6, **labels) for case, labels in dice.items())]
    final = summarize(
        [
            CaseScore(
                metrics={
                    str(key): LabelScore(dice=labels[name], iou=None, tp=0, fp=0, fn=0, tn=1, n_pred=0, n_ref=0)
                    for key, name in enumerate(NAMES, start=1)
                },
                prediction_file=case,
                reference_file=case,
            )
            for case, labels in dice.items()
        ],
        PLAIN,
    )
    value = truth_of(scores, 8, NAMES)
    assert value.dice == pytest.approx(final.foreground_mean.dice)
    assert value.labels == pytest.approx({"ball": final.mean["1"].dice, "core": final.mean["2"].dice})
    assert value.cases == 3


def test_scores_of_the_first_half_of_what_was_trained_and_later_ones_do_not_count() -> None:
    scores = [score("x", 1, ball=0.1), score("y", 6, ball=0.5), score("z", 11, ball=0.9)]
    assert truth_of(scores, 10, ["ball"]) == msgspec.structs.replace(
        truth_of(scores[1:2], 10, ["ball"]), dice=0.5, labels={"ball": 0.5}, cases=1
    )
    assert truth_of([], 10, ["ball"]).dice is None


def test_a_line_that_a_kill_cut_off_costs_itself_only(tmp_path: Path) -> None:
    path, lines = tmp_path / "truth.jsonl", [EACH, score("a", 1, ball=0.5), score("b", 2, ball=None)]
    record = TruthRecord(path)
    for line in lines:
        record.append(line)
    whole = path.read_bytes()
    assert TruthRecord(path).lines == lines
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        again = TruthRecord(path)
        assert again.lines == lines[: whole[:cut].count(b"\n")]
        assert again.unreadable == 0
        again.append(lines[2])
        assert TruthRecord(path).lines == again.lines
    path.write_bytes(whole.replace(b"\n", b"\n{]\n", 1))
    assert (TruthRecord(path).lines, TruthRecord(path).unreadable) == (lines, 1)


def test_going_back_to_an_earlier_checkpoint_forgets_later_scores(tmp_path: Path) -> None:
    record = TruthRecord(tmp_path / "truth.jsonl")
    for line in (EACH, score("a", 1), score("b", 2), score("c", 3)):
        record.append(line)
    record.forget_after(2)
    assert TruthRecord(tmp_path / "truth.jsonl").lines == record.lines == [EACH, score("a", 1), score("b", 2)]


def fresh_weights(plan: Plan) -> dict[str, torch.Tensor]:
    """Weights of the plan's network before any training."""
    return build_network(plan.configuration("tiny").network, seed=3).state_dict()


class Training:
    """A training with its model folder, on balls of which three are held out."""

    def __init__(self, parent: Path, name: str, plan: Plan, *, pace: Pace | None = EACH, iterations: int = 9) -> None:
        self.plan, self.logger = plan, Listening()
        self.mirror_axes = plan.configuration("tiny").augmentation.mirror_axes
        self.store = make_store(parent, names="abcde")
        self.model = ModelFolder(parent / name)
        write_document(self.model.path / "plan.json", plan)
        self.job: TrainJob = make_job(plan, iterations, cases=HELD_OUT, case_keys=KEYS)
        self.folder = self.model.fold("tiny", "0")
        write_document(self.folder.execution, ExecutionPath(device="cpu", threads=1, reason="chosen before"))
        if pace is not None and not self.folder.truth.is_file():
            TruthRecord(self.folder.truth).append(pace)

    def truth(self, stop: Callable[[], bool] = lambda: False) -> Truth:
        scorer = running_scorer(self.model, self.plan, self.job, self.store, "cpu", stop)
        return Truth(self.job, self.plan.labels, len(self.mirror_axes), self.folder, self.logger, "cpu", scorer)

    def run(self, truth: Truth | None) -> Path:
        arguments = (self.job, self.plan, self.store, self.folder, self.logger)
        return train_fold(*arguments, device="cpu", truth=truth)

    def scores(self) -> list[TruthScore]:
        return [msgspec.structs.replace(line, seconds=0.0) for line in TruthRecord(self.folder.truth).scores]

    def final(self) -> float:
        choice = Choice(configuration="tiny", folds=("0",), dice=None)
        predictor = load_predictor(self.model, choice, device="cpu")
        keys = {case: KEYS[case] for case in self.job.cases.val}
        summary = validate_cases(predictor, self.plan, self.store, keys, {}, self.folder, self.logger, lambda: False)
        assert summary.foreground_mean.dice is not None
        return summary.foreground_mean.dice


def test_the_pace_follows_the_length_that_the_training_will_have_not_the_planned_one(tmp_path: Path) -> None:
    """With --hours a training may end within its first epoch, and has no tenth of a long one to spend."""
    training = Training(tmp_path, "model", make_plan(mirror_axes=(0,)), pace=None, iterations=10**12)
    training.truth().after_epoch(1, 3, fresh_weights(training.plan), epoch_seconds=1e-7, total=3)
    pace = TruthRecord(training.folder.truth).pace("cpu")
    assert pace is not None
    assert not pace.mirroring
    assert pace.every > 1


@pytest.mark.parametrize("pace", [None, ALL], ids=["measured", "all, mirrored"])
def test_the_truth_has_no_influence_on_the_weights(tmp_path: Path, pace: Pace | None) -> None:
    with_truth, without = (
        Training(tmp_path, name, make_plan(mirror_axes=(0,)), pace=pace) for name in ("with", "without")
    )
    assert_same_weights(with_truth.run(with_truth.truth()), without.run(None))
    told = with_truth.logger.all("truth")
    assert [(each["epoch"], each["iteration"]) for each in told] == [(1, 3), (2, 6), (3, 9)]
    scored = [each["iteration"] for each in told if each["scored"]]
    assert scored == sorted({line.iteration for line in with_truth.scores()})
    assert scored == [3, 6, 9] if pace else 3 in scored


def test_every_label_map_that_is_scored_is_that_of_the_final_validation(tmp_path: Path) -> None:
    training = Training(tmp_path, "model", make_plan(mirror_axes=(0,)), pace=ALL)
    truth = training.truth()
    training.run(truth)
    last = truth.latest()
    assert last is not None
    assert (last.cases, last.dice) == (3, pytest.approx(training.final()))


@pytest.mark.slow
def test_the_last_truth_and_the_final_score_agree_within_a_dice_point(tmp_path: Path) -> None:
    """Two of three cases after each of twenty epochs: as sparse as ``pace_for`` allows with mirroring."""
    training = msgspec.structs.replace(TRAINING, iterations_per_epoch=10)
    pace = Pace(device="cpu", cases=2, mirroring=True)
    trained = Training(tmp_path, "model", make_plan(training=training), pace=pace, iterations=200)
    truth = trained.truth()
    trained.run(truth)
    last = truth.latest()
    assert last is not None
    assert last.dice is not None
    final = trained.final()
    assert final > 0.7
    assert abs(last.dice - final) < 0.01


@pytest.mark.parametrize("count", [0, 3, 8])
def test_interrupted_anywhere_no_score_is_lost_or_repeated(tmp_path: Path, count: int) -> None:
    whole = Training(tmp_path, "whole", make_plan(mirror_axes=(0,)), pace=ALL)
    model = whole.run(whole.truth())
    parts, asked = Training(tmp_path, "parts", make_plan(mirror_axes=(0,)), pace=ALL), iter(range(10**6))
    with pytest.raises(InterruptedRunError, match="the same command goes on"):
        parts.run(parts.truth(lambda: next(asked) >= 8 * count))
    assert not parts.folder.model.exists()
    assert_same_weights(parts.run(parts.truth()), model)
    assert parts.scores() == whole.scores()
    assert len(parts.scores()) == 9


def asked_for(truth: Truth) -> list[str]:
    """The cases that the truth will have scored."""
    asked: list[str] = []
    opened = truth.scorer

    def scorer(weights, mirroring):
        score = opened(weights, mirroring)

        def asking(case, tell):
            asked.append(case)
            return score(case, tell)

        return asking

    truth.scorer = scorer
    return asked


def extend(training: Training, by: int) -> None:
    write_document(training.folder.length, extended(read_document(Length, training.folder.length), by))


def epochs_of(iterations: int) -> TrainingSpec:
    return msgspec.structs.replace(TRAINING, iterations_per_epoch=iterations)


def test_an_extension_scores_its_own_weights_where_the_first_end_was_scored(tmp_path: Path) -> None:
    """It goes back to iteration 10, and comes to iteration 12 on another way."""
    training = Training(tmp_path, "model", make_plan(training=epochs_of(6)), pace=ALL, iterations=12)
    training.run(training.truth())
    extend(training, 6)
    truth = training.truth()
    asked = asked_for(truth)
    training.run(truth)
    assert load_tensors(training.folder.kept_checkpoint)[1]["iteration"] == 10
    assert sorted(asked) == sorted(2 * HELD_OUT.val)
    assert [line.iteration for line in training.scores()] == [6] * 3 + [12] * 3 + [18] * 3


def test_epochs_are_the_loops_and_the_bar_has_the_trainings_length_after_an_extension(tmp_path: Path) -> None:
    """The job is shorter than an epoch."""
    training = Training(tmp_path, "model", make_plan(training=epochs_of(4)), iterations=3)
    training.run(training.truth())
    extend(training, 6)
    training.logger.heard.clear()
    training.run(training.truth())
    told = training.logger.all("truth")
    assert [(each["epoch"], each["iteration"]) for each in told] == [(1, 4), (2, 8), (3, 9)]
    assert [each["iteration"] for each in training.logger.all("estimate")] == [4, 8, 9]
    due = [due_cases(HELD_OUT.val, training.job.seed, epoch, EACH) for epoch in (1, 2, 3)]
    assert [list(each["scored"]) for each in told] == due
    tiles = [each for each in training.logger.all("progress") if "tile" in str(each["detail"])]
    assert {(each["done"], each["total"]) for each in tiles} == {(4, 9), (8, 9)}


def test_a_full_disk_does_not_end_a_training_that_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that could not be taken out of the file are, as soon as it can be written again."""
    training = Training(tmp_path, "model", make_plan())
    truth, later = training.truth(), score("d", 9, ball=0.9)
    for line in (score("c", 3, ball=0.5), later):
        truth.record.append(line)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full_disk)
        truth.forget_after(3)
        assert "truth.jsonl cannot be written (No space left" in training.logger.all("message")[-1]["text"]
        assert later not in truth.record.lines
        assert later in TruthRecord(training.folder.truth).lines
    truth.record.append(score("e", 6, ball=0.7))
    assert TruthRecord(training.folder.truth).lines == truth.record.lines
    assert [line.case for line in truth.record.scores] == ["c", "e"]


def full_disk(source: object, target: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_score_that_could_not_be_written_is_with_the_next_one(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "truth.jsonl"
    record = TruthRecord(path)
    record.append(EACH)

    def failing(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="No space"):
            record.append(score("c", 3, ball=0.5))
    assert TruthRecord(path).lines == [EACH]
    record.append(score("d", 6, ball=0.5))
    assert [line.case for line in TruthRecord(path).scores] == ["c", "d"]


def test_a_damaged_case_costs_its_score_only_and_is_named(tmp_path: Path) -> None:
    plan = make_plan(training=msgspec.structs.replace(TRAINING, validation_iterations=0))  # patches would meet it, too
    training = Training(tmp_path, "model", plan, pace=Pace(device="cpu", cases=3))
    shutil.rmtree(next(training.store.folder.glob("d-*")))
    training.run(training.truth())
    failed = [line for line in training.scores() if line.error]
    assert [line.case for line in failed] == ["d"] * 3
    assert all("missing or damaged" in line.error for line in failed)
    warnings = [each for each in training.logger.all("message") if each.get("case") == "d"]
    assert len(warnings) == 3
    assert all("training goes on" in str(each["text"]) for each in warnings)
    assert [each["cases"] for each in training.logger.all("truth")] == [2, 2, 2]


def test_a_case_that_takes_more_memory_than_there_is_is_left_to_the_end(tmp_path: Path, monkeypatch) -> None:
    training = Training(tmp_path, "model", make_plan(mirror_axes=(0,)), pace=Pace(device="cpu", cases=3))
    needed = prediction_bytes(training.store.open("c", KEYS["c"]).record, training.plan.configuration("tiny"))
    for room, expected in ((needed - 1, 0), (needed, 3)):
        monkeypatch.setattr("autoseg.inference.held_out.available_memory", lambda room=room: room)
        monkeypatch.setattr("autoseg.inference.held_out.training_memory", lambda *_: 0)
        truth = training.truth()
        truth.after_epoch(1, 3 + expected, fresh_weights(training.plan), total=9)
        lines = truth.record.of(3 + expected)
        assert sum(not line.error for line in lines) == expected
        assert all("left to the final validation" in line.error for line in lines if line.error)


def test_the_memory_of_a_prediction_is_not_more_than_told(tmp_path: Path) -> None:
    """What NumPy takes, by tracemalloc."""
    training = Training(tmp_path, "model", make_plan(mirror_axes=(0,)))
    configuration = training.plan.configuration("tiny")
    scorer = running_scorer(training.model, training.plan, training.job, training.store, "cpu", lambda: False)
    run = scorer(fresh_weights(training.plan), False)
    run("c", lambda done, total: None)
    tracemalloc.start()
    run("c", lambda done, total: None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < prediction_bytes(training.store.open("c", KEYS["c"]).record, configuration) + 2**18
