"""``autoseg compare``."""

from __future__ import annotations

from pathlib import Path

import click

from autoseg.cli import options

__all__ = ["compare"]


@click.command()
@options.workspace
@options.plan_name
@click.option(
    "-c",
    "--configurations",
    metavar="A,B",
    help="Compare A with B; by default the best 3D configuration with the 2D one.",
)
@click.option(
    "--probe-cases",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Held-out cases that the networks predict again in experiments; 0: none, only what is kept is looked at.",
)
@click.option("--retrain", is_flag=True, help="Also train what fair comparisons need, on one fold; takes hours.")
@options.device
@options.workers
@options.as_json
def compare(
    workspace_path: Path,
    plan_name: str | None,
    configurations: str | None,
    probe_cases: int,
    retrain: bool,
    device: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Say whether 3D is better than 2D here, how sure that is, what it costs, and what goes with it.

    Compares two configurations on all held-out cases of the folds that both have finished. What the numbers do not carry is
    not claimed. What is known already is not computed again.

    Example: autoseg compare --configurations 3d_fullres,2d
    """
    from autoseg import compare_stage
    from autoseg.cli.session import case_executor, session, stop_on_signals
    from autoseg.cli.tables import comparison_text
    from autoseg.errors import AutosegError
    from autoseg.held_out_files import ComparisonFiles

    with (
        session(workspace_path, "compare", quiet=as_json) as (workspace, logger),
        case_executor(workers, logger) as executor,
        stop_on_signals() as stop,
    ):
        comparison = compare_stage.compare(
            workspace,
            tuple(filter(None, map(str.strip, (configurations or "").split(",")))),
            plan_name=plan_name,
            probe_cases=probe_cases,
            retrain=retrain,
            device=device,
            executor=executor,
            logger=logger,
            stop=stop,
        )
    if as_json:
        options.print_json(comparison)
    else:
        files = ComparisonFiles(workspace.model(plan_name))
        click.echo(comparison_text(comparison))
        click.echo(f"Written: {files.report} and {files.comparison.name}")
    if comparison.failures:
        lines = "\n".join(f"  - {name}: {why}" for name, why in comparison.failures.items())
        raise AutosegError(
            f"compare: the answer is written, and lacks in its reasons what failed:\n{lines}\n"
            "  Mend that and repeat the command: what is known is not computed again."
        )
