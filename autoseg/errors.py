"""Errors: each says which case, what was found, what was expected and what to do.

AutosegError                      anything that autoseg reports on purpose
├── InputError (ValueError)       the user's input is wrong; exit code 2, nothing was changed
│   ├── DocumentError             a JSON document does not have its form; names the path of the field
│   ├── UnknownNameError          a configuration, fold, plug or option that does not exist
│   ├── UnreadableFileError       a file that cannot be read as what it should be
│   ├── DamagedCaseError          a preprocessed case is missing or not as it was written
│   ├── HeldError                 another process writes where this one was to write; nothing was changed
│   └── FindingsError             several findings of one pass over a data set, all listed
├── MissingPartError              an optional package or a plug's code is not installed; exit code 2
│   └── CompressedStoreError      preprocessed cases are compressed, and the package that reads them is not installed
├── DiskFullError                 no room left where something is to be written; exit code 1, resumable
├── TooLargeError                 a case needs more memory than there is; exit code 1
├── ShortMemoryError              not even one patch of a training fits into the GPU's memory; exit code 1, resumable
├── WorkerLostError               the process that worked on a case died, or had to be ended; exit code 1
├── LostLeaseError                another process has taken over what this one was writing; exit code 1
├── ProcessLostError              one of several processes that train together failed; exit code that of its error
├── FollowedError                 this process ends because another one did, which tells why
├── CasesFailedError              some cases failed, the others are done; exit code 1 (2: all, by their input)
└── InterruptedRunError           stopped by the user or the system, resumable; exit code 130
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = [
    "AutosegError",
    "CasesFailedError",
    "CompressedStoreError",
    "DamagedCaseError",
    "DiskFullError",
    "DocumentError",
    "FindingsError",
    "FollowedError",
    "HeldError",
    "InputError",
    "InterruptedRunError",
    "LostLeaseError",
    "MissingPartError",
    "ProcessLostError",
    "ShortMemoryError",
    "TooLargeError",
    "UnknownNameError",
    "UnreadableFileError",
    "WorkerLostError",
]


class AutosegError(Exception):
    """An error that autoseg reports on purpose, with the exit code of the command."""

    exit_code = 1


class InputError(AutosegError, ValueError):
    """The user's input is wrong.

    Args:
        what: one sentence: what is wrong.
        case: the case id, where one is concerned.
        file: the file that was read.
        found: what was found.
        expected: what was expected instead.
        remedy: what to do.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        case: str | None = None,
        file: Path | str | None = None,
        found: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.case, self.file = what, case, file
        self.found, self.expected, self.remedy = found, expected, remedy
        super().__init__(describe(what, case=case, file=file, found=found, expected=expected, remedy=remedy))


class DocumentError(InputError):
    """A JSON document that does not have its form."""


class UnknownNameError(InputError):
    """A configuration, fold, plug or option that does not exist."""


class UnreadableFileError(InputError):
    """A file that cannot be read as what it should be."""


class DamagedCaseError(InputError):
    """A preprocessed case is missing, or not as it was written; made anew from its files it is whole again.

    Args:
        case: its id.
        what: is damaged.
        file: its folder.
    """

    def __init__(self, case: str, what: str, *, file: Path) -> None:
        super().__init__(
            f"the preprocessed case is missing or damaged: {what}",
            case=case,
            file=file,
            remedy="Repeat the command: train and preprocess make it anew from its files.",
        )


class HeldError(InputError):
    """Another process trains this fold.

    Args:
        folder: of the fold.
        who: has it, if that is known.
    """

    #: What its message begins with, by which it is known in the output of another process.
    what = "another process is training this fold"

    def __init__(self, folder: Path, who: str | None = None) -> None:
        super().__init__(self.what, file=folder, found=who, remedy="Wait for it.")


class FindingsError(InputError):
    """Several findings of one pass over a data set, all listed together.

    Args:
        what: one sentence: what they come to.
        findings: all of them.
        text: how they are listed; one a line if None.
    """

    def __init__(self, what: str, findings: Iterable[object], *, text: str | None = None) -> None:
        self.findings = tuple(findings)
        lines = "\n".join(f"  - {finding}" for finding in self.findings)
        super().__init__(f"{what}\n{lines if text is None else text}")


class MissingPartError(AutosegError):
    """An optional package or a plug's code is not installed."""

    exit_code = 2


class CompressedStoreError(MissingPartError):
    """Preprocessed cases are stored compressed, and the package that reads them is not installed."""


class DiskFullError(AutosegError):
    """There is no room left where something is to be written; with more room the same command goes on.

    Args:
        folder: that is written to.
        what: more of it.
    """

    def __init__(self, folder: Path | str, what: str) -> None:
        self.folder = folder
        super().__init__(
            f"no room on the disk of {folder}: {what}. What is done is kept: make room and repeat the command, or name a "
            "workspace elsewhere with -w"
        )


class ShortMemoryError(AutosegError):
    """A training cannot go on: the GPU's memory is too short for one patch at a time.

    Args:
        what: one sentence: what did not fit.
        remedy: what to do.
    """

    def __init__(self, what: str, *, remedy: str) -> None:
        super().__init__(describe(what, remedy=remedy))


class TooLargeError(AutosegError):
    """The work on a case needs more memory than there is; it was not begun.

    Args:
        case: its id.
        stage: what was to be done.
        needed: bytes that it needs, by its header.
        available: bytes that there could be at most.
    """

    def __init__(self, case: str, stage: str, needed: int, available: int) -> None:
        self.case, self.stage, self.needed, self.available = case, stage, needed, available
        super().__init__(
            describe(
                f"{stage} needs more memory than there is",
                case=case,
                found=f"{available / 2**30:.1f} GiB (a tenth of what this machine or its container has is not used)",
                expected=f"{needed / 2**30:.1f} GiB",
                remedy="Take a machine with more memory, or remove the case.",
            )
        )


class WorkerLostError(AutosegError):
    """The process that worked on a case died, or had to be ended.

    Args:
        what: how it ended and what probably happened.
        case: the case id.
        stage: what was being done.
        signal: name of the signal that ended it, SIGSEGV for example; None for another end.
        memory: the most bytes that the process is known to have held; None if not known.
        remedy: what to do.
        output: the last lines that the process wrote, by a native library for example.
    """

    def __init__(
        self,
        what: str,
        *,
        case: str,
        stage: str,
        signal: str | None = None,
        memory: int | None = None,
        remedy: str | None = None,
        output: str = "",
    ) -> None:
        self.what, self.case, self.stage, self.signal = what, case, stage, signal
        self.memory, self.remedy, self.output = memory, remedy, output
        held = "" if memory is None else f"; it held up to {memory / 2**30:.2f} GiB"
        said = f" Its last words: {output}." if output else ""
        super().__init__(describe(f"{stage}: {what}{held}", case=case, remedy=f"{remedy or ''}{said}".strip() or None))


class LostLeaseError(AutosegError):
    """This process gave no sign for so long that another one has taken over its training; nothing more is written here.

    Args:
        folder: of the fold.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"this process gave no sign for long, and another one has taken over its work [{folder}]. Nothing more is "
            "written here; that one has gone on from the last checkpoint"
        )


class ProcessLostError(AutosegError):
    """One of several processes that train together failed or was lost, and so all end.

    Args:
        what: which one, and why.
        exit_code: of its own error.
    """

    def __init__(self, what: str, exit_code: int = 1) -> None:
        self.exit_code = exit_code
        super().__init__(what)


class FollowedError(AutosegError):
    """This process ends because another one of the same training did, which tells why: nothing more is to be said.

    Args:
        what: the other one said, for the log.
        exit_code: of this process.
    """

    def __init__(self, what: str = "", exit_code: int = 0) -> None:
        self.exit_code = exit_code
        super().__init__(what)


class CasesFailedError(AutosegError):
    """Some cases failed; the others are done. If nothing is done, all by wrong input, the exit code is 2.

    Args:
        stage: what was being done, "preprocess" or "predict" for example.
        failures: case id to its error.
        done: how many cases succeeded.
        kept: whether what succeeded is written; else the whole command made nothing.
    """

    def __init__(self, stage: str, failures: Mapping[str, BaseException], done: int, *, kept: bool = True) -> None:
        self.stage, self.failures, self.done = stage, dict(failures), done
        kept = kept and done > 0
        if not kept and all(isinstance(error, InputError) for error in self.failures.values()):
            self.exit_code = 2
        others = "the others are done" if kept else "nothing is written"
        lines = "\n".join(f"  - {case}: {str(error) or type(error).__name__}" for case, error in self.failures.items())
        super().__init__(
            f"{stage}: {len(self.failures)} of {counted(len(self.failures) + done, 'case')} failed, {others}:\n{lines}\n"
            f"  Mend or remove these cases and repeat the command" + (": what is done is kept." if kept else ".")
        )


class InterruptedRunError(AutosegError):
    """Stopped by the user or the system; the same command goes on from here."""

    exit_code = 130


def counted(number: int, noun: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def describe(
    what: str,
    *,
    case: str | None = None,
    file: Path | str | None = None,
    found: object = None,
    expected: object = None,
    remedy: str | None = None,
) -> str:
    """One readable text of an error or a finding; parts that are not known are left out."""
    text = f"case {case}: {what}" if case else what
    if found is not None:
        text += f"; found {found}"
    if expected is not None:
        text += f", expected {expected}" if found is not None else f"; expected {expected}"
    if file is not None:
        text += f" [{file}]"
    return f"{text}. {remedy}" if remedy else text
