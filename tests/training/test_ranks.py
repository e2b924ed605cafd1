"""Two processes, started by torchrun, train together what one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autoseg.errors import InputError
from autoseg.io.case_store import CaseStore
from autoseg.networks.weights import load_tensors
from autoseg.together import Place, own_place
from autoseg.training.ranks import ALONE, Ranks
from tests.training import together
from tests.training.test_loop import Listening, make_store

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
    for name in ("stopped", "early", "left out"):
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
