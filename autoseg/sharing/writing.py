"""Writing an export: all of it or nothing, in the place of an older export only, and the same bytes every time."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from autoseg.disk import GIBIBYTE, free_bytes
from autoseg.errors import DiskFullError, InputError
from autoseg.files import content_hash, replacing, write_document
from autoseg.sharing.layout import MANIFEST, is_archive, names_in
from autoseg.sharing.reading import check_archive, check_folder
from autoseg.values import Exported, ExportedFile

__all__ = ["check_target", "files_of", "write_manifest", "written_export"]

#: The earliest that a zip archive can tell: when it was made is no part of a model.
NO_TIME = (1980, 1, 1, 0, 0, 0)
COPY_BYTES = 2**22
#: Begins the name of the folder in which an export is made, beside where it will stand; one so old was left by a kill.
ROOM, OLD_SECONDS = ".autoseg-export-", 24 * 3600


def check_target(target: Path) -> None:
    """Sees to it that nothing is lost where an export is to be written: there is nothing, or an export as it was written.

    Raises:
        InputError: there is something else.
    """
    if target.is_symlink():
        raise _in_the_way(target, "a link")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (is_archive(target) if target.is_file() else (target / MANIFEST).is_file()):
        raise _in_the_way(target, "something that is no exported model")
    try:
        check_archive(target) if target.is_file() else check_folder(target)
    except InputError as error:
        raise _in_the_way(target, f"an export that is not as it was written: {error.what}") from error
    files = (path for path in target.rglob("*") if path.is_symlink() or not path.is_dir())
    others = sorted({path.relative_to(target).as_posix() for path in files} - {*names_in(target)})
    if others:
        raise _in_the_way(target, f"other files among those of an export: {', '.join(others[:5])}")


def _in_the_way(target: Path, found: str) -> InputError:
    return InputError(
        "what stands where the model is to be exported to would be lost",
        file=target.absolute(),
        found=found,
        expected="nothing, or an exported model as it was written",
        remedy="Name another place with -o, or move it away.",
    )


@contextlib.contextmanager
def written_export(target: Path, needed_bytes: int) -> Iterator[Path]:
    """Yields an empty folder to fill; on success it becomes ``target``: an archive if that ends in ``.zip``.

    Args:
        target: to make, after ``check_target``.
        needed_bytes: of all files together.

    Raises:
        DiskFullError: there is too little room.
    """
    parent = target.absolute().parent
    archive = is_archive(target)
    needed, free = needed_bytes * (2 if archive else 1), free_bytes(parent)
    if needed > free:
        raise DiskFullError(
            parent, f"the export takes {needed / GIBIBYTE:.2f} GiB there, and {free / GIBIBYTE:.2f} GiB are free"
        )
    parent.mkdir(parents=True, exist_ok=True)
    _sweep_rooms(parent)
    with tempfile.TemporaryDirectory(prefix=ROOM, dir=parent) as room:
        folder = Path(room, "export")
        folder.mkdir()
        yield folder
        if archive:
            with replacing(target) as beside:
                _write_archive(beside, folder)
            return
        before = Path(room, "before")  # what is replaced goes only when the new one is there
        if target.is_dir():
            target.rename(before)
        try:
            folder.rename(target)
        except BaseException:
            if before.is_dir():
                before.rename(target)
            raise


def _sweep_rooms(parent: Path) -> None:
    """Removes what exports that were killed left behind, but not an older model that one was about to replace."""
    for room in parent.glob(f"{ROOM}*"):
        with contextlib.suppress(FileNotFoundError):  # another export has just ended
            old = time.time() - room.stat().st_mtime > OLD_SECONDS
            if old and not room.is_symlink() and not (room / "before").exists():
                shutil.rmtree(room, ignore_errors=True)


def _write_archive(path: Path, folder: Path) -> None:
    """Not compressed: weights hardly shrink, and what is not compressed cannot unpack to more than it is."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in names_in(folder):
            info = zipfile.ZipInfo(name, NO_TIME)
            info.external_attr, info.create_system = 0o100644 << 16, 3
            info.file_size = (folder / name).stat().st_size  # tells zipfile whether 32 bits are enough
            with (folder / name).open("rb") as source, archive.open(info, "w") as into:
                shutil.copyfileobj(source, into, COPY_BYTES)


def files_of(folder: Path) -> dict[str, ExportedFile]:
    """All files that lie in an export's folder, with size and content."""
    return {
        name: ExportedFile(bytes=(folder / name).stat().st_size, sha256=content_hash(folder / name))
        for name in names_in(folder)
        if name != MANIFEST
    }


def write_manifest(
    folder: Path, plan: str, members: Mapping[str, Sequence[str]], versions: Mapping[str, str], *, selected: bool
) -> None:
    """Writes the list of all files that lie in an export's folder; last.

    Args:
        folder: with all other files.
        plan: its id.
        members: configuration to folds, of what predicts.
        versions: of the programs.
        selected: whether ``autoseg select`` chose the members.
    """
    manifest = Exported(
        plan=plan,
        members={name: tuple(folds) for name, folds in members.items()},
        selected=selected,
        versions=dict(versions),
        files=files_of(folder),
    )
    write_document(folder / MANIFEST, manifest)
