"""Predicting many cases: the held-out cases of a fold, scored, and new images, written. Both take the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from autoseg import __version__
from autoseg.errors import CasesFailedError, InputError, InterruptedRunError, MissingPartError
from autoseg.evaluation.overlap import overlap_scores
from autoseg.evaluation.summarize import summarize
from autoseg.inference.export import label_map
from autoseg.inference.predict import Predictor
from autoseg.io.case_store import CaseStore
from autoseg.io.cases import read_image
from autoseg.io.formats import format_of, split_ending
from autoseg.logs import Logger
from autoseg.preprocessing.forward import preprocess_image
from autoseg.values import PREDICTION_RECORD, Case, CaseScore, Plan, PredictionRecord, Summary, digest
from autoseg.workspace import content_hash, keep, read_document, write_document

__all__ = ["predict_files", "validate_cases"]


def validate_cases(
    predictor: Predictor,
    plan: Plan,
    store: CaseStore,
    keys: Mapping[str, str],
    folder: Path,
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
        folder: for the label maps, a score per case, and ``summary.json``.
        logger: for progress.
        stop: asked before every case.

    Raises:
        InterruptedRunError: ``stop`` said so.
    """
    scores = []
    for done, (case_id, key) in enumerate(sorted(keys.items()), start=1):
        if stop():
            raise InterruptedRunError(f"stopped before validating {case_id}; the same command goes on from here")

        def score(case_id: str = case_id, key: str = key) -> CaseScore:
            stored = store.open(case_id, key)
            prediction = label_map(predictor.logits(stored.image), stored.record, predictor.configuration, plan.labels)
            file = folder / f"{case_id}{plan.file_ending}"
            try:
                format_of(file).write(file, prediction)
            except MissingPartError as error:  # scores need no image library
                logger.event("message", text=f"{file.name} is not written: {error}")
            return CaseScore(
                metrics=overlap_scores(stored.reference, prediction.array[0], plan.labels),
                prediction_file=file.name,
                reference_file=f"{case_id}{plan.file_ending}",
            )

        scores.append(keep(folder / "scores" / f"{case_id}.json", CaseScore, score))
        logger.event("progress", stage="validate", done=done, total=len(keys), detail=case_id)
    summary = summarize(scores, plan.labels)
    write_document(folder / "summary.json", summary)
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

    A case whose label map is there already, made from the same image by the same model, is left alone.

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
        CasesFailedError: some cases failed; the others are written.
    """
    record_path = target / PREDICTION_RECORD
    made = read_document(PredictionRecord, record_path).cases if record_path.is_file() else {}
    written: dict[str, Path] = {}
    failures: dict[str, BaseException] = {}
    for done, case in enumerate(cases, start=1):
        file = target / f"{case.id}{split_ending(case.images[0])[1]}"
        try:
            inputs = [content_hash(source / name) for name in case.images]
            key = digest([__version__, plan.id, model_key, str(bool(predictor.mirror_axes)), *inputs])
            if made.get(case.id) != key or not file.is_file():
                if made.pop(case.id, None) is not None:  # ours, from another image or model: it must not outlive that
                    file.unlink(missing_ok=True)
                _predict_file(predictor, plan, case, source, file)
                made[case.id] = key
                write_document(record_path, _record(predictor, plan, model_key, made))
            written[case.id] = file
        except Exception as error:  # one bad case costs one case
            failures[case.id] = error
            logger.event("case_failed", stage="predict", case=case.id, error=str(error))
            if not isinstance(error, InputError):
                logger.event("message", text=f"case {case.id} failed unexpectedly: {error!r}")
        logger.event("progress", stage="predict", done=done, total=len(cases), detail=case.id)
    if failures:
        raise CasesFailedError("predict", failures, len(written))
    return written


def _predict_file(predictor: Predictor, plan: Plan, case: Case, source: Path, file: Path) -> None:
    volume = read_image(case, source, plan.channels)
    image, record = preprocess_image(volume, plan, predictor.configuration, case_id=case.id)
    prediction = label_map(predictor.logits(image), record, predictor.configuration, plan.labels)
    format_of(file).write(file, prediction)


def _record(predictor: Predictor, plan: Plan, model_key: str, made: dict[str, str]) -> PredictionRecord:
    return PredictionRecord(
        autoseg_version=__version__,
        plan=plan.id,
        model=f"{predictor.configuration.name}, weights {model_key[:16]}",
        labels=plan.labels,
        mirroring=bool(predictor.mirror_axes),
        cases=dict(sorted(made.items())),
    )
