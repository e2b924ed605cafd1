"""Showing what was understood of a data set, and asking where it was guessed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from autoseg.errors import InputError

if TYPE_CHECKING:
    from autoseg.values import Dataset, Finding

__all__ = ["shown_and_confirmed"]


def shown_and_confirmed(*, yes: bool, quiet: bool) -> Callable[[Dataset, Sequence[Finding]], None]:
    """Shows what was understood of a data set; on a terminal, asks whether that is right where something was guessed."""

    def understood(dataset: Dataset, findings: Sequence[Finding]) -> None:
        from autoseg.io.layouts import describe_dataset

        asks = bool(dataset.inferred) and not yes and not quiet and sys.stdin.isatty() and sys.stdout.isatty()
        if not quiet:
            click.echo(describe_dataset(dataset, findings) + "\n")
        if asks:
            click.echo("Is that right? [Y/n]", nl=False)  # the prompt itself may go to standard error
        if asks and not click.confirm("", default=True, prompt_suffix="", show_default=False):
            raise InputError(
                "the data set is to be understood otherwise",
                file=dataset.root,
                remedy="Name its files in a table (CSV with the columns image and label, one row per case), or state in "
                "autoseg.json (or dataset.json) what was guessed; --channel-names names the channels.",
            )

    return understood
