"""What configurations cost: time per case at prediction, as their validations took it, and hours of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from autoseg.crossvalidation.finished import FinishedFold
from autoseg.errors import InputError, counted
from autoseg.logs import Logger
from autoseg.networks.weights import load_metadata
from autoseg.values import Cost, Validation

__all__ = ["costs_of", "place_of", "told_place"]


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
    places = {place_of(each) for records in timed.values() for each in records}
    if len(places) > 1:
        number = Counter(place_of(each) for records in timed.values() for each in records)
        here = [place for place in sorted(places) if place[0] == device]
        chosen = max(here, key=number.__getitem__, default=None)
        timed = {name: [each for each in records if place_of(each) == chosen] for name, records in timed.items()}
        listed = ", ".join(map(told_place, sorted(places)))
        kept = told_place(chosen) if chosen else device
        text = f"predictions were timed on different devices ({listed}); only those on {kept} are compared"
        logger.event("message", text=text)
    shared = _shared(timed)
    return {
        name: Cost(seconds_per_case=_mean(timed[name], shared), training_hours=_hours(list(folds.values())))
        for name, folds in finished.items()
    }


def place_of(validation: Validation) -> tuple[str, str, int]:
    """What a time depends on beside the work: on a GPU not on the processor's threads, but on which one it is."""
    return validation.device, validation.device_name, validation.threads if validation.device == "cpu" else 1


def told_place(place: tuple[str, str, int]) -> str:
    """The same in words."""
    device, name, threads = place
    return f"{device} ({name})" if name else f"{device} with {counted(threads, 'thread')}"


def _shared(timed: Mapping[str, Sequence[Validation]]) -> set[str]:
    """The cases that all configurations with a time have timed; empty if there is none."""
    cases = [{case for each in records for case in each.seconds} for records in timed.values() if records]
    return set.intersection(*cases) if cases else set()


def _mean(records: Sequence[Validation], shared: set[str]) -> float | None:
    """Over the shared cases, which are equally large for all; over all if there is none."""
    seconds = {case: time for record in records for case, time in record.seconds.items()}
    return _rounded([time for case, time in seconds.items() if not shared or case in shared])


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
