"""The strict JSON form of every value: what is written can be read, and nothing else can.

A value is a frozen, keyword-only msgspec Struct that checks itself when it is made. Documents (values with a file of
their own) carry a schema name with a version; unknown fields, wrong types and broken rules are refused with the path of
the field.
"""

from __future__ import annotations

import hashlib
import re
import threading
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from autoseg.errors import DocumentError

__all__ = ["Value", "decode", "digest", "encode", "require", "require_file_name"]

_FORBIDDEN_IN_NAME = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Root of all values: frozen, self-checking in ``__post_init__``, one strict JSON form.

    Subclasses say ``frozen=True, kw_only=True`` themselves: msgspec does not hand ``kw_only`` down. A test sees to it.
    """


T = TypeVar("T")
_DECODERS: dict[Any, Any] = {}
_MAKING_DECODER = threading.Lock()


def require(condition: bool, message: str) -> None:
    """Raises ``ValueError`` with the message unless the condition holds; for the self-checks of values."""
    if not condition:
        raise ValueError(message)


def require_file_name(kind: str, name: str) -> None:
    """Raises ``ValueError`` unless the name can be that of a file or folder on every system, within its own folder."""
    require(bool(name) and len(name.encode()) <= 200, f"{kind} {name!r} is empty or too long")
    require(
        not _FORBIDDEN_IN_NAME.search(name) and name[0] not in ". " and name[-1] not in ". ",
        f'{kind} {name!r} is not usable as a file name (no / \\ : * ? " < > |, no leading or final dot or space)',
    )


def encode(value: Any) -> bytes:
    """The JSON form, indented, with a final newline; it can be read back.

    Raises:
        ValueError: the value holds a number that JSON cannot hold, such as NaN.
    """
    return msgspec.json.format(msgspec.json.encode(_as_read(value)), indent=1) + b"\n"


def decode(kind: type[T], data: bytes | str, *, source: Path | str | None = None) -> T:
    """Reads a value from its JSON form.

    Args:
        kind: the type to read.
        data: the JSON text.
        source: the file or object it came from, for the message.

    Raises:
        DocumentError: not JSON, an unknown or missing field, a wrong type, a broken rule or another schema.
    """
    data = data.encode() if isinstance(data, str) else data
    data = data.removeprefix(b"\xef\xbb\xbf")  # a byte-order mark, as some editors write
    tag = getattr(getattr(kind, "__struct_config__", None), "tag", None)
    try:
        value = _decoder(kind).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentError(
            f"this is not a valid {_name(kind)} document: {error}",
            file=source,
            remedy="Correct the field that is named" + (", or let autoseg write the file anew." if tag else "."),
        ) from error
    if tag is not None and msgspec.json.decode(data).get("schema") != tag:
        raise DocumentError("the document does not name its schema", file=source, expected=f'"schema": "{tag}"')
    return value


def digest(value: Any) -> str:
    """SHA-256 of the JSON form, in hexadecimal: equal values have equal digests, on every machine."""
    return hashlib.sha256(msgspec.json.encode(_as_read(value), order="deterministic")).hexdigest()


def _as_read(value: Any) -> Any:
    """The value as reading its JSON form gives it: an integer in a field of numbers becomes a float."""
    if not isinstance(value, Value):
        return value
    return _decoder(type(value)).decode(msgspec.json.encode(value))


def _decoder(kind: Any) -> Any:
    """The decoder of a type, made once and by one thread alone: two that make the same one at once crash the process."""
    with _MAKING_DECODER:
        if kind not in _DECODERS:
            _DECODERS[kind] = msgspec.json.Decoder(kind)
        return _DECODERS[kind]


def _name(kind: Any) -> str:
    arguments = " of ".join(_name(argument) for argument in get_args(kind) if argument is not ...)
    name = getattr(kind, "__name__", str(kind))
    return f"{name} of {arguments}" if arguments else name.lstrip("_")
