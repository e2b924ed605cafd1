"""Predicting many cases: the held-out cases of a fold, scored, and new images, written. Both take the same way."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec

from autoseg import __version__
from autoseg.errors import CasesFailedError, DamagedCaseError, InputError, InterruptedRunError, MissingPartError
from autoseg.evaluation.score_table import SCORE_TABLE, write_score_table
from autoseg.evaluation.summarize import summarize
from autoseg.executors import Executor, SerialExecutor
from autoseg.files import content_hash, keep, read_document, write_document
from autoseg.held_out_files import ValidationFiles
from autoseg.inference.confidence import Experience, Watch, poor_confidence
from autoseg.inference.export import label_map
from autoseg.inference.held_out import case_score, logits_of, with_whole_case
from autoseg.inference.inputs import Prepared, PreparedMembers, PrepareInput, PrepareMembers, hand_over_folder
from autoseg.inference.likeness import unlike_training
from autoseg.inference.members import predicted_label_map
from autoseg.inference.predict import Predictor
from autoseg.inference.probabilities import keep_probabilities
from autoseg.inference.validation_record import begin_validation, has_probabilities, timed
from autoseg.io.case_store import CaseStore
from autoseg.io.case_work import CaseFiles, run_admitted
from autoseg.io.formats import format_of
from autoseg.io.label_files import AsFiles, LabelFiles
from autoseg.logs import Logger, reported
from autoseg.values import (
    DISAGREEMENT,
    PREDICTION_RECORD,
    Case,
    CasePrediction,
    CaseScore,
    ComponentStep,
    Measuring,
    Plan,
    PredictionRecord,
    Summary,
    Volume,
    digest,
)
from autoseg.volume.components import keep_largest_components
from autoseg.workspace import FoldFolder

__all__ = ["predict_files", "validate_cases"]

#: Of a model whose training left nothing to judge by.
NONE = Experience()


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


def predict_files(
    predictor: Predictor,
    plan: Plan,
    model_key: str,
    cases: Sequence[Case],
    source: Path,
    target: Path,
    logger: Logger,
    executor: Executor | None = None,
    *,
    others: Sequence[Predictor] = (),
    steps: Sequence[ComponentStep] = (),
    output: LabelFiles | None = None,
    experience: Experience = NONE,
    disagreement_maps: bool = False,
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
        others: of other configurations, whose probabilities are averaged with those of the first.
        steps: what is done to every label map.
        output: how label maps become files; None for files like the images.
        experience: of the model, by which its answers are judged.
        disagreement_maps: write a map of the networks' disagreement for each case, too, if there are several networks.

    Returns:
        Case id to label file.

    Raises:
        InputError: files that autoseg did not write stand in the way.
        CasesFailedError: some cases failed; the others are written.
    """
    output, executor, members = output or AsFiles(), executor or SerialExecutor(), (predictor, *others)
    files = {case.id: target / output.name(case) for case in cases}
    maps = {case.id: target / DISAGREEMENT / AsFiles().name(case) for case in cases}
    wanted_maps = maps if disagreement_maps and sum(len(each.networks) for each in members) > 1 else {}
    made = _made_before(target, files, plan, wanted_maps)
    written, failures = dict[str, Path](), dict[str, BaseException]()

    def made_of(case: Case, hashes: Sequence[str]) -> CasePrediction:
        return _not_yet_written(members, plan, model_key, steps, hashes, output, files[case.id].name)

    def is_made(item: CaseFiles) -> bool:
        key = made_of(item.case, item.look()[0]).key
        there = _is_there(made.get(item.id), key, files[item.id], wanted_maps.get(item.id))
        if not there:
            output.check(item.case, source)
        return there

    with closing(_inputs(_tasks(members, plan, source), cases, target, is_made, executor)) as inputs:
        for done, (case, prepared, problem) in enumerate(inputs, start=1):
            file = files[case.id]
            try:
                if problem is not None:
                    raise problem
                if prepared is not None:
                    _remove_old(file, maps[case.id], made.get(case.id))
                    made[case.id] = made_of(case, prepared.hashes)
                    _write_record(target, plan, made)  # first: a file that is not recorded is not ours
                    advance = _advance(logger, "predict", done, len(cases), case.id)
                    watch = Watch(members, plan.labels, with_map=disagreement_maps)
                    label_map = _predicted(members, plan, prepared, steps, advance, watch)
                    output.write(file, label_map, case, source, prepared.hashes)
                    del label_map  # the next case needs the room
                    judged = _judged(made[case.id], watch, plan, prepared.members[0], experience, maps[case.id])
                    made[case.id] = _told(judged, case.id, file, logger)
                    _write_record(target, plan, made)
                written[case.id] = file
            except Exception as error:  # one bad case costs one case
                failures[case.id] = error
                logger.event("case_failed", stage="predict", case=case.id, **reported(error))
            logger.event("progress", stage="predict", done=done, total=len(cases), detail=case.id)
    if failures:
        raise CasesFailedError("predict", dict(sorted(failures.items())), len(written))
    return {case.id: written[case.id] for case in cases}


def _not_yet_written(
    members: Sequence[Predictor],
    plan: Plan,
    model_key: str,
    steps: Sequence[ComponentStep],
    hashes: Sequence[str],
    output: LabelFiles,
    file: str,
) -> CasePrediction:
    """What the record tells of a label map that these members make of an image with these hashes."""
    depends = [*hashes, *filter(None, [output.identity])]
    mirroring = any(each.mirror_axes for each in members)
    done_after = [digest(list(steps))] if steps else []
    return CasePrediction(
        autoseg_version=__version__,
        plan=plan.id,
        model=f"{'+'.join(each.configuration.name for each in members)}, weights {model_key[:16]}",
        mirroring=mirroring,
        key=digest([__version__, plan.id, model_key, str(mirroring), *done_after, *depends]),
        postprocessing=tuple(steps),
        file=file,
    )


def _is_there(before: CasePrediction | None, key: str, file: Path, map_file: Path | None) -> bool:
    """Whether what the record tells of is what would be made now, with its map of disagreement if that is wanted."""
    if before is None or before.key != key or not file.is_file():
        return False
    return map_file is None or (bool(before.disagreement_map) and map_file.is_file())


def _told(made: CasePrediction, case_id: str, file: Path, logger: Logger) -> CasePrediction:
    """With the content of the file that was written, after its warnings are told."""
    for warning in made.warnings:
        logger.event("message", text=f"case {case_id}: {warning}", case=case_id)
    return msgspec.structs.replace(made, content=content_hash(file))


def _tasks(members: Sequence[Predictor], plan: Plan, source: Path) -> list[PrepareInput]:
    names = (each.configuration.name for each in members)
    return [PrepareInput(plan=plan, configuration=name, root=str(source), folder="") for name in names]


def _inputs(
    tasks: Sequence[PrepareInput],
    cases: Sequence[Case],
    target: Path,
    is_made: Callable[[CaseFiles], bool],
    executor: Executor,
) -> Generator[tuple[Case, PreparedMembers | None, Exception | None]]:
    """Every case with its image for the networks, None where it is predicted already, or an error."""
    items = []
    for item in (CaseFiles.of(case, tasks[0].root) for case in cases):
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
        own = [folder / str(number) for number in range(len(tasks))]
        for each in own:
            each.mkdir()
        pairs = zip(tasks, own, strict=True)
        task = PrepareMembers(tasks=tuple(msgspec.structs.replace(each, folder=str(path)) for each, path in pairs))
        for outcome in run_admitted(executor, task, items, task.bytes):
            yield outcome.item.case, outcome.result, outcome.error


def _made_before(
    target: Path, files: Mapping[str, Path], plan: Plan, maps: Mapping[str, Path]
) -> dict[str, CasePrediction]:
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
    others = [made[case_id].file for case_id, file in files.items() if case_id in made]
    others = [name for name in others if name and name not in {file.name for file in files.values()}]
    others = [name for name in others if (target / name).is_file()]
    if others:
        raise InputError(
            "the output folder holds label maps of these cases in another format",
            file=target,
            found=", ".join(others[:5]) + (" …" if len(others) > 5 else ""),
            remedy="Name another folder with -o, or ask for the format that is there.",
        )
    foreign = [file.name for case_id, file in sorted(files.items()) if case_id not in made and file.exists()]
    foreign += [
        f"{DISAGREEMENT}/{file.name}"
        for case_id, file in sorted(maps.items())
        if file.exists() and not (case_id in made and made[case_id].disagreement_map)
    ]
    if foreign:
        raise InputError(
            "the output folder holds files that autoseg did not write, and would replace",
            file=target,
            found=", ".join(foreign[:5]) + (" …" if len(foreign) > 5 else ""),
            remedy="Name another folder with -o, or move these files away.",
        )
    return made


def _remove_old(file: Path, disagreement_map: Path, made: CasePrediction | None) -> None:
    """Removes our label map from another image or model, which it must not outlive; not if somebody corrected it."""
    if file.exists() and made is not None and made.content and content_hash(file) != made.content:
        raise InputError(
            "the label map was changed by hand since it was written, and predicting anew would lose that",
            file=file,
            remedy="Name another folder with -o, or move the file away.",
        )
    if made is not None and made.disagreement_map:
        disagreement_map.unlink(missing_ok=True)
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


def _predicted(
    members: Sequence[Predictor],
    plan: Plan,
    prepared: PreparedMembers,
    steps: Sequence[ComponentStep],
    advance: Callable[[int, int], None],
    watch: Watch,
) -> Volume:
    """The label map of an image."""
    prediction = predicted_label_map(members, plan, prepared, advance, watch)
    if steps:
        prediction.array[0] = keep_largest_components(prediction.array[0], [step.values for step in steps])
    return prediction


def _judged(
    made: CasePrediction, watch: Watch, plan: Plan, prepared: Prepared, experience: Experience, map_file: Path
) -> CasePrediction:
    """With what tells how far the label map can be trusted; writes the map of disagreement, if there is one."""
    confidence, disagreement, written = watch.confidence(experience), watch.map(prepared.record), ""
    if disagreement is not None:
        map_file.parent.mkdir(exist_ok=True)
        format_of(map_file).write(map_file, disagreement)
        written = content_hash(map_file)
    unlike = unlike_training(prepared.record.source, plan, experience.images, prepared.quantiles)
    warnings = (*unlike, *poor_confidence(confidence, experience))
    return msgspec.structs.replace(made, warnings=warnings, confidence=confidence, disagreement_map=written)
