"""What leaves the house without names of cases and patients, paths, and words that could hold any of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from autoseg.networks.weights import load_tensors, save_tensors, weights_id
from autoseg.selection import without_names
from autoseg.values import CalibrationSet, ModelCalibration, Plan, Selection

__all__ = ["calibration_of_export", "plan_without_names", "selection_of_export", "write_weights"]

#: Fold to the SHA-256 of its weights, by configuration.
WeightIds = Mapping[str, Mapping[str, str]]


def plan_without_names(plan: Plan) -> Plan:
    """The same plan, of the same id, without what was written for its reader: warnings name cases, and reasons could.

    Names that a user gave are part of the model and stay: of the plan, data set, channels, labels and configurations.
    """
    return msgspec.structs.replace(
        plan,
        planner=plan.planner.rpartition(":")[2],  # of a planner in somebody's file, without its module
        reasons={},
        warnings=(),
        normalization=tuple(msgspec.structs.replace(spec, reason="") for spec in plan.normalization),
        configurations=tuple(msgspec.structs.replace(each, reasons={}) for each in plan.configurations),
    )


def write_weights(source: Path, target: Path, renamed: WeightIds, stage_before: str | None) -> str:
    """Copies weights with what prediction has to know beside them, and nothing else: skipped cases have names.

    Args:
        source: the weights of a fold.
        target: file to write.
        renamed: of the stages that were written before this one, configuration and old SHA-256 to the new one.
        stage_before: the configuration whose prediction this one takes, if there is one.

    Returns:
        SHA-256 of the new weights, as ``weights_id`` tells it.

    Raises:
        UnreadableFileError: the weights are damaged.
    """
    tensors, told = load_tensors(source)
    kept: dict[str, Any] = {name: told[name] for name in ("plan", "fold") if name in told}
    if "parts" in told:
        kept["parts"] = [{**part, "file": Path(part.get("file", "")).name} for part in told["parts"]]
    if stage_before is not None and "previous_weights" in told:
        new = renamed.get(stage_before, {})
        kept["previous_weights"] = {fold: new.get(old, old) for fold, old in told["previous_weights"].items()}
    save_tensors(target, tensors, kept)
    return weights_id(target)


def selection_of_export(selection: Selection, renamed: WeightIds) -> Selection:
    """The selection with numbers in the place of names, resting on the weights as they were exported.

    It can be made again from what it holds, as before. Weights that are not exported keep their SHA-256.

    Args:
        selection: as it was made.
        renamed: configuration and old SHA-256 to the new one.
    """
    basis = selection.basis
    if basis is not None:
        weights = {
            name: {fold: renamed.get(name, {}).get(old, old) for fold, old in folds.items()}
            for name, folds in basis.weights.items()
        }
        basis = msgspec.structs.replace(basis, weights=weights)
    return msgspec.structs.replace(without_names(selection), basis=basis)


def calibration_of_export(calibration: ModelCalibration, plan: Plan, name: str, renamed: WeightIds) -> CalibrationSet:
    """The calibration of what is exported, of the weights as they were exported; it holds no names of cases.

    Args:
        calibration: of the weights before.
        plan: of the model.
        name: of the candidate.
        renamed: configuration and old SHA-256 to the new one.
    """
    weights = {
        member: {fold: renamed.get(member, {}).get(old, old) for fold, old in folds.items()}
        for member, folds in calibration.weights.items()
    }
    return CalibrationSet(plan=plan.id, candidates={name: msgspec.structs.replace(calibration, weights=weights)})
