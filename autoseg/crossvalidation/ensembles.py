"""Scores of ensembles on held-out cases, and what postprocessing does there, from what is kept: no network is run.

Both are kept case by case under digests of all that they depend on, so that what was stopped goes on, and what has not
changed is not done again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import numpy as np

from autoseg.errors import CasesFailedError, DamagedCaseError, DocumentError, InputError, InterruptedRunError
from autoseg.evaluation.overlap import label_keys, overlap_scores
from autoseg.executors import Executor
from autoseg.files import content_hash, read_document, write_document
from autoseg.held_out_files import SelectionFiles
from autoseg.inference.ensembles import ensemble_bytes, ensemble_label_maps
from autoseg.inference.probabilities import KeptProbabilities
from autoseg.inference.soft_dice import VALUES_AT_ONCE, soft_dice_of_levels
from autoseg.io.case_store import CaseStore, StoredCase
from autoseg.io.cases import read_labels
from autoseg.logs import Logger
from autoseg.selection import case_effects
from autoseg.values import CaseEffects, Labels, digest
from autoseg.values.json_form import Value

__all__ = [
    "Attempts",
    "CaseTask",
    "Dice",
    "EnsembleScores",
    "HeldOutCase",
    "PostprocessingEffects",
    "SoftDiceOfCase",
    "Work",
]

Result = TypeVar("Result", covariant=True)
#: Changes when the same files get other scores.
SCORING = "1"
#: Of one case: label name to Dice, None where it is not defined.
Dice = dict[str, float | None]
#: For each voxel, measured where there are most components: noise of three labels, and nested regions.
BYTES_OF_EFFECTS = 190


class CaseTask(Protocol[Result]):
    """What is done with one held-out case; one that is also a ``Value`` can run in another process."""

    @property
    def stage(self) -> str:
        """For messages."""
        ...

    def __call__(self, item: HeldOutCase) -> Result:
        """The result of one case."""
        ...

    def bytes(self, item: HeldOutCase) -> int:
        """Memory that the work on a case takes at most."""
        ...


class HeldOutCase(Value, frozen=True, kw_only=True):
    """A case with all that is known of it without its voxels.

    Attributes:
        id: of the case.
        store: folder of the preprocessed cases that holds the reference.
        key: content key there.
        annotated: names of the labels that were looked for; None for all.
        probabilities: configuration to the folder of its probabilities.
        ids: configuration to the digest of its probabilities.
        voxels: of the image.
        label_map: file of the label map of a single configuration; empty where it is made of probabilities.
        candidates: what is asked for: members by name of the candidate.
    """

    id: str
    store: str
    key: str
    annotated: tuple[str, ...] | None = None
    probabilities: dict[str, str] = {}
    ids: dict[str, str] = {}
    voxels: int = 0
    label_map: str = ""
    candidates: dict[str, tuple[str, ...]] = {}

    def reference(self) -> np.ndarray:
        """Integers ``(*spatial)`` on the grid and in the order of the case's files."""
        return np.asarray(self.stored().reference)

    def stored(self) -> StoredCase:
        """The preprocessed case."""
        return CaseStore(Path(self.store)).open(self.id, self.key)

    def label_maps(self, labels: Labels) -> list[np.ndarray]:
        """Label maps ``(*spatial)`` of the candidates, in their order."""
        if self.label_map:
            return [read_labels(Path(self.label_map), self.id).array[0]]
        members = sorted({member for each in self.candidates.values() for member in each})
        kept = {member: KeptProbabilities(Path(self.probabilities[member])) for member in members}
        maps = ensemble_label_maps(kept, list(self.candidates.values()), labels)
        return [each.array[0] for each in maps]

    def depends_on(self, candidate: str, labels: Labels) -> str:
        """Digest of all that the label map of a candidate, and its scores, depend on."""
        if self.label_map:
            made_of = [content_hash(Path(self.label_map))]
        else:
            made_of = [self.ids[member] for member in self.candidates[candidate]]
        return digest([SCORING, *made_of, self.key, digest(labels), str(self.annotated)])


class EnsembleScores(Value, frozen=True, kw_only=True):
    """Scores the candidates of a case; a task for any executor."""

    labels: Labels

    @property
    def stage(self) -> str:
        """For messages."""
        return "ensembles"

    def __call__(self, item: HeldOutCase) -> dict[str, dict[str, float | None]]:
        """Candidate to label name to Dice."""
        names = dict(zip(label_keys(self.labels), (each.name for each in self.labels.foreground), strict=True))
        reference, result = item.reference(), {}
        for candidate, prediction in zip(item.candidates, item.label_maps(self.labels), strict=True):
            scores = overlap_scores(reference, prediction, self.labels, item.annotated)
            result[candidate] = {name: scores[key].dice for key, name in names.items()}
        return result

    def bytes(self, item: HeldOutCase) -> int:
        """Memory that the work on a case takes at most."""
        return ensemble_bytes(item.voxels, len(item.probabilities), len(item.candidates))


class PostprocessingEffects(Value, frozen=True, kw_only=True):
    """What postprocessing does to a case's label map by the one candidate that is asked for; a task for any executor."""

    labels: Labels

    @property
    def stage(self) -> str:
        """For messages."""
        return "postprocessing"

    def __call__(self, item: HeldOutCase) -> dict[str, CaseEffects]:
        """Candidate to the effects.

        Raises:
            InputError: the label map is not on the grid of its reference.
        """
        reference, (prediction,), (candidate,) = item.reference(), item.label_maps(self.labels), item.candidates
        if prediction.shape != reference.shape:
            raise InputError(
                "the label map of a held-out case is of another size than its reference",
                case=item.id,
                file=item.label_map,
                found=prediction.shape,
                expected=reference.shape,
            )
        return {candidate: case_effects(reference, prediction, self.labels, item.annotated)}

    def bytes(self, item: HeldOutCase) -> int:
        """Memory that the work on a case takes at most."""
        return ensemble_bytes(item.voxels, len(item.probabilities), 1) + BYTES_OF_EFFECTS * item.voxels


class SoftDiceOfCase(Value, frozen=True, kw_only=True):
    """How certain the candidates were of a case, from kept probabilities alone; a task for any executor."""

    labels: Labels

    @property
    def stage(self) -> str:
        """For messages."""
        return "calibration"

    def __call__(self, item: HeldOutCase) -> dict[str, dict[str, float | None]]:
        """Candidate to label name to soft Dice."""
        members = sorted({member for each in item.candidates.values() for member in each})
        kept = {member: KeptProbabilities(Path(item.probabilities[member])) for member in members}
        return {
            candidate: soft_dice_of_levels([kept[member] for member in of], self.labels)
            for candidate, of in item.candidates.items()
        }

    def bytes(self, item: HeldOutCase) -> int:
        """Memory that the work on a case takes at most."""
        return 5 * 4 * min(VALUES_AT_ONCE, item.voxels * self.labels.output_count)


class _Scored(Value, frozen=True, kw_only=True):
    """Scores, or soft Dice, and the digest of what they depend on."""

    key: str
    dice: dict[str, float | None]


class _Tried(Value, frozen=True, kw_only=True):
    """Effects of postprocessing, and the digest of what they depend on."""

    key: str
    effects: CaseEffects


class _Document(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.ensembles/1"):
    """What has been computed of a case, by candidate."""

    scores: dict[str, _Scored] = {}
    effects: dict[str, _Tried] = {}
    soft_dice: dict[str, _Scored] = {}


class Attempts:
    """Runs a task over held-out cases.

    Args:
        executor: runs the cases.
        logger: for progress.
        stop: asked after every case.
        mend: makes preprocessed cases anew whose references turn out damaged.
    """

    def __init__(
        self,
        executor: Executor,
        logger: Logger,
        stop: Callable[[], bool],
        mend: Callable[[Sequence[HeldOutCase]], None],
    ) -> None:
        self._executor, self._logger, self._stop, self._mend = executor, logger, stop, mend

    def run(
        self, task: CaseTask[Result], items: Sequence[HeldOutCase], total: int
    ) -> Iterator[tuple[HeldOutCase, Result]]:
        """Every case with its result; those whose references turn out damaged are made anew and tried once more.

        Args:
            task: for each case.
            items: the cases that it is not done of.
            total: with those that it was done of before.

        Raises:
            CasesFailedError: some cases failed, all others have been given.
            InterruptedRunError: ``stop`` said so.
        """
        done = total - len(items)
        failures: dict[str, BaseException] = {}
        for attempt in range(2):
            damaged = []
            for outcome in self._executor.run(task, items, costs=[task.bytes(item) for item in items]):
                if isinstance(outcome.error, DamagedCaseError) and not attempt:
                    damaged.append(outcome.item)
                    continue
                if outcome.result is None:
                    failures[outcome.item.id] = outcome.error or InputError("unknown failure")
                else:
                    yield outcome.item, outcome.result
                done += 1
                self._logger.event("progress", stage=task.stage, done=done, total=total, detail=outcome.item.id)
                if self._stop():
                    raise InterruptedRunError(
                        f"stopped after {done} of {total} cases; they are kept, and the same command goes on from here"
                    )
            if not damaged:
                break
            self._mend(damaged)
            items = damaged
        if failures:
            raise CasesFailedError(task.stage, dict(sorted(failures.items())), total - len(failures))


class Work:
    """Computes what is not known yet, case by case.

    Args:
        files: where it is kept.
        labels: that are scored.
        attempts: runs the cases.
    """

    def __init__(self, files: SelectionFiles, labels: Labels, attempts: Attempts) -> None:
        self._files, self._labels, self._attempts = files, labels, attempts

    def scores(self, cases: Sequence[HeldOutCase]) -> dict[str, dict[str, Dice]]:
        """Candidate to case to scores, of all candidates that the cases ask for.

        Raises:
            CasesFailedError: some cases could not be scored; the others are kept.
            InterruptedRunError: ``stop`` said so; what is scored is kept.
        """
        return self._by_candidate("scores", EnsembleScores(labels=self._labels), cases)

    def soft_dice(self, cases: Sequence[HeldOutCase]) -> dict[str, dict[str, Dice]]:
        """Likewise the soft Dice, from probabilities, of which no case may lack any; no reference is needed."""
        return self._by_candidate("soft_dice", SoftDiceOfCase(labels=self._labels), cases)

    def _by_candidate(
        self, field: str, task: CaseTask[dict[str, Dice]], cases: Sequence[HeldOutCase]
    ) -> dict[str, dict[str, Dice]]:
        found: dict[str, dict[str, Dice]] = {}
        keys, waiting = dict[str, dict[str, str]](), []
        for case in cases:
            known: dict[str, _Scored] = getattr(self._known(case), field)
            keys[case.id] = {name: case.depends_on(name, self._labels) for name in case.candidates}
            valid = {name: known[name].dice for name, key in keys[case.id].items() if _is_of(known.get(name), key)}
            for name, dice in valid.items():
                found.setdefault(name, {})[case.id] = dice
            missing = {name: members for name, members in case.candidates.items() if name not in valid}
            if missing:
                waiting.append(msgspec.structs.replace(case, candidates=missing))
        for case, result in self._attempts.run(task, waiting, len(cases)):
            before = self._known(case)
            new = {name: _Scored(key=keys[case.id][name], dice=dice) for name, dice in result.items()}
            self._write(case, msgspec.structs.replace(before, **{field: {**getattr(before, field), **new}}))
            for name, dice in result.items():
                found.setdefault(name, {})[case.id] = dice
        return found

    def effects(self, cases: Sequence[HeldOutCase]) -> dict[str, CaseEffects]:
        """Case to the effects of postprocessing, by the one candidate that each case asks for.

        Raises:
            CasesFailedError: some cases could not be looked at; the others are kept.
            InterruptedRunError: ``stop`` said so; what is known is kept.
        """
        found: dict[str, CaseEffects] = {}
        keys, waiting = dict[str, str](), []
        for case in cases:
            (name,) = case.candidates
            keys[case.id] = case.depends_on(name, self._labels)
            known = self._known(case).effects.get(name)
            if known is not None and known.key == keys[case.id]:
                found[case.id] = known.effects
            else:
                waiting.append(case)
        task = PostprocessingEffects(labels=self._labels)
        for case, result in self._attempts.run(task, waiting, len(cases)):
            before, (name,) = self._known(case), case.candidates
            new = _Tried(key=keys[case.id], effects=result[name])
            self._write(case, msgspec.structs.replace(before, effects={**before.effects, name: new}))
            found[case.id] = result[name]
        return found

    def _known(self, case: HeldOutCase) -> _Document:
        file = self._files.case(case.id)
        with contextlib.suppress(DocumentError):  # a damaged one is as good as none
            return read_document(_Document, file) if file.is_file() else _Document()
        return _Document()

    def _write(self, case: HeldOutCase, document: _Document) -> None:
        write_document(self._files.case(case.id), document)


def _is_of(known: _Scored | None, key: str) -> bool:
    return known is not None and known.key == key
