"""What goes through the pipes: whole messages or the end, and errors that are the same on the other side."""

from __future__ import annotations

import io
import json
from pathlib import Path

import msgspec
import pytest

from autoseg import errors
from autoseg.errors import (
    AutosegError,
    CasesFailedError,
    FindingsError,
    InputError,
    InterruptedRunError,
    MissingPartError,
    TooLargeError,
    WorkerLostError,
)
from autoseg.processes.wire import (
    Done,
    ProtocolError,
    Ready,
    Reply,
    Request,
    SentError,
    Work,
    rebuilt,
    receive,
    send,
    sent,
)
from autoseg.values import Finding, decode, encode

OURS = [
    InputError("wrong", case="a", file=Path("x/y.nii"), found=(1, 2), expected=[3], remedy="Do."),
    *(
        getattr(errors, name)("wrong", file="f", found="1")
        for name in ("DocumentError", "UnknownNameError", "UnreadableFileError")
    ),
    FindingsError(
        "two", [Finding(severity="error", what="one", case="c", found="3"), Finding(severity="note", what="b")]
    ),
    MissingPartError("install it"),
    TooLargeError("a", "preprocess 2d", 2**40, 2**30),
    WorkerLostError("crashed", case="a", stage="read", signal="SIGSEGV", memory=2**29, remedy="Look.", output="oh"),
    InterruptedRunError("stopped"),
]


def there(error: BaseException) -> Exception:
    """The error on the other side."""
    return rebuilt(decode(SentError, encode(sent(error))))


@pytest.mark.parametrize("error", OURS, ids=lambda error: type(error).__name__)
def test_an_error_of_ours_is_the_same_on_the_other_side(error: AutosegError) -> None:
    again = there(error)
    assert type(again) is type(error)
    assert (str(again), again.exit_code) == (str(error), error.exit_code)
    plain = {name: value for name, value in vars(error).items() if isinstance(value, str | int | None)}
    assert {name: vars(again)[name] for name in plain} == plain
    assert vars(again).keys() == vars(error).keys()
    for name in vars(error).keys() - plain.keys() - {"findings"}:
        assert vars(again)[name] == str(vars(error)[name])
    if isinstance(error, FindingsError):
        assert again.findings == error.findings
    assert not hasattr(again, "__notes__")


def test_the_failures_of_cases_come_along() -> None:
    error = CasesFailedError("read", {"a": InputError("wrong", case="a"), "b": ZeroDivisionError("by zero")}, 0)
    again = there(error)
    assert isinstance(again, CasesFailedError)
    assert {case: (type(each), str(each)) for case, each in again.failures.items()} == {
        "a": (InputError, "case a: wrong"),
        "b": (ZeroDivisionError, "by zero"),
    }
    assert (again.exit_code, again.done, str(again)) == (1, 0, str(error))


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("bad file \udcff"), r"bad file \udcff"),
        (InputError("wrong", file="x\udcff.nii", found="\ud800"), r"wrong; found \ud800 [x\udcff.nii]"),
        (FileNotFoundError(2, "No such file", "\udcff"), r"[Errno 2] No such file: '\udcff'"),
        (FindingsError("one", [Finding(severity="error", what="a \udcff")]), "one\n  - error: a \\udcff"),
        (ValueError(10**30), str(10**30)),
        (MuteError(), "MuteError"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_every_error_can_be_sent(error: Exception, text: str) -> None:
    assert str(there(error)).replace("\\\\", "\\") == text


def test_a_length_that_no_message_has_is_no_end() -> None:
    for head in (b"\xff" * 8, b"\0" * 8):
        with pytest.raises(ProtocolError):
            receive(io.BytesIO(head + b"{}"), Reply)


def test_a_plugs_own_kind_of_input_error_is_an_input_error() -> None:
    class PlugError(InputError):
        pass

    again = there(PlugError("wrong", case="a"))
    assert (type(again), str(again), again.case) == (InputError, "case a: wrong", "a")


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("division by zero"),
        KeyError("name"),
        OSError(28, "No space left on device", "f"),
        MemoryError(),
    ],
    ids=repr,
)
def test_an_error_of_python_keeps_its_type_and_text(error: Exception) -> None:
    again = there(error)
    assert (type(again), str(again)) == (type(error), str(error))
    if isinstance(error, OSError):
        assert (again.errno, again.filename) == (28, "f")


def test_messages_arrive_in_order_and_whole() -> None:
    stream = io.BytesIO()
    messages = [
        Ready(),
        Done(index=3, result=msgspec.Raw(json.dumps({"a": ["ü", 1.5]}).encode()), peak=5),
        Done(index=4, error=sent(ValueError("x" * 70_000))),
    ]
    for message in messages:
        send(stream, message)
    stream.seek(0)
    assert [receive(stream, Reply) for _ in messages] == messages
    assert receive(stream, Reply) is None


def test_a_message_that_a_death_cut_short_is_the_end() -> None:
    stream = io.BytesIO()
    send(stream, Work(index=1, item=msgspec.Raw(b"[1,2,3]")))
    whole = stream.getvalue()
    for length in range(len(whole)):
        assert receive(io.BytesIO(whole[:length]), Request) is None
    assert receive(io.BytesIO(whole), Request) == Work(index=1, item=msgspec.Raw(b"[1,2,3]"))
