"""The export stage: what predicts of a workspace, written as one folder or archive that predicts anywhere."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from autoseg import __version__
from autoseg.errors import InputError, UnreadableFileError
from autoseg.files import read_document, write_atomically, write_document
from autoseg.held_out_files import SelectionFiles, fast_loss_file, training_images_file
from autoseg.logs import Logger, SilentLogger
from autoseg.values import (
    CaseScore,
    ExecutionPath,
    Fingerprint,
    Metrics,
    Patients,
    Plan,
    Postprocessing,
    Summary,
    TrainJob,
)
from autoseg.workspace import ModelFolder, Workspace

if TYPE_CHECKING:
    from autoseg.chosen import Chosen
    from autoseg.sharing.card import TrainedFold

__all__ = ["ExportedModel", "export_model"]

SILENT = SilentLogger()


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """What ``export_model`` made.

    Attributes:
        target: the folder or archive.
        members: configuration to folds, of what predicts.
        selected: whether ``autoseg select`` had chosen them.
        metrics: on held-out cases.
    """

    target: Path
    members: dict[str, tuple[str, ...]]
    selected: bool
    metrics: Metrics


def export_model(
    workspace: Workspace,
    target: Path,
    *,
    plan_name: str | None = None,
    configuration: str | None = None,
    folds: Sequence[str] = (),
    logger: Logger = SILENT,
) -> ExportedModel:
    """Writes what ``predict`` would use, with its card and scores, and without names of cases or patients or paths.

    The same trainings give the same bytes.

    Args:
        workspace: with a trained model.
        target: to make: an archive if it ends in ``.zip``, else a folder; an older export there is replaced.
        plan_name: the active plan, and others if that has no training, by default.
        configuration: None for what was selected, or else the one with the best validation Dice.
        folds: to average; empty for all that are trained.
        logger: for events.

    Raises:
        InputError: nothing is trained; the selection is not of the trainings that are there now; or something else than an
            export stands at ``target``.
        DiskFullError: there is too little room.
    """
    from autoseg.chosen import choose
    from autoseg.inference.stages import load_staged_predictor
    from autoseg.sharing.writing import check_target, written_export

    check_target(target)
    models = [workspace.model(plan_name)] if plan_name else workspace.existing().models()
    chosen = choose(models, configuration, folds)
    if chosen.selection is not None and chosen.selection.folds != _members(chosen):
        raise InputError(
            "what was selected is exported with all folds that it was selected with",
            found=f"fold {', '.join(folds)}",
            expected="; ".join(f"{name}: {', '.join(of)}" for name, of in chosen.selection.folds.items()),
            remedy="Leave out -f, or name a configuration with -c: it is exported as it is, without the selection.",
        )
    for choice in chosen.choices:  # what cannot predict here is not exported
        load_staged_predictor(chosen.model, choice, device="cpu")
    stages = {(stage.configuration, fold): None for stage in chosen.stages() for fold in stage.folds}
    sizes = [chosen.model.fold(*stage).model.stat().st_size for stage in stages]
    with written_export(target, sum(sizes)) as folder:
        metrics = _write(workspace, chosen, list(stages), folder)
    logger.event("message", text=f"exported {metrics.model} of the plan {chosen.model.path.name}")
    return ExportedModel(target=target, members=_members(chosen), selected=chosen.selected, metrics=metrics)


def _members(chosen: Chosen) -> dict[str, tuple[str, ...]]:
    return {choice.configuration: choice.folds for choice in chosen.choices}


def _write(workspace: Workspace, chosen: Chosen, stages: Sequence[tuple[str, str]], folder: Path) -> Metrics:
    """All files of the export; the list of them last."""
    from autoseg.sharing.card import CardFacts, model_card
    from autoseg.sharing.layout import CARD, METRICS
    from autoseg.sharing.unnamed import plan_without_names, selection_of_export
    from autoseg.sharing.writing import files_of, write_manifest

    plan, exported = chosen.model.plan(), ModelFolder(folder)
    write_document(folder / "plan.json", plan_without_names(plan))
    renamed = _write_folds(chosen.model, exported, plan, stages)
    metrics, done, selection = _metrics(workspace, chosen, plan), None, None
    write_document(folder / METRICS, metrics)
    if chosen.selection is not None:
        done = read_document(Postprocessing, SelectionFiles(chosen.model).postprocessing)
        write_document(SelectionFiles(exported).postprocessing, done)
        selection = selection_of_export(chosen.selection.selection, renamed)
        write_document(SelectionFiles(exported).selection, selection)
    _write_experience(chosen, exported, metrics.model, renamed)
    jobs = {stage: read_document(TrainJob, chosen.model.fold(*stage).job) for stage in stages}
    cases = {case for job in jobs.values() for case in (*job.cases.train, *job.cases.val)}
    patients = _patients(workspace)
    facts = CardFacts(
        plan=plan,
        members=_members(chosen),
        trainings=[_training(chosen.model, job) for job in jobs.values()],
        cases=len(cases),
        patients=len({patients.patient_of.get(case, case) for case in cases}) if patients else None,
        fingerprint=_fingerprint_of(workspace, cases),
        metrics=metrics,
        selection=selection,
        postprocessing=done,
        versions=_versions(),
        files=files_of(folder),
    )
    write_atomically(folder / CARD, model_card(facts).encode())
    write_manifest(folder, plan.id, facts.members, facts.versions, selected=chosen.selected)
    return metrics


def _write_experience(
    chosen: Chosen, exported: ModelFolder, name: str, renamed: Mapping[str, Mapping[str, str]]
) -> None:
    """What answers to new images are judged by, as far as it is there."""
    from autoseg.inference.fast import fast_loss
    from autoseg.sharing.unnamed import calibration_of_export

    loss = fast_loss(chosen.model, chosen.choices)
    if loss.configurations:
        write_document(fast_loss_file(exported), loss)
    experience = chosen.experience()
    if experience.images is not None:
        write_document(training_images_file(exported), experience.images)
    if experience.calibration is not None:
        calibration = calibration_of_export(experience.calibration, chosen.model.plan(), name, renamed)
        write_document(SelectionFiles(exported).calibration, calibration)


def _write_folds(
    model: ModelFolder, exported: ModelFolder, plan: Plan, stages: Sequence[tuple[str, str]]
) -> dict[str, dict[str, str]]:
    """Weights and execution paths; returns, by configuration, the SHA-256 that weights had to the one that they have."""
    from autoseg.networks.weights import weights_id
    from autoseg.sharing.unnamed import write_weights

    renamed: dict[str, dict[str, str]] = {}
    for name, fold in stages:  # stages before come first
        source, target = model.fold(name, fold), exported.fold(name, fold)
        before = plan.configuration(name).previous_stage
        new = write_weights(source.model, target.model, renamed, before)
        renamed.setdefault(name, {})[weights_id(source.model)] = new
        if source.execution.is_file():
            path = read_document(ExecutionPath, source.execution)
            write_document(target.execution, msgspec.structs.replace(path, reason=""))
    return renamed


def _metrics(workspace: Workspace, chosen: Chosen, plan: Plan) -> Metrics:
    from autoseg.io.formats import label_ending
    from autoseg.sharing.held_out import pooled_metrics

    patients, ending = _patients(workspace), label_ending(plan.file_ending)

    def patient_of(score: CaseScore) -> str:
        case = score.prediction_file.removesuffix(ending)
        return patients.patient_of.get(case, case) if patients else case

    selection, members = chosen.selection.selection if chosen.selection else None, _members(chosen)
    return pooled_metrics(
        "+".join(members) if selection is None else selection.winner,
        plan.labels,
        {name: _summaries(chosen.model, name, folds) for name, folds in members.items()},
        {choice.configuration: choice.dice for choice in chosen.choices},
        selection.evidence if selection else None,
        patient_of,
    )


def _summaries(model: ModelFolder, configuration: str, folds: Sequence[str]) -> list[Summary]:
    paths = [model.fold(configuration, fold).summary for fold in folds]
    return [read_document(Summary, path) for path in paths if path.is_file()]


def _patients(workspace: Workspace) -> Patients | None:
    return read_document(Patients, workspace.patients_path) if workspace.patients_path.is_file() else None


def _fingerprint_of(workspace: Workspace, cases: set[str]) -> Fingerprint | None:
    """What is known of these cases; None where nothing is."""
    if not workspace.fingerprint_path().is_file():
        return None
    fingerprint: Fingerprint = read_document(Fingerprint, workspace.fingerprint_path())
    used = tuple(case for case in fingerprint.cases if case.id in cases)
    return msgspec.structs.replace(fingerprint, cases=used) if used else None


def _training(model: ModelFolder, job: TrainJob) -> TrainedFold:
    from autoseg.networks.weights import load_metadata
    from autoseg.sharing.card import TrainedFold
    from autoseg.training.job import stored_length

    folder = model.fold(job.configuration, job.fold)
    length, hours, device = stored_length(folder, job), None, ""
    try:
        hours = float(load_metadata(folder.checkpoint)["seconds"]) / 3600
    except (UnreadableFileError, KeyError, TypeError, ValueError):
        hours = None  # the last checkpoint may have been removed
    if folder.execution.is_file():
        device = read_document(ExecutionPath, folder.execution).device
    return TrainedFold(
        configuration=job.configuration,
        fold=job.fold,
        trained=len(job.cases.train),
        held_out=len(job.cases.val),
        iterations=(length.trained if length else 0) or job.iterations,
        hours=hours,
        device=device,
    )


def _versions() -> Mapping[str, str]:
    import torch

    return {"autoseg": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
