"""Predicting many cases: the held-out cases of a fold, scored, and new images, written. Both take the same way."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec

from autoseg import __version__
from autoseg.errors import CasesFailedError, InputError, InterruptedRunError, MissingPartError
from autoseg.evaluation.score_table import SCORE_TABLE, write_score_table
from autoseg.evaluation.summarize import summarize
from autoseg.executors import Executor, SerialExecutor
from autoseg.files import content_hash, keep, read_document, write_document
from autoseg.inference.export import label_map
from autoseg.inference.held_out import case_score, prediction_of, with_whole_case
from autoseg.inference.inputs import Prepared, PrepareInput, hand_over_folder
from autoseg.inference.likeness import unlike_training
from autoseg.inference.predict import Predictor
from autoseg.inference.stages import logits_of
from autoseg.io.case_store import CaseStore
from autoseg.io.case_work import CaseFiles, run_admitted
from autoseg.io.formats import format_of, label_ending, split_ending
from autoseg.logs import Logger, reported
from autoseg.values import (
    PREDICTION_RECORD,
    Case,
    CasePrediction,
    CaseScore,
    Measuring,
    Plan,
    PredictionRecord,
    Summary,
    digest,
)
from autoseg.workspace import FoldFolder

__all__ = ["predict_files", "validate_cases"]


def validate_cases(
    predictor: Predictor,
    plan: Plan,
    store: CaseStore,
    keys: Mapping[str, str],
    annotated: Mapping[str, Sequence[str]],
    folder: FoldFolder,
    logger: Logger,
    stop: Callable[[], bool],
) -> Summary:
    """Predicts preprocessed cases back to their original grids, writes the label maps and scores them there.

    A case that has been scored before is not predicted again, so that an interrupted validation goes on. That is safe
    because the folder belongs to one training job, which is refused when its cases change.

    Args:
        predictor: the trained model.
        plan: it belongs to.
        store: of the preprocessed cases, with their references.
        keys: case id to content key, of the cases to predict.
        annotated: case id to the labels that were looked for, of the cases in which not all were; only these are scored.
        folder: of the training; gets the label maps, a score per case, their summary and a table of them.
        logger: for progress.
        stop: asked before every case, and after every few tiles.

    Raises:
        InterruptedRunError: ``stop`` said so.
    """
    scores, measuring = [], Measuring()
    for done, (case_id, key) in enumerate(sorted(keys.items()), start=1):

        def check(case_id: str = case_id) -> None:
            if stop():
                raise InterruptedRunError(f"stopped before {case_id} was validated; the same command goes on from here")

        check()

        def score(case_id: str = case_id, key: str = key, done: int = done) -> CaseScore:
            stored = store.open(case_id, key)
            prediction = prediction_of(
                predictor, plan, stored, _advance(logger, "validate", done, len(keys), case_id, check)
            )
            score = case_score(stored, prediction, plan, annotated.get(case_id), measuring)
            file = folder.validation / score.prediction_file
            try:
                format_of(file).write(file, prediction)
            except MissingPartError as error:  # scores need no image library
                logger.event("message", text=f"{file.name} is not written: {error}")
            return score

        scored = with_whole_case(store, key, partial(keep, folder.score(case_id), CaseScore, score))
        scores.append(scored)
        logger.event("progress", stage="validate", done=done, total=len(keys), detail=case_id)
    summary = summarize(scores, plan.labels, measuring)
    write_score_table(folder.validation / SCORE_TABLE, summary)
    write_document(folder.summary, summary)
    return summary


def predict_files(
    predictor: Predictor,
    plan: Plan,
    model_key: str,
    cases: Sequence[Case],
    source: Path,
    target: Path,
    logger: Logger,
    executor: Executor | None = None,
) -> dict[str, Path]:
    """Predicts image files and writes a label map for each, on the image's own grid.

    A case whose label map is there already, made from the same image by the same model, is left alone. A file that autoseg
    did not write, or that was changed since, is never replaced.

    Args:
        predictor: the trained model.
        plan: it belongs to.
        model_key: digest of the weights.
        cases: with files relative to ``source``.
        source: folder of the images.
        target: folder of the label maps.
        logger: for progress.
        executor: reads the images and brings them to the network's grid; None for one after another.

    Returns:
        Case id to label file.

    Raises:
        InputError: files that autoseg did not write stand in the way.
        CasesFailedError: some cases failed; the others are written.
    """
    files = {case.id: target / f"{case.id}{label_ending(split_ending(case.images[0])[1])}" for case in cases}
    made = _made_before(target, files, plan)
    mirroring = bool(predictor.mirror_axes)
    model = f"{predictor.configuration.name}, weights {model_key[:16]}"
    written: dict[str, Path] = {}
    failures: dict[str, BaseException] = {}

    def key_of(hashes: Sequence[str]) -> str:
        return digest([__version__, plan.id, model_key, str(mirroring), *hashes])

    def is_made(item: CaseFiles) -> bool:
        before = made.get(item.id)
        return before is not None and files[item.id].is_file() and before.key == key_of(item.look()[0])

    task = PrepareInput(plan=plan, configuration=predictor.configuration.name, root=str(source), folder="")
    with closing(_inputs(task, cases, target, is_made, executor or SerialExecutor())) as inputs:
        for done, (case, prepared, problem) in enumerate(inputs, start=1):
            file = files[case.id]
            try:
                if problem is not None:
                    raise problem
                if prepared is not None:
                    key = key_of(prepared.hashes)
                    _remove_old(file, made.get(case.id))
                    made[case.id] = CasePrediction(
                        autoseg_version=__version__, plan=plan.id, model=model, mirroring=mirroring, key=key
                    )
                    _write_record(target, plan, made)  # first: a file that is not recorded is not ours
                    advance = _advance(logger, "predict", done, len(cases), case.id)
                    warnings = _predict_file(predictor, plan, prepared, file, advance)
                    for warning in warnings:
                        logger.event("message", text=f"case {case.id}: {warning}", case=case.id)
                    made[case.id] = msgspec.structs.replace(
                        made[case.id], content=content_hash(file), warnings=warnings
                    )
                    _write_record(target, plan, made)
                written[case.id] = file
            except Exception as error:  # one bad case costs one case
                failures[case.id] = error
                logger.event("case_failed", stage="predict", case=case.id, **reported(error))
            logger.event("progress", stage="predict", done=done, total=len(cases), detail=case.id)
    if failures:
        raise CasesFailedError("predict", dict(sorted(failures.items())), len(written))
    return {case.id: written[case.id] for case in cases}


def _inputs(
    task: PrepareInput, cases: Sequence[Case], target: Path, is_made: Callable[[CaseFiles], bool], executor: Executor
) -> Generator[tuple[Case, Prepared | None, Exception | None]]:
    """Every case with its image for the network, None where it is predicted already, or an error."""
    items = []
    for item in (CaseFiles.of(case, task.root) for case in cases):
        try:
            done = is_made(item)
        except Exception as error:  # one bad case costs one case
            yield item.case, None, error
            continue
        if done:
            yield item.case, None, None
        else:
            items.append(item)
    if not items:
        return
    with hand_over_folder(target) as folder:
        task = msgspec.structs.replace(task, folder=str(folder))
        for outcome in run_admitted(executor, task, items, task.bytes):
            yield outcome.item.case, outcome.result, outcome.error


def _made_before(target: Path, files: Mapping[str, Path], plan: Plan) -> dict[str, CasePrediction]:
    """What the folder's record says of earlier runs; refuses to mix with what is not ours."""
    record = None
    if (target / PREDICTION_RECORD).is_file():
        record = read_document(PredictionRecord, target / PREDICTION_RECORD)
        if record.labels != plan.labels:
            raise InputError(
                "the output folder holds label maps of a model with other labels",
                file=target,
                remedy="Name another folder with -o.",
            )
    made = dict(record.cases) if record else {}
    foreign = [file.name for case_id, file in sorted(files.items()) if case_id not in made and file.exists()]
    if foreign:
        raise InputError(
            "the output folder holds files that autoseg did not write, and would replace",
            file=target,
            found=", ".join(foreign[:5]) + (" …" if len(foreign) > 5 else ""),
            remedy="Name another folder with -o, or move these files away.",
        )
    return made


def _remove_old(file: Path, made: CasePrediction | None) -> None:
    """Removes our label map from another image or model, which it must not outlive; not if somebody corrected it."""
    if file.exists() and made is not None and made.content and content_hash(file) != made.content:
        raise InputError(
            "the label map was changed by hand since it was written, and predicting anew would lose that",
            file=file,
            remedy="Name another folder with -o, or move the file away.",
        )
    file.unlink(missing_ok=True)


def _write_record(target: Path, plan: Plan, made: Mapping[str, CasePrediction]) -> None:
    write_document(target / PREDICTION_RECORD, PredictionRecord(labels=plan.labels, cases=dict(sorted(made.items()))))


def _advance(
    logger: Logger, stage: str, done: int, total: int, case_id: str, check: Callable[[], None] = lambda: None
) -> Callable[[int, int], None]:
    """Tells how far the work on the ``done``-th case has come, after every group of tiles; ``check`` may end it there."""

    def advance(tiles: int, of: int) -> None:
        detail = f"{case_id}, tile {tiles} of {of}"
        logger.event("progress", stage=stage, done=done - 1 + 0.99 * tiles / of, total=total, detail=detail)
        check()

    return advance


def _predict_file(
    predictor: Predictor, plan: Plan, prepared: Prepared, file: Path, advance: Callable[[int, int], None]
) -> tuple[str, ...]:
    """Writes the label map of an image; returns what about the image is unlike those of the training."""
    logits = logits_of(predictor, plan, prepared, advance)
    prediction = label_map(logits, prepared.record, predictor.configuration, plan.labels)
    format_of(file).write(file, prediction)
    return unlike_training(prepared.record.source, plan)
