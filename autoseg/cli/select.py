"""``autoseg select``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from autoseg.cli import options

__all__ = ["select"]


@click.command()
@options.workspace
@options.plan_name
@click.option("--configurations", metavar="NAME,…", help="Compare only these, and their ensembles; all by default.")
@click.option(
    "--rule",
    type=click.Choice(["regret", "nnunet"]),
    default="regret",
    show_default=True,
    help="The cheapest that is surely less than the margin behind the best; or, as nnU-Net, the highest mean.",
)
@click.option(
    "--margin",
    type=click.FloatRange(min=0, max=100),
    default=0.5,
    show_default=True,
    help="In Dice points: what is less than that is no difference.",
)
@options.workers
@options.as_json
def select(
    workspace_path: Path,
    plan_name: str | None,
    configurations: str | None,
    rule: Literal["regret", "nnunet"],
    margin: float,
    workers: int | None,
    as_json: bool,
) -> None:
    """Choose the configuration or ensemble that predicts from now on, and say how sure that is.

    Compares all that is trained and scored, and all ensembles of it, on the cases that were held out; decides which small
    components are removed. No network is run, and what is known already is not computed again.

    Example: autoseg select --configurations 2d,3d_fullres
    """
    from autoseg import pipeline
    from autoseg.cli.session import case_executor, session, stop_on_signals
    from autoseg.cli.tables import selection_text
    from autoseg.files import read_document
    from autoseg.held_out_files import SelectionFiles
    from autoseg.values import Postprocessing, SelectionRule

    with (
        session(workspace_path, "select", quiet=as_json) as (workspace, logger),
        case_executor(workers, logger) as executor,
        stop_on_signals() as stop,
    ):
        selection = pipeline.select_best(
            workspace,
            plan_name=plan_name,
            configurations=tuple(filter(None, map(str.strip, (configurations or "").split(",")))),
            rule=SelectionRule(name=rule, margin=margin / 100),
            executor=executor,
            logger=logger,
            stop=stop,
        )
    if as_json:
        return options.print_json(selection)
    files = SelectionFiles(workspace.model(plan_name))
    click.echo(selection_text(selection, read_document(Postprocessing, files.postprocessing)))
    click.echo(f"Written: {files.selection} and {files.postprocessing.name}")
    click.echo(options.next_command("predict -i IMAGES -o PREDICTIONS", workspace_path))
    click.echo(f"To share the model: {options.in_workspace('export -o model.zip', workspace_path)}")
