"""What configurations cost: time per case at prediction, as their validations took it, and hours of training."""

from __future__ import annotations

from collections.abc import Mapping

from autoseg.crossvalidation.finished import FinishedFold
from autoseg.errors import InputError
from autoseg.logs import Logger
from autoseg.networks.weights import load_metadata
from autoseg.values import Cost, Validation

__all__ = ["costs_of"]


def costs_of(finished: Mapping[str, Mapping[str, FinishedFold]], device: str, logger: Logger) -> dict[str, Cost]:
    """Configuration to its cost with one fold's network; what was not measured is None.

    Times of different devices say nothing about each other: if there are several, only those of one device count.

    Args:
        finished: configuration to its finished folds.
        device: whose times count if there are several.
        logger: told if there are.
    """
    timed = {
        name: [each.validation for each in folds.values() if each.validation is not None and each.validation.seconds]
        for name, folds in finished.items()
    }
    places = {_place(each) for records in timed.values() for each in records}
    if len(places) > 1:
        counted = max((place for place in places if place[0] == device), default=None)
        timed = {name: [each for each in records if _place(each) == counted] for name, records in timed.items()}
        listed = ", ".join(f"{where} with {threads} threads" for where, threads in sorted(places))
        text = f"predictions were timed on different devices ({listed}); only those on {device} are compared"
        logger.event("message", text=text)
    return {
        name: Cost(seconds_per_case=_mean(timed[name]), training_hours=_hours(list(folds.values())))
        for name, folds in finished.items()
    }


def _place(validation: Validation) -> tuple[str, int]:
    """What a time depends on beside the work: on a GPU not on the processor's threads."""
    return validation.device, validation.threads if validation.device == "cpu" else 1


def _mean(records: list[Validation]) -> float | None:
    return _rounded([each for record in records for each in record.seconds.values()])


def _hours(folds: list[FinishedFold]) -> float | None:
    """Of a fold, in the mean; None if the last checkpoint of one is gone or does not tell."""
    hours = []
    for each in folds:
        try:
            hours.append(float(load_metadata(each.folder.checkpoint)["seconds"]) / 3600)
        except (InputError, KeyError, TypeError, ValueError):
            return None
    return _rounded(hours)


def _rounded(times: list[float]) -> float | None:
    """The mean in four digits, however short it is: what costs little does not cost nothing."""
    return float(f"{sum(times) / len(times):.4g}") if times else None
