"""The program of a worker process: takes a task and items from its standard input, answers on its standard output.

What native libraries print goes to standard error instead. When the command ends, however it ends, the pipe ends, and so
does the worker, even in the middle of a case: everything is written atomically.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec

if sys.platform != "win32":
    import resource

from autoseg.machine import process_memory
from autoseg.processes.wire import (
    GREETING,
    Begin,
    Done,
    Ready,
    Reply,
    Request,
    Setup,
    Work,
    receive,
    send,
    sent,
    task_named,
    types_of,
)
from autoseg.values.json_form import decode

__all__ = ["main"]

#: Linux's prctl option: the signal that comes when the parent dies.
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Works until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's to answer
    requests, replies = _own_pipes()
    replies.write(GREETING)
    replies.flush()
    setup = receive(requests, Request)
    if not isinstance(setup, Setup):
        return
    sys.path[:] = [*setup.path, *(entry for entry in sys.path if entry not in setup.path)]
    _be_the_first_to_go(setup.parent)
    inbox: queue.SimpleQueue[Begin | Work] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, inbox), daemon=True).start()
    for module in setup.preload:
        with contextlib.suppress(ImportError):  # whoever needs it will say so
            importlib.import_module(module)
    _work(inbox, replies)


def _own_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """The two pipes under numbers of their own; whoever prints or reads from here on does not disturb them."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return requests, replies


def _be_the_first_to_go(parent: int | None) -> None:
    """Linux: dies with the command even while a library holds everything up; and rather than it when memory is short.

    No image of its memory is written when it crashes: that would take longer than the case.
    """
    if sys.platform != "linux":
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    if parent is not None:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


def _listen(requests: IO[bytes], inbox: queue.SimpleQueue[Begin | Work]) -> None:
    while True:
        message = receive(requests, Request)
        if message is None:
            os._exit(0)
        inbox.put(message)


def _work(inbox: queue.SimpleQueue[Begin | Work], replies: IO[bytes]) -> None:
    task: Callable[[Any], Any] | None = None
    kind: Any = None
    while True:
        message = inbox.get()
        reply: Reply
        if isinstance(message, Begin):
            try:
                task = task_named(message.name, bytes(message.task))
                kind, _ = types_of(task)
                reply = Ready()
            except Exception as error:  # whatever importing raises: the command hears of it
                reply = Ready(error=sent(error))
        else:
            assert task is not None, "an item came before its task"
            reply = _done(task, kind, message)
        try:
            _answer(replies, reply)
        except OSError:  # the command is gone
            os._exit(1)


def _answer(replies: IO[bytes], reply: Reply) -> None:
    try:
        send(replies, reply)
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError) as error:  # it has no JSON form
        told = sent(error)
        send(replies, Ready(error=told) if isinstance(reply, Ready) else Done(index=reply.index, error=told))


def _done(task: Callable[[Any], Any], kind: Any, work: Work) -> Done:
    try:
        result = msgspec.Raw(msgspec.json.encode(task(decode(kind, bytes(work.item)))))
        return Done(index=work.index, result=result, peak=_peak())
    except BaseException as error:  # sys.exit within a plug, too, costs its case only
        return Done(index=work.index, error=sent(error), peak=_peak())


def _peak() -> int | None:
    memory = process_memory()
    return None if memory is None else memory[1]


if __name__ == "__main__":
    main()
