"""A folder that holds a table of its paths: what the table states counts, and not what the names of files suggest."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from autoseg.errors import InputError
from autoseg.io.formats import split_ending
from autoseg.io.layouts.decathlon import read_decathlon
from autoseg.io.layouts.description import DESCRIPTIONS, Description, read_listing
from autoseg.io.layouts.table import TABLE_ENDINGS, paths_of, read_table
from autoseg.io.layouts.understanding import Understanding
from autoseg.values import Finding
from autoseg.values.dataset import TABLE

__all__ = ["has_table", "idle_tables", "read_file", "read_found"]

#: A larger file is no list of paths.
LARGEST = 2**26


def read_file(source: Path, wanted: Sequence[str]) -> Understanding:
    """The cases of a table, or of a list of training pairs as the Decathlon has it."""
    if source.suffix.casefold() == ".json" and (stated := read_listing(source)):
        return read_decathlon(source.parent, stated, wanted)
    return read_table(source, wanted)


def has_table(folder: Path, stated: Description) -> bool:
    """Whether one file of the folder is a table of paths that lead somewhere.

    Raises:
        InputError: several are.
    """
    tables = [file for file, rows in _tables(folder) if _leads_somewhere(folder, rows)]
    if len(tables) > 1:
        raise InputError(
            f"{len(tables)} tables of paths lie in this folder, and it is not clear which one is meant",
            file=folder,
            found=", ".join(file.name for file in tables[:5]) + (" …" if len(tables) > 5 else ""),
            expected="one table",
            remedy=f"Name the table instead of the folder: autoseg plan {tables[0]}",
        )
    return bool(tables)


def read_found(folder: Path, stated: Description, wanted: Sequence[str]) -> Understanding:
    """The cases of the folder's one table."""
    table = next(file for file, rows in _tables(folder) if _leads_somewhere(folder, rows))
    understood = read_file(table, wanted)
    return dataclasses.replace(understood, layout=f"a folder with {TABLE}: {table.name}", name=folder.name)


def idle_tables(folder: Path) -> list[Finding]:
    """Warnings about tables that name images and labels, and none that is there: nobody wrote them for nothing."""
    return [
        Finding(
            severity="warning",
            what="a table of paths is not used: none of its images and labels is there",
            file=file.name,
            found=paths[0],
            remedy="Correct its paths, which are relative to its folder; or nothing, if it belongs to something else.",
        )
        for file, rows in _tables(folder)
        if not _leads_somewhere(folder, rows)
        and (paths := [path for row in rows for path in paths_of(row)[0] if split_ending(path)[1]])
    ]


def _tables(folder: Path) -> list[tuple[Path, list[Mapping[str, Any]]]]:
    """The files that name images and labels, with their rows."""
    files = sorted(path for path in folder.iterdir() if path.suffix.casefold() in TABLE_ENDINGS and path.is_file())
    files = [path for path in files if path.name not in DESCRIPTIONS and not path.name.startswith(".")]
    found = [(file, _rows(file)) for file in files]
    return [(file, rows) for file, rows in found if any(all(paths_of(row)) for row in rows)]


def _rows(file: Path) -> list[Mapping[str, Any]]:
    """The rows of what may be a table; none of a file that is something else. What is wrong in it is told by reading it."""
    try:
        data = file.read_bytes() if file.stat().st_size <= LARGEST else b""
        text = data.decode("utf-8-sig")
        rows = _json_rows(text) if file.suffix.casefold() == ".json" else _csv_rows(text)
    except (OSError, ValueError, csv.Error, msgspec.DecodeError, RecursionError):
        return []
    return [{str(name).strip().casefold(): value for name, value in row.items()} for row in rows]


def _json_rows(text: str) -> list[Mapping[str, Any]]:
    document = msgspec.json.decode(text)
    if isinstance(document, dict):
        document = document.get("cases") or document.get("training")
    return [row for row in document if isinstance(row, dict)] if isinstance(document, list) else []


def _csv_rows(text: str) -> list[Mapping[str, Any]]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = next((each for each in "\t," if each in first), ";")
    header, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row] or [[]]
    return [dict(zip(header, row, strict=False)) for row in rows]


def _leads_somewhere(folder: Path, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an image and a label of one row are there."""
    for row in rows:
        images, labels = paths_of(row)
        if any(os.path.exists(folder / path) for path in images) and any(
            os.path.exists(folder / path) for path in labels
        ):
            return True
    return False
