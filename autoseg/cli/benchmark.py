"""``autoseg benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoseg.cli import options

if TYPE_CHECKING:
    from autoseg.benchmarking import Benchmark

__all__ = ["benchmark"]


@click.command()
@click.argument("work", type=click.Choice(["trainstep", "predict", "preprocess"]))
@click.argument("configuration")
@options.workspace
@options.plan_name
@click.option("--preset", help="Time the plan that this planner makes for the same data, instead of the kept one.")
@click.option(
    "--iterations", type=click.IntRange(min=1), default=5, show_default=True, help="Timed runs, after a first."
)
@options.device
@options.as_json
def benchmark(
    work: str,
    configuration: str,
    workspace_path: Path,
    plan_name: str | None,
    preset: str | None,
    iterations: int,
    device: str,
    as_json: bool,
) -> None:
    """Time the planned work of CONFIGURATION on this device, to compare machines; nothing is kept.

    trainstep: one iteration, with preprocessed cases where there are any, else with noise. predict: a batch of tiles, and
    a case of the median size. preprocess: a case, read and stored. Without a workspace, a few phantoms are planned for.

    Example: autoseg benchmark trainstep 3d_fullres --preset nnunet
    """
    from autoseg import benchmarking
    from autoseg.cli.session import session

    with session(workspace_path, "benchmark", quiet=as_json) as (workspace, logger):
        measured = benchmarking.benchmark(
            work,  # type: ignore[arg-type]
            configuration,
            workspace,
            preset=preset,
            plan_name=plan_name,
            iterations=iterations,
            device=device,
            logger=logger,
        )
    if as_json:
        return options.print_json(measured)
    click.echo(benchmark_text(measured))


def benchmark_text(measured: Benchmark) -> str:
    """What was measured, a line each."""
    unit = {"trainstep": "an iteration", "predict": "a batch of tiles", "preprocess": "a case"}[measured.work]
    timing, patch = measured.timing, " x ".join(map(str, measured.patch_size))
    lines = [
        f"{measured.configuration} of {measured.dataset}, planner {measured.planner}: patch {patch}, "
        f"batch {measured.batch_size}; {measured.data}",
        f"{timing.median:.3g} s {unit} ({timing.least:.3g} to {timing.most:.3g} in {timing.runs} runs)",
    ]
    if measured.data_wait_seconds is not None:
        lines.append(f"{measured.data_wait_seconds:.3g} s of it waiting for data")
    if measured.case_seconds is not None:
        lines.append(f"{measured.case_seconds:.3g} s a case of the median size")
    if measured.floor_seconds is not None:
        lines.append(f"{measured.floor_seconds:.3g} s the convolutions alone, the floor")
    if measured.peak_bytes is not None:
        lines.append(f"{measured.peak_bytes / 2**30:.2f} GiB at most")
    if measured.path is not None:
        way = [measured.path.device, measured.path.precision]
        way += [name for name in ("channels_last", "compiled", "graphs") if getattr(measured.path, name)]
        lines.append(
            f"run in {', '.join(way).replace('_', '-')}, {measured.path.threads} threads: {measured.path.reason}"
        )
    busy = "" if measured.load is None else f", {measured.load:.1f} processes at work before"
    lines.append(f"{measured.cores} processors, torch {measured.torch}{busy}")
    return "\n".join(lines)
