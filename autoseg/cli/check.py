"""``autoseg check``: everything that is wrong with a data set, at once, and what can be done about it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from autoseg.cli import options

__all__ = ["check", "fix_option"]

F = TypeVar("F", bound=Callable[..., Any])

fix_option: Callable[[F], F] = click.option(
    "--fix/--no-fix",
    "fix",
    default=None,
    help="Do the safe fixes: label files are written anew, into the workspace. --no-fix forgets earlier ones. By default "
    "earlier ones are kept.",
)


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@options.workspace
@fix_option
@options.workers
@options.as_json
def check(dataset: Path, workspace_path: Path, fix: bool | None, workers: int | None, as_json: bool) -> None:
    """Read all of DATASET and tell everything that is wrong with it.

    Exit code 2 if anything is an error, else 0. DATASET is never written to. `plan` checks likewise.

    Example: autoseg check Dataset004_Hippocampus --fix
    """
    from autoseg.cli.session import case_executor, session

    with (
        session(workspace_path, "check", quiet=as_json) as (workspace, logger),
        case_executor(workers, logger, preload=["autoseg.measuring"]) as executor,
    ):
        from autoseg import pipeline  # while the first worker is starting

        report = pipeline.check_dataset(dataset, workspace, fix=fix, executor=executor, logger=logger).report
    from autoseg.values import findings_text

    if as_json:
        options.print_json(report)
    else:
        if report.findings:
            click.echo(findings_text(report.findings))
        click.echo(report.summary)
        if not report.count("error"):
            click.echo(options.next_command(f"plan {options.quoted(dataset)}", workspace_path))
    if report.count("error"):
        sys.exit(2)
