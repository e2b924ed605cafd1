"""``autoseg replay``."""

from __future__ import annotations

from pathlib import Path

import click

from autoseg.cli import options

__all__ = ["replay"]


@click.command()
@click.argument("configuration")
@click.argument("fold")
@click.argument("iteration", type=click.IntRange(min=0), required=False)
@click.option("-o", "target", required=True, type=click.Path(file_okay=False, path_type=Path), help="A new folder.")
@options.workspace
@options.plan_name
@options.as_json
def replay(
    configuration: str,
    fold: str,
    iteration: int | None,
    target: Path,
    workspace_path: Path,
    plan_name: str | None,
    as_json: bool,
) -> None:
    """Make the batch of an ITERATION of a training again, to look at what the network gets.

    Writes a picture, the images and labels of every sample after augmentation, and all that was drawn for them. Iterations
    are counted from 0, as in the log. Without one, it is the batch whose loss was not a number, if there was one.

    Example: autoseg replay 3d_fullres 0 120 -o batch120
    """
    from autoseg import pipeline
    from autoseg.cli.session import session
    from autoseg.cli.tables import table

    with session(workspace_path, "replay", quiet=as_json) as (workspace, logger):
        made = pipeline.replay(
            workspace, configuration, fold, target, iteration=iteration, plan_name=plan_name, logger=logger
        )
    if as_json:
        samples = [{"case": case, "made": told} for case, told in made.samples]
        return options.print_json({"iteration": made.iteration, "picture": str(made.picture), "samples": samples})
    click.echo(f"Iteration {made.iteration} of {configuration}, fold {fold}:")
    rows = [[str(place), case, told] for place, (case, told) in enumerate(made.samples)]
    click.echo(table([["sample", "case", "what was done"], *rows]))
    click.echo(f"Written: {made.picture}, batch.json, and the images and labels of every sample")
