"""From the loader to the device: every batch once and in order, and the time that was waited for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.errors import ShortMemoryError
from autoseg.training.crew import prefetched
from autoseg.training.feed import Feed
from autoseg.training.looked_for import LookedFor
from autoseg.training.sources import Sources
from autoseg.values import Label, Labels
from tests.training.test_batches import AUGMENTED, assert_same_batch, blocks, make_loader
from tests.training.test_loop import Listening

TWO = Labels(foreground=(Label(name="first", values=(1,)), Label(name="second", values=(2,))))


class Clock:
    """Tells the time that it is given."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def couriers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("autoseg-feed")]


def plain(batch: dict[str, Any]) -> dict[str, Any]:
    """With NumPy's arrays."""
    return {name: each.numpy() if isinstance(each, torch.Tensor) else each for name, each in batch.items()}


def test_batches_come_in_order_and_the_busy_share_is_that_not_spent_waiting() -> None:
    clock, logger = Clock(), Listening()

    def slow() -> Iterator[dict[str, object]]:
        for index in range(4):
            clock.now += 1  # making a batch
            yield {"data": index}

    feed, seen = Feed("cpu", logger, 2, clock), []
    for batch in feed.through(slow()):
        seen.append(batch["data"])
        clock.now += 3  # computing on it
    assert seen == [0, 1, 2, 3]
    assert feed.waited == 4
    assert [entry["share"] for entry in logger.all("busy")] == [pytest.approx(0.75)] * 2


@pytest.mark.parametrize("ahead", [False, True], ids=["when it is wanted", "one ahead"])
def test_what_makes_the_batches_ends_when_nobody_wants_more(ahead: bool) -> None:
    ended = []

    def endless() -> Iterator[dict[str, object]]:
        try:
            while True:
                yield {"data": np.zeros(1)}
        finally:
            ended.append(True)

    batches = Feed("cpu", Listening(), 100, ahead=ahead).through(endless())
    next(batches)
    batches.close()
    assert ended == [True]
    assert couriers() == []


@pytest.mark.parametrize("ahead", [False, True], ids=["when it is wanted", "one ahead"])
def test_batches_finished_on_their_way_are_those_of_the_loader(tmp_path: Path, ahead: bool) -> None:
    """Whoever samples and transforms them; what was looked for stays on the CPU."""
    cases = {"a": blocks((20, 24, 22)), "b": blocks((9, 16, 8))}
    loader = make_loader(tmp_path, cases, recipe=AUGMENTED, looked_for=LookedFor(TWO, {"a": ("first",)}))
    made = prefetched(loader.prepare, 3, 15, workers=2)
    finished = list(Feed("cpu", Listening(), 100, ahead=ahead).through(made, loader.finish))
    assert len(finished) == 12
    for iteration, batch in enumerate(finished, start=3):
        assert isinstance(batch["data"], torch.Tensor)
        expected = loader.batch(iteration)
        np.testing.assert_array_equal(batch.pop("looked_for"), expected.pop("looked_for"))
        assert_same_batch(plain(batch), expected)


def test_one_batch_is_made_while_the_one_before_is_computed_on() -> None:
    begun = [threading.Event() for _ in range(3)]

    def batches() -> Iterator[dict[str, int]]:
        for index in range(3):
            begun[index].set()
            yield {"index": index}

    feed = Feed("cpu", Listening(), 100, ahead=True).through(batches())
    assert next(feed) == {"index": 0}
    assert begun[1].wait(10)
    assert not begun[2].is_set()
    assert [batch["index"] for batch in feed] == [1, 2]


def test_only_voxels_travel() -> None:
    batch = {
        "data": np.ones((2, 1, 4, 4)),
        "seg": np.zeros((2, 1, 4, 4)),
        "looked_for": np.ones((2, 3), bool),
        "keys": ["a"],
    }
    (sent,) = Feed("cpu", Listening(), 100, ahead=True).through(iter([batch]))
    assert [type(sent[name]) for name in ("data", "seg", "looked_for", "keys")] == [
        *[torch.Tensor] * 2,
        *(np.ndarray, list),
    ]


def test_an_error_is_raised_where_its_batch_is_wanted() -> None:
    def batches() -> Iterator[dict[str, int]]:
        yield {"index": 0}
        raise ValueError("broken")

    feed = Feed("cpu", Listening(), 100, ahead=True).through(batches())
    assert next(feed) == {"index": 0}
    with pytest.raises(ValueError, match="broken"):
        next(feed)
    assert couriers() == []


@pytest.mark.parametrize("failures", [1, 2])
def test_a_batch_for_which_memory_is_short_is_made_when_nothing_else_is_computed(tmp_path: Path, failures: int) -> None:
    loader, asked = make_loader(tmp_path, recipe=AUGMENTED), []

    def finish(sources: Sources, device: str) -> dict[str, Any]:
        if sources.record.iteration == 1:
            asked.append(threading.current_thread() is threading.main_thread())
            if len(asked) <= failures:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much\nand more")
        return loader.finish(sources, device)

    feed = Feed("cpu", Listening(), 100, ahead=True).through(map(loader.prepare, range(3)), finish)
    assert_same_batch(plain(next(feed)), loader.batch(0))
    if failures == 1:
        for iteration in (1, 2):
            assert_same_batch(plain(next(feed)), loader.batch(iteration))
    else:
        with pytest.raises(ShortMemoryError, match=r"too short to make a batch there .*much.*repeat the command"):
            next(feed)
    assert asked == [False, True]


def test_whoever_wants_to_know_hears_of_every_batch() -> None:
    clock, heard = Clock(), []

    def slow() -> Iterator[dict[str, object]]:
        for index in range(3):
            clock.now += 1
            yield {"data": index}

    for _ in Feed("cpu", Listening(), 2, clock).through(slow(), None, lambda *seconds: heard.append(seconds)):
        clock.now += 3
    assert heard == [(4, 1), (4, 1)]
