"""What a person sees while a stage runs: a bar on a terminal, heartbeat lines in a log."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import click

from autoseg.cli.options import seconds
from autoseg.errors import counted
from autoseg.planning import GIBIBYTE

__all__ = ["TerminalLogger"]

HEARTBEAT_SECONDS = 20.0
#: A smaller share of the time that the device was busy is told.
LEAST_BUSY = 0.9
#: tqdm's own, but with the count of what is wholly done: within a case, progress has fractions.
BAR_FORMAT = "{l_bar}{bar}| {postfix[0]}/{total} [{elapsed}<{remaining}, {rate_fmt}{postfix[1]}]"
#: Of a run, whose jobs take unlike times: it tells itself how long the rest will take.
RUN_FORMAT = "{l_bar}{bar}| {postfix[0]}/{total} [{elapsed}{postfix[1]}]"


class TerminalLogger:
    """Shows events on standard error.

    Args:
        quiet: show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._stage, self._begin, self._last_line = "", 0.0, time.monotonic()
        self._state, self._first, self._share = "", 0.0, 0.0
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._interactive = sys.stderr.isatty()
        if not quiet and not self._interactive:
            threading.Thread(target=self._heartbeat, name="autoseg-heartbeat", daemon=True).start()

    def event(self, kind: str, **fields: Any) -> None:
        """Shows the event if it is one for people."""
        if self._quiet:
            return
        with self._lock:
            if kind == "progress":
                self._progress(fields["stage"], fields["done"], fields["total"], _detail(fields))
            elif kind == "message":
                self._line(str(fields["text"]))
            elif kind == "worker_lost":
                self._line(f"case {fields['case']}, {fields['stage']}: {fields['text']}")
            elif kind == "cases_at_once" and fields["memory_allows"] < fields["workers"]:
                self._line(f"{fields['stage']}: {fields['text']}")
            elif kind == "iterations" and not self._interactive:
                self._line(_iterations(fields))
            elif kind == "estimate":
                dice = ", ".join(map(_dice, fields["patch_dice"]))
                self._line(f"train: iteration {fields['iteration']}, Dice on patches of held-out cases {dice}")
            elif kind == "truth" and fields["scored"]:
                self._line(_truth(fields))
            elif kind == "validated":
                self._line(_validated(fields))
            elif kind == "execution":
                self._line(f"runs in {_path(fields)} ({fields['reason']})")
            elif kind == "busy" and fields["share"] < LEAST_BUSY:
                self._line(f"train: {1 - fields['share']:.0%} of the time was spent waiting for batches")
            elif kind == "expected":
                self._line(_expected(fields))
            elif kind == "resumed":
                self._line(f"goes on from iteration {fields['iteration']}")
            elif kind == "preprocessed":
                self._line(
                    f"preprocess {fields['configuration']}: {fields['made']} made, {fields['kept']} kept as they were"
                )
            elif kind == "case_failed":
                self._line(f"case {fields['case']} failed in {fields['stage']}: {fields['error']}")

    def close(self) -> None:
        """Ends the bar."""
        self._closed.set()
        with self._lock:
            self._end_bar()

    def _progress(self, stage: str, done: float, total: int, detail: str) -> None:
        if stage != self._stage:
            self._end_bar()
            self._stage, self._begin, self._first = stage, time.monotonic(), done
            self._last_line = self._begin if not self._interactive else self._last_line
        self._state = f"{stage}: {int(done)} of {total}" + (f", {detail}" if detail else "")
        self._share = (done - self._first) / max(total - self._first, 1)
        if self._interactive:
            self._advance_bar(stage, done, total, detail)
        elif done == total:
            self._line(f"{stage}: {total} of {total} in {seconds(time.monotonic() - self._begin)}")
        if done == total:
            self._end_bar()
            self._stage, self._state = "", ""

    def _advance_bar(self, stage: str, done: float, total: int, detail: str) -> None:
        from tqdm import tqdm

        if self._bar is None:
            begin = max(0, int(done) - 1)
            self._bar = tqdm(
                total=total,
                desc=stage,
                file=sys.stderr,
                dynamic_ncols=True,
                initial=begin,
                bar_format=RUN_FORMAT if stage == "run" else BAR_FORMAT,
                postfix=[0, ""],
            )
        self._bar.total = total  # a training may be ended early
        self._bar.postfix[:] = [int(done), f", {detail}" if detail else ""]
        self._bar.update(done - self._bar.n)

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            click.echo(text, err=True)

    def _heartbeat(self) -> None:
        """In a log, says every now and then that the work goes on, even while one case takes long."""
        while not self._closed.wait(1.0):
            with self._lock:
                if self._state and time.monotonic() - self._last_line > HEARTBEAT_SECONDS:
                    self._line(f"{self._state} after {seconds(time.monotonic() - self._begin)}{self._left()}")

    def _left(self) -> str:
        """How long the rest will take, if it goes on as it went since the stage was first told of."""
        if self._share <= 0 or "left" in self._state:
            return ""
        return f", about {seconds((time.monotonic() - self._begin) * (1 / self._share - 1))} left"


def _detail(fields: dict[str, Any]) -> str:
    """What is done now, and how long the rest of a run will take, where that is known."""
    detail, left = str(fields.get("detail", "")), fields.get("seconds_left")
    return detail if left is None else f"{detail}; about {seconds(left)} left"


def _truth(fields: dict[str, Any]) -> str:
    labels = ", ".join(f"{name} {_dice(dice)}" for name, dice in fields["label_dice"].items())
    behind = f"{fields['cases']} of {fields['held_out']}"
    return (
        f"train: iteration {fields['iteration']}, Dice on whole images {_dice(fields['dice'])} "
        f"({labels}; {behind} held-out cases)"
    )


def _validated(fields: dict[str, Any]) -> str:
    told = f"final Dice on whole images of all {fields['cases']} held-out cases {_dice(fields['dice'])}"
    if fields["last_truth"] is None:
        return told
    return f"{told}; the last while training was {_dice(fields['last_truth'])}, of {fields['last_truth_cases']} cases"


def _dice(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _iterations(fields: dict[str, Any]) -> str:
    known = fields["of"] is not None
    of, left = (f" of {fields['of']}", f", {seconds(fields['seconds_left'])} left") if known else ("", "")
    return (
        f"train: iteration {fields['iteration']}{of}, loss {fields['loss']:.3f}, "
        f"{fields['seconds_per_iteration']:.2f} s per iteration{left}"
    )


def _expected(fields: dict[str, Any]) -> str:
    folds = f"{fields['folds']} folds of {fields['configuration']}" if fields["folds"] > 1 else fields["configuration"]
    took = (
        "" if fields["seconds"] is None else f"about {seconds(fields['seconds'])} on this device ({fields['device']}), "
    )
    iterations, each = fields["iterations"], fields["iterations_per_epoch"]
    length = ""
    if iterations is not None:
        epochs, rest = divmod(iterations, each)
        length = f" for {iterations} iterations" if rest else f" for {counted(epochs, 'epoch')} of {each} iterations"
    return f"training {folds}{length} will take {took}up to {fields['disk_bytes'] / GIBIBYTE:.2g} GiB of disk"


def _path(fields: dict[str, Any]) -> str:
    parts = [
        fields["device"],
        fields["precision"],
        *(["channels-last"] if fields["channels_last"] else []),
        *(["compiled"] if fields["compiled"] else []),
    ]
    return " ".join(parts)
