"""Events of a run: JSON lines that survive a kill, and whoever else listens (the terminal).

Stages never print. They call ``logger.event(kind, **fields)``; a stage that counts uses the kind ``progress`` with
``stage``, ``done`` and ``total``.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
import traceback
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import msgspec

from autoseg.errors import AutosegError

__all__ = ["JsonLinesLogger", "Logger", "Loggers", "SilentLogger", "WithFields", "reported"]


class Logger(Protocol):
    """Listens to the events of a run."""

    def event(self, kind: str, **fields: object) -> None:
        """Takes one event; may be called from several threads."""
        ...

    def close(self) -> None:
        """No more events come."""
        ...


class SilentLogger:
    """Listens to nothing."""

    def event(self, kind: str, **fields: object) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class JsonLinesLogger:
    """Appends every event except progress as one JSON line, flushed at once: a killed run leaves whole lines.

    Args:
        path: the file.
        ready: until it is true, lines wait in memory, so that a command that fails at once leaves nothing behind.
    """

    def __init__(self, path: Path, ready: Callable[[], bool] = lambda: True) -> None:
        self.path, self._ready = path, ready
        self._file: FileIO | None = None
        self._waiting = b""
        self._lock = threading.Lock()

    def event(self, kind: str, **fields: object) -> None:
        """Writes the line, with the time (UTC) and the kind first."""
        if kind == "progress":
            return
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = msgspec.json.encode({"time": time, "event": kind, **fields}, enc_hook=_plain) + b"\n"
        with self._lock:
            self._waiting += line
            self._write()

    def _write(self) -> None:
        try:
            if self._file is None and self._waiting and self._ready():
                self._file = self._open()
            while self._file is not None and self._waiting:
                written = self._file.write(self._waiting)  # on a disk that is nearly full a part only; the rest waits
                self._waiting = self._waiting[written:]
        except OSError:  # a log that cannot be written must not end the work: a read-only folder, a full disk
            self._ready = lambda: False

    def _open(self) -> FileIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab+", buffering=0)  # what cannot be written waits here, and not in the file object, too
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":  # a kill within a write: end that line, so that the next one is whole
                file.write(b"\n")
        return file

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._write()
            if self._file is not None:
                with contextlib.suppress(OSError):  # a network drive that is gone
                    self._file.close()
                self._file = None


def reported(error: BaseException | None) -> dict[str, str]:
    """The fields that tell of an error: its text, and where it came from unless it is one that autoseg raises on purpose."""
    fields = {"error": str(error) or type(error).__name__}
    if error is not None and not isinstance(error, AutosegError):
        fields["error"] = f"{type(error).__name__}: {error}"
        fields["traceback"] = "".join(traceback.format_exception(error))
    return fields


def _plain(value: Any) -> Any:
    """Numbers of NumPy and torch as numbers, everything else as text."""
    return value.item() if hasattr(value, "item") else str(value)


class Loggers:
    """Hands every event to several loggers."""

    def __init__(self, *loggers: Logger) -> None:
        self.loggers = loggers

    def event(self, kind: str, **fields: object) -> None:
        """Hands the event on."""
        for logger in self.loggers:
            logger.event(kind, **fields)

    def close(self) -> None:
        """Closes all."""
        for logger in self.loggers:
            logger.close()


class WithFields:
    """Hands every event on with further fields, so that lines of several jobs in one log can be told apart.

    Args:
        logger: that listens.
        fields: added to every event.
    """

    def __init__(self, logger: Logger, **fields: object) -> None:
        self.logger, self.fields = logger, fields

    def event(self, kind: str, **fields: object) -> None:
        """Hands the event on."""
        self.logger.event(kind, **{**self.fields, **fields})

    def close(self) -> None:
        """Closes the logger."""
        self.logger.close()
