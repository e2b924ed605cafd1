"""``autoseg convert``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoseg.cli import options
from autoseg.cli.confirmation import shown_and_confirmed
from autoseg.cli.wishes import read_names

if TYPE_CHECKING:
    from autoseg.conversion import Converted

__all__ = ["convert"]


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--to", "layout", type=click.Choice(["nnunet"]), default="nnunet", show_default=True, help="The layout.")
@click.option("--channel-names", help="Names of the channels, in order, with commas.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask whether the data was understood rightly.")
@options.workers
def convert(source: Path, target: Path, layout: str, channel_names: str | None, yes: bool, workers: int | None) -> None:
    """Write SOURCE, a data set in any layout, as TARGET in nnU-Net's.

    Files with several channels are divided, DICOM series become .nii.gz, labels with gaps become 1, 2, 3, … (which became
    which stands in conversion.json). Repeating the command goes on where it stopped, and redoes what has changed.

    Example: autoseg convert my_scans Dataset042_Liver
    """
    from autoseg.cli.session import case_executor
    from autoseg.cli.terminal import TerminalLogger

    logger = TerminalLogger()
    try:
        with case_executor(workers, logger, preload=["autoseg.case_conversion"]) as executor:
            from autoseg.conversion import convert_dataset  # while the first worker is starting

            converted = convert_dataset(
                source,
                target,
                channel_names=read_names((channel_names,)) if channel_names else (),
                understood=shown_and_confirmed(yes=yes, quiet=False),
                executor=executor,
                logger=logger,
            )
    finally:
        logger.close()
    _show(converted)


def _show(converted: Converted) -> None:
    for finding in converted.findings:
        click.echo(str(finding))
    changed = {before: after for before, after in converted.integers.items() if before != after}
    if changed:
        click.echo("integers of labels: " + ", ".join(f"{before} -> {after}" for before, after in changed.items()))
    click.echo(
        f"{converted.training} training cases and {converted.test} others in {converted.path}; {converted.made} written now"
    )
    if not converted.path.name.startswith("Dataset"):
        click.echo("nnU-Net itself wants a folder called Dataset001_Name, with a number of three digits")
    click.echo(f"Next: autoseg plan {shlex.quote(str(converted.path))}")
