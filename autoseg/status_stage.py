"""What a workspace holds and what is missing, read from its files alone, without torch; a damaged file is named.

That a training runs is seen by its lease. A process of this machine is looked for; of another machine's, the lease must have
changed in the last minutes. That is for people only: who takes over a training watches its lease (``autoseg.leases``).
"""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from autoseg.errors import AutosegError, InputError
from autoseg.files import read_document
from autoseg.held_out_files import SelectionFiles
from autoseg.leases import FILES, look
from autoseg.machine import machine_identity
from autoseg.values import Length, Plan, Postprocessing, Split, Summary, TrainJob, digest, fold_of_folder
from autoseg.values.status import FoldStatus, PlanStatus, SelectionStatus, Status
from autoseg.workspace import FoldFolder, ModelFolder, Workspace

__all__ = ["fold_status", "holder", "last_iterations", "workspace_status"]

T = TypeVar("T")
#: A lease of another machine that has not changed for so long is taken for left.
LONG_SECONDS = 600.0
#: The last bytes of a log that are looked through: some thousand events.
TAIL_BYTES = 2**19
MOST_HEADER_BYTES = 100_000_000


def workspace_status(workspace: Workspace) -> Status:
    """What a workspace holds.

    Raises:
        InputError: there is nothing at all.
    """
    if not workspace.path.is_dir() or not workspace.begun():
        workspace.existing()
    problems: list[str] = []
    dataset = _read(problems, workspace.dataset) if workspace.dataset_path.is_file() else None
    split: Split = _read(problems, lambda: _split(workspace)) or ()
    known = _read(problems, workspace.models)
    models = known or [ModelFolder(path.parent) for path in sorted(workspace.path.glob("models/*/plan.json"))]
    logs = [workspace.log_path(command) for command in ("train", "run")]
    plans = tuple(
        _plan_status(model, split, logs, problems, active=bool(known) and place == 0)
        for place, model in enumerate(models)
    )
    return Status(
        workspace=str(workspace.path),
        dataset=dataset.name if dataset else None,
        root=str(dataset.root) if dataset else "",
        cases=len(dataset.cases) if dataset else 0,
        annotated=len(dataset.annotated_cases) if dataset else 0,
        split=len(split),
        plans=plans,
        problems=tuple(dict.fromkeys(problems)),
        command=_next(plans[0] if plans else None, str(dataset.root) if dataset else "DATASET"),
    )


def fold_status(
    folder: FoldFolder, configuration: str, fold: str, logs: Sequence[Path], problems: list[str]
) -> FoldStatus:
    """How far a training is.

    Args:
        folder: of the training.
        configuration: its name.
        fold: a number, or "full".
        logs: of ``autoseg train`` and ``autoseg run``.
        problems: gets what cannot be read.
    """
    count = len(problems)
    job = _read(problems, lambda: read_document(TrainJob, folder.job)) if folder.job.is_file() else None
    length = _read(problems, lambda: read_document(Length, folder.length)) if folder.length.is_file() else None
    known: dict[str, Any] = {"configuration": configuration, "fold": fold}
    if job is not None:
        known["end"] = length.end if length else job.iterations
    where = holder(folder)
    if where:
        told = last_iterations(logs, configuration, fold)
        known |= {"where": where, "iteration": told.get("iteration"), "seconds_left": told.get("seconds_left")}
        return FoldStatus(state="running", **known)
    if len(problems) > count:
        return FoldStatus(state="damaged", **known)
    if job is None:
        return FoldStatus(state="not begun", **known)
    if not folder.model.is_file() or (length is not None and length.trained != length.end):
        checkpoint = _read(problems, lambda: _metadata(folder.checkpoint)) if folder.checkpoint.is_file() else {}
        return FoldStatus(state="stopped", iteration=(checkpoint or {}).get("iteration", 0), **known)
    known["iteration"] = known["end"]
    if job.cases.val and not folder.summary.is_file():
        return FoldStatus(state="trained", **known)
    summary = _read(problems, lambda: read_document(Summary, folder.summary)) if job.cases.val else None
    if job.cases.val and summary is None:
        return FoldStatus(state="damaged", **known)
    kept = any((folder.validation / "probabilities").glob("*"))
    dice = summary.foreground_mean.dice if summary else None
    return FoldStatus(state="validated", dice=dice, probabilities=kept, **known)


def holder(folder: FoldFolder) -> str:
    """Who trains in a folder now, as far as can be told without watching; empty if nobody."""
    with contextlib.suppress(OSError):
        seen = look(folder.path)
        if seen is not None and seen.record is not None and not seen.free:
            here = seen.record.machine == machine_identity() != ""
            file = folder.path / FILES / f"{seen.number:09}.json"
            if here or abs(time.time() - file.stat().st_mtime) < LONG_SECONDS:
                return f"process {seen.record.process} on {seen.record.host}"
    return ""


def last_iterations(logs: Sequence[Path], configuration: str, fold: str) -> dict[str, Any]:
    """The last event of a training that told its iteration; empty if there is none near the end of the logs."""
    found = [event for log in logs if (event := _last_in(log, configuration, fold))]
    return max(found, key=lambda event: str(event.get("time")), default={})


def _last_in(log: Path, configuration: str, fold: str) -> dict[str, Any]:
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        if b'"iterations"' in line:
            with contextlib.suppress(msgspec.DecodeError):  # the first line may be cut
                event = msgspec.json.decode(line)
                named = isinstance(event, dict) and [event.get(key) for key in ("event", "configuration", "fold")]
                if named == ["iterations", configuration, fold] and isinstance(event.get("iteration"), int):
                    return dict(event)
    return {}


def _split(workspace: Workspace) -> Split:
    return read_document(Split, workspace.split_path) if workspace.split_path.is_file() else ()


def _plan_status(
    model: ModelFolder, split: Split, logs: Sequence[Path], problems: list[str], *, active: bool
) -> PlanStatus:
    plan = _read(problems, model.plan)
    names = plan.names if plan else sorted(path.name for path in model.path.iterdir() if path.is_dir())
    folds = []
    for name in names:
        wanted = [str(number) for number in range(len(split))]
        begun = {
            fold for path in (model.path / name).glob("*/job.json") if (fold := _known_fold(path.parent, problems))
        }
        for fold in [*wanted, *sorted(begun - {*wanted})]:
            folds.append(fold_status(model.fold(name, fold), name, fold, logs, problems))
    selection = _selection_status(model, plan, folds, problems)
    return PlanStatus(
        name=model.path.name, active=active, configurations=tuple(names), folds=tuple(folds), selection=selection
    )


def _known_fold(folder: Path, problems: list[str]) -> str | None:
    """The fold of a training's folder; of one that was renamed None, and a line in ``problems``."""
    fold = fold_of_folder(folder.name)
    if fold is None:
        problems.append(f"this is no fold's folder, so what was trained there is not used [{folder}]")
    return fold


def _selection_status(
    model: ModelFolder, plan: Plan | None, folds: Sequence[FoldStatus], problems: list[str]
) -> SelectionStatus | None:
    """The choice, compared with what is trained now; a choice that does not tell what it was made of is out of date."""
    path = SelectionFiles(model).selection
    if not path.is_file():
        return None
    try:
        document = msgspec.json.decode(path.read_bytes())
        winner, basis = str(document["winner"]), document.get("basis") or {}
        weights = {str(name): dict(of) for name, of in basis.get("weights", {}).items()}
    except (OSError, msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError):
        problems.append(f"this is no selection [{path}]. Select again.")
        return None
    changed = [] if weights else ["it does not tell what it was made of"]
    if plan is not None and weights and basis.get("plan") != plan.id:
        changed.append("the plan was changed")
    if basis and (problem := _postprocessing_problem(model, basis.get("postprocessing"))):
        changed.append(problem)
    validated = {(each.configuration, each.fold) for each in folds if each.state == "validated" and each.fold != "full"}
    then = {(name, fold) for name, of in weights.items() for fold in of}
    for name, fold in sorted(validated - then):
        if name in weights:  # others were not compared
            changed.append(f"fold {fold} of {name} was trained since")
    for name, fold in sorted(then):
        stated = _read([], lambda name=name, fold=fold: _metadata(model.fold(name, fold).model))  # type: ignore[misc]
        if (stated or {}).get("sha256", weights[name][fold]) != weights[name][fold] or stated is None:
            changed.append(f"fold {fold} of {name} has other weights, or none")
    return SelectionStatus(winner=winner, changed=tuple(changed))


def _postprocessing_problem(model: ModelFolder, then: object) -> str:
    """What is not as it was when the selection was made; empty if all is."""
    path = SelectionFiles(model).postprocessing
    if not path.is_file():
        return f"{path.name} is missing"
    steps = _read([], lambda: read_document(Postprocessing, path))
    return "" if steps is not None and digest(steps) == then else f"{path.name} is another one"


def _metadata(path: Path) -> dict[str, Any]:
    """What a file of tensors of ours tells beside them: its header is read, and nothing is computed.

    Raises:
        InputError: it is no such file.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > min(MOST_HEADER_BYTES, path.stat().st_size):
                raise ValueError("its header is cut off")
            told = msgspec.json.decode(file.read(size))["__metadata__"]["autoseg"]
        metadata = json.loads(told)
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is not an object")
        return metadata
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"cannot read the weights: {error}", file=path) from error


def _next(plan: PlanStatus | None, root: str) -> str:
    """What to type: all that is missing is made by one command."""
    if plan is None or not plan.configurations:
        return f"plan {shlex.quote(root)}"
    unfinished = [each for each in plan.folds if each.state != "validated"]
    if unfinished or plan.selection is None or plan.selection.changed:
        return f"run {shlex.quote(root)}" + ("" if plan.active else f" --plan {shlex.quote(plan.name)}")
    return "predict -i IMAGES -o PREDICTIONS"


def _read(problems: list[str], read: Callable[[], T]) -> T | None:
    """What is read; None, and a line in ``problems``, if it cannot be."""
    try:
        return read()
    except (AutosegError, OSError) as error:
        problems.append(str(error))
        return None
