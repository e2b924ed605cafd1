"""What a lost worker comes to: how often work is tried again, and what is said when it is not."""

from __future__ import annotations

from autoseg.errors import AutosegError, WorkerLostError
from autoseg.machine import gibibytes
from autoseg.processes.child import SECONDS_TO_START, Ended

__all__ = ["FALSE_STARTS", "RETRIES", "TOGETHER", "case_lost", "not_started"]

#: How often an item is tried again, by what became of its worker; "outside": killed, although memory was not short.
RETRIES = {"killed": 5, "outside": 100, "crashed": 1, "memory": 1, "time": 0, "start": 1, "protocol": 1}
#: An item that was killed from outside more often is tried alone: there may be a limit on memory that nobody tells.
TOGETHER = 50
#: Workers in a row that end before they can work; then something is wrong with the installation. One that is killed says
#: little: somebody may kill workers at random.
FALSE_STARTS = {"killed": 60, "crashed": 3, "memory": 3, "time": 3, "start": 3, "protocol": 3}


def not_started(ended: Ended) -> AutosegError:
    """The error of a run whose workers all end before they can work."""
    how = {
        "killed": f"they were killed ({ended.signal}) again and again, perhaps by the system because memory is short",
        "start": f"they were not ready after {SECONDS_TO_START:.0f} seconds",
        "protocol": "they do not speak as workers do; something else writes on their standard output",
    }.get(ended.reason, f"exit code {ended.code}")
    said = f"; their last words: {ended.output}" if ended.output else ""
    return AutosegError(
        f"worker processes cannot be started: {how}{said}. Try 'python -m autoseg.processes.worker < /dev/null': it should "
        "end at once and say nothing but its greeting"
    )


def case_lost(case: str, stage: str, ended: Ended, way: str, cost: int) -> WorkerLostError:
    """The error of a case whose worker was lost.

    Args:
        case: its id.
        stage: what was being done.
        ended: how the worker ended.
        way: one of those that ``RETRIES`` knows.
        cost: bytes that the case needs by its size.
    """
    by = ended.signal or f"exit code {ended.code}"
    what, remedy = {
        "killed": (
            f"the worker process was killed ({by}), probably by the system because memory ran out",
            "End other programs, or use fewer workers at once.",
        ),
        "outside": (
            f"the worker process was killed ({by}) by somebody or another program: memory was not short",
            "Find out what ends it, a limit on processor time for example, and repeat the command.",
        ),
        "crashed": (
            f"the worker process crashed ({by}), probably in a native library that read the case's files",
            "Check its files: write them anew with another program, or remove the case.",
        ),
        "memory": (
            f"the worker process was ended: it took much more memory than the {gibibytes(cost)} that the case's size "
            "explains",
            "Check its files, or remove the case.",
        ),
        "time": (
            "the worker process was ended: it took much longer than the case's size explains",
            "Check its files, or remove the case.",
        ),
        "start": ("the worker process was ended: it did not answer any more", "Repeat the command."),
        "protocol": (
            "the worker process was ended: it no longer spoke as a worker does, probably because a native library closed or "
            "wrote into what it had not opened",
            "Check its files, or remove the case.",
        ),
    }[way]
    return WorkerLostError(
        what, case=case, stage=stage, signal=ended.signal, memory=ended.peak, remedy=remedy, output=ended.output
    )
