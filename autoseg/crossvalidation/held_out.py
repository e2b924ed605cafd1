"""The held-out cases of all finished folds, with what is kept of each: what ensembles and postprocessing are decided by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from autoseg.crossvalidation.ensembles import Attempts, Dice, HeldOutCase, Work
from autoseg.crossvalidation.finished import FinishedFold
from autoseg.errors import DamagedCaseError, InputError
from autoseg.executors import Executor
from autoseg.held_out_files import SelectionFiles, ValidationFiles
from autoseg.inference.probabilities import KeptProbabilities
from autoseg.logs import Logger
from autoseg.preprocessing.cases import preprocess_cases
from autoseg.selection import decide_postprocessing
from autoseg.stores import case_store_of
from autoseg.values import Candidate, Plan, Postprocessing, Selection
from autoseg.workspace import ModelFolder, Workspace

__all__ = ["HeldOut"]

#: Scores are equal up to rounding.
SAME_DICE = 1e-9


class HeldOut:
    """The held-out cases of a plan's finished folds, and the work on them.

    Args:
        workspace: of the plan.
        model: folder of the plan.
        plan: with the configurations.
        finished: configuration to its finished folds.
        executor: runs the cases.
        logger: for events.
        stop: asked after every case.

    Attributes:
        attempts: runs tasks over the cases.
    """

    def __init__(
        self,
        workspace: Workspace,
        model: ModelFolder,
        plan: Plan,
        finished: Mapping[str, Mapping[str, FinishedFold]],
        executor: Executor,
        logger: Logger,
        stop: Callable[[], bool],
    ) -> None:
        self._workspace, self._plan, self._finished = workspace, plan, finished
        self._executor, self._logger, self._stop = executor, logger, stop
        self.attempts = Attempts(executor, logger, stop, self._mend)
        self._work = Work(SelectionFiles(model), plan.labels, self.attempts)
        self._stores = {name: case_store_of(workspace, plan, name, partial(self._rebuild, name)) for name in finished}
        self._cases, self._lacking = self._cases_with_probabilities()

    def ensemble_scores(self, candidates: Sequence[Candidate]) -> dict[str, dict[str, Dice]]:
        """Scores of the ensembles whose probabilities are all kept; the others are told."""
        ensembles = [each for each in candidates if len(each.members) > 1]
        if not ensembles:
            return {}
        asked: dict[str, dict[str, tuple[str, ...]]] = {}
        for ensemble in ensembles:
            shared = set.intersection(*(set(self._fold_of(member)) for member in ensemble.members))
            if not any(case in shared for member in ensemble.members for case in self._lacking[member]):
                for case in shared:
                    asked.setdefault(case, {})[ensemble.name] = ensemble.members
        self._tell_lacking()
        return self._work.scores(
            [msgspec.structs.replace(self._cases[case], candidates=asked[case]) for case in sorted(asked)]
        )

    def postprocessing(self, selection: Selection, scores: Mapping[str, Dice]) -> Postprocessing:
        """What the winner's held-out cases speak for.

        Raises:
            InputError: a label map is not the one that was scored, or there is none.
        """
        members = selection.members
        items = []
        for case in sorted(scores):
            of_one = self.case(members[0], case) if len(members) == 1 else self._cases[case]
            items.append(msgspec.structs.replace(of_one, candidates={selection.winner: members}))
        effects = self._work.effects(items)
        for case, each in effects.items():
            _check_same(case, [row[0] for row in each.dice[0]], list(scores[case].values()), selection.winner)
        return decide_postprocessing(effects, self._plan.labels)

    def soft_dice(self, candidates: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Dice]]:
        """Candidate to case to how certain it was of each label; of candidates whose probabilities are all kept.

        Args:
            candidates: to their members.
        """
        asked: dict[str, dict[str, tuple[str, ...]]] = {}
        for name, members in candidates.items():
            shared = set.intersection(*(set(self._fold_of(member)) for member in members))
            if not any(case in shared for member in members for case in self._lacking[member]):
                for case in shared:
                    asked.setdefault(case, {})[name] = tuple(members)
        return self._work.soft_dice(
            [msgspec.structs.replace(self._cases[case], label_map="", candidates=asked[case]) for case in sorted(asked)]
        )

    def case(self, configuration: str, case: str) -> HeldOutCase:
        """A held-out case that asks for one configuration's label map: the file, or what is made of kept probabilities.

        Raises:
            InputError: neither is there.
        """
        fold = self._fold_of(configuration)[case]
        file = fold.folder.validation / fold.scores[case].prediction_file
        if not file.is_file() and case in self._lacking[configuration]:
            raise InputError(
                "neither the label map nor the probabilities of a held-out case are there",
                case=case,
                file=fold.folder.validation,
                remedy=f"Repeat the training's command, which makes them anew: {_command(fold)}",
            )
        asked = {configuration: (configuration,)}
        label_map = str(file) if file.is_file() else ""
        return msgspec.structs.replace(self._cases[case], label_map=label_map, candidates=asked)

    def _fold_of(self, configuration: str) -> dict[str, FinishedFold]:
        """Held-out case to the fold that predicted it."""
        return {case: fold for fold in self._finished[configuration].values() for case in fold.scores}

    def _cases_with_probabilities(self) -> tuple[dict[str, HeldOutCase], dict[str, list[str]]]:
        """All held-out cases with what is kept of them; and, per configuration, those of which nothing is kept."""
        cases: dict[str, HeldOutCase] = {}
        lacking: dict[str, list[str]] = {name: [] for name in self._finished}
        for name in self._finished:
            for case, fold in self._fold_of(name).items():
                before = cases.get(case) or self._reference_of(case, fold)
                folder = ValidationFiles(fold.folder).probabilities(case)
                try:
                    kept = KeptProbabilities(folder)
                except InputError:
                    lacking[name].append(case)
                    cases[case] = before
                    continue
                _check_weights(kept.weights, fold, case, folder)
                cases[case] = msgspec.structs.replace(
                    before,
                    probabilities={**before.probabilities, name: str(folder)},
                    ids={**before.ids, name: kept.id},
                )
        return cases, lacking

    def _reference_of(self, case: str, fold: FinishedFold) -> HeldOutCase:
        """A case with its reference, of whatever configuration it is stored."""
        keys = {
            name: each.job.case_keys[case]
            for name, folds in self._finished.items()
            for each in folds.values()
            if case in each.scores
        }
        has = (name for name, key in keys.items() if self._stores[name].has(case, key))
        name = next(has, fold.configuration)
        return HeldOutCase(
            id=case,
            store=str(self._stores[name].folder),
            key=keys[name],
            annotated=fold.job.annotated.get(case),
            voxels=self._voxels(name, case, keys[name], fold),
        )

    def _voxels(self, configuration: str, case: str, key: str, fold: FinishedFold) -> int:
        """Of the image, as it is stored; the counts of the scores leave out what was ignored or not looked for."""
        try:
            return math.prod(self._stores[configuration].open(case, key).record.source.shape)
        except DamagedCaseError:  # made anew when it is needed
            return max(
                (each.tp + each.fp + each.fn + each.tn for each in fold.scores[case].metrics.values()), default=0
            )

    def _mend(self, cases: Sequence[HeldOutCase]) -> None:
        """Makes preprocessed cases anew whose references are missing or damaged."""
        for case in cases:
            name = next(name for name, store in self._stores.items() if str(store.folder) == case.store)
            what = f"its reference is missing or damaged among the preprocessed cases of {name}"
            self._stores[name].mend(DamagedCaseError(case.id, what, file=self._stores[name].folder), case.key)

    def _rebuild(self, configuration: str, case_id: str) -> None:
        dataset = self._workspace.dataset()
        wanted = [case for case in dataset.annotated_cases if case.id == case_id]
        how = (self._workspace.contents, self._executor, self._logger, self._stop)
        stores = {configuration: self._stores[configuration]}
        preprocess_cases(dataset, wanted, self._plan, stores, *how, spared=self._workspace.keys_in_use())

    def _tell_lacking(self) -> None:
        for name, cases in self._lacking.items():
            of = self._fold_of(name)
            for fold in sorted({of[case].fold for case in cases}):
                example = next(case for case in cases if of[case].fold == fold)
                text = f"no probabilities are kept of {of[example].name}, {example} for one, so no ensemble with {name} is "
                text += f"compared; they are made by: {_command(of[example])}"
                self._logger.event("message", text=text)


def _command(fold: FinishedFold) -> str:
    return f"autoseg train {fold.configuration} {fold.fold}"


def _check_weights(weights: str, fold: FinishedFold, case: str, folder: Path) -> None:
    if weights != fold.weights:
        raise InputError(
            f"the kept probabilities of {fold.name} were made by other weights than those that stand there",
            case=case,
            file=folder,
            found=f"weights {weights[:12]}",
            expected=f"weights {fold.weights[:12]}",
            remedy=f"Repeat the training's command, which makes them anew: {_command(fold)}",
        )


def _check_same(case: str, found: Sequence[float | None], expected: Sequence[float | None], winner: str) -> None:
    """Sees to it that a label map has the scores that it was compared by."""
    for one, other in zip(found, expected, strict=True):
        if (one is None) != (other is None) or (one is not None and other is not None and abs(one - other) > SAME_DICE):
            raise InputError(
                f"the label map of a held-out case is not the one that was scored for {winner}, or its reference is not",
                case=case,
                found=f"Dice {', '.join(map(str, found))}",
                expected=f"Dice {', '.join(map(str, expected))}",
                remedy="Restore the files; or remove the fold's folder validation and repeat the training's command, which "
                "makes it anew.",
            )
