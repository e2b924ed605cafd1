"""``autoseg plan`` and ``autoseg preprocess``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoseg.cli import options
from autoseg.cli.check import fix_option
from autoseg.cli.confirmation import shown_and_confirmed
from autoseg.cli.wishes import GibibytesOrAuto, part_options, read_names, read_wishes, wish_options
from autoseg.errors import counted

if TYPE_CHECKING:
    from autoseg.estimates import Explanation
    from autoseg.pipeline import Planned
    from autoseg.values import Parts

__all__ = ["plan", "preprocess"]


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@options.workspace
@click.option(
    "--preset",
    default="default",
    show_default=True,
    help="The planner: default; residual, with a residual encoder; nnunet, nnunet_resenc_m, nnunet_resenc_l or "
    "nnunet_resenc_xl, which reproduce nnU-Net's plans.",
)
@click.option("--name", help="Name of the plan; the preset's by default.")
@click.option(
    "--gpu-memory",
    "memory_gib",
    type=GibibytesOrAuto(),
    help="GiB to plan for, or auto: what the device has free. By default what the preset is made for, what the GPU has "
    "free, or 8.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "mps"]),
    help="That will train, here or elsewhere. By default this machine's; with a number in --gpu-memory, cuda.",
)
@click.option(
    "-c",
    "--configuration",
    "--configurations",
    "configurations",
    multiple=True,
    help="Plan only these: 2d, 3d_fullres, 3d_lowres, 3d_cascade_fullres; with commas, or repeated.",
)
@wish_options
@part_options
@click.option(
    "--from",
    "around",
    metavar="MODEL",
    type=click.Path(path_type=Path),
    help="Plan around a trained model, autoseg's or nnU-Net's, so that training can begin with its weights.",
)
@click.option("--trust-code", is_flag=True, help="With --from: let the plan name code that is not an installed plug.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=12345,
    show_default=True,
    help="From which everything random derives.",
)
@click.option(
    "--group-by",
    metavar="REGEX|CSV",
    help="Which cases are of one patient: a pattern for the beginning of ids ('P\\d+'), or a table with the columns "
    "case and patient. By default as before, else by the names: P08_t0 and P08_t1 are one.",
)
@click.option(
    "--explain", is_flag=True, help="Tell what each configuration is for, what it costs, and what would change."
)
@fix_option
@click.option(
    "--channel-names", help="Names of the channels, in order, with commas; CT has a normalization of its own."
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask whether the data was understood rightly.")
@options.workers
@options.as_json
def plan(
    dataset: Path,
    workspace_path: Path,
    preset: str,
    name: str | None,
    memory_gib: float | str | None,
    device: str | None,
    configurations: tuple[str, ...],
    patch_sizes: tuple[str, ...],
    batch_sizes: tuple[str, ...],
    spacing: str | None,
    normalizations: tuple[str, ...],
    parts: Parts,
    around: Path | None,
    trust_code: bool,
    seed: int,
    group_by: str | None,
    explain: bool,
    fix: bool | None,
    channel_names: str | None,
    yes: bool,
    workers: int | None,
    as_json: bool,
) -> None:
    """Look at DATASET, check it, and plan how to segment it.

    DATASET is a folder of images and labels in any common layout (images/ and labels/, nnU-Net's, the Decathlon's, BIDS, one
    folder per case), or a table of paths (CSV, JSON). What was understood is shown; where it had to be guessed, and on a
    terminal, you are asked. DATASET is never written to.

    Example: autoseg plan Dataset004_Hippocampus --gpu-memory 11 --explain
    """
    from autoseg.cli.session import case_executor, session

    wishes = read_wishes(patch_sizes, batch_sizes, spacing, normalizations)
    with (
        session(workspace_path, "plan", quiet=as_json) as (workspace, logger),
        case_executor(workers, logger, preload=["autoseg.measuring"]) as executor,
    ):
        from autoseg import pipeline  # while the first worker is starting

        planned = pipeline.plan_dataset(
            dataset,
            workspace,
            preset=preset,
            name=name,
            memory_gib=memory_gib,
            device=device,
            configurations=read_names(configurations),
            wishes=wishes,
            parts=parts,
            around=around,
            trust_code=trust_code,
            seed=seed,
            group_by=group_by,
            fix=fix,
            channel_names=read_names((channel_names,)) if channel_names else (),
            understood=shown_and_confirmed(yes=yes, quiet=as_json),
            executor=executor,
            logger=logger,
        )
        explained = pipeline.explain(planned) if explain else []
    if as_json:
        return options.print_json(planned.plan)
    _show(planned, explained, workspace_path)


def _show(planned: Planned, explained: Sequence[Explanation], workspace_path: Path) -> None:
    from autoseg.cli.tables import explanation_text, patients_text, plan_text
    from autoseg.values import CheckReport, findings_text

    if planned.findings:
        click.echo(findings_text(planned.findings))
    click.echo(f"{CheckReport.of(planned.dataset, planned.findings).summary}\n")
    click.echo(plan_text(planned.plan))
    for explanation in explained:
        click.echo(f"\n{explanation_text(explanation, planned.plan.budget_bytes)}")
    if about_patients := patients_text(planned.patients, planned.split):
        click.echo(f"\n{about_patients}")
    annotated, all_cases = len(planned.dataset.annotated_cases), len(planned.dataset.cases)
    click.echo(
        f"\n{counted(annotated, 'annotated case')} of {all_cases}, {counted(len(planned.split), 'fold')}. Written: "
        f"{planned.folder.path / 'plan.json'}\n"
        + options.next_command(f"train {planned.plan.main_configuration} 0", workspace_path)
    )


@click.command()
@click.argument("configurations", nargs=-1)
@options.workspace
@options.plan_name
@click.option(
    "--verify",
    is_flag=True,
    help="Read all files again, of the data set and of what is stored, even those whose size and time are as before.",
)
@options.workers
def preprocess(
    configurations: tuple[str, ...], workspace_path: Path, plan_name: str | None, verify: bool, workers: int | None
) -> None:
    """Bring all cases to the grid of CONFIGURATIONS (all of the plan by default).

    ``train`` does this by itself; what is there, is whole and has not changed is left alone. Damaged cases are made anew.

    Example: autoseg preprocess 2d 3d_fullres
    """
    from autoseg.cli.session import case_executor, session

    with (
        session(workspace_path, "preprocess") as (workspace, logger),
        case_executor(workers, logger, preload=["autoseg.preprocessing.case_task"]) as executor,
    ):
        from autoseg import pipeline  # while the first worker is starting

        keys = pipeline.preprocess(
            workspace.existing(), configurations, plan_name=plan_name, verify=verify, executor=executor, logger=logger
        )
    for name, cases in keys.items():
        are = "is" if len(cases) == 1 else "are"
        click.echo(f"{name}: {counted(len(cases), 'case')} {are} ready in {workspace.path / 'preprocessed'}")
    click.echo(options.next_command(f"train {list(keys)[-1]} 0", workspace_path))
