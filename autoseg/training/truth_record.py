"""What is kept of the truth of one training: every score and how often there is one, a JSON object a line."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from autoseg.errors import DocumentError
from autoseg.files import check_fence, write_atomically
from autoseg.values.json_form import Value, decode, require

__all__ = ["Pace", "TruthLine", "TruthRecord", "TruthScore"]


class Pace(Value, frozen=True, kw_only=True, tag_field="line", tag="pace"):
    """How many cases are scored how often: measured once on a device, then kept, so that a resumed training goes on alike.

    Attributes:
        device: that it was measured on.
        cases: that are scored in a turn.
        every: epochs from one turn to the next.
        mirroring: whether flips are averaged, as in the final validation.
        reason: what was measured.
    """

    device: str = ""
    cases: int = 1
    every: int = 1
    mirroring: bool = False
    reason: str = ""

    def __post_init__(self) -> None:
        require(self.cases > 0 and self.every > 0, "cases and every must be positive")


class TruthScore(Value, frozen=True, kw_only=True, tag_field="line", tag="score"):
    """One case on its whole image, after an epoch and so many iterations.

    ``dice`` goes by label name, None where it is not defined; it is empty where the scoring failed with ``error``.
    """

    epoch: int
    iteration: int
    case: str
    mirroring: bool
    seconds: float
    dice: dict[str, float | None]
    error: str = ""


#: A line of the record.
TruthLine = Pace | TruthScore


class TruthRecord:
    """The lines of a file; a line is written whole or not at all, and one that cannot be read costs itself only.

    Args:
        path: the file, made with the first line.

    Attributes:
        lines: in the order in which they were written.
        unreadable: how many lines of the file were left out, besides a last one that a kill cut off.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines: list[TruthLine] = []
        self.unreadable = 0
        self._outdated = False  # the file could not be written, and holds other lines
        self._read()

    def _read(self) -> None:
        try:
            whole, _, _ = self._path.read_bytes().rpartition(b"\n")
        except OSError:  # none yet
            return
        for line in whole.splitlines():
            try:
                self.lines.append(decode(TruthLine, line, source=self._path))  # type: ignore[arg-type]
            except DocumentError:
                self.unreadable += 1

    @property
    def scores(self) -> list[TruthScore]:
        """All scores."""
        return [line for line in self.lines if isinstance(line, TruthScore)]

    def of(self, iteration: int) -> list[TruthScore]:
        """The scores after an iteration."""
        return [score for score in self.scores if score.iteration == iteration]

    def pace(self, device: str) -> Pace | None:
        """The pace that was measured on a device, if one was."""
        return next((line for line in self.lines if isinstance(line, Pace) and line.device == device), None)

    def append(self, line: TruthLine) -> None:
        """Adds a line, to the file too, and with it those that could not be written before.

        Raises:
            OSError: the file cannot be written; the line is known all the same.
        """
        self.lines.append(line)
        if self._outdated:
            self._rewrite()
        else:
            self._outdated = True
            self._write_last(line)
            self._outdated = False

    def _write_last(self, line: TruthLine) -> None:
        check_fence(self._path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab+") as file:
            size = file.tell()
            if size:
                file.seek(-1, os.SEEK_END)
                if (
                    file.read(1) != b"\n"
                ):  # a kill cut the last line off: it was never known, and its case is scored anew
                    size = self._end_of_last_line(file.name)
                    file.truncate(size)
            try:
                file.write(msgspec.json.encode(line) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise

    @staticmethod
    def _end_of_last_line(path: str) -> int:
        return Path(path).read_bytes().rfind(b"\n") + 1

    def forget_after(self, iteration: int) -> None:
        """Drops the scores of later iterations: a training that went back to an earlier checkpoint makes them again.

        Raises:
            OSError: the file cannot be written; the scores are dropped all the same.
        """
        kept = [line for line in self.lines if isinstance(line, Pace) or line.iteration <= iteration]
        if len(kept) < len(self.lines):
            self.lines = kept
            self._rewrite()

    def _rewrite(self) -> None:
        self._outdated = True
        write_atomically(self._path, b"".join(msgspec.json.encode(line) + b"\n" for line in self.lines))
        self._outdated = False
