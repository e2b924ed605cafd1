"""Options that several commands share."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = [
    "as_json",
    "device",
    "in_workspace",
    "next_command",
    "plan_name",
    "print_json",
    "quoted",
    "seconds",
    "workers",
    "workspace",
]

DEFAULT_WORKSPACE = "autoseg-workspace"

F = TypeVar("F", bound=Callable[..., Any])

workspace: Callable[[F], F] = click.option(
    "-w",
    "--workspace",
    "workspace_path",
    envvar="AUTOSEG_WORKSPACE",
    default=DEFAULT_WORKSPACE,
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that keeps everything made from one data set.",
)
plan_name: Callable[[F], F] = click.option(
    "--plan", "plan_name", help="Name of the plan; the last one made by default."
)
device: Callable[[F], F] = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
as_json: Callable[[F], F] = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


workers: Callable[[F], F] = click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Cases at once at most, each in a process of its own, so that a crash costs one case; 0: in this process, without "
    "that. By default as many as there are processors; in any case no more than memory allows.",
)


def next_command(command: str, workspace_path: Path) -> str:
    """The line that tells what to type next."""
    return f"Next: {in_workspace(command, workspace_path)}"


def in_workspace(command: str, workspace_path: Path) -> str:
    """A command as it is to be typed; names the workspace if it is not the usual one."""
    named = "" if str(workspace_path) == DEFAULT_WORKSPACE else f" -w {shlex.quote(str(workspace_path))}"
    return f"autoseg {command}{named}"


def quoted(path: Path) -> str:
    """A path as it is to be typed."""
    return shlex.quote(str(path))


def print_json(value: object) -> None:
    """Prints a value's JSON form."""
    from autoseg.values import encode

    click.echo(encode(value).decode(), nl=False)


def seconds(duration: float) -> str:
    """A duration for people: ``45 s``, ``12 min``, ``3.5 h``, ``2.5 days``."""
    if duration < 90:
        return f"{duration:.0f} s"
    if duration < 90 * 60:
        return f"{duration / 60:.0f} min"
    return f"{duration / 3600:.1f} h" if duration < 48 * 3600 else f"{duration / 86400:.1f} days"
