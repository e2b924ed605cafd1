"""A table of paths: CSV, TSV or JSON with the columns image (or several), label, patient, annotated and case.

Paths are relative to the table's folder, or absolute; environment variables in them are filled in.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from autoseg.errors import DocumentError, InputError, UnreadableFileError
from autoseg.files import table_text
from autoseg.io.formats import split_ending
from autoseg.io.layouts.description import Description, read_description
from autoseg.io.layouts.names import bare_forms, plain_id
from autoseg.io.layouts.understanding import Understanding
from autoseg.values import Case, Finding, decode
from autoseg.values.dataset import TABLE

__all__ = ["TABLE_ENDINGS", "paths_of", "read_table"]

TABLE_ENDINGS = (".csv", ".tsv", ".json")
_IMAGE, _LABEL = ("image", "images", "img", "scan", "volume"), ("label", "labels", "mask", "segmentation", "seg")
_PATIENT, _CASE = ("patient", "patient_id", "subject", "group"), ("case", "case_id", "id", "name")
_PART = ("part", "split", "subset")
_ANNOTATED = ("annotated",)
_EXPECTED = (
    "the columns image (or image_t1, image_t2, …) and label; and, if wanted, case, patient, annotated, and part with the "
    "value test"
)


class _Row(msgspec.Struct):
    """One case as the table states it."""

    images: list[str]
    label: str | None = None
    case: str | None = None
    patient: str | None = None
    annotated: tuple[str, ...] | None = None
    test: bool = False
    line: int = 0


class _JsonTable(Description):
    """A JSON table may say more: everything that a description may."""

    cases: list[dict[str, Any]] = []


def read_table(path: Path, wanted: Sequence[str]) -> Understanding:
    """The cases of a table.

    Args:
        path: of the table.
        wanted: names of channels that are asked for.

    Raises:
        InputError: the file is no such table; the first row that is wrong is named.
    """
    stated = read_description(path.parent) if path.parent.is_dir() else Description()
    stated.dataset, stated.training, stated.file_ending, stated.numTraining = {}, [], None, None
    if path.suffix.casefold() == ".json":
        rows, stated = _json_rows(path, stated)
        lines = list(range(1, len(rows) + 1))
    else:
        rows, lines = _csv_rows(path)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    read = [_row(path, row, line) for row, line in zip(rows, lines, strict=True)]
    cases: list[Case] = []
    test: list[Case] = []
    findings: list[Finding] = []
    ids = _ids(read)
    twice, more = _repeated(path, read, ids)
    findings += more
    for row, id_ in zip(read, ids, strict=True):
        if id_ in twice and not row.test:
            continue
        try:
            case = Case(id=id_, images=tuple(row.images), label=row.label, patient=row.patient, annotated=row.annotated)
            (test if row.test else cases).append(case)
        except ValueError as error:
            findings.append(
                Finding(severity="error", what=f"row {row.line}: {error}", file=str(path), remedy="Correct the row.")
            )
    return Understanding(
        layout=f"{TABLE}: {path.name}",
        root=path.parent.resolve(),
        name=path.stem,
        stated=stated,
        cases=cases,
        test=test,
        channels=_channels(columns),
        findings=(*findings, *_unused(path, columns)),
    )


def _repeated(path: Path, rows: Sequence[_Row], ids: Sequence[str]) -> tuple[set[str], list[Finding]]:
    """Names that several rows have, and an error for each."""
    named: dict[str, list[_Row]] = {}
    for row, id_ in zip(rows, ids, strict=True):
        if not row.test:
            named.setdefault(id_, []).append(row)
    several = {id_: same for id_, same in named.items() if len(same) > 1}
    return set(several), [
        Finding(
            severity="error",
            what="several rows of the table have the same case name",
            case=id_,
            file=str(path),
            found="; ".join(f"row {row.line}: {row.images[0]}" for row in same[:5]) + (" …" if len(same) > 5 else ""),
            remedy="Remove all but one, or give each a name of its own in the column case.",
        )
        for id_, same in several.items()
    ]


def _csv_rows(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The rows by their columns, and the line of the file in which each begins; the header's is 1."""
    text, stated = table_text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = stated or _delimiter(first)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        begins, read = 1 + (stated is not None), []  # of the line that states the delimiter
        for cells in reader:
            read += [(begins, cells)] if any(cell.strip() for cell in cells) else []
            begins = reader.line_num + 1
    except csv.Error as error:
        raise UnreadableFileError(f"line {reader.line_num} of the table cannot be read: {error}", file=path) from error
    (_, header), *rows = read or [(1, [])]
    names = [cell.strip().casefold() for cell in header]
    if not rows or len(set(names)) != len(names):
        raise InputError(
            "the table has no rows" if header and not rows else "the header names a column twice or is missing",
            file=path,
            found=", ".join(header) or "nothing",
            expected=_EXPECTED,
        )
    for number, row in rows:
        if len(row) != len(names):
            raise InputError(f"row {number} has {len(row)} cells under {len(names)} columns", file=path)
    return [dict(zip(names, (cell.strip() for cell in row), strict=True)) for _, row in rows], [
        line for line, _ in rows
    ]


def _delimiter(header: str) -> str:
    """What divides the header into the most columns that are known.

    Semicolons may divide paths within a cell, so a comma or tab in the header wins over them otherwise.
    """

    def known(delimiter: str) -> int:
        cells = [cell.strip(' "').casefold() for cell in header.split(delimiter)]
        return len(_image_columns(cells)) + sum(
            cell in (*_LABEL, *_PATIENT, *_CASE, *_PART, *_ANNOTATED) for cell in cells
        )

    usual = next((each for each in "\t," if each in header), ";")
    return max((usual, *"\t,;"), key=known)


def _json_rows(path: Path, stated: Description) -> tuple[list[dict[str, Any]], Description]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableFileError(f"cannot read the table: {error.strerror or error}", file=path) from error
    if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        rows = decode(list[dict[str, Any]], data, source=path)
    else:
        document = decode(_JsonTable, data, source=path)
        document.source, rows = str(path), document.cases
        stated = document
    if not rows:
        raise InputError("the table lists no cases", file=path, expected='[{"image": "…", "label": "…"}, …]')
    return [{str(name).casefold(): value for name, value in row.items()} for row in rows], stated


def _row(path: Path, row: Mapping[str, Any], number: int) -> _Row:
    images = [name for column in _image_columns(list(row)) for name in _several(row[column], path, number)]
    if not images:
        raise InputError(f"row {number} of the table names no image", file=path, expected=_EXPECTED)
    annotated = _one_of(row, _ANNOTATED)
    return _Row(
        images=[_path(name) for name in images],
        label=_path(_text(_one_of(row, _LABEL), path, number)) or None,
        case=_text(_one_of(row, _CASE), path, number) or None,
        patient=_text(_one_of(row, _PATIENT), path, number) or None,
        annotated=tuple(_several(annotated, path, number)) if annotated not in (None, "") else None,
        test=_text(_one_of(row, _PART), path, number).casefold() in ("test", "ts", "testing"),
        line=number,
    )


def _image_columns(columns: Sequence[str]) -> list[str]:
    """``image``, or ``image_t1``, ``image_t2``, …, in the order of the table."""
    plain = [name for name in columns if name in _IMAGE]
    return plain or [name for name in columns if name.startswith(("image_", "image ", "img_")) and len(name) > 6]


def paths_of(row: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The images and the label of a row, by the names of its columns, where they are texts."""
    images, label = [row[name] for name in _image_columns(list(row))], _one_of(row, _LABEL)
    texts = [each for value in images for each in (value if isinstance(value, list) else str(value or "").split(";"))]
    named = [_path(text.strip()) for text in texts if isinstance(text, str) and text.strip()]
    return named, [_path(label.strip())] if isinstance(label, str) and label.strip() else []


def _channels(columns: Sequence[str]) -> tuple[str, ...]:
    """Names of the channels that the columns tell: ``image_t1`` is t1; numbers are no names."""
    named = [name for name in _image_columns(columns) if name not in _IMAGE]
    channels = tuple(name.partition("_")[2] or name.partition(" ")[2] for name in named)
    return () if any(not name or name.isdecimal() for name in channels) else channels


def _one_of(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if name in row), None)


def _text(value: Any, path: Path, number: int) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | list | dict):
        raise DocumentError(f"row {number} of the table holds {value!r} where a text is expected", file=path)
    return str(value).strip()


def _several(value: Any, path: Path, number: int) -> list[str]:
    """A list, or a text with semicolons."""
    if isinstance(value, list):
        return [_text(each, path, number) for each in value]
    return [part.strip() for part in _text(value, path, number).split(";") if part.strip()]


def _path(name: str) -> str:
    """With variables filled in and forward slashes."""
    filled = os.path.expandvars(name)
    return filled if os.name == "nt" else filled.replace("\\", "/")


def _ids(rows: Sequence[_Row]) -> list[str]:
    """The case's name where the table has one; else the image's, with as many of its folders as make it unique."""
    named = [row.case or "" for row in rows]
    stems = [str(PurePosixPath(row.label or row.images[0])) for row in rows]
    bare = [_bare(stem, "label" if row.label else "image") for stem, row in zip(stems, rows, strict=True)]
    for depth in range(1, 4):
        short = [plain_id("/".join(stem.strip("/").split("/")[-depth:])) for stem in bare]
        if max(Counter(short).values()) == 1:
            break
    return [name or id_ for name, id_ in zip(named, short, strict=True)]


def _bare(stem: str, role: Any) -> str:
    plain = split_ending(stem)[0]
    form = list(bare_forms(plain, role))[-1]
    return form.removesuffix("_0000") if role == "image" else form


def _unused(path: Path, columns: Sequence[str]) -> list[Finding]:
    used = {*_image_columns(columns), *_LABEL, *_PATIENT, *_CASE, *_ANNOTATED, *_PART}
    others = [name for name in columns if name not in used]
    if not others:
        return []
    return [
        Finding(
            severity="note",
            what="columns of the table that are passed over",
            file=str(path),
            found=", ".join(others),
            remedy="Nothing is to be done, unless one of them names images, labels or patients: rename it then.",
        )
    ]
