"""Workers of a real preprocessing are killed fifty times: nothing hangs, no case is lost, and the arrays are the same."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from autoseg.files import ContentIndex
from autoseg.io.case_store import CaseStore
from autoseg.io.layouts import read_dataset
from autoseg.logs import SilentLogger
from autoseg.phantom import write_phantom_dataset
from autoseg.preprocessing.cases import preprocess_cases
from autoseg.processes.executor import ProcessExecutor
from autoseg.values import NormalizationSpec
from tests.processes.test_executor import Listener, kill_at_random
from tests.small_plans import small_configuration, small_plan

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc for workers")]


def test_fifty_random_kills(tmp_path: Path) -> None:
    root = write_phantom_dataset(tmp_path / "D", 60, shape=(24, 64, 64), spacing=(3.0, 1.5, 1.5))
    dataset, _ = read_dataset(root)
    grid = small_configuration(spacing=(2.0, 1.0, 1.0), outputs=dataset.labels.output_count)
    plan = small_plan(
        grid, labels=dataset.labels, channels=dataset.channels, normalization=(NormalizationSpec(scheme="zscore"),)
    )
    listener, killed, rounds = Listener(), 0, 0
    true_store, contents = CaseStore(tmp_path / "true"), ContentIndex(tmp_path / "sources.json")
    with ProcessExecutor(2, logger=listener) as executor:
        arguments = (contents, executor, SilentLogger(), lambda: False)
        truth = preprocess_cases(dataset, dataset.cases, plan, {"tiny": true_store}, *arguments)
        while killed < 50:
            rounds += 1
            store = CaseStore(tmp_path / f"round {rounds}")
            contents = ContentIndex(tmp_path / f"sources {rounds}.json")
            finish = kill_at_random(executor, 50 - killed, 0.6, threading.Event())
            again = preprocess_cases(
                *(dataset, dataset.cases, plan, {"tiny": store}, contents, executor, SilentLogger(), lambda: False)
            )
            killed += finish()
            assert again == truth
            for case, key in truth["tiny"].items():
                np.testing.assert_array_equal(store.open(case, key).image, true_store.open(case, key).image)
    assert killed == 50
    assert all(event["signal"] == "SIGKILL" for event in listener.of("worker_lost"))
