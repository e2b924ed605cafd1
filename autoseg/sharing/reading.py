"""Reading an export that may come from anywhere: only known files, of the sizes and contents that its list states.

Nothing in an archive is believed before it is checked: not its names, which could lead anywhere, nor its sizes, which could
fill the disk. It is unpacked to a temporary folder, which goes afterwards; safetensors and strict JSON are all that is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import stat
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from autoseg.disk import GIBIBYTE, free_bytes
from autoseg.errors import DiskFullError, InputError, UnreadableFileError
from autoseg.files import content_hash, read_document
from autoseg.sharing.layout import MANIFEST, is_archive, known_name, largest, names_in, not_whole
from autoseg.values import Exported, decode
from autoseg.values.json_form import same_file_name
from autoseg.workspace import ModelFolder

__all__ = ["check_archive", "check_folder", "opened_model"]

MOST_FILES = 1000
MOST_BYTES = 2**37
COPY_BYTES = 2**22
#: What zipfile raises for archives that are none, or are damaged.
BROKEN = (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, struct.error, RuntimeError)


@contextlib.contextmanager
def opened_model(path: Path) -> Iterator[ModelFolder]:
    """The model folder that a path names: itself, or an archive unpacked for the while; an export is checked first.

    Args:
        path: a model folder, an exported one, or an archive (``.zip``).

    Raises:
        InputError: the export is not as it was written, or is none that can be trusted.
        DiskFullError: there is no room to unpack it.
    """
    if not is_archive(path):
        if (path / MANIFEST).is_file():
            check_folder(path)
        yield ModelFolder(path)
        return
    with tempfile.TemporaryDirectory(prefix="autoseg-model-") as room:
        folder = Path(room, path.stem)
        folder.mkdir()
        _unpack(path, folder)
        yield ModelFolder(folder)


def check_folder(folder: Path) -> Exported:
    """Sees to it that an exported folder holds the files of its list, and no others of an export.

    Raises:
        InputError: it does not; names the file.
    """
    manifest = _checked(folder, read_document(Exported, folder / MANIFEST))
    _check_names(folder, manifest, [name for name in names_in(folder) if name != MANIFEST])
    for name, stated in manifest.files.items():
        file = folder / name
        if file.is_symlink():
            raise not_whole(folder, f"{name} is a link")
        size = file.stat().st_size
        if size != stated.bytes or content_hash(file) != stated.sha256:
            raise not_whole(folder, f"{name} has another content than its list states")
    return manifest


def check_archive(path: Path) -> Exported:
    """Sees to it that an archive holds the files of its list, as they were written.

    Raises:
        InputError: it is not.
    """
    with _opened(path) as archive:
        manifest = _listed(path, archive)
        for name, stated in manifest.files.items():
            with archive.open(name) as source:
                if hashlib.file_digest(source, "sha256").hexdigest() != stated.sha256:  # type: ignore[arg-type]
                    raise not_whole(path, f"{name} has another content than its list states")
        return manifest


def _unpack(path: Path, folder: Path) -> None:
    with _opened(path) as archive:
        manifest = _listed(path, archive)
        needed, free = sum(info.file_size for info in archive.infolist()), free_bytes(folder)
        if needed > free:
            raise DiskFullError(
                folder, f"the model unpacks to {needed / GIBIBYTE:.2f} GiB, and {free / GIBIBYTE:.2f} GiB are free"
            )
        for info in archive.infolist():
            target = folder / info.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source:
                sha256 = _copied(source, target, info.file_size)
            stated = manifest.files.get(info.filename)
            if stated is not None and sha256 != stated.sha256:
                raise not_whole(path, f"{info.filename} has another content than its list states")


def _copied(source: IO[bytes], target: Path, size: int) -> str:
    """Copies a file of a stated size; returns the SHA-256 of what was copied.

    Raises:
        ValueError: it has more or fewer bytes.
    """
    summed, left = hashlib.sha256(), size
    with target.open("xb") as into:
        while block := source.read(min(COPY_BYTES, left + 1)):
            left -= len(block)
            if left < 0:
                break
            summed.update(block)
            into.write(block)
    if left:
        raise ValueError(f"{target.name} has another size than the archive states")
    return summed.hexdigest()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; whatever turns out damaged within is told as that."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError("there is no such file", file=path) from error
    except BROKEN as error:
        raise not_whole(path, str(error) or type(error).__name__) from error
    except OSError as error:
        raise UnreadableFileError(f"cannot read the file: {error.strerror or error}", file=path) from error


def _listed(path: Path, archive: zipfile.ZipFile) -> Exported:
    """The list of an archive's files, after all that can be told without reading them."""
    infos = archive.infolist()
    if len(infos) > MOST_FILES:
        raise _refused(path, "has too many files", len(infos), f"at most {MOST_FILES}")
    for info in infos:
        _check_entry(path, info)
    names = [same_file_name(info.filename) for info in infos]
    if len(set(names)) != len(names):
        twice = next(info.filename for info, name in zip(infos, names, strict=True) if names.count(name) > 1)
        raise _refused(path, "names a file twice", twice, "each once")
    total, there = sum(info.file_size for info in infos), path.stat().st_size
    if total > min(MOST_BYTES, there):
        expected = f"at most {min(MOST_BYTES, there)}, as it is not compressed"
        raise _refused(path, "states too many bytes", total, expected)
    if MANIFEST not in archive.namelist():
        raise _refused(path, "is no exported model", f"no {MANIFEST}", "an archive made by autoseg export")
    manifest = _checked(path, decode(Exported, archive.read(MANIFEST), source=path))
    _check_names(path, manifest, [info.filename for info in infos if info.filename != MANIFEST])
    for info in infos:
        stated = manifest.files.get(info.filename)
        if stated is not None and stated.bytes != info.file_size:
            what = f"{info.filename} has another size than its list states"
            raise not_whole(path, what, found=info.file_size, expected=stated.bytes)
    return manifest


def _check_entry(path: Path, info: zipfile.ZipInfo) -> None:
    """One entry: a plain file of a known name and a sensible size, stored as it is."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    name = info.orig_filename
    if not known_name(name) or info.filename != name:
        raise _refused(path, "holds something that is no part of a model", ascii(name[:80]), "files of a model only")
    if kind not in (0, stat.S_IFREG):
        raise _refused(path, "holds something else than files", f"{name}, of kind {kind:o}", "files only, no links")
    if info.flag_bits & 0x1 or info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise _refused(path, "is compressed or encrypted", name, "files as they are, as autoseg export writes them")
    if info.file_size > largest(name):
        raise _refused(path, "holds a file that is too large", f"{name}, {info.file_size} bytes", largest(name))


def _checked(path: Path, manifest: Exported) -> Exported:
    strange = sorted(name for name in manifest.files if not known_name(name) or name == MANIFEST)
    if strange:
        raise _refused(path, "lists what is no part of a model", ascii(strange[0][:80]), "files of a model only")
    return manifest


def _check_names(path: Path, manifest: Exported, names: list[str]) -> None:
    missing, surplus = sorted({*manifest.files} - {*names}), sorted({*names} - {*manifest.files})
    if missing:
        raise not_whole(path, "files are missing", found=f"no {', '.join(missing[:5])}")
    if surplus:
        raise not_whole(path, "there are files that its list does not name", found=", ".join(surplus[:5]))


def _refused(path: Path, what: str, found: object, expected: object) -> InputError:
    return InputError(
        f"this archive {what}, and is not unpacked",
        file=path,
        found=found,
        expected=expected,
        remedy="Take one that autoseg export has made; of one that was packed anew, unpack it and name the folder.",
    )
