"""``autoseg run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoseg.cli import options
from autoseg.cli.confirmation import shown_and_confirmed
from autoseg.cli.wishes import GibibytesOrAuto, read_names
from autoseg.errors import AutosegError, counted

if TYPE_CHECKING:
    from autoseg.run_stage import RunResult

__all__ = ["run"]


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@options.workspace
@click.option(
    "--plan", "plan_name", help="Name of the plan, which is made if it is not there; the last one by default."
)
@click.option("--preset", help="The planner, if a plan has to be made; see autoseg plan.")
@click.option("--gpu-memory", "memory_gib", type=GibibytesOrAuto(), help="GiB to plan for, or auto; see autoseg plan.")
@click.option(
    "-c",
    "--configuration",
    "--configurations",
    "configurations",
    multiple=True,
    help="Only these; with commas, or repeated. All of the plan by default; the first stage of a cascade is added.",
)
@click.option("--folds", default="all", show_default=True, help="Which: all, 0, 0,2 or 0..4; or full.")
@click.option(
    "--hours",
    type=click.FloatRange(min=0, min_open=True),
    help="For all of it; divided among the trainings in the ratio of what they would cost at their planned length.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Length of each training; the plan's by default.")
@click.option("--iterations", type=click.IntRange(min=1), help="Length of each training in iterations.")
@click.option(
    "--gpus", metavar="0,1,…", help="One training at a time on each of these GPUs, in processes of their own."
)
@click.option(
    "--jobs", "processes", type=click.IntRange(min=1), help="So many trainings at once, which share the processors."
)
@options.device
@options.workers
@click.option("-y", "--yes", is_flag=True, help="Do not ask whether the data was understood rightly.")
@options.as_json
def run(dataset: Path, workspace_path: Path, workers: int | None, yes: bool, as_json: bool, **wishes: Any) -> None:
    """Everything from DATASET to the selected model: plan, preprocess, train and score all folds, select.

    Repeating the command goes on where it stopped; what is done is known by its results, whoever made them. Ctrl-C saves and
    stops. A job that fails does not stop those that do not need it; it is named at the end, with exit code 1.

    Example: autoseg run Dataset004_Hippocampus --configurations 2d,3d_fullres --folds 0..4 --hours 12
    """
    from autoseg.cli.session import case_executor, session, stop_on_signals

    gpus = _gpus(wishes.pop("gpus"), wishes["device"], wishes["processes"])
    plan = {name: wishes.pop(name) for name in ("plan_name", "preset", "memory_gib")}
    device = "cuda" if gpus else wishes["device"]
    with (
        session(workspace_path, "run", quiet=as_json) as (workspace, logger),
        case_executor(workers, logger) as executor,
        stop_on_signals() as stop,
    ):
        from autoseg.run_stage import PlanWishes, run_all

        result = run_all(
            dataset,
            workspace,
            wishes=PlanWishes(
                name=plan["plan_name"],
                preset=plan["preset"],
                memory_gib=plan["memory_gib"],
                device=None if device == "auto" else device,
            ),
            configurations=read_names(wishes.pop("configurations")),
            gpus=gpus,
            **wishes,
            understood=shown_and_confirmed(yes=yes, quiet=as_json),
            executor=executor,
            logger=logger,
            stop=stop,
        )
    _show(result, workspace_path, as_json=as_json)


def _gpus(text: str | None, device: str, processes: int | None) -> tuple[int, ...]:
    if text is None:
        return ()
    if processes is not None or device not in ("auto", "cuda"):
        raise click.UsageError("give --gpus, or --jobs and --device, not both")
    names = [name.strip() for name in text.split(",")]
    if not all(name.isdecimal() for name in names):
        raise click.BadParameter(f"{text!r} is no list of numbers such as 0,1", param_hint="--gpus")
    return tuple(map(int, names))


def _show(result: RunResult, workspace_path: Path, *, as_json: bool) -> None:
    selection = result.selection
    if as_json:
        options.print_json(
            {
                "plan": result.model.path.name,
                "done": list(result.done),
                "failures": result.failures,
                "blocked": result.blocked,
                "winner": selection.winner if selection else None,
            }
        )
    elif selection is not None:
        click.echo(f"\n{selection.reason}")
        click.echo(options.next_command("predict -i IMAGES -o PREDICTIONS", workspace_path))
    if result.failures:
        raise AutosegError(_failures_text(result))


def _failures_text(result: RunResult) -> str:
    """Every failed job with its reason; jobs of one reason are named together."""
    reasons: dict[str, list[str]] = {}
    for name, reason in result.failures.items():
        reasons.setdefault(reason, []).append(name)
    lines = [f"  - {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    lines += [f"  - {name}: not begun, for it needs {cause}" for name, cause in result.blocked.items()]
    done = counted(len(result.done), "job")
    return (
        f"{counted(len(result.failures), 'job')} failed, {done} done:\n"
        + "\n".join(lines)
        + "\n  What is done is kept: "
        "repeat the command once the cause is mended."
    )
