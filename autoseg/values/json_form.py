"""The strict JSON form of every value: what is written can be read, and nothing else can.

A value is a frozen, keyword-only msgspec Struct that checks itself when it is made. Documents (values with a file of
their own) carry a schema name with a version; unknown fields, wrong types and broken rules are refused with the path of
the field. A document whose file leaves out what follows from the rest says how with ``file_form``.
"""

from __future__ import annotations

import hashlib
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import msgspec
import msgspec.inspect

from autoseg.errors import DocumentError, describe

__all__ = [
    "BrokenRuleError",
    "FileForm",
    "Value",
    "decode",
    "digest",
    "encode",
    "one_of",
    "require",
    "require_each",
    "require_file_name",
    "same_file_name",
]

_PLACE = re.compile(r"(?P<what>.*) - at `(?P<path>\$.*)`", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)
_STEP = re.compile(r"\.(?P<field>[^.\[]+)|\[[^\]]*\]")
#: Separators, wildcards, control characters, those that turn the direction of what is shown, and bytes that are no UTF-8.
_FORBIDDEN_IN_NAME = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
#: Names of devices on Windows, with any ending.
_DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\..*)?", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True, kw_only=True)
class FileForm:
    """How a document's file differs from the whole document; all three work on decoded JSON, whatever it holds.

    Attributes:
        expanded: the whole document of what a file holds; the same object where nothing is left out.
        condensed: what the file of a whole document holds; ``expanded`` undoes it.
        origin: where in the file the field stands that has this path in the whole document.
    """

    expanded: Callable[[Any], Any]
    condensed: Callable[[Any], Any]
    origin: Callable[[Any, str], str]


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Root of all values: frozen, self-checking in ``__post_init__``, one strict JSON form.

    Subclasses say ``frozen=True, kw_only=True`` themselves: msgspec does not hand ``kw_only`` down. A test sees to it.
    """

    file_form: ClassVar[FileForm | None] = None


class BrokenRuleError(ValueError):
    """A value breaks a rule of its own; ``decode`` tells the path of the field from it.

    Args:
        what: one sentence: what is wrong.
        field: its name, or its path within the value; empty for the value as a whole.
        found: what was found.
        expected: what is legal.
    """

    def __init__(self, what: str, *, field: str = "", found: object = None, expected: object = None) -> None:
        self.what, self.field, self.found, self.expected = what, field, found, expected
        super().__init__(describe(f"{field}: {what}" if field else what, found=found, expected=expected))


T = TypeVar("T")
_DECODERS: dict[Any, Any] = {}
_MAKING_DECODER = threading.Lock()


def require(condition: bool, what: str, *, field: str = "", found: object = None, expected: object = None) -> None:
    """Raises ``BrokenRuleError`` of these unless the condition holds; for the self-checks of values."""
    if not condition:
        raise BrokenRuleError(what, field=field, found=found, expected=expected)


def require_each(sizes: Iterable[float], what: str, least: int, most: int, *, field: str) -> None:
    """Raises ``BrokenRuleError`` unless every number lies within the bounds, which belong to what is legal."""
    for size in sizes:
        require(least <= size <= most, f"{what} out of range", field=field, found=size, expected=f"{least} to {most}")


def require_file_name(kind: str, name: str, *, field: str = "") -> None:
    """Raises ``ValueError`` unless the name can be that of a file or folder on every system, within its own folder."""
    length = len(name.encode(errors="surrogatepass"))
    require(0 < length <= 200, f"{kind} {name!r} is empty or too long", field=field)
    require(
        not _FORBIDDEN_IN_NAME.search(name) and name[0] not in ". " and name[-1] not in ". ",
        f'{kind} {name!r} is not usable as a file name (no / \\ : * ? " < > |, no leading or final dot or space)',
        field=field,
    )
    require(not _DEVICE.fullmatch(name), f"{kind} {name!r} is the name of a device on Windows", field=field)


def same_file_name(name: str) -> str:
    """Equal for two names that some system takes for one: letter case and composed characters do not tell them apart."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def one_of(choices: Iterable[object]) -> str:
    """What is legal, in words."""
    names = list(map(str, choices))
    return f"one of {', '.join(names)}" if len(names) > 1 else "".join(names)


def encode(value: Any) -> bytes:
    """The JSON form, indented, with a final newline; it can be read back.

    Raises:
        ValueError: the value holds a number that JSON cannot hold, such as NaN.
    """
    data = msgspec.json.encode(_as_read(value))
    if isinstance(value, Value) and value.file_form:
        data = msgspec.json.encode(value.file_form.condensed(msgspec.json.decode(data)))
    return msgspec.json.format(data, indent=1) + b"\n"


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
    form: FileForm | None = getattr(kind, "file_form", None)
    raw: Any = None
    try:
        if form:
            raw = msgspec.json.decode(data)
            whole = form.expanded(raw)
            data = data if whole is raw else msgspec.json.encode(whole)
        value = _decoder(kind).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BrokenRuleError) as error:
        what, found, expected = _explained(kind, error, (lambda path: form.origin(raw, path)) if form else str)
        raise DocumentError(
            f"this is not a valid {_name(kind)} document: {what}",
            file=source,
            found=found,
            expected=expected,
            remedy="Correct the field that is named" + (", or let autoseg write the file anew." if tag else "."),
        ) from error
    if tag is not None and msgspec.json.decode(data).get("schema") != tag:
        raise DocumentError("the document does not name its schema", file=source, expected=f'"schema": "{tag}"')
    return value


def digest(value: Any) -> str:
    """SHA-256 of the JSON form, in hexadecimal: equal values have equal digests, on every machine."""
    return hashlib.sha256(msgspec.json.encode(_as_read(value), order="deterministic")).hexdigest()


def _explained(kind: Any, error: Exception, origin: Callable[[str], str]) -> tuple[str, object, object]:
    """What is wrong and at which field of the file, what was found there, and what is legal where the type tells."""
    place = _PLACE.fullmatch(str(error))
    what, path = place.group("what", "path") if place else (str(error), "$")
    rule = error if isinstance(error, BrokenRuleError) else error.__cause__
    if isinstance(rule, BrokenRuleError):  # of an object with several fields, only one of which is to be named
        path = origin(path) + (f".{rule.field}" if rule.field else "")
        return _at(rule.what, path), rule.found, rule.expected
    choices = _choices(kind, path)
    unknown = _UNKNOWN_FIELD.fullmatch(what)
    if unknown:
        return _at(what, origin(f"{path}.{unknown['field']}")), None, one_of(choices)
    return _at(what, origin(path)), None, one_of(choices) if what.startswith("Invalid enum value") else None


def _at(what: str, path: str) -> str:
    return what if path == "$" else f"{what} - at `{path}`"


def _choices(kind: Any, path: str) -> tuple[object, ...]:
    """The fields of the object at a path, or the values of a choice there."""
    node: Any = msgspec.inspect.type_info(kind)
    for step in _STEP.finditer(path):
        name = step["field"]
        if name:
            node = next((field.type for field in getattr(node, "fields", ()) if field.encode_name == name), None)
        else:
            node = getattr(node, "item_type", None) or getattr(node, "value_type", None)
        if isinstance(node, msgspec.inspect.UnionType):  # something or None
            node = next(kind for kind in node.types if not isinstance(kind, msgspec.inspect.NoneType))
    if isinstance(node, msgspec.inspect.StructType):
        return tuple(field.encode_name for field in node.fields)
    return tuple(getattr(node, "values", ()))


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
