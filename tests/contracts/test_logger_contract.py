"""What every logger plug promises: see ``autoseg.logs.Logger``."""

from __future__ import annotations

import inspect
import threading
from pathlib import Path
from typing import Any

import pytest

from autoseg import plugins
from autoseg.logs import Logger, Loggers

each = pytest.mark.parametrize("name", plugins.available("logger"))


def make(name: str, folder: Path) -> Logger:
    """A logger; one that writes to a file is given one."""
    plug = plugins.load("logger", name)
    wanted = [p for p in inspect.signature(plug).parameters.values() if p.default is inspect.Parameter.empty]
    return plug(*(folder / f"{name}.log" for _ in wanted))


EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("progress", {"stage": "train", "done": 1, "total": 2, "detail": "loss 0.5"}),
    ("message", {"text": "two\nlines, é"}),
    ("odd", {"none": None, "path": Path("a"), "nested": {"a": [1, (2.5, "x")]}, "object": object(), "set": {1}}),
    ("bare", {}),
]


@each
def test_any_event_is_taken(name: str, tmp_path: Path) -> None:
    logger = make(name, tmp_path)
    for kind, fields in EVENTS:
        assert logger.event(kind, **fields) is None
    logger.close()


@each
def test_events_come_from_several_threads(name: str, tmp_path: Path) -> None:
    logger, errors = make(name, tmp_path), []

    def talk() -> None:
        try:
            for _ in range(50):
                for kind, fields in EVENTS:
                    logger.event(kind, **fields)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=talk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logger.close()
    assert errors == []


@each
def test_closing_at_once_and_twice_is_harmless(name: str, tmp_path: Path) -> None:
    logger = make(name, tmp_path)
    logger.close()
    logger.close()
    assert not any(path.stat().st_size for path in tmp_path.iterdir())


@each
def test_fields_are_not_changed(name: str, tmp_path: Path) -> None:
    logger, values = make(name, tmp_path), [1, 2]
    logger.event("estimate", values=values)
    logger.close()
    assert values == [1, 2]


@each
def test_several_loggers_are_one(name: str, tmp_path: Path) -> None:
    logger = Loggers(make(name, tmp_path), make("silent", tmp_path))
    for kind, fields in EVENTS:
        logger.event(kind, **fields)
    logger.close()
