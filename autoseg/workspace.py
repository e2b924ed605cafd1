"""Where each value and array lives on disk, and how it gets there: written beside, then renamed, so never half-written.

autoseg-workspace/
    workspace.json              which plan is the active one
    dataset.json                the data set as understood
    fingerprint.json            what the planner saw; per case in fingerprints/
    splits_final.json           the folds, in nnU-Net's form
    sources.json                size, time and SHA-256 of every file of the data set that was read
    preprocessed/CONFIGURATION-PARAMETERS/CASE-KEY/     arrays ready for training
    models/PLAN/                a model folder, complete in itself: plan.json and
        CONFIGURATION/fold_K/   job, checkpoints, model.safetensors, validation/
    logs/COMMAND.jsonl          events
"""

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

from autoseg.errors import DocumentError, InputError, UnreadableFileError
from autoseg.values.dataset import Dataset
from autoseg.values.fingerprint import Fingerprint
from autoseg.values.json_form import Value, decode, encode
from autoseg.values.plan import Plan
from autoseg.values.training import Split, fold_folder

__all__ = [
    "ContentIndex",
    "FoldFolder",
    "ModelFolder",
    "Workspace",
    "content_hash",
    "keep",
    "read_document",
    "sweep",
    "write_atomically",
    "write_document",
    "written_folder",
]

DEFAULT_FOLDER = "autoseg-workspace"
T = TypeVar("T")
#: Names of files and folders that are being written; see ``replacing`` and ``written_folder``.
_BESIDE = re.compile(r"\.[0-9a-f]{12}-")


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that, whatever happens, it holds either the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside ``path`` to write to, with the same ending; on success it takes the place of ``path``."""
    beside = path.with_name(f".{secrets.token_hex(6)}-{path.name}")
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def written_folder(target: Path) -> Iterator[Path]:
    """Yields a new folder to fill; on success it becomes ``target``. If another process was faster, its result stays."""
    beside = target.with_name(f".{secrets.token_hex(6)}-{target.name}")
    beside.mkdir(parents=True)
    try:
        yield beside
        for path in beside.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        try:
            beside.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def sweep(folder: Path, *, older_than_seconds: float = 24 * 3600.0) -> None:
    """Removes what killed processes left half-written in a folder."""
    for path in folder.glob(".[0-9a-f]*-*"):
        if _BESIDE.match(path.name) and time.time() - path.stat().st_mtime > older_than_seconds:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


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


def content_hash(file: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        UnreadableFileError: the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UnreadableFileError(f"cannot read the file: {error.strerror or error}", file=file) from error


class _Source(Value, frozen=True, kw_only=True):
    size: int
    time_ns: int
    sha256: str


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
        self._known: dict[str, _Source] = {}
        if path.is_file():
            with contextlib.suppress(DocumentError):
                self._known = read_document(dict[str, _Source], path)

    def sha256(self, file: Path) -> str:
        """The hash of the file's content.

        Raises:
            UnreadableFileError: the file is not there or cannot be read.
        """
        name = str(file)
        known = self._known.get(name)
        if known and not file.exists():
            return known.sha256
        try:
            status = file.stat()
        except OSError as error:
            raise UnreadableFileError(f"cannot read the file: {error.strerror or error}", file=file) from error
        if known and (known.size, known.time_ns) == (status.st_size, status.st_mtime_ns):
            return known.sha256
        value = content_hash(file)
        with self._lock:
            self._known[name] = _Source(size=status.st_size, time_ns=status.st_mtime_ns, sha256=value)
            self._changed = True
        return value

    def save(self) -> None:
        """Writes the index if it has changed."""
        with self._lock:
            if self._changed:
                write_document(self._path, dict(sorted(self._known.items())))
                self._changed = False


class FoldFolder:
    """Everything of one training.

    Args:
        path: the folder ``fold_K``, or ``full``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def job(self) -> Path:
        """What was asked for."""
        return self.path / "job.json"

    @property
    def execution(self) -> Path:
        """How the network runs on the device."""
        return self.path / "execution.json"

    @property
    def checkpoint(self) -> Path:
        """The newest state of the training."""
        return self.path / "checkpoint.safetensors"

    @property
    def model(self) -> Path:
        """The trained weights; there once the training has ended."""
        return self.path / "model.safetensors"

    @property
    def validation(self) -> Path:
        """Folder of the held-out cases' label maps."""
        return self.path / "validation"

    @property
    def summary(self) -> Path:
        """Scores of the held-out cases; there once all of them are scored."""
        return self.validation / "summary.json"

    def score(self, case_id: str) -> Path:
        """Scores of one held-out case."""
        return self.validation / "scores" / f"{case_id}.json"

    @property
    def lock(self) -> Path:
        """Held by the process that trains here."""
        return self.path / ".lock"


class ModelFolder:
    """A plan and everything trained from it; complete in itself, so that it can be moved and shared.

    Args:
        path: the folder that holds ``plan.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def plan(self) -> Plan:
        """The plan.

        Raises:
            InputError: the folder holds none, or a damaged one.
        """
        if not (self.path / "plan.json").is_file():
            raise InputError("there is no plan", file=self.path / "plan.json", remedy="Make one: autoseg plan DATASET")
        return read_document(Plan, self.path / "plan.json")

    def fold(self, configuration: str, fold: str) -> FoldFolder:
        """Folder of one training."""
        return FoldFolder(self.path / configuration / fold_folder(fold))

    def trained(self, configuration: str) -> tuple[str, ...]:
        """The folds of a configuration whose training has ended: "0", "1", …, "full"."""
        names = [path.parent.name for path in (self.path / configuration).glob("*/model.safetensors")]
        folds = [name.removeprefix("fold_") for name in names]
        return tuple(sorted(folds, key=lambda fold: (len(fold), fold)))

    def has_trainings(self) -> bool:
        """True once any training has begun."""
        return any(self.path.glob("*/*/job.json"))


class _WorkspaceRecord(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.workspace/1"):
    """``planned`` tells the id of each plan as its planner made it, so that a plan edited by hand is known as such."""

    active_plan: str
    planned: dict[str, str] = {}


class Workspace:
    """One data set and everything made from it.

    Args:
        path: of the folder; ``autoseg-workspace`` in the current folder by default.
    """

    def __init__(self, path: Path | str = DEFAULT_FOLDER) -> None:
        self.path = Path(path)
        self.contents = ContentIndex(self.path / "sources.json")

    def existing(self) -> Workspace:
        """Itself, if it holds a data set.

        Raises:
            InputError: it does not.
        """
        if not (self.path / "dataset.json").is_file():
            raise InputError(
                "there is no workspace here" if not self.path.exists() else "this folder is not a workspace",
                file=self.path.absolute(),
                remedy="Make one with: autoseg plan DATASET, or name one with -w",
            )
        return self

    def begun(self) -> bool:
        """Whether anything has been kept here yet: a data set, or measurements on the way to one."""
        return (self.path / "workspace.json").is_file() or self.case_fingerprint_path("").parent.is_dir()

    @property
    def dataset_path(self) -> Path:
        """The data set as understood."""
        return self.path / "dataset.json"

    @property
    def split_path(self) -> Path:
        """The folds."""
        return self.path / "splits_final.json"

    def dataset(self) -> Dataset:
        """The data set that was planned for."""
        return read_document(Dataset, self.existing().dataset_path)

    def fingerprint_path(self) -> Path:
        """What the planner saw."""
        return self.path / "fingerprint.json"

    def case_fingerprint_path(self, case_id: str) -> Path:
        """Measurements of one case."""
        return self.path / "fingerprints" / f"{case_id}.safetensors"

    def preprocessed(self, configuration: str, parameters: str) -> Path:
        """Folder of the arrays of one configuration; ``parameters`` is a digest of how they are made."""
        return self.path / "preprocessed" / f"{configuration}-{parameters[:8]}"

    def log_path(self, command: str) -> Path:
        """Events of one command."""
        return self.path / "logs" / f"{command}.jsonl"

    def model(self, plan: str | None = None) -> ModelFolder:
        """The model folder of a plan; of the active one by default.

        Raises:
            InputError: no plan was made yet, or none of that name.
        """
        if plan is None:
            record = self.existing()._record()
            if record is None:
                raise InputError("the workspace holds no plan", file=self.path, remedy="Make one: autoseg plan DATASET")
            plan = record.active_plan
        folder = ModelFolder(self.path / "models" / plan)
        if not (folder.path / "plan.json").is_file():
            names = sorted(path.parent.name for path in self.path.glob("models/*/plan.json"))
            raise InputError(
                f"the workspace holds no plan {plan!r}",
                file=self.path,
                expected=" or ".join(names) or None,
                remedy="Make one: autoseg plan DATASET",
            )
        return folder

    def models(self) -> list[ModelFolder]:
        """All model folders, the active plan's first.

        Raises:
            InputError: no plan was made yet.
        """
        active = self.model()
        others = (ModelFolder(path.parent) for path in sorted(self.path.glob("models/*/plan.json")))
        return [active, *(model for model in others if model.path != active.path)]

    def _record(self) -> _WorkspaceRecord | None:
        path = self.path / "workspace.json"
        return read_document(_WorkspaceRecord, path) if path.is_file() else None

    def save(self, dataset: Dataset, fingerprint: Fingerprint, split: Split, plan: Plan) -> ModelFolder:
        """Records a finished planning and makes its plan the active one.

        Raises:
            InputError: a different plan of that name has trainings already, or was edited by hand.
        """
        folder, record = ModelFolder(self.path / "models" / plan.name), self._record()
        planned = record.planned if record else {}
        there = folder.plan().id if (folder.path / "plan.json").is_file() else plan.id
        if there != plan.id and folder.has_trainings():
            raise InputError(
                f"the plan {plan.name!r} has trainings, and planning anew gives another plan",
                file=folder.path,
                remedy="Plans do not change under their trainings: give the new one a name with --name NEW",
            )
        if there not in (plan.id, planned.get(plan.name)):
            raise InputError(
                f"the plan {plan.name!r} was edited by hand, and planning anew would lose that",
                file=folder.path / "plan.json",
                remedy="Give the new one a name with --name NEW, or remove the file.",
            )
        write_document(self.dataset_path, dataset)
        write_document(self.fingerprint_path(), fingerprint)
        write_document(self.split_path, split)
        record = _WorkspaceRecord(active_plan=plan.name, planned={**planned, plan.name: plan.id})
        write_document(folder.path / "plan.json", plan)
        write_document(self.path / "workspace.json", record)
        return folder
