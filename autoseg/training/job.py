"""Which training to do in a folder, and how far: a new one, or the one that stands there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock, Timeout

from autoseg.errors import InputError
from autoseg.files import read_document
from autoseg.logs import Logger
from autoseg.networks.weights import load_metadata
from autoseg.training.length import extended, fixed_length
from autoseg.training.state import read_state
from autoseg.values import Length, PartRecord, Plan, TrainJob
from autoseg.workspace import FoldFolder

__all__ = ["Wish", "ask_to_end", "has_ended", "job_to_do", "left_to_finish", "length_to_do", "stored_length"]

#: Differences of two plans that are shown.
SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How far to train, as a user says it; all None or False: as the plan says, or as the training that stands there.

    Attributes:
        iterations: in total.
        hours: until the model is scored.
        until_plateau: until the estimate on held-out cases no longer rises.
        extend: iterations to add to a training that has ended.

    Raises:
        InputError: a number is not over 0, the hours have no end, or more than one wish is named.
    """

    iterations: int | None = None
    hours: float | None = None
    until_plateau: bool = False
    extend: int | None = None

    def __post_init__(self) -> None:
        wishes = {"iterations": self.iterations, "hours": self.hours, "extend": self.extend}
        named = {name: number for name, number in wishes.items() if number is not None}
        for name, number in named.items():
            if not (math.isfinite(number) and number > 0):
                raise InputError(
                    f"this is no length of a training: {name}", found=str(number), expected="a number over 0"
                )
        given = [*named, *(["until_plateau"] if self.until_plateau else [])]
        if len(given) > 1:
            raise InputError("a training has one length", found=" and ".join(given), expected="one of them")


def job_to_do(path: Path, wanted: TrainJob, *, exact_length: bool, plan: Plan | None = None) -> TrainJob:
    """The job that stands in the folder if it is the wanted one, else, if none stands there, the wanted one.

    Without ``exact_length``, a training of any length is gone on with; without ``begins_from``, one that began with any.

    Args:
        path: of the job's document; beside it lies the plan that the training began with.
        wanted: as it would be now.
        exact_length: whether the number of iterations was asked for.
        plan: as it is now, to tell how it changed.

    Raises:
        InputError: another training stands there.
    """
    if not path.is_file():
        return wanted
    there = read_document(TrainJob, path)
    if not exact_length:
        wanted = msgspec.structs.replace(wanted, iterations=there.iterations)
    if not wanted.begins_from:  # it goes on with what it began with
        wanted = msgspec.structs.replace(wanted, begins_from=there.begins_from)
    if not there.previous_weights:  # it began before these were recorded; the label maps are compared all the same
        wanted = msgspec.structs.replace(wanted, previous_weights={})
    changed = [name for name in there.__struct_fields__ if getattr(there, name) != getattr(wanted, name)]
    if not changed:
        return there
    remedy = "Repeat it with its own settings to go on, or move its folder away to train anew."
    if changed == ["iterations"]:
        found, expected = f"{there.iterations} iterations", str(wanted.iterations)
        remedy += " Once it has ended, --extend adds iterations."
    else:
        named = {
            "case_keys": "the content of cases",
            "annotated": "the labels that were looked for",
            "cases": "the folds",
            "plan_id": "the plan",
            "seed": "the seed",
        }
        named["begins_from"] = "the weights that it began with"
        named["previous_keys"] = (
            f"what the stage before predicted{_of_cases(there.previous_keys, wanted.previous_keys)}"
        )
        named["previous_weights"] = "the weights of the stage before"
        named["parts"] = f"the code of {_changed_parts(there.parts, wanted.parts)}"
        found, expected = ", ".join(named.get(name, name) for name in changed) + " changed since", "the same as then"
        before = FoldFolder(path.parent).plan
        if "plan_id" in changed and plan is not None and before.is_file():
            found += f" ({'; '.join(_differences(read_document(Plan, before), plan))})"
    raise InputError(
        "a training with other settings stands here", file=path.parent, found=found, expected=expected, remedy=remedy
    )


def length_to_do(folder: FoldFolder, job: TrainJob, wish: Wish, *, has_estimates: bool) -> Length:
    """How far to train: as it is wished, or as it was decided for the training that stands there.

    Args:
        folder: of the training.
        job: that is done there.
        wish: of the user.
        has_estimates: whether held-out cases tell while training whether there is a plateau.

    Raises:
        InputError: what stands there cannot be trained that far.
    """
    if wish.until_plateau and not has_estimates:
        raise InputError(
            "there is nothing to see a plateau by: this training has no held-out cases, or no estimates on them",
            file=folder.path,
            remedy="Train a fold with held-out cases, or give the length: --epochs or --hours.",
        )
    there = stored_length(folder, job)
    if wish.extend is not None:
        return _extended(folder, job, there, wish.extend)
    if there is None:
        if wish.hours is None and not wish.until_plateau:
            return fixed_length(job.iterations)
        return Length(hours=wish.hours, until_plateau=wish.until_plateau)
    as_wished = msgspec.structs.replace(
        there, hours=wish.hours or there.hours, until_plateau=wish.until_plateau or there.until_plateau
    )
    if wish.iterations is not None and there.iterations is None:
        raise InputError(
            "a training of open length stands here",
            file=folder.path,
            expected=f"{wish.iterations} iterations",
            remedy="Repeat it without a length to go on, end it with --finish, or move its folder away to train anew.",
        )
    if as_wished != there and there.trained != there.end and _cools_down(folder, there):
        raise InputError(
            "the cooldown of the training here has begun, so its length cannot be changed any more",
            file=folder.path,
            found=f"an end after {there.end} iterations: {there.reason}",
            remedy="Repeat it without a length to go on; once it has ended, --extend adds iterations.",
        )
    if as_wished != there and there.trained == there.end:
        raise InputError(
            "the training here has ended",
            file=folder.path,
            found=f"{there.end} iterations",
            remedy="--extend adds iterations to it; or move its folder away to train anew.",
        )
    return as_wished


def stored_length(folder: FoldFolder, job: TrainJob) -> Length | None:
    """How far the training that stands there goes; None if none does."""
    if not folder.job.is_file():  # written last: without it, whatever else is there was not begun
        return None
    if folder.length.is_file():
        return read_document(Length, folder.length)
    length = fixed_length(job.iterations)
    return msgspec.structs.replace(length, trained=length.end) if folder.model.is_file() else length


def _cools_down(folder: FoldFolder, length: Length) -> bool:
    """Whether the end is decided: somebody asked for it, or the last iterations of an extension have begun."""
    if length.decided or length.cooldown_from is None or not folder.checkpoint.is_file():
        return length.decided
    return int(load_metadata(folder.checkpoint).get("iteration", 0)) >= length.cooldown_from


def has_ended(folder: FoldFolder, length: Length) -> bool:
    """Whether the model that stands in the folder is the one that the training leads to."""
    return folder.model.is_file() and length.trained == length.end


def left_to_finish(folders: Mapping[str, FoldFolder], logger: Logger) -> list[str]:
    """Asks trainings to end, of several folds those that have begun; returns the folds where that is to be done here."""
    begun = [fold for fold, folder in folders.items() if len(folders) == 1 or folder.job.is_file()]
    running = [fold for fold in begun if ask_to_end(folders[fold])]
    for fold in running:
        text = f"fold {fold} is being trained by another process: it was asked to end, and will tell there"
        logger.event("message", text=text, fold=fold)
    return [fold for fold in begun if fold not in running]


def ask_to_end(folder: FoldFolder) -> bool:
    """Asks a training for a short cooldown to its model; False if nobody is training there who would hear it.

    Raises:
        InputError: no training has begun there.
    """
    if not folder.job.is_file():
        raise InputError("no training has begun here that could be ended", file=folder.path)
    length = stored_length(folder, read_document(TrainJob, folder.job))
    if length is not None and has_ended(folder, length):
        return False
    folder.stop_file.touch()
    try:
        with FileLock(folder.lock, timeout=0):
            return False
    except Timeout:
        return True


def _extended(folder: FoldFolder, job: TrainJob, there: Length | None, by: int) -> Length:
    """The length of the training with more iterations; as it is, if these are being done already."""
    scored = not job.cases.val or folder.summary.is_file()
    if there is None or not (has_ended(folder, there) and scored):
        if there is not None and there.extended_by == by:
            return there
        raise InputError(
            "there is no training here that has ended, so none can be extended"
            if there is None
            else "the training here has not ended yet, with the scores of its held-out cases",
            file=folder.path,
            found=f"an extension by {there.extended_by} iterations" if there and there.extended_by else None,
            remedy="Train without --extend first; --finish ends a training early.",
        )
    if not folder.kept_checkpoint.is_file():
        raise InputError(
            "the state before the learning rate fell to zero is not there, so the training cannot be extended",
            file=folder.kept_checkpoint,
            remedy="Restore the file, or move the folder away to train anew.",
        )
    read_state(folder.kept_checkpoint, job)  # it is whole, or all stays as it is
    return extended(there, by)


def _differences(before: Plan, now: Plan) -> Iterator[str]:
    """``configurations.2d.batch_size: 2 then, 4 now``, for what makes the experiment; not all of very many."""
    old, new = (dict(_fields(msgspec.to_builtins(plan.essence))) for plan in (before, now))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    for name in names[:SHOWN]:
        yield f"{name}: {old.get(name, 'nothing')} then, {new.get(name, 'nothing')} now"
    if len(names) > SHOWN:
        yield f"and {len(names) - SHOWN} more"


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and content of every field; of lists of objects by their names, other lists as a whole."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple) and value and all(isinstance(each, dict) for each in value):
        parts = {str(each.get("name", index)): each for index, each in enumerate(value)}.items()
    else:
        yield path, value
        return
    for name, part in parts:
        yield from _fields(part, f"{path}.{name}" if path else name)


def _of_cases(there: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """`` of a, b``: the cases of which the keys are others; not all of very many."""
    cases = sorted(case for case in {**there, **wanted} if there.get(case) != wanted.get(case))
    rest = f" and {len(cases) - SHOWN} more" if len(cases) > SHOWN else ""
    return f" of {', '.join(cases[:SHOWN])}{rest}"


def _changed_parts(there: Sequence[PartRecord], wanted: Sequence[PartRecord]) -> str:
    """Names of the parts whose code is another one."""
    return ", ".join(sorted({part.name for part in {*there} ^ {*wanted}}))
