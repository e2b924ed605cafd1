"""Which training to do in a folder: a new one, or the one that stands there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from autoseg.errors import InputError
from autoseg.files import read_document
from autoseg.values import PartRecord, TrainJob

__all__ = ["job_to_do"]


def job_to_do(path: Path, wanted: TrainJob, *, exact_length: bool) -> TrainJob:
    """The job that stands in the folder if it is the wanted one, else, if none stands there, the wanted one.

    Without ``exact_length``, a training of any length is gone on with; without ``begins_from``, one that began with any.

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
    changed = [name for name in there.__struct_fields__ if getattr(there, name) != getattr(wanted, name)]
    if not changed:
        return there
    if changed == ["iterations"]:
        found, expected = f"{there.iterations} iterations", str(wanted.iterations)
    else:
        named = {"case_keys": "the content of cases", "cases": "the folds", "plan_id": "the plan", "seed": "the seed"}
        named["begins_from"] = "the weights that it began with"
        named["parts"] = f"the code of {_changed_parts(there.parts, wanted.parts)}"
        found, expected = ", ".join(named.get(name, name) for name in changed) + " changed since", "the same as then"
    raise InputError(
        "a training with other settings stands here",
        file=path.parent,
        found=found,
        expected=expected,
        remedy="Repeat it with its own settings to go on, or move its folder away to train anew.",
    )


def _changed_parts(there: Sequence[PartRecord], wanted: Sequence[PartRecord]) -> str:
    """Names of the parts whose code is another one."""
    return ", ".join(sorted({part.name for part in {*there} ^ {*wanted}}))
