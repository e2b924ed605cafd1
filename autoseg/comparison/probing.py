"""Probes: networks predict held-out cases that were changed on purpose, and Dice tells what the change costs.

Everything is predicted and scored on the grid of the configuration, where slices are those that the network sees, and
without mirroring. What a probe finds is kept case by case under a digest of all that it depends on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
import numpy as np

from autoseg.cascade_stage import staged_store
from autoseg.crossvalidation import FinishedFold
from autoseg.errors import DiskFullError, DocumentError, InterruptedRunError
from autoseg.evaluation.overlap import label_keys, overlap_scores
from autoseg.executors import Executor
from autoseg.files import read_document, write_document
from autoseg.held_out_files import probe_file
from autoseg.inference.export import decided_labels
from autoseg.inference.held_out import with_whole_case
from autoseg.inference.model import Choice, load_predictor
from autoseg.inference.predict import Predictor
from autoseg.io.case_store import CaseStore
from autoseg.logs import Logger, reported
from autoseg.preprocessing.cases import preprocess_cases
from autoseg.stores import case_store_of
from autoseg.values import Labels, Plan, digest
from autoseg.values.json_form import Value
from autoseg.workspace import ModelFolder, Workspace

__all__ = ["Dice", "Found", "Probe", "ProbeRuns", "ProbedCase", "drawn_cases", "reference_on_grid"]

#: Of one case: label name to Dice, None where it is not defined.
Dice = dict[str, float | None]
#: Changes when the same weights and cases give other numbers.
VERSION = "1"


@dataclass(frozen=True, kw_only=True)
class ProbedCase:
    """A held-out case as its network sees it, in memory.

    Attributes:
        image: float32 ``(channels, *spatial)``.
        reference: integers as in label files ``(*spatial)``, on the same grid.
        labels: what they mean.
        annotated: names of the labels that were looked for; None for all.
        seed: of what is drawn for this case.
        advance: told how many tiles are done, of how many.
    """

    image: np.ndarray
    reference: np.ndarray
    labels: Labels
    annotated: Sequence[str] | None
    seed: str
    advance: Callable[[int, int], None]

    def predicted(self, predictor: Predictor, image: np.ndarray) -> np.ndarray:
        """Label map ``(*spatial)`` of an image ``(channels, *spatial)``."""
        return decided_labels(predictor.logits(image, self.advance), image.shape[1:], self.labels)

    def dice(self, prediction: np.ndarray, places: Sequence[int] | None = None) -> Dice:
        """Label name to Dice of a label map, which holds some slices only if their places are told."""
        reference = self.reference if places is None else self.reference[list(places)]
        scores = overlap_scores(reference, prediction, self.labels, self.annotated)
        names = zip(label_keys(self.labels), (label.name for label in self.labels.foreground), strict=True)
        return {name: scores[key].dice for key, name in names}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What is done to a case.

    Attributes:
        name: for files.
        measure: a network and a case to the name of each way in which it was predicted to its Dice.
        settings: of it, in words: other settings give other numbers.
    """

    name: str
    measure: Callable[[Predictor, ProbedCase], dict[str, Dice]]
    settings: str = ""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a probe has found.

    Attributes:
        dice: case to the way in which it was predicted to its Dice.
        failures: case to why nothing is known of it.
    """

    dice: dict[str, dict[str, Dice]]
    failures: dict[str, str] = field(default_factory=dict)


class _Known(Value, frozen=True, kw_only=True):
    """Dice of every way, and the digest of what it depends on."""

    key: str
    dice: dict[str, Dice]


class _Document(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.probes/1"):
    """What is known of a case, by probe."""

    probes: dict[str, _Known] = {}


def reference_on_grid(segmentation: np.ndarray, labels: Labels) -> np.ndarray:
    """A stored segmentation ``(*spatial)`` as integers of label files; what lies outside of the image is background."""
    values = [*labels.integers, 0 if labels.ignore is None else labels.ignore]
    table = np.array(values, np.uint8 if max(values) < 256 else np.uint16)
    return table[np.maximum(segmentation, 0)]


def drawn_cases(
    first: Mapping[str, FinishedFold], second: Mapping[str, FinishedFold], count: int
) -> list[tuple[str, str]]:
    """Held-out cases with their folds, of the folds that both have, as evenly as possible; always the same ones.

    Args:
        first: finished folds of one configuration.
        second: of the other one.
        count: at most so many cases.
    """
    shared = sorted(set(first) & set(second), key=int)
    queues = [[(case, fold) for case in sorted(first[fold].scores, key=lambda case: digest([case]))] for fold in shared]
    longest = max(map(len, queues), default=0)
    in_turn = [queue[place] for place in range(longest) for queue in queues if place < len(queue)]
    return sorted(in_turn[:count])


class ProbeRuns:
    """Runs probes on the networks of a plan; what is known is not done again.

    Args:
        workspace: of the plan.
        model: its folder.
        plan: with the configurations.
        device: cpu, cuda or mps.
        logger: for progress, and for the names of cases that failed.
        stop: asked after every few tiles.
        executor: makes preprocessed cases anew that are missing or damaged.
    """

    def __init__(
        self,
        workspace: Workspace,
        model: ModelFolder,
        plan: Plan,
        device: str,
        logger: Logger,
        stop: Callable[[], bool],
        executor: Executor,
    ) -> None:
        self._workspace, self._model, self._plan = workspace, model, plan
        self._device, self._logger, self._stop, self._executor = device, logger, stop, executor

    def found(self, probe: Probe, folds: Mapping[str, FinishedFold], cases: Sequence[tuple[str, str]]) -> Found:
        """What a probe finds on cases, each predicted by the network of the fold that holds it out.

        Args:
            probe: to run.
            folds: finished folds of one configuration.
            cases: with their folds.

        Raises:
            InputError: the weights cannot be used.
            InterruptedRunError: ``stop`` said so; what is found is kept, but for the case that was worked on.
        """
        found, predictors = Found(dice={}), dict[str, Predictor]()
        stage = f"probe {probe.name}"
        for done, (case, name) in enumerate(cases, start=1):
            fold = folds[name]
            key = self._key(probe, fold, case)
            known = self._document(fold, case).probes.get(probe.name)
            if known is None or known.key != key:
                self._check_stop(done - 1, len(cases))
                if name not in predictors:
                    predictors = {name: self._predictor(fold)}  # one fold's network at a time
                try:
                    advance = partial(self._advance, stage, done, len(cases), case)
                    known = _Known(key=key, dice=self._measured(probe, predictors[name], fold, case, advance))
                except (InterruptedRunError, DiskFullError):
                    raise
                except Exception as error:  # one bad case costs one case
                    found.failures[case] = str(error) or type(error).__name__
                    self._logger.event("case_failed", stage=stage, case=case, **reported(error))
                    continue
                document = self._document(fold, case)
                write_document(
                    probe_file(self._model, fold.configuration, case),
                    msgspec.structs.replace(document, probes={**document.probes, probe.name: known}),
                )
            found.dice[case] = known.dice
            self._logger.event("progress", stage=stage, done=done, total=len(cases), detail=case)
        return found

    def _key(self, probe: Probe, fold: FinishedFold, case: str) -> str:
        job = fold.job
        cases = [job.case_keys[case], job.previous_keys.get(case, ""), str(job.annotated.get(case))]
        return digest([VERSION, probe.name, probe.settings, self._plan.id, fold.configuration, fold.weights, *cases])

    def _document(self, fold: FinishedFold, case: str) -> _Document:
        file = probe_file(self._model, fold.configuration, case)
        with contextlib.suppress(DocumentError):  # a damaged one is as good as none
            return read_document(_Document, file) if file.is_file() else _Document()
        return _Document()

    def _predictor(self, fold: FinishedFold) -> Predictor:
        choice = Choice(configuration=fold.configuration, folds=(fold.fold,), dice=None)
        return load_predictor(self._model, choice, device=self._device, mirroring=False)

    def _measured(
        self,
        probe: Probe,
        predictor: Predictor,
        fold: FinishedFold,
        case: str,
        advance: Callable[[int, int], None],
    ) -> dict[str, Dice]:
        store, key, labels = self._store(fold), fold.job.case_keys[case], self._plan.labels

        def measured() -> dict[str, Dice]:
            stored = store.open(case, key)
            probed = ProbedCase(
                image=np.asarray(stored.image),
                reference=reference_on_grid(np.asarray(stored.segmentation), labels),
                labels=labels,
                annotated=fold.job.annotated.get(case),
                seed=f"{self._plan.seed} {case}",
                advance=advance,
            )
            return probe.measure(predictor, probed)

        return with_whole_case(store, key, measured)

    def _store(self, fold: FinishedFold) -> CaseStore:
        name = fold.configuration

        def rebuild(case_id: str) -> None:
            dataset = self._workspace.dataset()
            wanted = [case for case in dataset.annotated_cases if case.id == case_id]
            how = (self._workspace.contents, self._executor, self._logger, self._stop)
            preprocess_cases(dataset, wanted, self._plan, {name: store}, *how, spared=self._workspace.keys_in_use())

        store = case_store_of(self._workspace, self._plan, name, rebuild)
        return staged_store(self._model, self._plan, fold.job, store)

    def _advance(self, stage: str, done: int, total: int, case: str, tiles: int, of: int) -> None:
        self._logger.event("progress", stage=stage, done=done - 1, total=total, detail=f"{case}, tile {tiles} of {of}")
        self._check_stop(done - 1, total)

    def _check_stop(self, done: int, total: int) -> None:
        if self._stop():
            raise InterruptedRunError(
                f"stopped after {done} of {total} cases of a probe; they are kept, and the same command goes on from here"
            )
