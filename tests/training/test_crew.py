"""The threads that make batches: as many as are needed, no more than there is room for, and always the same batches."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from autoseg.machine import Memory
from autoseg.networks import choosing, execution
from autoseg.networks.build import build_network
from autoseg.networks.choosing import choose_execution, threads_to_spare
from autoseg.networks.memory import making_bytes
from autoseg.training.crew import FIRST_DECISION, Crew, most_threads, prefetched, seconds_to_make
from autoseg.values import ExecutionPath
from tests.small_plans import small_configuration
from tests.training.test_batches import AUGMENTED, assert_same_batch, make_loader
from tests.training.test_feed import Clock
from tests.training.test_loop import Listening

EPOCH = 20


def crew_of(limit: int, clock: Clock | None = None) -> tuple[Crew, Listening]:
    logger = Listening()
    return Crew((limit, f"{limit} processors allow {limit}"), EPOCH, logger, clock or Clock()), logger


def work(crew: Crew, clock: Clock, batches: int, *, making: float, computing: float) -> None:
    """A training whose batches take so long to make in one thread; in several, that much less is waited for one."""
    for iteration in range(batches):
        crew.make(lambda index: setattr(clock, "now", clock.now + making), iteration)
        clock.now -= making  # meanwhile the device computed
        waited = max(0.0, making / crew.workers - computing)
        crew.hear(computing + waited, waited)


@pytest.mark.parametrize(
    ("making", "limit", "workers"),
    [(0.9, 8, 1), (1.02, 8, 1), (1.2, 8, 2), (3.0, 8, 4), (30.0, 8, 8), (3.0, 1, 1)],
    ids=["fast enough", "nearly", "two", "with a reserve", "as many as may be", "no processor free"],
)
def test_there_are_as_many_threads_as_keep_the_device_busy(making: float, limit: int, workers: int) -> None:
    clock = Clock()
    crew, logger = crew_of(limit, clock)
    work(crew, clock, FIRST_DECISION - 1, making=making, computing=1.0)
    assert crew.workers == 1
    work(crew, clock, 1 + 3 * EPOCH, making=making, computing=1.0)
    assert crew.workers == workers
    told = [entry["workers"] for entry in logger.all("message")]
    assert told == ([workers] if workers > 1 else [])


def test_an_epoch_that_waits_gets_more_threads_in_the_next_one() -> None:
    clock = Clock()
    crew, logger = crew_of(16, clock)
    work(crew, clock, EPOCH, making=0.5, computing=1.0)
    assert crew.workers == 1
    work(crew, clock, EPOCH - 1, making=2.0, computing=1.0)
    assert crew.workers == 1
    work(crew, clock, 1, making=2.0, computing=1.0)
    assert crew.workers == 3
    assert "a batch takes 2 s, an iteration 1 s" in str(logger.all("message")[0]["text"])


def test_one_long_pause_does_not_count_as_computing() -> None:
    """A validation or a compilation in between would hide that batches are too slow."""
    clock = Clock()
    crew, _ = crew_of(16, clock)
    work(crew, clock, FIRST_DECISION - 2, making=2.0, computing=1.0)
    crew.hear(500.0, 0.0)
    work(crew, clock, 1, making=2.0, computing=1.0)
    assert crew.workers == 3


def test_no_more_work_at_once_than_the_crew_has_threads_and_the_batches_stay_the_same(tmp_path: Path) -> None:
    crew, _ = crew_of(4)
    loader = make_loader(tmp_path, recipe=AUGMENTED)
    lock, now, most = threading.Lock(), [0], [0]

    def make(iteration: int) -> dict[str, object]:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.002)
        batch = loader.batch(iteration)
        with lock:
            now[0] -= 1
        return batch

    batches = prefetched(make, 0, 24, crew=crew)
    for iteration in range(24):
        assert_same_batch(next(batches), loader.batch(iteration))
        if iteration == 8:
            assert most[0] == crew.workers == 1
            for _ in range(EPOCH):
                crew.hear(2.0, 1.0)
            assert crew.workers > 1
    assert 1 < most[0] <= crew.workers
    assert next(batches, None) is None


@pytest.mark.parametrize(
    ("cores", "path", "room", "limit"),
    [
        (16, ExecutionPath(device="cuda"), 2**40, 14),
        (2, ExecutionPath(device="cuda"), 2**40, 1),
        (2, ExecutionPath(device="cpu", threads=2), 2**40, 1),
        (16, ExecutionPath(device="cpu", threads=12), 2**40, 4),
        (16, ExecutionPath(device="cuda"), 0, 1),
        (16, ExecutionPath(device="cuda"), 10, 3),
    ],
    ids=[
        "a GPU",
        "a small machine with a GPU",
        "two processors",
        "spared ones",
        "no memory",
        "memory for five batches",
    ],
)
def test_threads_are_limited_by_processors_and_by_memory(
    monkeypatch: pytest.MonkeyPatch, cores: int, path: ExecutionPath, room: int, limit: int
) -> None:
    configuration = small_configuration(patch=(64, 64, 64))
    each = making_bytes(configuration.network, configuration.patch_size, configuration.batch_size)
    whole = room if room > 1000 else room * each
    monkeypatch.setattr("autoseg.training.crew.usable_cpus", lambda: cores)
    monkeypatch.setattr("autoseg.training.crew.machine_memory", lambda: Memory(limit=int(whole / 0.9) + 1, used=0))
    found, why = most_threads(configuration, path)
    assert found == limit
    assert ("memory" in why) == (room <= 1000)


def test_sparing_threads_makes_loading_and_training_equally_fast() -> None:
    """At the exact share, a batch takes as long as an iteration; two processors are not divided for little work."""
    for processors in (4, 16, 64):
        for load in (0.01, 0.5, 1.0, 4.0, 30.0):
            spared = threads_to_spare(processors, load)
            exact = processors * load / (processors + load)
            assert load / exact == pytest.approx(processors / (processors - exact))
            assert spared <= exact < spared + 1
            assert 0 <= spared < processors
    assert threads_to_spare(2, 1.9) == 0


def test_a_cpu_that_takes_long_to_make_batches_leaves_processors_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(choosing.WORTH_MEASURING, "cpu", 0)
    monkeypatch.setattr(execution, "usable_cpus", lambda: 4)
    configuration = small_configuration()
    network = build_network(configuration.network, seed=0)
    slow = choose_execution(network, configuration, device="cpu", iterations=1000, making=lambda: 1e9)
    assert slow.threads == 1
    assert "3 of 4 processors are left to making batches" in slow.reason
    fast = choose_execution(network, configuration, device="cpu", iterations=1000, making=lambda: 0.0)
    assert fast.threads in (2, 4)
    assert "left to" not in fast.reason


def test_timing_a_batch_leaves_torchs_threads_as_they_were(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    assert seconds_to_make(make_loader(tmp_path).batch) > 0
    assert torch.get_num_threads() == before
