"""The demo: the main job from beginning to end on phantoms, in a few minutes on two cores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autoseg import pipeline
from autoseg.io.cases import read_labels
from autoseg.io.formats import format_of
from autoseg.logs import Logger
from autoseg.networks.execution import resolve_device
from autoseg.phantom import write_phantom_dataset
from autoseg.report.overlay import Shown, draw_overlays
from autoseg.values import Summary
from autoseg.workspace import Workspace

__all__ = ["DemoResult", "run_demo"]

TRAINING_CASES, TEST_CASES, TEST_SEED = 15, 4, 1000
ITERATIONS = {"2d": 150, "3d_fullres": 60}
SHOWN_CASES = 3


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo found.

    Attributes:
        validation: configuration to its mean Dice on held-out phantoms of fold 0.
        chosen: the better configuration.
        test: scores of its predictions of new phantoms.
        overlay: the picture.
    """

    validation: dict[str, float]
    chosen: str
    test: Summary
    overlay: Path


def run_demo(folder: Path, workspace: Workspace, logger: Logger) -> DemoResult:
    """Makes phantoms, plans, trains 2d and 3d_fullres briefly, predicts new phantoms with the better one, and scores.

    Args:
        folder: for data set, predictions and picture.
        workspace: for everything else.
        logger: for events.
    """
    logger.event("message", text=f"making {TRAINING_CASES + TEST_CASES} phantoms in {folder}")
    dataset = write_phantom_dataset(folder / "Dataset001_Phantom", TRAINING_CASES)
    write_phantom_dataset(dataset, TEST_CASES, seed=TEST_SEED, train=False)
    device = resolve_device("auto")
    pipeline.plan_dataset(dataset, workspace, memory_gib=8, device=device, logger=logger)
    for configuration, iterations in ITERATIONS.items():
        pipeline.train(workspace, configuration, "0", iterations=iterations, logger=logger)
    predictions = folder / "predictions"
    predicted = pipeline.predict(dataset / "imagesTs", predictions, workspace=workspace, logger=logger)
    summary = pipeline.evaluate(predictions, dataset / "labelsTs", workspace=workspace, logger=logger)
    overlay = folder / "overlay.png"
    draw_overlays(overlay, [_shown(dataset, case, file) for case, file in list(predicted.files.items())[:SHOWN_CASES]])
    return DemoResult(
        validation={name: _dice(predicted, name) for name in ITERATIONS},
        chosen=predicted.choice.configuration,
        test=summary,
        overlay=overlay,
    )


def _shown(dataset: Path, case: str, prediction: Path) -> Shown:
    image = dataset / "imagesTs" / f"{case}_0000.nii.gz"
    return Shown(
        image=format_of(image).read(image),
        reference=read_labels(dataset / "labelsTs" / f"{case}.nii.gz", case),
        prediction=read_labels(prediction, case),
    )


def _dice(predicted: pipeline.Predicted, configuration: str) -> float:
    from autoseg.inference.model import validation_dice

    return validation_dice(predicted.model, configuration, ["0"]) or 0.0
