"""Scoring a folder of predictions against a folder of references; what is scored already, and unchanged, is kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from autoseg import plugins
from autoseg.errors import CasesFailedError, DocumentError, InputError
from autoseg.evaluation.measure import label_scores
from autoseg.evaluation.summarize import summarize
from autoseg.executors import Executor, usable_cpus
from autoseg.files import content_hash, read_document, write_document
from autoseg.io.case_work import run_admitted
from autoseg.io.cases import grid_conflict, read_labels, undeclared_values
from autoseg.io.colours import on_grid_of
from autoseg.io.formats import foreign_formats, parts_of, split_ending
from autoseg.io.headers import Header
from autoseg.io.layouts import pairs_by_name, read_annotated_of, read_labels_of
from autoseg.logs import Logger
from autoseg.values import CaseScore, Labels, Measuring, PredictionRecord, Summary, digest, prediction_records
from autoseg.values.json_form import Value
from autoseg.workspace import Workspace

__all__ = [
    "SCORES_FOLDER",
    "LabelPair",
    "ScoreCase",
    "evaluate_case",
    "evaluate_folders",
    "find_annotated",
    "find_labels",
    "label_files",
]

#: Two label maps of 32 bits and the sorted copy of one; and what counting the overlap of a slice holds.
BYTES_PER_VOXEL, BYTES_OF_SLICE = 20, 64
#: What measuring holds of a label that fills the image: masks, their surfaces and the numbers of their connected parts.
BYTES_OF_MEASURING = 32
#: Beside the predictions: what is scored already.
SCORES_FOLDER = "evaluated"
#: Changes when the same files and settings get other scores.
SCORING = "1"


def label_files(folder: Path) -> dict[str, Path]:
    """Case id to label file of a folder.

    Raises:
        InputError: there is no such folder, no image file in it, or two of one case.
    """
    if not folder.is_dir():
        raise InputError("there is no such folder", file=folder)
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        stem, ending = split_ending(file.name)
        if not ending or not file.is_file() or file.name.startswith("."):
            continue
        if stem in files:
            raise InputError(
                "two files have the name of one case", case=stem, found=f"{files[stem].name} and {file.name}"
            )
        files[stem] = file
    if not files:
        raise InputError("there is no label file here", file=folder)
    return files


def evaluate_case(
    case_id: str,
    prediction: Path,
    reference: Path,
    labels: Labels,
    annotated: Collection[str] | None = None,
    measuring: Measuring | None = None,
    threads: int = 1,
) -> CaseScore:
    """Scores one label map against its reference.

    Args:
        case_id: for messages.
        prediction: file.
        reference: file.
        labels: what the integers mean.
        annotated: names of the labels that were looked for there, None for all.
        measuring: what is measured beside the overlap; nothing by default.
        threads: labels that are measured at once.

    Raises:
        InputError: a file is unreadable or holds undeclared values, or the two lie on different grids.
    """
    wanted, predicted = read_labels(reference, case_id), read_labels(prediction, case_id)
    for volume, file in ((wanted, reference), (predicted, prediction)):
        surplus = undeclared_values(volume.array, labels)
        if surplus:
            raise InputError(
                "the label map holds values that are not declared",
                case=case_id,
                file=file,
                found=", ".join(map(str, surplus[:10])),
                expected=", ".join(map(str, labels.allowed_integers)),
                remedy="Name the data set's labels with -w or a dataset.json beside the references, or correct the file.",
            )
    geometry = on_grid_of(wanted, predicted.geometry).geometry  # a picture may not say how large its pixels are
    problem = grid_conflict(geometry, on_grid_of(predicted, geometry).geometry)
    if problem:
        raise InputError(
            f"prediction and reference lie on different grids: {problem}",
            case=case_id,
            file=prediction,
            remedy="Score on the reference's grid.",
        )
    return CaseScore(
        metrics=label_scores(
            *(wanted.array[0], predicted.array[0], labels, geometry, measuring or Measuring(metrics=())),
            annotated=annotated,
            threads=threads,
        ),
        prediction_file=str(prediction),
        reference_file=str(reference),
    )


class LabelPair(Value, frozen=True, kw_only=True):
    """A label map and its reference, with the labels that were looked for there; None for all."""

    id: str
    prediction: str
    reference: str
    annotated: tuple[str, ...] | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The two files."""
        return (self.prediction, self.reference)


class ScoreCase(Value, frozen=True, kw_only=True):
    """Scores a label map against its reference, with so many labels at once; a task for any executor."""

    labels: Labels
    measuring: Measuring = Measuring(metrics=())
    threads: int = 1

    @property
    def stage(self) -> str:
        """For messages."""
        return "evaluate"

    def __call__(self, item: LabelPair) -> CaseScore:
        """The scores of a pair."""
        files = (Path(item.prediction), Path(item.reference))
        return evaluate_case(item.id, *files, self.labels, item.annotated, self.measuring, self.threads)

    def bytes(self, item: LabelPair, headers: tuple[Header | None, ...]) -> int:
        """Memory that the work on a pair takes at most."""
        known = [header for header in headers if header is not None]
        voxels = max((header.voxels for header in known), default=0)
        slices = max((header.voxels // header.geometry.shape[0] for header in known), default=0)
        measuring = BYTES_OF_MEASURING * voxels if self.measuring.metrics else 0
        return sum(header.bytes for header in known) + BYTES_PER_VOXEL * voxels + BYTES_OF_SLICE * slices + measuring


class _Kept(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.scored/1"):
    """The scores of a case, and a digest of all that they depend on."""

    key: str
    score: CaseScore


def _key(pair: LabelPair, task: ScoreCase) -> str | None:
    """Digest of the content of both files, of what is scored and how; None if a file cannot be read."""
    try:
        hashes = [content_hash(part) for path in pair.paths for part in parts_of(Path(path))]
    except InputError:  # the work itself tells
        return None
    metrics = [plugins.identity("metric", name) for name in task.measuring.metrics]
    about = [digest(task.labels), digest(task.measuring), *metrics, *foreign_formats(pair.paths)]
    return digest([SCORING, *hashes, str(pair.annotated), *about])


def _kept(file: Path, key: str | None, pair: LabelPair) -> CaseScore | None:
    """The scores of a case as they were written before, if they are still true."""
    if key is None or not file.is_file():
        return None
    try:
        kept = read_document(_Kept, file)
    except DocumentError:  # a damaged one is as good as none
        return None
    if kept.key != key:
        return None
    return msgspec.structs.replace(kept.score, prediction_file=pair.prediction, reference_file=pair.reference)


def evaluate_folders(
    predictions: Path,
    references: Path,
    labels: Labels,
    executor: Executor,
    logger: Logger,
    annotated: Mapping[str, tuple[str, ...]] | None = None,
    measuring: Measuring | None = None,
) -> Summary:
    """Scores every prediction that has a reference; the summary names the cases that stand in one folder only.

    Scores are written case by case, into a folder beside the predictions; a case is scored again only if a file of it or
    what is asked for has changed.

    Args:
        predictions: folder of label maps.
        references: folder of label maps.
        labels: what the integers mean.
        executor: runs the pairs.
        logger: for events.
        annotated: reference's name without ending to the labels that were looked for there, where these are not all.
        measuring: what is measured beside the overlap; nothing by default.

    Raises:
        InputError: no name stands in both folders.
        UnknownNameError: there is no such metric.
        CasesFailedError: some pairs could not be scored; nothing is summarized, for a mean without them would mislead.
    """
    predicted, wanted = label_files(predictions), label_files(references)
    paired = dict(sorted(pairs_by_name(predicted, wanted).items()))
    if not paired:
        raise InputError(
            "no prediction has a reference of its name, or which it has is ambiguous",
            found=f"{next(iter(predicted.values())).name} and {next(iter(wanted.values())).name}, for example",
            expected=f"names in {predictions} and {references} that are equal but for their endings, for words such as "
            "image, mask and seg, and for one other word that is the same in all predictions",
        )
    pairs = [
        LabelPair(
            id=case,
            prediction=str(predicted[first]),
            reference=str(wanted[second]),
            annotated=(annotated or {}).get(second),
        )
        for case, (first, second) in paired.items()
    ]
    _tell_other_names(paired, logger)
    scores = _score_pairs(
        pairs, labels, measuring or Measuring(metrics=()), predictions / SCORES_FOLDER, executor, logger
    )
    alone = predicted.keys() - {first for first, _ in paired.values()}
    alone |= wanted.keys() - {second for _, second in paired.values()}
    return msgspec.structs.replace(summarize(scores, labels, measuring), not_scored=tuple(sorted(alone)))


def _score_pairs(
    pairs: Sequence[LabelPair], labels: Labels, measuring: Measuring, folder: Path, executor: Executor, logger: Logger
) -> list[CaseScore]:
    """The scores of all pairs, as they are kept in the folder or newly made."""
    for name in measuring.metrics:
        plugins.load("metric", name)
    task = ScoreCase(labels=labels, measuring=measuring, threads=max(1, usable_cpus() // len(pairs)))
    keys = {pair.id: _key(pair, task) for pair in pairs}
    known = {pair.id: _kept(folder / f"{pair.id}.json", keys[pair.id], pair) for pair in pairs}
    scores = [score for score in known.values() if score is not None]
    missing = [pair for pair in pairs if known[pair.id] is None]
    failures: dict[str, BaseException] = {}
    for done, outcome in enumerate(run_admitted(executor, task, missing, task.bytes), start=len(scores) + 1):
        case, key = outcome.item.id, keys[outcome.item.id]
        if outcome.result is None:
            failures[case] = outcome.error or InputError("unknown failure")
        else:
            scores.append(outcome.result)
        if outcome.result is not None and key is not None:
            write_document(folder / f"{case}.json", _Kept(key=key, score=outcome.result))
        logger.event("progress", stage=task.stage, done=done, total=len(pairs), detail=case)
    if failures:
        raise CasesFailedError("evaluate", failures, len(scores), kept=False)
    return scores


def _tell_other_names(paired: Mapping[str, tuple[str, str]], logger: Logger) -> None:
    other = [f"{first} with {second}" for first, second in paired.values() if first != second]
    if other:
        logger.event(
            "message", text=f"label maps of other names are paired: {other[0]}, for example ({len(other)} in all)"
        )


def find_labels(predictions: Path, references: Path, workspace: Workspace | None) -> Labels:
    """What the integers mean: told by the predictions' record, else by the references' data set, else by the workspace.

    Raises:
        InputError: none of them is there.
    """
    if records := prediction_records(predictions):  # all of a folder are of the same labels
        return read_document(PredictionRecord, records[0]).labels
    if (references.parent / "dataset.json").is_file():
        return read_labels_of(references.parent / "dataset.json")
    if workspace is not None and workspace.dataset_path.is_file():
        return workspace.dataset().labels
    raise InputError(
        "it is not known what the labels mean",
        file=references,
        expected="a dataset.json beside the references, or a workspace",
        remedy="Name the workspace with -w.",
    )


def find_annotated(references: Path, labels: Labels, workspace: Workspace | None) -> dict[str, tuple[str, ...]]:
    """The labels that were looked for in references of which some are partly annotated, by file name without ending.

    Told by the references' data set, and by the workspace if it is that of these references.

    Raises:
        InputError: they are not among the labels to score.
    """
    told: dict[str, tuple[str, ...]] = {}
    if (references.parent / "dataset.json").is_file():
        told |= read_annotated_of(references.parent)
    if workspace is not None and workspace.dataset_path.is_file():
        dataset = workspace.dataset()
        files = {case: Path(dataset.root, case.label or "") for case in dataset.partly_annotated}
        here = {case: file for case, file in files.items() if file.parent.resolve() == references.resolve()}
        told |= {split_ending(file.name)[0]: case.annotated or () for case, file in here.items()}
    names = {label.name for label in labels.foreground}
    for case, annotated in sorted(told.items()):
        if not names.issuperset(annotated):
            raise InputError(
                "the reference is annotated for labels that are not among those to score",
                case=case,
                found=", ".join(sorted(set(annotated) - names)),
                expected=f"some of {', '.join(sorted(names))}",
                remedy="Name the labels alike, where they are declared and in the list of what was looked for.",
            )
    return told
