"""The checkpoints of a training on disk: two generations, and the state from which it can be extended.

A save may fail (a full disk, a lost network drive): the training goes on, and what stood there still does. A newest
checkpoint that turns out damaged costs the iterations since the one before.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from autoseg.disk import GIBIBYTE, free_bytes
from autoseg.errors import InputError, InterruptedRunError, UnreadableFileError
from autoseg.logs import Logger
from autoseg.training.length import same_past
from autoseg.training.state import SavedState, TrainState, read_state
from autoseg.workspace import FoldFolder

__all__ = ["Checkpoints", "not_written"]


def not_written(path: Path, error: OSError) -> str:
    """What to tell of a file that could not be written: its path, why, and how much room there is."""
    text = f"{path} could not be written: {error.strerror or error}"
    with contextlib.suppress(OSError):
        text += f"; {free_bytes(path.parent) / GIBIBYTE:.2f} GiB are free there"
    return text


class Checkpoints:
    """Saves the state of a training and finds the newest one that is whole.

    Args:
        folder: of the training.
        logger: for messages.

    Attributes:
        saved: iteration of the state that a new start would go on from, as far as it was looked for; None for none.
    """

    def __init__(self, folder: FoldFolder, logger: Logger) -> None:
        self.folder, self.logger = folder, logger
        self._damaged: set[Path] = set()
        self.saved: int | None = None

    def resume(self, state: TrainState) -> bool:
        """Goes back to the newest state that belongs to the training's length; False if none was saved yet.

        After a training was extended, that is the one before its cooldown.

        Raises:
            UnreadableFileError: all that are there are damaged.
            InputError: they belong to another training, or to another length of it.
        """
        damage: list[UnreadableFileError] = []
        others: list[Path] = []
        for path in (self.folder.checkpoint, self.folder.previous_checkpoint, self.folder.kept_checkpoint):
            try:
                saved = self._usable(state, path)
            except UnreadableFileError as error:
                damage.append(error)
                self._damaged.add(path)
                continue
            if saved is not None:
                state.take(saved)
                self.saved = saved.iteration
                if damage:
                    text = f"warning: {damage[0].what} [{damage[0].file}]; {path.name} is whole and used instead"
                    self.logger.event("message", text=text, iteration=state.iteration)
                return True
            if path.is_file():
                others.append(path)
        if others and not damage:
            raise InputError(
                "no checkpoint here has had the learning rates of this training",
                file=self.folder.path,
                found=", ".join(path.name for path in others),
                expected=f"one that goes with {self.folder.length.name}",
                remedy=f"Restore {self.folder.kept_checkpoint.name}, or move the folder away to train anew.",
            )
        if damage:
            raise UnreadableFileError(
                "no checkpoint of this training is whole",
                file=self.folder.path,
                found="; ".join(f"{Path(str(error.file)).name}: {error.what}" for error in damage),
                remedy="Restore one of the files, or move the folder away to train anew.",
            )
        return False

    def _usable(self, state: TrainState, path: Path) -> SavedState | None:
        if not path.is_file():
            return None
        saved = read_state(path, state.job)
        return saved if same_past(saved.length, state.length, saved.iteration) else None

    def save(self, state: TrainState) -> bool:
        """Writes the newest checkpoint and keeps the one before; False, with a warning, if it cannot be written."""

        def rotate() -> None:
            if newest.is_file() and newest not in self._damaged:
                os.replace(newest, self.folder.previous_checkpoint)

        newest = self.folder.checkpoint
        try:
            state.save(newest, rotate)
        except OSError as error:
            kept = newest if newest.is_file() else self.folder.previous_checkpoint
            older = f"{kept.name} stays as it was" if kept.is_file() else "nothing is saved yet"
            text = f"warning: {not_written(newest, error)}. The training goes on and tries again later; {older}"
            self.logger.event("message", text=text, iteration=state.iteration)
            return False
        self._damaged.discard(newest)
        self.saved = state.iteration
        return True

    def interrupted(self, state: TrainState) -> InterruptedRunError:
        """Tells where the same command goes on: here, or where the newest checkpoint is that could be written."""
        done, end, saved = state.iteration, state.length.end, self.saved
        of = "" if end is None else f" of {end}"
        if saved == done:
            return InterruptedRunError(f"stopped after {done}{of} iterations; the same command goes on from here")
        again = "begins anew" if saved is None else f"goes on from iteration {saved}"
        return InterruptedRunError(
            f"stopped after {done}{of} iterations, and this state could not be saved; the same command {again}"
        )

    def keep(self, state: TrainState) -> None:
        """Writes the state from which the training can be extended; a warning if it cannot be written."""
        try:
            state.save(self.folder.kept_checkpoint)
        except OSError as error:
            text = f"warning: {not_written(self.folder.kept_checkpoint, error)}. Without it, --extend is not possible"
            self.logger.event("message", text=text, iteration=state.iteration)
            return
        if self.saved is None:
            self.saved = state.iteration
