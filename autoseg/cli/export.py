"""``autoseg export``."""

from __future__ import annotations

from pathlib import Path

import click

from autoseg.cli import options

__all__ = ["export"]


@click.command()
@click.option(
    "-o",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    help="A new folder, or an archive if it ends in .zip.",
)
@options.workspace
@options.plan_name
@click.option("-c", "--configuration", help="Its model; by default what was selected, or else the best one.")
@click.option("-f", "--fold", "folds", multiple=True, help="Only this fold; may be repeated. All trained by default.")
@options.as_json
def export(
    target: Path,
    workspace_path: Path,
    plan_name: str | None,
    configuration: str | None,
    folds: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the selected model as one folder or archive that predicts on any machine.

    It holds the plan, the weights, the selection, scores of held-out cases and a model card, and no names of cases or
    patients and no paths. Without a selection it is the model that predict would use.

    Example: autoseg export -o model.zip
    """
    from autoseg import pipeline
    from autoseg.cli.session import session

    with session(workspace_path, "export", quiet=as_json) as (workspace, logger):
        made = pipeline.export_model(
            workspace, target, plan_name=plan_name, configuration=configuration, folds=folds, logger=logger
        )
    if as_json:
        return options.print_json({"target": str(made.target), "members": made.members, "selected": made.selected})
    parts = " and ".join(f"{name}, fold {', '.join(of)}" for name, of in made.members.items())
    click.echo(f"{made.target}: {parts}" + (", as selected" if made.selected else "; nothing was selected"))
    click.echo(
        "Read its MODEL_CARD.md before you give it away: names of labels, channels, plan and data set stand in it"
    )
    click.echo(f"Next: autoseg predict -i IMAGES -o PREDICTIONS -m {options.quoted(target)}")
