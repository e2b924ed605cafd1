"""The held-out cases of a fold: predicted back to their own grids, written and scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from autoseg.errors import CasesFailedError, DamagedCaseError, InterruptedRunError, MissingPartError
from autoseg.evaluation.score_table import SCORE_TABLE, write_score_table
from autoseg.evaluation.summarize import summarize
from autoseg.files import keep, write_document
from autoseg.held_out_files import ValidationFiles
from autoseg.inference.export import label_map
from autoseg.inference.held_out import case_score, logits_of, with_whole_case
from autoseg.inference.predict import Predictor
from autoseg.inference.probabilities import keep_probabilities
from autoseg.inference.validation_record import begin_validation, has_probabilities, timed
from autoseg.io.case_store import CaseStore
from autoseg.io.formats import format_of
from autoseg.logs import Logger
from autoseg.values import (
    CaseScore,
    Measuring,
    Plan,
    Summary,
    Volume,
)
from autoseg.workspace import FoldFolder

__all__ = ["validate_cases"]


def validate_cases(
    predictor: Predictor,
    plan: Plan,
    store: CaseStore,
    keys: Mapping[str, str],
    annotated: Mapping[str, Sequence[str]],
    folder: FoldFolder,
    logger: Logger,
    stop: Callable[[], bool],
    *,
    probabilities: bool = True,
) -> Summary:
    """Predicts preprocessed cases back to their original grids, writes the label maps and scores them there.

    A case that has been scored before is not predicted again, so that an interrupted validation goes on, unless its
    probabilities are missing and wanted. That is safe because the folder belongs to one training job, which is refused when
    its cases change, and what other weights left there is removed. The score is written last.

    Args:
        predictor: the trained model.
        plan: it belongs to.
        store: of the preprocessed cases, with their references.
        keys: case id to content key, of the cases to predict.
        annotated: case id to the labels that were looked for, of the cases in which not all were; only these are scored.
        folder: of the training; gets the label maps, a score per case, their summary and a table of them.
        logger: for progress.
        stop: asked before every case, and after every few tiles.
        probabilities: keep them, too, so that ensembles can be made of them.

    Raises:
        InterruptedRunError: ``stop`` said so.
        CasesFailedError: some stored cases cannot be read, nor be made anew; all others are scored, and there is no summary.
    """
    scores, measuring, failures = list[CaseScore](), Measuring(), dict[str, BaseException]()
    validation = begin_validation(predictor, plan, folder)
    for done, (case_id, key) in enumerate(sorted(keys.items()), start=1):

        def check(case_id: str = case_id) -> None:
            if stop():
                raise InterruptedRunError(f"stopped before {case_id} was validated; the same command goes on from here")

        check()

        def score(case_id: str = case_id, key: str = key, done: int = done) -> CaseScore:
            nonlocal validation
            stored, began = store.open(case_id, key), time.perf_counter()
            logits = logits_of(predictor, stored, _advance(logger, "validate", done, len(keys), case_id, check))
            prediction = label_map(logits, stored.record, predictor.configuration, plan.labels)
            seconds = time.perf_counter() - began
            if probabilities:
                kept = ValidationFiles(folder).probabilities(case_id)
                how = (stored.record, predictor.configuration, plan.labels, validation.weights)
                keep_probabilities(kept, logits, *how)
            del logits  # scoring needs the room
            score = case_score(stored, prediction, plan, annotated.get(case_id), measuring)
            _write_label_map(folder.validation / score.prediction_file, prediction, logger)
            validation = timed(validation, folder, case_id, seconds)
            return score

        def whole(score: CaseScore, case_id: str = case_id) -> bool:
            return not probabilities or has_probabilities(folder, case_id, validation.weights)

        try:
            kept_score = partial(keep, folder.score(case_id), CaseScore, score, valid=whole)
            scores.append(with_whole_case(store, key, kept_score))
        except (DamagedCaseError, CasesFailedError) as error:  # one bad case costs one case
            failures |= error.failures if isinstance(error, CasesFailedError) else {case_id: error}
        logger.event("progress", stage="validate", done=done, total=len(keys), detail=case_id)
    if failures:
        raise CasesFailedError("validate", dict(sorted(failures.items())), len(scores))
    summary = summarize(scores, plan.labels, measuring)
    write_score_table(folder.validation / SCORE_TABLE, summary)
    write_document(folder.summary, summary)
    return summary


def _write_label_map(file: Path, prediction: Volume, logger: Logger) -> None:
    try:
        format_of(file).write(file, prediction)
    except MissingPartError as error:  # scores need no image library
        logger.event("message", text=f"{file.name} is not written: {error}")


def _advance(
    logger: Logger, stage: str, done: int, total: int, case_id: str, check: Callable[[], None] = lambda: None
) -> Callable[[int, int], None]:
    """Tells how far the work on the ``done``-th case has come, after every group of tiles; ``check`` may end it there."""

    def advance(tiles: int, of: int) -> None:
        detail = f"{case_id}, tile {tiles} of {of}"
        logger.event("progress", stage=stage, done=done - 1 + 0.99 * tiles / of, total=total, detail=detail)
        check()

    return advance
