"""What goes through the pipes between a command and its workers: JSON with its length before it, and errors as data.

Nothing is unpickled: a worker is told the name of a task's class and its JSON form, and answers with JSON. An error of
ours is rebuilt with all its fields and its exit code; one of Python's own with its type; any other keeps the name of its
type. Where it came from travels as a note, which stands in the event log and not in what the user sees.
"""

from __future__ import annotations

import builtins
import importlib
import struct
import traceback
import typing
from collections.abc import Callable
from typing import IO, Any

import msgspec

from autoseg import errors
from autoseg.errors import CasesFailedError, FindingsError, InputError
from autoseg.values.finding import Finding
from autoseg.values.json_form import Value, decode

__all__ = [
    "GREETING",
    "Begin",
    "Done",
    "ForeignError",
    "ProtocolError",
    "Ready",
    "Reply",
    "Request",
    "SentError",
    "Setup",
    "Work",
    "cleaned",
    "encoded",
    "greeted",
    "rebuilt",
    "receive",
    "send",
    "sent",
    "task_name",
    "task_named",
    "types_of",
]

LENGTH = struct.Struct(">Q")
#: A longer message is none of ours.
LONGEST = 2**36
#: The first word of a worker; what comes before it was printed while its interpreter started.
GREETING = b"\x00\xffautoseg worker\xff\x00"
#: Bytes of such noise that are heard before a worker is given up.
MOST_NOISE = 2**17
#: Frames of the last calls that are kept of a foreign error's way.
TRACEBACK_CHARACTERS = 4000


class Setup(Value, frozen=True, kw_only=True, tag="setup"):
    """The first request: where modules are found, what to import already, and whose end is the worker's end."""

    path: tuple[str, ...]
    preload: tuple[str, ...]
    parent: int | None


class Begin(Value, frozen=True, kw_only=True, tag="begin"):
    """A task to be done on items; answered with Ready."""

    name: str
    task: msgspec.Raw


class Work(Value, frozen=True, kw_only=True, tag="work"):
    """An item; answered with Done."""

    index: int
    item: msgspec.Raw


class SentError(Value, frozen=True, kw_only=True):
    """An error as data."""

    kind: str
    text: str
    fields: dict[str, Any] = {}
    findings: tuple[Finding, ...] = ()
    origin: str = ""
    failures: dict[str, SentError] = {}


class Ready(Value, frozen=True, kw_only=True, tag="ready"):
    """The task is loaded, or cannot be."""

    error: SentError | None = None


class Done(Value, frozen=True, kw_only=True, tag="done"):
    """What became of an item; ``peak``: the most bytes that the worker has held so far."""

    index: int
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: SentError | None = None
    peak: int | None = None


Request = Setup | Begin | Work
Reply = Ready | Done


class ProtocolError(Exception):
    """The other side does not speak as we do."""


def send(stream: IO[bytes], message: Request | Reply) -> None:
    """Writes one message.

    Raises:
        OSError: the other side is gone.
    """
    data = msgspec.json.encode(message)
    stream.write(LENGTH.pack(len(data)) + data)
    stream.flush()


def receive(stream: IO[bytes], kind: Any) -> Any:
    """The next message of a kind, or None at the end; a message that a death cut short is the end, too.

    Raises:
        ProtocolError: no message is so long.
        DocumentError: it is no message of the kind.
    """
    try:
        head = stream.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        size = LENGTH.unpack(head)[0]
        data = stream.read(size) if 0 < size <= LONGEST else None
    except (OSError, ValueError):  # the pipe was closed under us
        return None
    if data is None:
        raise ProtocolError(f"a message cannot be {size} bytes long")
    return decode(kind, data) if len(data) == size else None


def greeted(stream: IO[bytes]) -> bytes | None:
    """Skips what stands before a worker's greeting, and returns it; None if the stream ends without a greeting.

    Raises:
        ProtocolError: too much stands before it.
    """
    heard = bytearray()
    try:
        while not heard.endswith(GREETING):
            byte = stream.read(1)
            if not byte:
                return None
            heard += byte
            if len(heard) > MOST_NOISE + len(GREETING):
                raise ProtocolError("a worker prints without end before it greets")
    except (OSError, ValueError):  # the pipe was closed under us
        return None
    return bytes(heard[: -len(GREETING)])


def task_name(task: object) -> str:
    """``module:Class`` of a task.

    Raises:
        TypeError: it cannot go to another process: no value, or of a class that nobody could import there.
    """
    kind = type(task)
    if not isinstance(task, Value):
        raise TypeError(f"{kind.__qualname__} cannot go to a worker process: a task must be a Value (autoseg.values)")
    if "." in kind.__qualname__ or kind.__module__ == "__main__":
        raise TypeError(f"{kind.__module__}.{kind.__qualname__} must be at the top of a module that can be imported")
    return f"{kind.__module__}:{kind.__qualname__}"


def task_named(name: str, form: bytes) -> Callable[[Any], Any]:
    """The task of a name and its JSON form."""
    module, _, attribute = name.partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    if not (isinstance(kind, type) and issubclass(kind, Value)):
        raise TypeError(f"{name} is no Value")
    task: Any = decode(kind, form)
    return task


def types_of(task: Callable[[Any], Any]) -> tuple[Any, Any]:
    """The types of a task's items and results, as its ``__call__`` states them."""
    hints = typing.get_type_hints(type(task).__call__)
    result = hints.pop("return")
    if len(hints) != 1:
        raise TypeError(f"{type(task).__qualname__}.__call__ must take one item of a stated type")
    return next(iter(hints.values())), result


class ForeignError(Exception):
    """An error of a worker whose type is neither ours nor Python's; a subclass carries that type's name."""


def cleaned(text: str) -> str:
    """The text with bytes that are no UTF-8, of a file's name for example, as escapes."""
    return text.encode(errors="backslashreplace").decode()


def encoded(value: object, name: str) -> msgspec.Raw:
    """The JSON form of a task or an item, for a worker.

    Raises:
        InputError: it has none: a path is no UTF-8, or a number too large.
    """
    try:
        return msgspec.Raw(msgspec.json.encode(value))
    except (ValueError, OverflowError, TypeError, RecursionError, msgspec.MsgspecError) as error:
        raise InputError(
            f"{cleaned(name)} cannot be handed to a worker process: {cleaned(str(error))}",
            remedy="Give its files and folders names that are UTF-8.",
        ) from error


def _plain(value: object, *kinds: type) -> Any:
    """What JSON can hold of a value; a text of what it cannot."""
    if value is None or (isinstance(value, kinds) and not isinstance(value, str | int)):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    return _text(value)


def _text(value: object) -> str:
    try:
        return cleaned(str(value))
    except Exception:  # an error whose own text fails
        return type(value).__name__


def _plain_finding(finding: Finding) -> Finding:
    fields = msgspec.structs.asdict(finding)
    return msgspec.structs.replace(
        finding, **{name: cleaned(text) for name, text in fields.items() if isinstance(text, str)}
    )


def sent(error: BaseException) -> SentError:
    """An error as data that can always be encoded."""
    origin = cleaned("".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:])
    for kind in type(error).__mro__:
        if kind.__name__ in errors.__all__ and kind.__module__ == errors.__name__:
            fields = {
                name: _plain(value) for name, value in vars(error).items() if name not in ("findings", "failures")
            }
            findings = tuple(error.findings) if isinstance(error, FindingsError) else ()
            failures = error.failures if isinstance(error, CasesFailedError) else {}
            return SentError(
                kind=f"autoseg:{kind.__name__}",
                text=_text(error),
                fields=fields,
                findings=tuple(_plain_finding(each) for each in findings if isinstance(each, Finding)),
                failures={_text(case): sent(each) for case, each in failures.items()},
            )
    arguments = [_plain(each, float) for each in error.args]
    if isinstance(error, OSError) and error.filename is not None:
        arguments = [error.errno, _plain(error.strerror), _text(error.filename)]
    module = "builtins" if type(error).__module__ == "builtins" else "foreign"
    return SentError(
        kind=f"{module}:{type(error).__name__}",
        text=_text(error),
        fields={"arguments": arguments},
        origin=origin,
    )


def rebuilt(error: SentError) -> Exception:
    """The error again, with its fields; where it came from is a note."""
    home, _, name = error.kind.partition(":")
    if home == "autoseg" and name in errors.__all__:
        kind: type[Exception] = getattr(errors, name)
        ours = kind.__new__(kind)
        Exception.__init__(ours, error.text)
        vars(ours).update(error.fields)
        if isinstance(ours, FindingsError):
            ours.findings = error.findings
        if isinstance(ours, CasesFailedError):
            ours.failures = {case: rebuilt(each) for case, each in error.failures.items()}
        return ours
    again: Exception | None = None
    kind = getattr(builtins, name, Exception)
    if home == "builtins" and isinstance(kind, type) and issubclass(kind, Exception):
        try:
            again = kind(*error.fields.get("arguments", ()))
        except TypeError:  # not made from its arguments alone, such as a decoding error
            again = None
    if again is None or str(again) != error.text:
        again = type(name, (ForeignError,), {})(error.text)
    again.add_note(f"in a worker process:\n{error.origin}")
    return again
