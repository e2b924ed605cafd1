"""The account of a run, ``run.json``: what predicted, where, how long each case took, and what it warned of."""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from autoseg.errors import InputError
from autoseg.files import read_document, write_document
from autoseg.values import CaseRun, PredictionRun

__all__ = ["Account"]

#: The file is written no more often, but at the end.
SECONDS_BETWEEN = 2.0


class Account:
    """Keeps the account of a run in its file. For several threads.

    Args:
        path: of the file; what an earlier run told there of cases that need nothing is kept.
        run: what is known before the first case.

    Raises:
        InputError: the file is there, and no account.
    """

    def __init__(self, path: Path, run: PredictionRun) -> None:
        self._path, self._run, self._began, self._lock = path, run, time.monotonic(), threading.Lock()
        self._cases: dict[str, CaseRun] = {}
        self._earlier: Mapping[str, CaseRun] = {}
        self._written = float("-inf")
        if path.is_file():
            try:
                self._earlier = read_document(PredictionRun, path).cases
            except InputError as error:
                raise InputError(
                    "the output folder holds a file that autoseg did not write, and would replace",
                    file=path,
                    remedy="Name another folder with -o, or move the file away.",
                ) from error

    def there(self, case_id: str) -> None:
        """A case needs nothing; what an earlier run told of it stays."""
        before = self._earlier.get(case_id)
        kept = before is not None and before.outcome == "predicted"
        with self._lock:
            self._cases[case_id] = before if before is not None and kept else CaseRun(outcome="there already")

    def predicted(self, case_id: str, seconds: Mapping[str, float], warnings: tuple[str, ...]) -> None:
        """A case was predicted; the steps took so many seconds."""
        rounded = {name: round(value, 3) for name, value in seconds.items()}
        self._put(case_id, CaseRun(outcome="predicted", ended=now(), seconds=rounded, warnings=warnings))

    def failed(self, case_id: str, error: str) -> None:
        """A case failed."""
        self._put(case_id, CaseRun(outcome="failed", ended=now(), error=error))

    def end(self) -> None:
        """The run has ended; where there was nothing to do, nothing is written."""
        if all(
            case.outcome == "there already" or case is self._earlier.get(name) for name, case in self._cases.items()
        ):
            return
        self._run = msgspec.structs.replace(self._run, seconds=round(time.monotonic() - self._began, 3))
        self._write()

    def _put(self, case_id: str, case: CaseRun) -> None:
        with self._lock:
            self._cases[case_id] = case
        if time.monotonic() - self._written > SECONDS_BETWEEN:
            self._write()

    def _write(self) -> None:
        """Now; where it cannot be written, the label maps are worth more than the account of them."""
        with self._lock, contextlib.suppress(OSError):
            self._written = time.monotonic()
            write_document(self._path, msgspec.structs.replace(self._run, cases=dict(sorted(self._cases.items()))))


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
