"""``autoseg status``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoseg.cli import options

if TYPE_CHECKING:
    from autoseg.values.status import FoldStatus, PlanStatus, Status

__all__ = ["status", "status_text"]


@click.command()
@options.workspace
@options.as_json
def status(workspace_path: Path, as_json: bool) -> None:
    """Show what a workspace holds, what is missing, and what to type next.

    Example: autoseg status
    """
    from autoseg.status_stage import workspace_status
    from autoseg.workspace import Workspace

    told = workspace_status(Workspace(workspace_path))
    if as_json:
        return options.print_json(told)
    click.echo(status_text(told))
    click.echo(options.next_command(told.command, workspace_path))
    if told.plans and told.plans[0].selection is not None and not told.plans[0].selection.changed:
        click.echo(f"To share the model: {options.in_workspace('export -o model.zip', workspace_path)}")


def status_text(status: Status) -> str:
    """All that is told, but for the next command."""
    lines = [f"workspace {status.workspace}"]
    if status.dataset is not None:
        lines.append(
            f"data set {status.dataset}: {status.annotated} of {status.cases} cases annotated, {status.split} folds "
            f"[{status.root}]"
        )
    for plan in status.plans:
        lines += ["", *_plan_lines(plan)]
    if status.problems:
        lines += ["", "Cannot be read:", *(f"  {problem}" for problem in status.problems)]
    return "\n".join([*lines, ""])


def _plan_lines(plan: PlanStatus) -> Iterator[str]:
    from autoseg.cli.tables import table

    yield f"plan {plan.name}" + (", the active one" if plan.active else "")
    rows = [["configuration", "fold", "state", "iterations", "Dice", "probabilities"]]
    rows += [_row(each) for each in plan.folds]
    yield table(rows)
    for name in plan.configurations:
        missing = [each.fold for each in plan.folds if each.configuration == name and each.state != "validated"]
        if missing:
            yield f"missing of {name}: {'folds' if len(missing) > 1 else 'fold'} {', '.join(missing)}"
    if plan.selection is None:
        yield "nothing is selected yet"
    elif plan.selection.changed:
        yield f"selected, out of date: {plan.selection.winner} ({'; '.join(plan.selection.changed)})"
    else:
        yield f"selected: {plan.selection.winner}"


def _row(fold: FoldStatus) -> list[str]:
    state = f"{fold.state}: {fold.where}" if fold.where else fold.state
    iterations = "" if fold.iteration is None else str(fold.iteration)
    if iterations and fold.end is not None:
        iterations += f" of {fold.end}"
    if fold.seconds_left is not None:
        iterations += f", {options.seconds(fold.seconds_left)} left"
    dice = "" if fold.dice is None else f"{fold.dice:.4f}"
    kept = ("kept" if fold.probabilities else "not kept") if fold.state == "validated" and fold.fold != "full" else ""
    return [fold.configuration, fold.fold, state, iterations, dice, kept]
