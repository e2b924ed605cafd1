"""Predicting the cases of a folder: reading, predicting and writing overlap, and one bad case costs one case."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from autoseg import __version__
from autoseg.errors import CasesFailedError
from autoseg.executors import Executor, SerialExecutor
from autoseg.files import content_hash
from autoseg.inference.account import Account, now
from autoseg.inference.confidence import Experience, Watch, poor_confidence
from autoseg.inference.finishing import Finishing
from autoseg.inference.inputs import PreparedMembers, PrepareInput, PrepareMembers, hand_over_folder
from autoseg.inference.ledger import Ledger, Places
from autoseg.inference.likeness import unlike_training
from autoseg.inference.members import Answer, answered
from autoseg.inference.predict import Predictor
from autoseg.io.case_work import CaseFiles, run_admitted
from autoseg.io.formats import format_of
from autoseg.io.label_files import AsFiles, LabelFiles
from autoseg.logs import Logger, reported
from autoseg.machine import machine_memory
from autoseg.scratch import arrays_in
from autoseg.values import (
    DISAGREEMENT,
    PROBABILITIES,
    Case,
    CasePrediction,
    ComponentStep,
    Part,
    Plan,
    PredictionRun,
    digest,
)
from autoseg.volume.components import keep_largest_components

__all__ = ["Extras", "predict_files"]

WHOLE = Part()
#: Bytes of each voxel that deciding, restoring and writing a label map take.
COPIES = 8
#: An answer waits to be written beside the networks if it takes no more than this share of the free memory.
SHARE_TO_WAIT = 1 / 4


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What is wanted beside label maps, and of which cases.

    Attributes:
        disagreement_maps: a map of the networks' disagreement for each case, if there are several networks.
        probabilities: those that decided, too.
        part: of the folder's cases, for its record; which they are was decided before.
        plan_name: for the account of the run.
        models: configurations with their folds, for the account of the run.
    """

    disagreement_maps: bool = False
    probabilities: bool = False
    part: Part = WHOLE
    plan_name: str = ""
    models: tuple[str, ...] = ()


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
    experience: Experience | None = None,
    extras: Extras | None = None,
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
        experience: of the model, by which its answers are judged; None for none.
        extras: what else is wanted.

    Returns:
        Case id to label file.

    Raises:
        InputError: files that autoseg did not write stand in the way.
        CasesFailedError: some cases failed; the others are written.
    """
    work = _Work(
        *((predictor, *others), plan, model_key, source, target, logger),
        steps=tuple(steps),
        output=output or AsFiles(),
        experience=experience or Experience(),
        extras=extras or Extras(),
        total=len(cases),
    )
    return work.run(cases, executor or SerialExecutor())


class _Work:
    """One run over the cases of a folder; see ``predict_files``."""

    def __init__(
        self,
        members: Sequence[Predictor],
        plan: Plan,
        model_key: str,
        source: Path,
        target: Path,
        logger: Logger,
        *,
        steps: tuple[ComponentStep, ...],
        output: LabelFiles,
        experience: Experience,
        extras: Extras,
        total: int,
    ) -> None:
        self.members, self.plan, self.model_key, self.steps = members, plan, model_key, steps
        self.source, self.target, self.logger, self.output = source, target, logger, output
        self.experience, self.extras, self.total = experience, extras, total
        self.mirroring = any(each.mirror_axes for each in members)
        ways = {"fast": any(each.skips_air for each in members), "roi": any(each.only_region for each in members)}
        self.ways = tuple(name for name, taken in ways.items() if taken)
        self.done, self.failures = set[str](), dict[str, BaseException]()

    def run(self, cases: Sequence[Case], executor: Executor) -> dict[str, Path]:
        """All of them."""
        places = {case.id: self._places(case) for case in cases}
        ledger = Ledger(self.target, self.plan.labels, places, self.extras.part)
        account = Account(self.target / self.extras.part.file_name("run"), self._told())
        items = []
        for case in cases:
            item = CaseFiles.of(case, str(self.source))
            try:
                there = ledger.has(case.id, self._made_of(case, item.look()[0], places[case.id]).key)
                if not there:
                    self.output.check(case, self.source)
            except Exception as error:  # one bad case costs one case
                self._ended(case.id, error, account)
                continue
            if there:
                account.there(case.id)
                self.done.add(case.id)
            else:
                items.append(item)
        self.logger.event("progress", stage="predict", done=len(self.done) + len(self.failures), total=self.total)
        if items:
            self._predict(items, places, ledger, account, executor)
        account.end()
        if self.failures:
            raise CasesFailedError("predict", dict(sorted(self.failures.items())), len(self.done))
        return {case.id: places[case.id].label_map for case in cases}

    def _predict(
        self,
        items: Sequence[CaseFiles],
        places: dict[str, Places],
        ledger: Ledger,
        account: Account,
        executor: Executor,
    ) -> None:
        """The cases that are not there yet: an image is read while another is predicted and a third is written."""

        def ended(case_id: str, error: Exception | None) -> None:
            self._ended(case_id, error, account)

        with (
            hand_over_folder(self.target) as folder,
            closing(self._inputs(items, folder, executor)) as inputs,
            Finishing(ended) as finishing,
        ):
            for case, prepared, problem in inputs:
                if prepared is None:
                    ended(case.id, problem)
                    continue
                try:
                    made = self._made_of(case, prepared.hashes, places[case.id])
                    ledger.begin(case.id, made)
                    began = time.perf_counter()
                    watch = Watch(self.members, self.plan.labels, with_map="disagreement" in places[case.id].wanted)
                    answer = answered(self.members, self.plan, prepared, self._advance(case.id), watch)
                    seconds = {"read": prepared.seconds, "networks": time.perf_counter() - began}
                except Exception as error:  # one bad case costs one case
                    ended(case.id, error)
                    continue
                finish = _Finish(self, case, prepared, answer, watch, made, places[case.id], ledger, account, seconds)
                finishing.give(case.id, finish, beside=_has_room_for(answer))
                del answer, finish  # the next case needs the room

    def _inputs(
        self, items: Sequence[CaseFiles], folder: Path, executor: Executor
    ) -> Generator[tuple[Case, PreparedMembers | None, Exception | None]]:
        """Every case with its image for the networks, or an error."""
        tasks = []
        for number, each in enumerate(self.members):
            own = folder / str(number)
            own.mkdir()
            name, root = each.configuration.name, str(self.source)
            locates = each.only_region and each.configuration.previous_stage is None
            locator = each.earlier[0].configuration.name if locates else ""
            tasks.append(PrepareInput(plan=self.plan, configuration=name, root=root, folder=str(own), locator=locator))
        task = PrepareMembers(tasks=tuple(tasks))
        for outcome in run_admitted(executor, task, items, task.bytes):
            yield outcome.item.case, outcome.result, outcome.error

    def _places(self, case: Case) -> Places:
        several = sum(len(each.networks) for each in self.members) > 1
        wishes = {
            "disagreement": self.extras.disagreement_maps and several,
            "probabilities": self.extras.probabilities,
        }
        return Places(
            label_map=self.target / self.output.name(case),
            disagreement=self.target / DISAGREEMENT / AsFiles().name(case),
            probabilities=self.target / PROBABILITIES / case.id,
            wanted=frozenset(name for name, wish in wishes.items() if wish),
        )

    def _made_of(self, case: Case, hashes: Sequence[str], places: Places) -> CasePrediction:
        """What the record tells of a label map that these members make of an image with these hashes."""
        depends = [*hashes, *filter(None, [self.output.identity]), *self.ways]
        done_after = [digest(list(self.steps))] if self.steps else []
        names = "+".join(each.configuration.name for each in self.members)
        key = [__version__, self.plan.id, self.model_key, str(self.mirroring), *done_after, *depends]
        return CasePrediction(
            autoseg_version=__version__,
            plan=self.plan.id,
            model=f"{names}, weights {self.model_key[:16]}",
            mirroring=self.mirroring,
            ways=self.ways,
            key=digest(key),
            postprocessing=self.steps,
            file=places.label_map.name,
        )

    def _told(self) -> PredictionRun:
        """What is known of the run before its first case."""
        paths = [each.execution for each in self.members]
        libraries = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "scipy")}
        return PredictionRun(
            versions={"autoseg": __version__, "python": platform.python_version(), **libraries},
            plan=self.plan.id,
            plan_name=self.extras.plan_name or self.plan.name,
            models=self.extras.models or tuple(each.configuration.name for each in self.members),
            weights=self.model_key,
            device=paths[0].device,
            execution=tuple(path.described for path in paths),
            mirroring=self.mirroring,
            ways=self.ways,
            part=self.extras.part,
            began=now(),
        )

    def _ended(self, case_id: str, error: Exception | None, account: Account) -> None:
        if error is None:
            self.done.add(case_id)
        else:
            self.failures[case_id] = error
            account.failed(case_id, reported(error)["error"])
            self.logger.event("case_failed", stage="predict", case=case_id, **reported(error))
        ended = len(self.done) + len(self.failures)
        self.logger.event("progress", stage="predict", done=ended, total=self.total, detail=case_id)

    def _advance(self, case_id: str) -> Callable[[int, int], None]:
        """Tells how far the networks have come with a case, after every group of tiles."""

        def advance(tiles: int, of: int) -> None:
            ended = len(self.done) + len(self.failures)
            detail = f"{case_id}, tile {tiles} of {of}"
            done = min(ended + 0.99 * tiles / of, self.total)
            self.logger.event("progress", stage="predict", done=done, total=self.total, detail=detail)

        return advance


@dataclass(frozen=True)
class _Finish:
    """Decides, judges and writes the label map of one case."""

    work: _Work
    case: Case
    prepared: PreparedMembers
    answer: Answer
    watch: Watch
    made: CasePrediction
    places: Places
    ledger: Ledger
    account: Account
    seconds: dict[str, float]

    def __call__(self) -> None:
        """Writes; the record tells of it when all is written."""
        began, work = time.perf_counter(), self.work
        with self.answer as answer, arrays_in(_folder_of_large(self.prepared)):
            label_map = answer.label_map()
            if work.steps:
                label_map.array[0] = keep_largest_components(label_map.array[0], [step.values for step in work.steps])
            if "probabilities" in self.places.wanted:
                answer.keep(self.places.probabilities, self.made.key)
            work.output.write(self.places.label_map, label_map, self.case, work.source, self.prepared.hashes)
            del label_map
        judged = self._judged()
        for warning in judged.warnings:
            work.logger.event("message", text=f"case {self.case.id}: {warning}", case=self.case.id)
        self.ledger.end(self.case.id, judged)
        seconds = {**self.seconds, "write": time.perf_counter() - began}
        self.account.predicted(self.case.id, seconds, judged.warnings)

    def _judged(self) -> CasePrediction:
        """With what tells how far the label map can be trusted; writes the map of disagreement, if there is one."""
        work, prepared, file = self.work, self.prepared.members[0], self.places.disagreement
        confidence, disagreement, written = self.watch.confidence(work.experience), self.watch.map(prepared.record), ""
        if disagreement is not None:
            file.parent.mkdir(exist_ok=True)
            format_of(file).write(file, disagreement)
            written = content_hash(file)
        unlike = unlike_training(prepared.record.source, work.plan, work.experience.images, prepared.quantiles)
        warnings = (*unlike, *poor_confidence(confidence, work.experience))
        return msgspec.structs.replace(self.made, warnings=warnings, confidence=confidence, disagreement_map=written)


def _folder_of_large(prepared: PreparedMembers) -> Path | None:
    """Where label maps of an image lie of which memory has no room for several; None: in memory."""
    memory, shape = machine_memory(), prepared.members[0].record.source.shape
    large = memory is not None and COPIES * math.prod(shape) > memory.room
    return prepared.members[0].scratch if large else None


def _has_room_for(answer: Answer) -> bool:
    """Whether memory has room for an answer that waits, beside the next image."""
    memory = machine_memory()
    return memory is None or answer.bytes <= SHARE_TO_WAIT * memory.room
