"""Predicting many cases: the held-out cases of a fold, scored, and new images, written. Both take the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from autoseg import __version__
from autoseg.errors import CasesFailedError, DamagedCaseError, InputError, InterruptedRunError, MissingPartError
from autoseg.evaluation.overlap import overlap_scores
from autoseg.evaluation.summarize import summarize
from autoseg.files import content_hash, keep, read_document, write_document
from autoseg.inference.export import label_map
from autoseg.inference.predict import Predictor
from autoseg.io.case_store import CaseStore
from autoseg.io.cases import read_image
from autoseg.io.formats import format_of, label_ending, parts_of, split_ending
from autoseg.logs import Logger, reported
from autoseg.preprocessing.forward import preprocess_image
from autoseg.values import PREDICTION_RECORD, Case, CasePrediction, CaseScore, Plan, PredictionRecord, Summary, digest
from autoseg.workspace import FoldFolder

__all__ = ["predict_files", "validate_cases"]


def validate_cases(
    predictor: Predictor,
    plan: Plan,
    store: CaseStore,
    keys: Mapping[str, str],
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
        folder: of the training; gets the label maps, a score per case, and their summary.
        logger: for progress.
        stop: asked before every case, and after every few tiles.

    Raises:
        InterruptedRunError: ``stop`` said so.
    """
    scores = []
    for done, (case_id, key) in enumerate(sorted(keys.items()), start=1):

        def check(case_id: str = case_id) -> None:
            if stop():
                raise InterruptedRunError(f"stopped before {case_id} was validated; the same command goes on from here")

        check()

        def score(case_id: str = case_id, key: str = key, done: int = done) -> CaseScore:
            stored = store.open(case_id, key)
            advance = _advance(logger, "validate", done, len(keys), case_id, check)
            logits = predictor.logits(stored.image, advance)
            prediction = label_map(logits, stored.record, predictor.configuration, plan.labels)
            file = folder.validation / f"{case_id}{label_ending(plan.file_ending)}"
            try:
                format_of(file).write(file, prediction)
            except MissingPartError as error:  # scores need no image library
                logger.event("message", text=f"{file.name} is not written: {error}")
            return CaseScore(
                metrics=overlap_scores(np.asarray(stored.reference), prediction.array[0], plan.labels),
                prediction_file=file.name,
                reference_file=f"{case_id}{plan.file_ending}",
            )

        try:
            scored = keep(folder.score(case_id), CaseScore, score)
        except DamagedCaseError as damage:
            store.mend(damage, key)
            scored = keep(folder.score(case_id), CaseScore, score)
        scores.append(scored)
        logger.event("progress", stage="validate", done=done, total=len(keys), detail=case_id)
    summary = summarize(scores, plan.labels)
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

    Returns:
        Case id to label file.

    Raises:
        InputError: files that autoseg did not write stand in the way.
        CasesFailedError: some cases failed; the others are written.
    """
    files = {case.id: target / f"{case.id}{label_ending(split_ending(case.images[0])[1])}" for case in cases}
    made = _made_before(target, files, plan)
    model = f"{predictor.configuration.name}, weights {model_key[:16]}"
    written: dict[str, Path] = {}
    failures: dict[str, BaseException] = {}
    for done, case in enumerate(cases, start=1):
        file, mirroring = files[case.id], bool(predictor.mirror_axes)
        try:
            inputs = [content_hash(part) for name in case.images for part in parts_of(source / name)]
            key = digest([__version__, plan.id, model_key, str(mirroring), *inputs])
            if made.get(case.id) is None or made[case.id].key != key or not file.is_file():
                _remove_old(file, made.get(case.id))
                made[case.id] = CasePrediction(
                    autoseg_version=__version__, plan=plan.id, model=model, mirroring=mirroring, key=key
                )
                _write_record(target, plan, made)  # first: a file that is not recorded is not ours
                advance = _advance(logger, "predict", done, len(cases), case.id)
                _predict_file(predictor, plan, case, source, file, advance)
                made[case.id] = msgspec.structs.replace(made[case.id], content=content_hash(file))
                _write_record(target, plan, made)
            written[case.id] = file
        except Exception as error:  # one bad case costs one case
            failures[case.id] = error
            logger.event("case_failed", stage="predict", case=case.id, **reported(error))
        logger.event("progress", stage="predict", done=done, total=len(cases), detail=case.id)
    if failures:
        raise CasesFailedError("predict", failures, len(written))
    return written


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
    predictor: Predictor, plan: Plan, case: Case, source: Path, file: Path, advance: Callable[[int, int], None]
) -> None:
    volume = read_image(case, source, plan.channels)
    image, record = preprocess_image(volume, plan, predictor.configuration, case_id=case.id)
    prediction = label_map(predictor.logits(image, advance), record, predictor.configuration, plan.labels)
    format_of(file).write(file, prediction)
