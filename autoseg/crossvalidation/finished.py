"""The folds of a plan that are trained and scored, after it is seen to that they belong together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autoseg.earlier_stages import require_same_earlier, stages_with_folds
from autoseg.errors import InputError
from autoseg.evaluation.overlap import label_keys
from autoseg.files import read_document
from autoseg.held_out_files import ValidationFiles
from autoseg.io.case_work import CaseFiles, remember
from autoseg.io.formats import label_ending
from autoseg.networks.weights import load_metadata, weights_id
from autoseg.preprocessing.forward import case_key, parameters_key
from autoseg.selected import finished_folds
from autoseg.values import CaseScore, Dataset, Fold, Labels, Plan, Split, Summary, TrainJob, Validation, digest
from autoseg.workspace import FoldFolder, ModelFolder, Workspace

__all__ = ["FinishedFold", "check_contents", "dice_per_case", "finished_trainings"]

Finished = Mapping[str, Mapping[str, "FinishedFold"]]


@dataclass(frozen=True, kw_only=True)
class FinishedFold:
    """A fold that is trained and scored.

    Attributes:
        configuration: its name.
        fold: its number.
        folder: of the fold.
        job: that was done.
        weights: SHA-256 that the file states.
        validation: what made the scores; None of one that was made before that was recorded.
        scores: held-out case to its scores.
    """

    configuration: str
    fold: str
    folder: FoldFolder
    job: TrainJob
    weights: str
    validation: Validation | None
    scores: dict[str, CaseScore]

    @property
    def name(self) -> str:
        """For messages."""
        return f"fold {self.fold} of {self.configuration}"


def finished_trainings(
    model: ModelFolder, plan: Plan, split: Split, configurations: Sequence[str]
) -> dict[str, dict[str, FinishedFold]]:
    """Configuration to its finished folds, none if there are none.

    Args:
        model: folder of the plan.
        plan: that all must have been trained by.
        split: of the workspace.
        configurations: names.

    Raises:
        InputError: one was trained by another plan or split than the others, or with another first stage than the one that
            stands there; or its scores are not of its weights and cases.
    """
    finished = {
        name: {fold: _finished(model, plan, name, fold) for fold in finished_folds(model, name)}
        for name in configurations
    }
    first: dict[str, FinishedFold] = {}
    for each in _all(finished):
        _check_split(each, split)
    for folds in finished.values():
        _check_held_out_once(folds)
    for each in _all(finished):
        _check_same_cases(each, first.setdefault(each.fold, each))
    for name, folds in finished.items():
        if folds:
            require_same_earlier(model, stages_with_folds(model, plan, name, tuple(folds)))
    return finished


def _all(finished: Finished) -> Iterable[FinishedFold]:
    return (each for folds in finished.values() for each in folds.values())


def _finished(model: ModelFolder, plan: Plan, configuration: str, fold: str) -> FinishedFold:
    folder = model.fold(configuration, fold)
    job, record = read_document(TrainJob, folder.job), ValidationFiles(folder).record
    summary = read_document(Summary, folder.summary)
    ending = label_ending(plan.file_ending)
    finished = FinishedFold(
        configuration=configuration,
        fold=fold,
        folder=folder,
        job=job,
        weights=weights_id(folder.model),
        validation=read_document(Validation, record) if record.is_file() else None,
        scores={score.prediction_file.removesuffix(ending): score for score in summary.metric_per_case},
    )
    _check_plan(finished, plan)
    _check_scores(finished)
    return finished


def _check_plan(finished: FinishedFold, plan: Plan) -> None:
    told = {
        "its job": finished.job.plan_id,
        "its weights": str(load_metadata(finished.folder.model).get("plan")),
        **({"its scores": finished.validation.plan} if finished.validation else {}),
    }
    for what, plan_id in told.items():
        if plan_id != plan.id:
            raise InputError(
                f"{finished.name} was trained by another plan than the one that stands here",
                file=finished.folder.path,
                found=f"in {what}, plan {plan_id[:12]}",
                expected=f"plan {plan.id[:12]}",
                remedy="Restore the plan.json that it was trained by, move its folder away and train it again, or leave it "
                "out: --configurations.",
            )


def _check_scores(finished: FinishedFold) -> None:
    again = f"Repeat the training's command, which scores it anew: {_command(finished)}"
    if finished.validation is not None and finished.validation.weights != finished.weights:
        raise InputError(
            f"the scores of {finished.name} were made by other weights than those that stand there",
            file=finished.folder.validation,
            found=f"weights {finished.validation.weights[:12]}",
            expected=f"weights {finished.weights[:12]}",
            remedy=again,
        )
    if set(finished.scores) != set(finished.job.cases.val):
        strange = sorted(set(finished.scores) ^ set(finished.job.cases.val))
        raise InputError(
            f"the summary of {finished.name} is not of the cases that it held out",
            file=finished.folder.summary,
            found=", ".join(strange[:5]) + " on one side only",
            remedy=again,
        )


def _command(finished: FinishedFold) -> str:
    return f"autoseg train {finished.configuration} {finished.fold}"


def _check_split(finished: FinishedFold, split: Split) -> None:
    """Cases may have joined the split since, but none may have moved."""
    number, cases = int(finished.fold), finished.job.cases
    now = split[number] if number < len(split) else None
    moved = sorted({*cases.train, *cases.val})
    if now is not None:
        moved = sorted((set(cases.val) - set(now.val)) | (set(cases.train) - set(now.train)))
    if moved:
        raise InputError(
            f"{finished.name} was trained with another split than the workspace's",
            file=finished.folder.job,
            found=f"split {_short(cases)}, in which {', '.join(moved[:5])} stood on the other side",
            expected=f"split {_short(now)}" if now else f"one of {len(split)} folds",
            remedy="Restore splits_final.json, or move its folder away and train it again, or leave it out: "
            "--configurations.",
        )


def _check_held_out_once(folds: Mapping[str, FinishedFold]) -> None:
    """A case of two folds has two scores, and which folds are finished would decide which networks are compared."""
    where: dict[str, list[FinishedFold]] = {}
    for each in folds.values():
        for case in each.scores:
            where.setdefault(case, []).append(each)
    several = sorted(case for case, of in where.items() if len(of) > 1)
    if several:
        of = where[several[0]]
        raise InputError(
            "cases are held out in several finished folds, so they have no one score to be compared by",
            file=of[0].folder.job,
            found=f"{', '.join(several[:5])}; the first in {' and '.join(each.name for each in of)}",
            expected="each case held out in one fold",
            remedy="Move folders away until no two folds of a configuration hold out the same case.",
        )


def _check_same_cases(one: FinishedFold, other: FinishedFold) -> None:
    ones, others = one.job.cases, other.job.cases
    if (set(ones.train), set(ones.val)) != (set(others.train), set(others.val)):
        different = sorted((set(ones.train) ^ set(others.train)) | (set(ones.val) ^ set(others.val)))
        raise InputError(
            f"{other.name} and {one.name} were trained with different splits, so they cannot be compared",
            file=one.folder.job,
            found=f"splits {_short(others)} and {_short(ones)}, which differ in {', '.join(different[:5])}",
            remedy=f"Move one of the folders away and train it again: {_command(one)}",
        )


def _short(cases: Fold) -> str:
    return digest([sorted(cases.train), sorted(cases.val)])[:12]


def check_contents(workspace: Workspace, plan: Plan, finished: Finished) -> None:
    """Sees to it that images, references and labels to find are those that were trained with and scored against.

    Files are known by size and time; what is not here any more is taken to be as it last was.

    Raises:
        InputError: they are not; all such cases are named.
    """
    dataset = workspace.dataset()
    cases, hashes, changed = {case.id: case for case in dataset.cases}, dict[str, list[str]](), dict[str, set[str]]()
    for each in _all(finished):
        _check_looked_for(each, dataset)
        parameters = parameters_key(plan, plan.configuration(each.configuration))
        for case_id in sorted((*each.job.cases.train, *each.job.cases.val)):
            if case_id not in cases:
                changed.setdefault(case_id, set()).add(each.name)
                continue
            if case_id not in hashes:
                files = CaseFiles.of(cases[case_id], dataset.root, workspace.contents)
                hashes[case_id], read = files.look()
                remember(workspace.contents, read)
            if case_key(parameters, hashes[case_id]) != each.job.case_keys[case_id]:
                changed.setdefault(case_id, set()).add(each.name)
    workspace.contents.save()
    if changed:
        named = [f"{case} ({', '.join(sorted(where))})" for case, where in sorted(changed.items())]
        raise InputError(
            "images or references have changed since they were trained with or scored against, or how they are prepared",
            found="; ".join(named[:5]) + (f"; and {len(named) - 5} more" if len(named) > 5 else ""),
            expected="files with the SHA-256 that they had when the fold was trained",
            remedy="Restore the files, or move the folders of these folds away and train them again.",
        )


def _check_looked_for(finished: FinishedFold, dataset: Dataset) -> None:
    """A label that was not looked for has no Dice; without this, that would be taken for one that is rightly absent."""
    used = {*finished.job.cases.train, *finished.job.cases.val}
    now = {case.id: case.annotated for case in dataset.partly_annotated if case.id in used}
    different = sorted(case for case in used if finished.job.annotated.get(case) != now.get(case))
    if different:
        raise InputError(
            f"{finished.name} was trained and scored with other labels looked for than the data set tells now",
            file=finished.folder.job,
            found=", ".join(different[:5]),
            remedy="Restore the annotated lists and plan again, or move its folder away and train it again, or leave it "
            "out: --configurations.",
        )


def dice_per_case(finished: Mapping[str, FinishedFold], labels: Labels) -> dict[str, dict[str, float | None]]:
    """Case to label name to Dice, of all folds of a configuration."""
    names = dict(zip(label_keys(labels), (label.name for label in labels.foreground), strict=True))
    return {
        case: {name: score.metrics[key].dice for key, name in names.items()}
        for fold in finished.values()
        for case, score in fold.scores.items()
    }
