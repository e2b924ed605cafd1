"""On which terms a configuration was trained: how far, how long, where, and whether it could be trained so again."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from autoseg.crossvalidation import FinishedFold, place_of, told_place
from autoseg.errors import InputError, counted
from autoseg.files import read_document
from autoseg.networks.weights import load_metadata
from autoseg.values import Configuration, ExecutionPath, Length, Plan, Split, select_fold

__all__ = ["EQUAL_WITHIN", "Terms", "terms_of"]

#: Times that differ by no more count as equal; parameters by twice as much, for widths are whole numbers.
EQUAL_WITHIN = 0.05


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Those of one fold.

    Attributes:
        configuration: that was trained.
        finished: the training.
        iterations: that the model has behind it.
        seconds: that the training took, with all that it scored meanwhile; None if that is not known any more.
        place: device that trained, and what is known of its speed: a GPU's name, or how many processors there were.
        planned_schedule: whether the learning rate followed the plan's schedule from the beginning to the end.
        unlike_now: why a training of today would not be on the same terms; empty if it would.
    """

    configuration: Configuration
    finished: FinishedFold
    iterations: int
    seconds: float | None
    place: str
    planned_schedule: bool
    unlike_now: str

    @property
    def name(self) -> str:
        """Of the configuration."""
        return self.configuration.name

    @property
    def fold(self) -> str:
        """Its number."""
        return self.finished.fold


def terms_of(plan: Plan, finished: FinishedFold, split: Split) -> Terms:
    """The terms of a finished fold.

    Args:
        plan: that it was trained by.
        finished: the fold.
        split: of now.
    """
    folder, job, seconds = finished.folder, finished.job, None
    length = read_document(Length, folder.length) if folder.length.is_file() else None
    with contextlib.suppress(InputError, KeyError, TypeError, ValueError):
        seconds = float(load_metadata(folder.checkpoint)["seconds"]) or None
    return Terms(
        configuration=plan.configuration(finished.configuration),
        finished=finished,
        iterations=(length.trained if length else 0) or job.iterations,
        seconds=seconds,
        place=_place(finished),
        planned_schedule=length is None
        or (length.iterations, length.cooldown_from, length.held_from) == (length.end, None, None),
        unlike_now=_unlike_now(finished, split),
    )


def _place(finished: FinishedFold) -> str:
    """As the validation tells it, which a training ends with; the device alone where that tells nothing."""
    file = finished.folder.execution
    device = read_document(ExecutionPath, file).device if file.is_file() else ""
    if finished.validation is None or device not in ("", finished.validation.device):
        return device or "an unknown device"
    return told_place(place_of(finished.validation))


def _unlike_now(finished: FinishedFold, split: Split) -> str:
    then, now = finished.job.cases, select_fold(split, finished.fold)
    if finished.job.begins_from:
        return f"{finished.name} began with the weights of another model, which a training for comparison would not"
    if set(then.train) != set(now.train) or set(then.val) != set(now.val):
        new = len({*now.train, *now.val} - {*then.train, *then.val})
        return f"{counted(new, 'case')} joined the split since {finished.name} was trained: train it anew first"
    return ""
