"""What every command runs within: a workspace, an event log on disk, and a terminal."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoseg import __version__
from autoseg.cli.terminal import TerminalLogger
from autoseg.logs import JsonLinesLogger, Logger, Loggers, SilentLogger, reported
from autoseg.together import own_place
from autoseg.workspace import Workspace

if TYPE_CHECKING:
    from autoseg.executors import Executor

__all__ = ["case_executor", "session", "stop_on_signals"]


@contextlib.contextmanager
def session(path: Path, command: str, *, quiet: bool = False) -> Iterator[tuple[Workspace, Logger]]:
    """The workspace and a logger; errors and the end of the command are logged, too.

    Of several processes that work together the first one alone shows and logs.
    """
    workspace = Workspace(path)
    signal.signal(signal.SIGTERM, _as_interrupt)
    logger: Logger = SilentLogger()
    if own_place().first:
        logger = Loggers(TerminalLogger(quiet=quiet), JsonLinesLogger(workspace.log_path(command), workspace.begun))
    logger.event("command", arguments=sys.argv[1:], version=__version__)
    try:
        yield workspace, logger
        logger.event("done")
    except BaseException as error:  # whatever ends the command stands in the log
        logger.event("error", **reported(error))
        raise
    finally:
        logger.close()


def _as_interrupt(number: int, frame: object) -> None:
    """SIGTERM is treated like Ctrl-C."""
    raise KeyboardInterrupt


@contextlib.contextmanager
def case_executor(
    workers: int | None, logger: Logger, *, most: int | None = None, preload: Sequence[str] = ()
) -> Iterator[Executor]:
    """Where commands run their cases: in worker processes.

    Args:
        workers: as the user wishes; 0: no processes; None: as many as there are processors.
        logger: for events.
        most: at most so many, unless the user wishes otherwise.
        preload: modules that a worker imports while the command itself is still importing; none: workers start when needed.
    """
    from autoseg.executors import ThreadExecutor, usable_cpus
    from autoseg.processes.executor import ProcessExecutor

    if workers == 0:
        yield ThreadExecutor(1, logger=logger)
        return
    count = workers or min(most or usable_cpus(), usable_cpus())
    with ProcessExecutor(count, logger=logger, preload=preload, warm=1 if preload else 0) as executor:
        yield executor


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether Ctrl-C or SIGTERM came; a second Ctrl-C stops at once."""
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        if own_place().count == 1:  # torchrun also sends it to end those that live when one has failed
            click.echo("\nstopping after this step; press Ctrl-C again to stop at once", err=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
