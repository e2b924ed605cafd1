"""Two processes, started by torchrun, train together what one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import torch
import torch.distributed as distributed
from safetensors.torch import load_file

from autoseg.errors import FollowedError, InputError, InterruptedRunError, ProcessLostError, ShortMemoryError
from autoseg.files import read_document, write_document
from autoseg.io.case_store import CaseStore
from autoseg.networks.weights import load_tensors
from autoseg.together import Place, own_place
from autoseg.training import joining
from autoseg.training.determinism import seed_iteration
from autoseg.training.joining import _Parting
from autoseg.training.ranks import ALONE, Ranks
from autoseg.training.records import BatchRecord
from autoseg.training.step import TrainingStep
from autoseg.values import ExecutionPath
from tests.command_line import invoke
from tests.training import together
from tests.training.test_loop import Listening, make_job, make_store

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run_together(arguments: Sequence[object], **environment: str) -> subprocess.CompletedProcess[str]:
    """Two processes with one thread each."""
    return subprocess.run(
        [*TORCHRUN, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass(frozen=True)
class Done:
    """What the two processes got, and the folder that they wrote to."""

    folder: Path
    tensors: tuple[dict[str, torch.Tensor], ...]
    numbers: tuple[dict[str, dict[str, object]], ...]

    @property
    def store(self) -> CaseStore:
        return CaseStore(self.folder / "store")

    def of(self, name: str) -> list[dict[str, torch.Tensor]]:
        """The tensors of something, by process."""
        return [
            {key.removeprefix(name + "/"): each for key, each in tensors.items() if key.startswith(name + "/")}
            for tensors in self.tensors
        ]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """All that is to be compared, from one start: starting takes longer than computing."""
    folder = tmp_path_factory.mktemp("together")
    make_store(folder, names="abcdefg")
    for name, parts in together.TRAININGS.items():
        together.fold_of(folder, name, parts)
    for name in ("stopped", "early", "left out", "not a number"):
        together.fold_of(folder, name)
    ended = run_together([together.__file__, folder])
    assert ended.returncode == 0, ended.stderr
    tensors = tuple(load_file(folder / f"{rank}.safetensors") for rank in range(2))
    return Done(folder, tensors, tuple(json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)))


@pytest.mark.parametrize("name", together.CASES)
def test_loss_and_gradients_are_those_of_one_process_with_the_whole_batch(done: Done, name: str) -> None:
    """In float64, so that what is not exact shows."""
    expected = together.gradients(together.CASES[name], ALONE, 1)
    for found in done.of(name):
        assert found.keys() == expected.keys()  # the head that is not supervised has no gradient
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-7, atol=1e-10, msg=key)


@pytest.mark.parametrize("kind", ["plain", "augmented"])
def test_together_they_make_exactly_the_batches_of_one_process(done: Done, kind: str) -> None:
    expected = together.drawn(done.store, ALONE, augmented=kind == "augmented")
    one, other = done.of(kind)
    assert not one.keys() & other.keys()
    assert (one | other).keys() == expected.keys()
    assert {key.split("/")[1] for key in one} == {"0", "1", "2"}
    for key, tensor in expected.items():
        assert torch.equal((one | other)[key], tensor), key


def test_what_is_drawn_is_told_of_whole_batches_and_the_forced_samples_are_the_last_whoever_makes_them(
    done: Done,
) -> None:
    shared = together.loader(done.store, Ranks(Place(1, 2)), augmented=False)
    alone = together.loader(done.store, ALONE, augmented=False)
    for iteration in range(8):
        record = shared.draw(iteration)
        assert record == alone.draw(iteration)
        assert len(record.samples) == 5
        batch = shared.batch(iteration)  # of the last two, which are forced
        assert batch["keys"] == [sample.case for sample in record.samples[3:]]
        assert all((seg > 0).any() for seg in batch["seg"])


@pytest.mark.parametrize("name", together.TRAININGS)
def test_weights_after_some_iterations_are_those_of_one_process(done: Done, tmp_path: Path, name: str) -> None:
    together.fold_of(tmp_path, name)
    alone = together.train(name, tmp_path, done.store, ALONE, Listening(), lambda: False)
    assert_close(done.folder / name / alone.name, alone)
    assert {path.name for path in (done.folder / name).iterdir()} == {path.name for path in alone.parent.iterdir()}


def assert_close(one: Path, other: Path) -> None:
    mine, theirs = load_tensors(one)[0], load_tensors(other)[0]
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        # a bias before a norm has no effect: its gradient is rounding, of which AdamW makes whole steps
        if not name.endswith("conv.bias"):
            torch.testing.assert_close(mine[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_a_stop_of_one_stops_both_and_both_go_on_to_the_same_model(done: Done) -> None:
    assert [numbers["stopped"]["resumed"] for numbers in done.numbers] == [[4], [4]]
    assert all("stopped after 4 of 6 iterations" in str(numbers["stopped"]["told"]) for numbers in done.numbers)
    whole, stopped = (done.folder / name / "model.safetensors" for name in ("SGD, ignore", "stopped"))
    for key, tensor in load_tensors(whole)[0].items():
        assert torch.equal(load_tensors(stopped)[0][key], tensor), key


def test_the_first_process_decides_how_far_both_train(done: Done) -> None:
    first, second = (numbers["early"] for numbers in done.numbers)
    assert first == second
    assert first["end"] == 3 + 25


def test_a_loss_that_is_not_a_number_is_told_by_the_first_with_the_whole_batch(done: Done) -> None:
    first, second = (numbers["not a number"] for numbers in done.numbers)
    assert second["kind"] == "FollowedError"
    record = read_document(BatchRecord, done.folder / "not a number" / "bad_batch.json")
    assert len(record.samples) == 3
    cases = ", ".join(sorted({sample.case for sample in record.samples}))
    assert f"the loss is not a number at iteration {record.iteration}; the batch held {cases}" in str(first["told"])


def test_a_case_that_one_cannot_read_is_drawn_by_none(done: Done) -> None:
    first, second = (numbers["left out"]["skipped"] for numbers in done.numbers)
    assert first == second == ["b"]


def test_more_processes_than_samples_are_refused(done: Done) -> None:
    assert all("a batch of 1 cannot be divided among 2 processes" in str(each["too many"]) for each in done.numbers)


@pytest.mark.parametrize("batch_size", range(3, 9))
def test_shares_divide_a_batch_evenly(batch_size: int) -> None:
    shares = [Ranks(Place(rank, 3)).share(batch_size) for rank in range(3)]
    assert [position for share in shares for position in share] == list(range(batch_size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    with pytest.raises(InputError, match=f"a batch of {batch_size} cannot be divided"):
        Ranks(Place(0, 9)).share(batch_size)


@pytest.mark.parametrize(
    ("told", "place"),
    [
        ({}, Place()),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}, Place(1, 2, 0, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}, Place()),
        ({"WORLD_SIZE": "4"}, Place()),
    ],
)
def test_a_process_knows_its_place(monkeypatch: pytest.MonkeyPatch, told: dict[str, str], place: Place) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert own_place() == place


def test_memory_that_is_short_in_one_process_makes_more_parts_for_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait within a sum, so the iteration cannot be repeated."""
    plan, fold = together.plan_of("SGD"), together.fold_of(tmp_path, "fold")
    step = TrainingStep(make_job(plan), plan, fold, Listening(), "cpu")
    step.ranks, step.samples = Ranks(Place(1, 2)), 2

    def short(batch: object, ranks: Ranks) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(step, "forward_backward", short)
    with pytest.raises(ShortMemoryError, match=r"with the next start .* in 2 parts.*Repeat the command"):
        step.gradients({})
    assert read_document(ExecutionPath, fold.execution).parts == 2
    with pytest.raises(ShortMemoryError, match="even one patch"):
        step.gradients({})


def test_processes_share_the_threads_that_were_chosen_and_what_is_kept_is_the_whole(tmp_path: Path) -> None:
    plan, fold = together.plan_of("SGD"), together.fold_of(tmp_path, "fold")
    path = read_document(ExecutionPath, fold.execution)
    write_document(fold.execution, msgspec.structs.replace(path, threads=5))

    class Sharing(Ranks):
        """One that need not be told what the first process has chosen."""

        def told(self, text: Callable[[], str], *, by: int = 0) -> str:
            return text()

    step = TrainingStep(make_job(plan), plan, fold, Listening(), "cpu", ranks=Sharing(Place(0, 2, 0, 2)))
    assert step.execution.threads == 2
    step.keep_execution()
    assert read_document(ExecutionPath, fold.execution).threads == 5


def test_dropout_is_drawn_by_every_process_for_itself_and_by_the_first_as_ever() -> None:
    drawn = []
    for key in ((7, 3), (7, 3, 0), (7, 3, 1), (7, 3, 2), (7, 4, 1)):
        seed_iteration(*key)
        drawn.append(torch.rand(()).item())
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 4


class TestParting:
    """What each process says when one fails; the store is a real one, within this process."""

    CUT_OFF = RuntimeError("Connection closed by peer [127.0.0.1]:1234")

    def ends(self, *errors: tuple[int, BaseException]) -> list[BaseException]:
        store = distributed.HashStore()
        return [_Parting(Place(rank, 3), store).end_of(error) for rank, error in errors]

    def test_the_one_that_failed_tells_with_its_name_and_the_others_are_silent(self) -> None:
        told, first, other = self.ends((1, InputError("no good")), (0, self.CUT_OFF), (2, self.CUT_OFF))
        assert (str(told), type(told)) == ("process 2 of 3: no good", ProcessLostError)
        assert isinstance(first, FollowedError)
        assert (str(first), first.exit_code) == ("process 2 of 3: no good", 2)
        assert isinstance(other, FollowedError)
        assert other.exit_code == 0

    def test_the_first_one_needs_no_name(self) -> None:
        error = InputError("no good")
        told, other = self.ends((0, error), (1, self.CUT_OFF))
        assert told is error
        assert isinstance(other, FollowedError)

    def test_where_all_fail_alike_one_tells(self) -> None:
        ends = self.ends((2, InputError("no good")), (0, InputError("no good")), (1, InputError("no good")))
        assert [type(end) for end in ends] == [ProcessLostError, FollowedError, FollowedError]

    def test_an_interruption_that_all_agreed_on_is_told_by_the_first(self) -> None:
        error = InterruptedRunError("stopped")
        other, told = self.ends((1, error), (0, error))
        assert told is error
        assert isinstance(other, FollowedError)

    def test_one_that_was_lost_without_a_word_is_told_by_the_first_that_notices(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(joining, "LOOKING", 0.2)
        told, other = self.ends((0, self.CUT_OFF), (1, self.CUT_OFF))
        assert "ended without a word" in str(told)
        assert isinstance(other, FollowedError)

    def test_a_bug_keeps_its_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(joining, "LOOKING", 0.2)
        bug, other = RuntimeError("shapes do not fit"), KeyError("x")
        assert self.ends((1, bug))[0] is bug
        assert self.ends((1, other))[0] is other


def test_usage_errors_and_interruptions_are_told_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for rank in "01":
        for name, value in {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        assert invoke(["train", "2d", "0", "--epochs", "1", "--hours", "2"]) == 2
        told.append(capsys.readouterr().err)
    assert "not both" in told[0]
    assert told[1] == ""
