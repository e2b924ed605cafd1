"""How values and arrays get to disk and back: written beside, then renamed, so never half-written; named by content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from autoseg.errors import DocumentError, UnreadableFileError
from autoseg.values.json_form import Value, decode, encode

__all__ = [
    "Content",
    "ContentIndex",
    "check_fence",
    "content_hash",
    "content_of",
    "discard",
    "fenced",
    "keep",
    "read_document",
    "replacing",
    "sweep",
    "table_text",
    "write_atomically",
    "write_document",
    "written_folder",
]

T = TypeVar("T")
#: Names of files and folders that are being written; see ``replacing`` and ``written_folder``.
_BESIDE = re.compile(r"\.[0-9a-f]{12}-")
#: Folder to what has to agree before a file in it is replaced; see ``fenced``.
_FENCES: dict[Path, Callable[[], None]] = {}


@contextlib.contextmanager
def fenced(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    """Meanwhile, in this process, no file below a folder takes its place before ``check``, called just then, agrees.

    Args:
        folder: that others may write to, too.
        check: raises if this process may not write there any more.
    """
    folder = folder.absolute()
    _FENCES[folder] = check
    try:
        yield
    finally:
        del _FENCES[folder]


def check_fence(path: Path) -> None:
    """Asks whether a file may be written now, for whoever does not use ``replacing``; see ``fenced``."""
    for folder in path.absolute().parents if _FENCES else ():
        if folder in _FENCES:
            _FENCES[folder]()


def write_atomically(path: Path, data: bytes, before: Callable[[], None] = lambda: None) -> None:
    """Writes a file so that, whatever happens, it holds either the old content or the new; see ``replacing``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, before) as beside:
        beside.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path, before: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yields a path beside ``path`` to write to, with the same ending; on success it takes the place of ``path``.

    Args:
        path: of the file.
        before: done when the new file is safe on the disk, just before it takes its place.
    """
    beside = path.with_name(f".{secrets.token_hex(6)}-{path.name}")
    whole = not _BESIDE.match(path.parent.name)  # see ``written_folder``
    try:
        yield beside
        if whole:
            _sync_file(beside)
        check_fence(path)
        before()
        os.replace(beside, path)
        if whole:
            _sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def written_folder(target: Path) -> Iterator[Path]:
    """Yields a new folder to fill; on success it becomes ``target``. If another process was faster, its result stays.

    For what can be made anew and tells by itself whether it is whole: nothing is synchronised with the disk, which would
    take longer than writing. A kill leaves all of it or nothing; what a power failure takes is found damaged.
    """
    beside = target.with_name(f".{secrets.token_hex(6)}-{target.name}")
    beside.mkdir(parents=True)
    try:
        yield beside
        try:
            beside.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def discard(folder: Path) -> None:
    """Removes a folder at once for whoever looks: it is renamed first, so that a kill leaves nothing that looks whole."""
    beside = folder.with_name(f".{secrets.token_hex(6)}-{folder.name}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(beside)
    shutil.rmtree(beside, ignore_errors=True)


def sweep(folder: Path, *, older_than_seconds: float = 24 * 3600.0) -> None:
    """Removes what killed processes left half-written in a folder."""
    for path in folder.glob(".[0-9a-f]*-*"):
        with contextlib.suppress(FileNotFoundError):  # another process finished it, or swept it away, in the meantime
            if _BESIDE.match(path.name) and time.time() - path.stat().st_mtime > older_than_seconds:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # Windows cannot open a folder, and does not need to
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_document(kind: type[T], path: Path) -> T:
    """Reads a value from its file.

    Raises:
        UnreadableFileError: the file cannot be read.
        DocumentError: it does not have the form of that value.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableFileError(f"cannot read the file: {error.strerror or error}", file=path) from error
    return decode(kind, data, source=path)


def write_document(path: Path, value: object) -> None:
    """Writes a value's JSON form, atomically; an equal file is left alone."""
    data = encode(value)
    if not (path.is_file() and path.read_bytes() == data):
        write_atomically(path, data)


def keep(path: Path, kind: type[T], make: Callable[[], T], *, valid: Callable[[T], bool] = lambda value: True) -> T:
    """The value at ``path`` if it is there and valid, else a newly made one, saved."""
    if path.is_file():
        with contextlib.suppress(DocumentError):  # a damaged cache is as good as none
            value = read_document(kind, path)
            if valid(value):
                return value
    value = make()
    write_document(path, value)
    return value


def table_text(path: Path) -> tuple[str, str | None]:
    """A table's text, UTF-8 or UTF-16, and the delimiter that Excel's first line ``sep=;`` states, which is taken away.

    Raises:
        UnreadableFileError: the table cannot be read, or is text of another kind.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except OSError as error:
        raise UnreadableFileError(f"cannot read the table: {error.strerror or error}", file=path) from error
    except UnicodeDecodeError as error:
        raise UnreadableFileError("the table is not UTF-8 text", file=path, remedy="Save it as CSV UTF-8.") from error
    stated = re.match(r'"?sep=([,;\t])"?\r?\n', text, re.IGNORECASE)
    return (text[stated.end() :], stated[1]) if stated else (text, None)


def content_hash(file: Path) -> str:
    """SHA-256 of a file's content; of a folder, that of the names and contents of the files directly in it.

    Raises:
        UnreadableFileError: the file cannot be read.
    """
    try:
        if file.is_dir():
            lines = [f"{content_hash(part)} {part.name}" for part in _files_in(file)]
            return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UnreadableFileError(f"cannot read the file: {error.strerror or error}", file=file) from error


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _size_and_time(path: Path) -> tuple[int, int]:
    """Bytes and time of change of a file; of a folder, its files' bytes and a number made of all names, sizes and times."""
    if not path.is_dir():
        state = path.stat()
        return state.st_size, state.st_mtime_ns
    states = [(part.name, part.stat()) for part in _files_in(path)]
    lines = [f"{state.st_size} {state.st_mtime_ns} {name}" for name, state in states]
    stated = hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).digest()
    return sum(state.st_size for _, state in states), int.from_bytes(stated[:7], "big")


class Content(Value, frozen=True, kw_only=True):
    """Size, time of change in nanoseconds and SHA-256 of a file; of a folder, see ``_size_and_time``."""

    size: int
    time_ns: int
    sha256: str
    parts: tuple[str, ...] = ()  # files that an image consists of, if not of this one alone


def content_of(file: Path) -> Content:
    """What the content index keeps of a file, which is read for it.

    Raises:
        UnreadableFileError: the file is not there or cannot be read.
    """
    try:
        size, time_ns = _size_and_time(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableFileError(f"cannot read the file: {reason}", file=file) from error
    return Content(size=size, time_ns=time_ns, sha256=content_hash(file))


class ContentIndex:
    """SHA-256 of files, remembered by size and time so that an unchanged file is not read again.

    A file that is gone keeps its last known hash: a machine that got the workspace without the data set can train on
    what was preprocessed.

    Args:
        path: where the index is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._changed = False
        self._known: dict[str, Content] = {}
        self._parts: dict[str, tuple[str, ...]] = {}
        if path.is_file():
            with contextlib.suppress(DocumentError):
                self._known = read_document(dict[str, Content], path)

    def sha256(self, file: Path, *, again: bool = False) -> str:
        """The hash of the file's content.

        Args:
            file: to look at.
            again: read it even if its size and time are those of before.

        Raises:
            UnreadableFileError: the file is not there or cannot be read.
        """
        known = self.known(file) if not again or not file.exists() else None
        if known is not None:
            return known
        content = content_of(file)
        self.remember(file, content)
        return content.sha256

    def known(self, file: Path) -> str | None:
        """The hash of the file's content if it need not be read for it: it has not changed, or is gone."""
        known = self._known.get(str(file))
        if known is None:
            return None
        try:
            state = _size_and_time(file)
        except FileNotFoundError:
            return known.sha256
        except (OSError, ValueError):
            return None
        return known.sha256 if (known.size, known.time_ns) == state else None

    def remember(self, file: Path, content: Content) -> None:
        """Takes what another process has read."""
        with self._lock:
            before = self._known.get(str(file))
            if before is not None and before.parts and not content.parts:
                content = msgspec.structs.replace(content, parts=before.parts)
            self._changed |= before != content
            self._known[str(file)] = content

    def parts(self, file: Path, parts_of: Callable[[Path], tuple[Path, ...]]) -> tuple[Path, ...]:
        """The files that an image consists of; of one that is gone, those that it consisted of when it was last known."""
        known = self._known.get(str(file))
        if known is not None and known.parts and not os.path.lexists(file):
            return tuple(map(Path, known.parts))
        parts = parts_of(file)
        if len(parts) > 1 or (known is not None and known.parts):
            self._parts[str(file)] = tuple(map(str, parts))
        return parts

    def save(self) -> None:
        """Writes the index if it has changed."""
        with self._lock:
            for file, parts in self._parts.items():
                known = self._known.get(file)
                if known is not None and known.parts != parts:
                    self._known[file], self._changed = msgspec.structs.replace(known, parts=parts), True
            if self._changed:
                write_document(self._path, dict(sorted(self._known.items())))
                self._changed = False
