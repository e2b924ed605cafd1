"""The selection that stands in a model folder: read only while it is that of the trainings which are there now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autoseg.earlier_stages import folds_to_use
from autoseg.errors import InputError
from autoseg.files import read_document
from autoseg.held_out_files import SelectionFiles
from autoseg.networks.weights import weights_id
from autoseg.values import Basis, ComponentStep, Plan, Postprocessing, Selection, digest
from autoseg.workspace import ModelFolder

__all__ = ["Selected", "finished_folds", "read_selection"]


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What predicts, by a selection.

    Attributes:
        selection: with all that it rests on.
        folds: each member's folds that are averaged.
        steps: what is done to every label map.
    """

    selection: Selection
    folds: dict[str, tuple[str, ...]]
    steps: tuple[ComponentStep, ...]


def finished_folds(model: ModelFolder, configuration: str) -> tuple[str, ...]:
    """The folds of a configuration that are trained and scored on their held-out cases."""
    folds = (fold for fold in model.trained(configuration) if fold != "full")
    return tuple(fold for fold in folds if model.fold(configuration, fold).summary.is_file())


def read_selection(model: ModelFolder) -> Selected | None:
    """The selection of a model folder; None if none was made.

    Raises:
        InputError: plan, trainings or postprocessing are not those that it was made of, or a document is damaged.
    """
    files = SelectionFiles(model)
    if not files.selection.is_file():
        return None
    selection = read_document(Selection, files.selection)
    changed = [*_changed(model, files, selection)]
    if changed or selection.basis is None:
        raise InputError(
            "the selection is not of what is trained now",
            file=files.selection,
            found="; ".join(changed) or "no record of what it was made of",
            remedy="Select again: autoseg select. Or name a configuration: -c",
        )
    weights = selection.basis.weights
    return Selected(
        selection=selection,
        folds={member: tuple(weights[member]) for member in selection.members},
        steps=read_document(Postprocessing, files.postprocessing).steps,
    )


def _changed(model: ModelFolder, files: SelectionFiles, selection: Selection) -> Iterator[str]:
    """What is not as it was when the selection was made. What predicts must be there; the rest may be left out of a copy.

    Configurations that were not compared may be trained on.
    """
    basis = selection.basis
    if basis is None:
        return
    plan = model.plan()
    if plan.id != basis.plan:
        yield f"the plan was changed (id {plan.id[:12]}, then {basis.plan[:12]})"
    if not files.postprocessing.is_file():
        yield f"{files.postprocessing.name} is missing"
    elif digest(read_document(Postprocessing, files.postprocessing)) != basis.postprocessing:
        yield f"{files.postprocessing.name} is another one"
    used = _used(plan, selection.members, basis)
    for name, then in basis.weights.items():
        for fold in finished_folds(model, name):
            if fold not in then:
                yield f"fold {fold} of {name} was trained since"
        for fold, weights in then.items():
            path = model.fold(name, fold).model
            if path.is_file() and weights_id(path) != weights:
                yield f"fold {fold} of {name} has other weights"
            elif not path.is_file() and (name, fold) in used:
                yield f"the weights of fold {fold} of {name} are missing"


def _used(plan: Plan, members: Sequence[str], basis: Basis) -> set[tuple[str, str]]:
    """Configuration and fold of all that predicts: the members, and the folds of the stages before that go with them."""
    used = set()
    for member in members:
        folds = tuple(basis.weights.get(member, {}))
        for name in plan.stages(member):
            there = tuple(basis.weights.get(name, {}))
            used |= {(name, fold) for fold in folds_to_use(there, folds) or there}
    return used
