"""Fields of a description that nobody reads: refused where the file is autoseg's own, told where one looks misspelled."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from autoseg.errors import DocumentError
from autoseg.values import Finding

__all__ = ["near_misses", "refuse_unknown"]

#: How alike two names are, of 1, to be taken for one.
_ALIKE, _VERY_ALIKE = 0.65, 0.8


def refuse_unknown(data: bytes, fields: Mapping[str, Sequence[str]], file: Path) -> None:
    """Sees to it that an object has known fields only.

    Args:
        data: JSON.
        fields: the known ones, of the whole at "" and of the objects in a field at its name.
        file: for the message.

    Raises:
        DocumentError: a field is unknown.
    """
    for path, name, known in _unknown(_object(data), fields):
        near = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=_ALIKE)
        raise DocumentError(
            f"{file.name} has an unknown field `{path}`",
            file=file,
            expected=f"{near[0]}, perhaps; the fields are {', '.join(known)}" if near else f"one of {', '.join(known)}",
            remedy="Correct its name, or remove it; dataset.json may hold other fields.",
        )


def near_misses(data: bytes, known: Sequence[str], file: Path) -> list[Finding]:
    """Warnings about fields that are almost called like known ones."""
    findings = []
    for name in _object(data):
        near = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=_VERY_ALIKE)
        if near and name not in known:
            findings.append(
                Finding(
                    severity="warning",
                    what="a field looks misspelled and is not read",
                    file=file.name,
                    found=name,
                    expected=near[0],
                    remedy="Correct its name, or state it in autoseg.json; or nothing, if it means something else.",
                )
            )
    return findings


def _object(data: bytes) -> dict[str, Any]:
    document = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
    return document if isinstance(document, dict) else {}


def _unknown(
    document: Mapping[str, Any], fields: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Path and name of each unknown field, with those that are known there."""
    for name, value in document.items():
        if name not in fields[""]:
            yield name, name, fields[""]
        elif name in fields:
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            for key, entry in entries:
                for inner in entry if isinstance(entry, dict) else ():
                    if inner not in fields[name]:
                        path = f"{name}.{key}.{inner}" if isinstance(key, str) else f"{name}[{key}].{inner}"
                        yield path, inner, fields[name]
