"""What a workspace holds: Status, with its plans, their folds and their selections."""

from __future__ import annotations

from typing import Literal

from autoseg.values.json_form import Value

__all__ = ["FoldState", "FoldStatus", "PlanStatus", "SelectionStatus", "Status"]

FoldState = Literal["not begun", "running", "stopped", "trained", "validated", "damaged"]


class FoldStatus(Value, frozen=True, kw_only=True):
    """One training.

    Attributes:
        configuration: its name.
        fold: a number, or "full".
        state: ``trained`` has a model that is not scored yet; a model of all cases is ``validated`` at once.
        iteration: that it has come to, as far as is known from its last checkpoint or the log.
        end: iterations in total, where that is decided.
        seconds_left: of a training that runs, as it told last.
        dice: mean over labels, of its held-out cases.
        probabilities: whether those of held-out cases are kept, for ensembles.
        where: process and machine of a training that runs.
    """

    configuration: str
    fold: str
    state: FoldState
    iteration: int | None = None
    end: int | None = None
    seconds_left: float | None = None
    dice: float | None = None
    probabilities: bool = False
    where: str = ""


class SelectionStatus(Value, frozen=True, kw_only=True):
    """The choice of a plan; ``changed`` tells why it no longer is one of what is trained now."""

    winner: str
    changed: tuple[str, ...] = ()


class PlanStatus(Value, frozen=True, kw_only=True):
    """A plan and all that is trained by it; ``folds`` holds those of the split, and others that were begun."""

    name: str
    active: bool
    configurations: tuple[str, ...]
    folds: tuple[FoldStatus, ...]
    selection: SelectionStatus | None = None


class Status(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.status/1"):
    """What a workspace holds.

    Attributes:
        workspace: its folder.
        dataset: name of the data set; None without a readable one.
        root: where the data set lies.
        cases: how many there are.
        annotated: of these.
        split: number of folds; 0 without any.
        plans: the active one first.
        problems: files that cannot be read, and why.
        command: what to type next, without ``autoseg`` and the workspace.
    """

    workspace: str
    dataset: str | None
    root: str
    cases: int
    annotated: int
    split: int
    plans: tuple[PlanStatus, ...]
    problems: tuple[str, ...]
    command: str
