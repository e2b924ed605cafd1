"""From the loader to the device: every batch once and in order, and the time that was waited for it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from autoseg.training.feed import Feed
from tests.training.test_loop import Listening


class Clock:
    """Tells the time that it is given."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


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


def test_what_makes_the_batches_ends_when_nobody_wants_more() -> None:
    ended = []

    def endless() -> Iterator[dict[str, object]]:
        try:
            while True:
                yield {"data": np.zeros(1)}
        finally:
            ended.append(True)

    batches = Feed("cpu", Listening(), 100).through(endless())
    next(batches)
    batches.close()
    assert ended == [True]
