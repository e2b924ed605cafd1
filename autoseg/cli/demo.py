"""``autoseg demo``."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["demo"]


@click.command()
@click.option(
    "-o",
    "folder",
    default="autoseg-demo",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the phantoms, the workspace, the predictions and the picture.",
)
def demo(folder: Path) -> None:
    """Show the whole way on synthetic scans: plan, train, predict, evaluate; nothing is downloaded.

    Takes a few minutes on two cores. Repeating it goes on where it stopped.

    Example: autoseg demo
    """
    from autoseg.cli.session import session
    from autoseg.cli.tables import summary_text, table
    from autoseg.demo import run_demo

    folder.mkdir(parents=True, exist_ok=True)
    with session(folder / "autoseg-workspace", "demo") as (workspace, logger):
        result = run_demo(folder, workspace, logger)
    rows = [["configuration", "Dice of held-out phantoms", ""]]
    rows += [
        [name, f"{dice:.4f}", "chosen" if name == result.chosen else ""] for name, dice in result.validation.items()
    ]
    click.echo(f"\n{table(rows)}\n\nNew phantoms, predicted by {result.chosen}:\n{summary_text(result.test)}\n")
    click.echo(f"Picture (image, reference, prediction): {result.overlay}")
    click.echo("Next: autoseg plan YOUR_DATASET")
