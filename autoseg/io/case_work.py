"""What the work on many cases has in common: its files, what is known of their content, and their headers.

Headers are read before the work begins, in the same workers, for they tell how much memory it will need.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from autoseg.errors import InputError
from autoseg.executors import Executor, Outcome
from autoseg.files import Content, ContentIndex, content_of
from autoseg.io.formats import foreign_formats, parts_of, read_header
from autoseg.io.headers import Header
from autoseg.values import Case
from autoseg.values.json_form import Value

__all__ = ["READER_COPIES", "SLACK", "CaseFiles", "FileList", "ReadHeaders", "WithFiles", "remember", "run_admitted"]

#: What a reader holds of a file while it reads, in arrays of the file's own number type: the library's image, the array made
#: from it, and for floating-point NIfTI the file's bytes, looked at again for NaN.
READER_COPIES = 3
#: Small arrays, and what allocators do not give back.
SLACK = 16 * 2**20


class WithFiles(Protocol):
    """An item of work that has a name and files."""

    @property
    def id(self) -> str:
        """Its name."""
        ...

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that the work reads."""
        ...


Item = TypeVar("Item", bound=WithFiles)
Result = TypeVar("Result")


class FileList(Value, frozen=True, kw_only=True):
    """The files of one item."""

    id: str
    paths: tuple[str, ...]


class CaseFiles(Value, frozen=True, kw_only=True):
    """A case and its files.

    Attributes:
        case: it.
        paths: its images and, last, its label file if it has one.
        parts: all files that these consist of, whose content matters.
        known: the hash of each part's content where it is known, else None.
    """

    case: Case
    paths: tuple[str, ...]
    parts: tuple[str, ...]
    known: tuple[str | None, ...]

    @classmethod
    def of(cls, case: Case, root: Path | str, contents: ContentIndex | None = None) -> CaseFiles:
        """The files of a case, and what the index knows of them."""
        files = [Path(root, name) for name in (*case.images, *filter(None, [case.label]))]
        parts = [part for file in files for part in (contents.parts(file, parts_of) if contents else parts_of(file))]
        known = [None if contents is None else contents.known(part) for part in parts]
        return cls(case=case, paths=tuple(map(str, files)), parts=tuple(map(str, parts)), known=tuple(known))

    @property
    def id(self) -> str:
        """The case's."""
        return self.case.id

    @property
    def hashes(self) -> list[str] | None:
        """What reading the files depends on, if all of it is known; see ``look``."""
        found = [each for each in self.known if each is not None]
        return [*found, *foreign_formats(self.paths)] if len(found) == len(self.parts) else None

    def look(self) -> tuple[list[str], dict[str, Content]]:
        """What reading the files depends on, and what was read for that.

        That is the hash of every part's content, and the identities of formats that other packages brought.

        Raises:
            UnreadableFileError: a file is not there or cannot be read.
        """
        read = {part: content_of(Path(part)) for part, known in zip(self.parts, self.known, strict=True) if not known}
        pairs = zip(self.parts, self.known, strict=True)
        hashes = [known or read[part].sha256 for part, known in pairs]
        return [*hashes, *foreign_formats(self.paths)], read


def remember(contents: ContentIndex, read: dict[str, Content]) -> None:
    """What workers have read is known from now on."""
    for path, content in read.items():
        contents.remember(Path(path), content)


class ReadHeaders(Value, frozen=True, kw_only=True):
    """The headers of an item's files; None for one that cannot be read, about which the work itself will tell."""

    @property
    def stage(self) -> str:
        """For messages."""
        return "read headers"

    def __call__(self, item: FileList) -> tuple[Header | None, ...]:
        """One header per file."""
        return tuple(_header(Path(path)) for path in item.paths)


def _header(path: Path) -> Header | None:
    try:
        return read_header(path)
    except InputError:
        return None


def run_admitted(
    executor: Executor,
    task: Callable[[Item], Result],
    items: Sequence[Item],
    cost: Callable[[Item, tuple[Header | None, ...]], int],
) -> Generator[Outcome[Item, Result]]:
    """Runs a task on items of which only so many run at once as fit into memory.

    Args:
        executor: that runs it.
        task: the work.
        items: with names of their own.
        cost: bytes that the work on an item needs, by the headers of its files.

    Yields:
        One outcome per item; of one whose headers ended their reader, or whose cost could not be told, that error.
    """
    places = {item.id: place for place, item in enumerate(items)}
    costs: dict[int, int] = {}
    for outcome in executor.run(ReadHeaders(), [FileList(id=item.id, paths=item.paths) for item in items]):
        place = places[outcome.item.id]
        if outcome.result is None:
            yield Outcome(item=items[place], error=outcome.error)
        else:
            try:
                costs[place] = cost(items[place], outcome.result)
            except Exception as error:  # as of any other work on an item
                yield Outcome(item=items[place], error=error)
    able = sorted(costs)
    yield from executor.run(task, [items[place] for place in able], costs=[costs[place] for place in able])
