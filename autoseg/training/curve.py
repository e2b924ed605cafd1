"""The learning curve of one training: loss, patch estimate and truth after every epoch, in a file and as a picture.

It listens to the events of the training, so it has no part in it. The patch estimate and the truth are never mixed: one is
Dice on patches of held-out cases, the other Dice on their whole images.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec

from autoseg.errors import DocumentError, UnreadableFileError
from autoseg.files import read_document, replacing, write_document
from autoseg.logs import Logger
from autoseg.training.picture import draw_curve, is_drawable
from autoseg.values import Curve, CurvePoint, Labels
from autoseg.workspace import FoldFolder

__all__ = ["CurveLogger"]

#: Drawing takes at most about this share of the time.
DRAWING_SHARE = 0.02


class CurveLogger:
    """Keeps the curve of a training from its events ``iterations``, ``estimate``, ``truth`` and ``validated``.

    Args:
        folder: of the training; what stands there is gone on with.
        labels: of the plan.
        held_out: number of cases.
        logger: hears of what cannot be read or drawn.
    """

    def __init__(self, folder: FoldFolder, labels: Labels, held_out: int, logger: Logger) -> None:
        self.folder, self.logger = folder, logger
        self.curve = self._read(Curve(labels=tuple(label.name for label in labels.foreground), held_out=held_out))
        self._losses: list[tuple[int, float]] = []  # iterations since the last entry, and their mean loss
        self._seen = 0
        self._next_drawing = 0.0
        self._draws = is_drawable()

    def _read(self, empty: Curve) -> Curve:
        path = self.folder.curve
        try:
            there = read_document(Curve, path) if path.is_file() else empty
        except (DocumentError, UnreadableFileError) as error:
            self.logger.event("message", text=f"warning: the learning curve begins anew: {error}")
            return empty
        return there if (there.labels, there.held_out) == (empty.labels, empty.held_out) else empty

    def event(self, kind: str, **fields: Any) -> None:
        """Takes what belongs to the curve."""
        if kind == "resumed":
            self._seen, self._losses = fields["iteration"], []
            self._forget_after(fields["iteration"])
        elif kind == "iterations":
            self._losses.append((fields["iteration"] - self._seen, fields["loss"]))
            self._seen = fields["iteration"]
        elif kind == "estimate":
            estimate = tuple(fields["patch_dice"])
            self._keep(CurvePoint(iteration=fields["iteration"], loss=self._loss(), patch_dice=estimate))
        elif kind == "truth":
            point = msgspec.structs.replace(
                self._point(fields["iteration"]),
                truth=fields["dice"],
                truth_dice=tuple(fields["label_dice"][name] for name in self.curve.labels),
                truth_cases=fields["cases"],
            )
            self._keep(point)
            self._draw(sparingly=True)
        elif kind == "validated":
            before, self.curve = self.curve, msgspec.structs.replace(self.curve, final=fields["dice"])
            if self.curve != before:
                self._write()
            if self.curve != before or not self.folder.progress_picture.is_file():
                self._draw()

    def close(self) -> None:
        """Nothing is left to do."""

    def _loss(self) -> float | None:
        """Mean since the last call."""
        losses, self._losses = self._losses, []
        count = sum(iterations for iterations, _ in losses)
        return sum(iterations * loss for iterations, loss in losses) / count if count else None

    def _point(self, iteration: int) -> CurvePoint:
        """What is known of that iteration; nothing if the file was lost since."""
        found = [point for point in self.curve.points if point.iteration == iteration]
        return found[0] if found else CurvePoint(iteration=iteration)

    def _keep(self, point: CurvePoint) -> None:
        """Adds or replaces a point; later ones are of a training that went back to an earlier checkpoint."""
        earlier = tuple(each for each in self.curve.points if each.iteration < point.iteration)
        self.curve = msgspec.structs.replace(self.curve, points=(*earlier, point), final=None)
        self._write()

    def _forget_after(self, iteration: int) -> None:
        """Drops later points: an extension takes another way from there."""
        points = tuple(each for each in self.curve.points if each.iteration <= iteration)
        if len(points) < len(self.curve.points):
            self.curve = msgspec.structs.replace(self.curve, points=points, final=None)
            self._write()

    def _write(self) -> None:
        try:
            write_document(self.folder.curve, self.curve)
        except OSError as error:  # the next epoch writes it whole
            reason = error.strerror or error
            text = f"warning: {self.folder.curve.name} cannot be written ({reason}); training goes on"
            self.logger.event("message", text=text)

    def _draw(self, *, sparingly: bool = False) -> None:
        """Draws the picture where that is possible; sparingly: unless the last one is too recent."""
        begin = time.monotonic()
        if not self._draws or not self.curve.points or (sparingly and begin < self._next_drawing):
            return
        try:
            with replacing(self.folder.progress_picture) as path:
                draw_curve(self.curve, path, _title(self.folder.path))
        except Exception as error:  # a picture is not worth a training
            self._draws = False
            self.logger.event("message", text=f"warning: the learning curve is not drawn: {error}")
        end = time.monotonic()
        self._next_drawing = end + (end - begin) / DRAWING_SHARE


def _title(folder: Path) -> str:
    """The configuration and the fold, as the folders are called."""
    return f"{folder.parent.name}, {folder.name.replace('_', ' ')}"
