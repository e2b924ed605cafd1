"""A trained model within a program: loaded once, it predicts images in memory, without files and without processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autoseg.chosen import Chosen, choose
from autoseg.inference.confidence import Watch, poor_confidence
from autoseg.inference.inputs import held_input
from autoseg.inference.likeness import unlike_training
from autoseg.inference.members import held_prediction
from autoseg.inference.probabilities import LEVELS
from autoseg.io.handed import handed_image
from autoseg.logs import SilentLogger
from autoseg.networks.execution import resolve_device
from autoseg.plan_check import check_no_foreign_code
from autoseg.sharing.reading import opened_model
from autoseg.values import Confidence, Geometry, Labels, Volume
from autoseg.volume.axes import reorder
from autoseg.volume.components import keep_largest_components
from autoseg.volume.quantiles import image_quantiles
from autoseg.workspace import Workspace

if TYPE_CHECKING:
    from autoseg.inference.probabilities import Probabilities

__all__ = ["Model", "Prediction", "load_model"]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model makes of an image, on the image's own grid.

    Attributes:
        labels: integers ``(z, y, x)`` in the order of the image's array, ``(y, x)`` of an image of two dimensions.
        geometry: where the voxels lie; of a 2D image with one slice before its axes.
        names: of the integers, without background.
        warnings: what about the image is unlike the training's images, and that the label map is likely to be poor; to be
            shown to whoever reads the result.
        confidence: how far the label map can be trusted, before postprocessing.
        probabilities: float32 ``(outputs, *labels.shape)`` before postprocessing, if they were asked for: of background and
            each label in the order of ``outputs``, or of each region.
        outputs: names of the probabilities.
        disagreement: uint16 as ``labels``, from 0 where all networks agree to 65,535; None of one network, or unless it
            was asked for.
    """

    labels: np.ndarray
    geometry: Geometry
    names: dict[int, str]
    warnings: tuple[str, ...]
    confidence: Confidence
    probabilities: np.ndarray | None
    outputs: tuple[str, ...]
    disagreement: np.ndarray | None = None

    def volume(self) -> Volume:
        """The label map ``(1, z, y, x)`` with its place."""
        return Volume(array=self.labels.reshape(1, *self.geometry.shape), geometry=self.geometry)

    def simpleitk(self) -> Any:
        """The label map as an image of SimpleITK."""
        from autoseg.io.simpleitk_format import itk_image

        return itk_image(self.volume())


class Model:
    """A trained model, ready to predict; threads may share it.

    Args:
        chosen: what predicts.
        device: cpu, cuda or mps.
        mirroring: average over flips.

    Attributes:
        plan: that it was trained by.
        configurations: whose probabilities are averaged if there are several.
        channels: names of the channels that an image must have, in their order.
    """

    def __init__(self, chosen: Chosen, device: str, *, mirroring: bool) -> None:
        self.plan = chosen.usable_plan(SilentLogger())
        self.configurations = tuple(choice.configuration for choice in chosen.choices)
        self.channels = self.plan.channels
        self._experience = chosen.experience(mirroring=mirroring)
        self._members, self._steps = chosen.load(device, mirroring=mirroring), chosen.steps
        self._threads = self._members[0].execution.threads if device == "cpu" else 0

    def predict(
        self,
        image: Any,
        *,
        spacing: Sequence[float] | None = None,
        probabilities: bool = False,
        disagreement: bool = False,
        name: str = "image",
    ) -> Prediction:
        """Predicts one image in this process and thread; equal to what ``autoseg predict`` writes for its file.

        Args:
            image: a path of an image file or of a folder with a DICOM series, an image of SimpleITK or nibabel, or an array;
                or a list with one for each channel. See ``autoseg.io.handed.handed_image``. The order of an array's axes
                is ``(z, y, x)``, running to superior, posterior and left, with channels before them if there are several.
            spacing: millimetres between voxels of an array, in the order of its axes, without channels.
            probabilities: also wanted; four bytes for each output and voxel.
            disagreement: a map of where the networks disagree, too.
            name: of the image, for messages.

        Raises:
            InputError: the image cannot be used.
        """
        if self._threads and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # torch keeps the number for each thread
        volume = handed_image(image, spacing, self.channels, name)
        inputs = [held_input(volume, self.plan, member, name) for member in self.configurations]
        quantiles = image_quantiles(volume.array)
        del volume
        watch = Watch(self._members, self.plan.labels, with_map=disagreement)
        map_, found = held_prediction(self._members, self.plan, inputs, watch, probabilities=probabilities)
        if self._steps:
            map_.array[0] = keep_largest_components(map_.array[0], [step.values for step in self._steps])
        geometry, labels = map_.geometry, self.plan.labels
        shape = geometry.shape[1:] if geometry.planar else geometry.shape
        confidence, disputed = watch.confidence(self._experience), watch.map(inputs[0].record)
        unlike = unlike_training(geometry, self.plan, self._experience.images, quantiles)
        return Prediction(
            labels=map_.array[0].reshape(shape),
            geometry=geometry,
            names={value: label.name for label, value in zip(labels.foreground, labels.written_values, strict=True)},
            warnings=(*unlike, *poor_confidence(confidence, self._experience)),
            confidence=confidence,
            probabilities=_mean_on_grid(found, labels).reshape(-1, *shape) if found else None,
            outputs=labels.output_names,
            disagreement=disputed.array[0].reshape(shape) if disputed else None,
        )


def _mean_on_grid(found: Sequence[Probabilities], labels: Labels) -> np.ndarray:
    """Mean probabilities of the members, float32 ``(outputs, *spatial)`` on the grid and in the order of the image.

    Around the box of what is not zero, which is all that is predicted, there is background.
    """
    record, everything = found[0].record, (slice(None), slice(None), slice(None))
    result = np.zeros((labels.output_count, *record.axes.reorder(record.source.shape)), np.float32)
    if not labels.has_regions:
        result[0] = 1
    for output in range(labels.output_count):
        levels = [each.levels(output, everything).astype(np.float32) for each in found]
        result[(output, *record.crop)] = sum(levels[1:], start=levels[0]) / np.float32(LEVELS * len(found))
    return np.ascontiguousarray(reorder(result, record.axes.inverse()))


def load_model(
    path: str | Path,
    *,
    configuration: str | None = None,
    folds: Sequence[str] = (),
    device: str = "auto",
    mirroring: bool = True,
    trust_code: bool = False,
) -> Model:
    """Loads the weights of a trained model once, for any number of predictions.

    Args:
        path: a model folder (has plan.json), an archive of ``autoseg export``, unpacked while it is loaded, or
            a workspace.
        configuration: None for what was selected or exported, or else the one with the best validation Dice.
        folds: to average; empty for all that are trained.
        device: cpu, cuda, mps or auto.
        mirroring: average over flips.
        trust_code: let a model folder that comes from elsewhere run code that is no installed plug.

    Raises:
        InputError: there is no trained model, or it is damaged.
    """
    folder = Path(path)
    if folder.is_file() or (folder / "plan.json").is_file():
        with opened_model(folder) as model:
            if not trust_code:
                check_no_foreign_code(model)
            chosen = choose([model], configuration, folds)
            return Model(chosen, resolve_device(device), mirroring=mirroring)
    chosen = choose(Workspace(folder).existing().models(), configuration, folds)
    return Model(chosen, resolve_device(device), mirroring=mirroring)
