"""``autoseg train``, ``autoseg predict`` and ``autoseg evaluate``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from autoseg.cli import options
from autoseg.cli.wishes import part_options
from autoseg.errors import counted
from autoseg.together import own_place

if TYPE_CHECKING:
    from autoseg.predict_stage import Predicted
    from autoseg.values import Parts
    from autoseg.workspace import ModelFolder, Workspace

__all__ = ["evaluate", "predict", "train"]


@click.command()
@click.argument("configuration")
@click.argument("fold")
@options.workspace
@options.plan_name
@click.option("--epochs", type=click.IntRange(min=1), help="Length of the training; the plan's by default.")
@click.option("--iterations", type=click.IntRange(min=1), help="Length in iterations.")
@click.option(
    "--hours",
    type=click.FloatRange(min=0, min_open=True),
    help="Length in hours, the scoring of held-out cases included.",
)
@click.option("--until-plateau", is_flag=True, help="As long as held-out cases gain.")
@click.option(
    "--finish", is_flag=True, help="End a training early, running or stopped: a short cooldown, then the model."
)
@click.option("--extend", type=click.IntRange(min=1), help="Add so many iterations to a training that has ended.")
@click.option(
    "--deterministic", is_flag=True, help="On a GPU, too: same seed, same weights. Slower; the log says how much."
)
@click.option(
    "--no-probabilities", is_flag=True, help="Keep no probabilities of held-out cases: less disk, but no ensembles."
)
@part_options
@click.option(
    "--from",
    "begin_from",
    metavar="MODEL",
    type=click.Path(path_type=Path),
    help="Begin with the weights of a trained model, autoseg's or nnU-Net's: a folder, or a weight file.",
)
@options.device
@options.workers
@options.as_json
def train(
    configuration: str,
    fold: str,
    workspace_path: Path,
    plan_name: str | None,
    deterministic: bool,
    no_probabilities: bool,
    parts: Parts,
    begin_from: Path | None,
    device: str,
    workers: int | None,
    as_json: bool,
    **length: Any,
) -> None:
    """Train one FOLD of CONFIGURATION and score it on the fold's held-out cases.

    FOLD is a number, several (0,2 or 0..4), "all" (every fold in turn) or "full" (one model on all cases). Repeating the
    command goes on where it stopped, exactly; Ctrl-C saves and stops. A file named STOP in the fold's folder ends it early,
    like --finish.

    On several GPUs: torchrun --standalone --nproc-per-node 2 -m autoseg train 3d_fullres 0

    Example: autoseg train 3d_fullres 0 --iterations 500
    """
    from autoseg import pipeline
    from autoseg.cli.session import case_executor, session, stop_on_signals
    from autoseg.cli.tables import summary_text

    _check_one_length(length)
    with (
        session(workspace_path, "train", quiet=as_json) as (workspace, logger),
        case_executor(workers, logger) as executor,
        stop_on_signals() as stop,
    ):
        results = pipeline.train(
            workspace,
            configuration,
            fold,
            plan_name=plan_name,
            **length,
            deterministic=deterministic,
            probabilities=not no_probabilities,
            parts=parts,
            begin_from=begin_from,
            device=device,
            executor=executor,
            logger=logger,
            stop=stop,
        )
    if not own_place().first:
        return  # the first process tells
    if as_json:
        options.print_json({f"{result.configuration}/{result.fold}": result.summary for result in results})
        return
    for result in results:
        click.echo(f"\n{result.configuration}, fold {result.fold}: {result.folder.model}")
        if result.skipped:
            click.echo(
                f"{counted(len(result.skipped), 'case')} could not be read, left out: {', '.join(result.skipped)}"
            )
        if result.summary is not None:
            click.echo(summary_text(result.summary))
            click.echo(f"Held-out cases, on their original grids: {result.folder.validation}")
    if results:
        click.echo(options.next_command("predict -i IMAGES -o PREDICTIONS", workspace_path))


def _check_one_length(wishes: Mapping[str, object]) -> None:
    """Refuses more than one of the options that tell how far to train."""
    given = [f"--{name.replace('_', '-')}" for name, value in wishes.items() if value]
    if len(given) > 1:
        raise click.UsageError(f"give {' or '.join(given)}, not {'both' if len(given) == 2 else 'all'}")


@click.command()
@click.option("-i", "source", required=True, type=click.Path(path_type=Path), help="A folder of images, or one image.")
@click.option("-o", "target", required=True, type=click.Path(file_okay=False, path_type=Path), help="For label maps.")
@options.workspace
@click.option(
    "-m",
    "--model",
    "model_path",
    type=click.Path(path_type=Path),
    help="A model folder (has plan.json), or an exported archive.",
)
@options.plan_name
@click.option("-c", "--configuration", help="Its model; by default what was selected, or else the best one.")
@click.option("-f", "--fold", "folds", multiple=True, help="Only this fold; may be repeated. All trained by default.")
@click.option("--no-mirroring", is_flag=True, help="Do not average over flips: 4 to 8 times faster, a little worse.")
@click.option(
    "--fast",
    is_flag=True,
    help="No flips, fewer tiles, none where the image is empty; tells what that costs, as measured on held-out cases.",
)
@click.option(
    "--roi",
    "only_region",
    is_flag=True,
    help="Predict only where a coarser model (3d_lowres), if trained, finds something.",
)
@click.option(
    "--uncertainty", is_flag=True, help="Write maps of where the networks disagree, too, in OUT/disagreement."
)
@click.option(
    "--save-probabilities", is_flag=True, help="Write the probabilities, too, compressed, in OUT/probabilities."
)
@click.option("--num-parts", type=click.IntRange(min=1), default=1, help="Share the images out among so many runs.")
@click.option("--part-id", type=click.IntRange(min=0), default=0, help="Which of the parts to predict here, from 0.")
@click.option("--trust-code", is_flag=True, help="With -m: let the model run code that is not an installed plug.")
@click.option(
    "--format",
    "label_format",
    metavar="FORMAT",
    help="Of label maps: dicom-seg for DICOM series, or an ending such as nii.gz; by default that of the image.",
)
@options.device
@options.workers
@options.as_json
def predict(
    source: Path,
    target: Path,
    workspace_path: Path,
    model_path: Path | None,
    plan_name: str | None,
    configuration: str | None,
    folds: tuple[str, ...],
    no_mirroring: bool,
    fast: bool,
    only_region: bool,
    uncertainty: bool,
    save_probabilities: bool,
    num_parts: int,
    part_id: int,
    trust_code: bool,
    label_format: str | None,
    device: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Segment new images.

    Files with all channels may have any name; those of one channel each are CASE_0000.nii.gz, CASE_0001.nii.gz, … Label maps
    lie on the grid of their image. Repeating the command skips what is done.

    Example: autoseg predict -i imagesTs -o predictions
    """
    from autoseg.cli.session import case_executor, session
    from autoseg.values import Part

    if part_id >= num_parts:
        raise click.UsageError(f"--part-id is a number from 0 to {num_parts - 1}, for --num-parts {num_parts}")
    with (
        session(workspace_path, "predict", quiet=as_json) as (workspace, logger),
        case_executor(workers, logger, most=2, preload=["autoseg.inference.inputs"]) as executor,
    ):
        from autoseg import pipeline  # while the first worker is starting

        predicted = pipeline.predict(
            source,
            target,
            workspace=workspace,
            model=_named_model(workspace, model_path, plan_name),
            configuration=configuration,
            folds=folds,
            device=device,
            mirroring=not no_mirroring,
            fast=fast,
            only_region=only_region,
            disagreement_maps=uncertainty,
            probabilities=save_probabilities,
            part=Part(number=part_id, of=num_parts),
            trust_code=trust_code or model_path is None,
            label_format=label_format,
            executor=executor,
            logger=logger,
        )
    if as_json:
        return options.print_json({case: str(file) for case, file in predicted.files.items()})
    segmentations = (label_format or "").lower() == "dicom-seg"
    what = "DICOM segmentations" if segmentations else "label maps"
    of = f" (part {part_id} of {num_parts})" if num_parts > 1 else ""
    click.echo(f"{len(predicted.files)} {what} in {target}{of}, by {_made_by(predicted)}")
    if not segmentations:  # which are for viewers and archives: scores are made of label maps
        click.echo(f"Next: autoseg evaluate -p {shlex.quote(str(target))} -r LABELS")


def _made_by(predicted: Predicted) -> str:
    """What predicted, in words."""
    parts = []
    for choice in predicted.choices:
        dice = "not validated" if choice.dice is None else f"validation Dice {choice.dice:.4f}"
        parts.append(f"{choice.configuration}, fold {', '.join(choice.folds)} ({dice})")
    text = f"{' and '.join(parts)} of the plan {predicted.model.path.name}"
    if predicted.selected:
        steps = ", ".join(step.name for step in predicted.steps)
        text += ", as selected" + (f"; only the largest component is kept of {steps}" if steps else "")
    return text


def _named_model(workspace: Workspace, model_path: Path | None, plan_name: str | None) -> ModelFolder | None:
    from autoseg.workspace import ModelFolder

    if model_path is not None:
        return ModelFolder(model_path)
    return workspace.model(plan_name) if plan_name else None


@click.command()
@click.option("-p", "predictions", required=True, type=click.Path(path_type=Path), help="Folder of label maps.")
@click.option("-r", "references", required=True, type=click.Path(path_type=Path), help="Folder of references.")
@click.option(
    "--metrics",
    metavar="NAME,…",
    help="What to measure beside Dice, IoU and counts, also module:name of your own; all that is built in by default.",
)
@click.option("--tolerance", type=float, default=1.0, show_default=True, help="Of the surface Dice (NSD), in mm.")
@click.option(
    "--lesion-iou",
    type=float,
    default=0.1,
    show_default=True,
    help="A lesion is found if a predicted one has at least this intersection over union with it.",
)
@click.option(
    "--one-empty",
    type=click.Choice(["undefined", "diagonal"]),
    default="undefined",
    show_default=True,
    help="Distance where only one of the two has a label: left out of the mean, or the image's diagonal.",
)
@options.workspace
@options.workers
@options.as_json
def evaluate(
    predictions: Path,
    references: Path,
    metrics: str | None,
    tolerance: float,
    lesion_iou: float,
    one_empty: Literal["undefined", "diagonal"],
    workspace_path: Path,
    workers: int | None,
    as_json: bool,
) -> None:
    """Score label maps against references of the same names, up to words such as _gt or _mask.

    What the integers mean is taken from the predictions' record, a dataset.json beside the references, or the workspace.
    Repeating the command scores only what has changed.

    Example: autoseg evaluate -p predictions -r Dataset004_Hippocampus/labelsTr --tolerance 2
    """
    from autoseg import pipeline
    from autoseg.cli.session import case_executor, session
    from autoseg.cli.tables import summary_text
    from autoseg.values import Measuring

    names = Measuring().metrics if metrics is None else tuple(filter(None, map(str.strip, metrics.split(","))))
    try:
        measuring = Measuring(metrics=names, tolerance_mm=tolerance, lesion_iou=lesion_iou, one_empty=one_empty)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with (
        session(workspace_path, "evaluate", quiet=as_json) as (workspace, logger),
        case_executor(workers, logger) as executor,
    ):
        summary = pipeline.evaluate(
            predictions, references, workspace=workspace, measuring=measuring, executor=executor, logger=logger
        )
    if as_json:
        return options.print_json(summary)
    click.echo(summary_text(summary))
    if alone := summary.not_scored:
        named = ", ".join(alone[:5]) + (" …" if len(alone) > 5 else "")
        stand = (
            "stands in one of the folders only and is"
            if len(alone) == 1
            else "stand in one of the folders only and are"
        )
        click.echo(f"{counted(len(alone), 'case')} {stand} not scored: {named}")
    click.echo(
        f"Written: {predictions / 'summary.json'} and scores.csv, with every case\n"
        "Next: look at the cases of lowest Dice there"
    )
