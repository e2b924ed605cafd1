"""The fast way to predict, ``predict --fast``: what it leaves out, and what that costs, measured on held-out cases.

It leaves out the flips, lays tiles less densely, and does not compute tiles in which the image has one value. It keeps all
folds and members: a held-out case is predicted by one network, so what fewer of them cost cannot be measured on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from autoseg.errors import DamagedCaseError, InterruptedRunError
from autoseg.files import read_document, write_document
from autoseg.held_out_files import ValidationFiles, fast_loss_file
from autoseg.inference.held_out import case_score, prediction_of, with_whole_case
from autoseg.inference.model import Choice
from autoseg.inference.predict import Predictor
from autoseg.io.case_store import CaseStore
from autoseg.logs import Logger
from autoseg.networks.weights import weights_id
from autoseg.statistics import bootstrap_of_mean
from autoseg.values import CaseScore, FastCase, FastLoss, FastLossOf, FastScores, Plan, Validation
from autoseg.workspace import FoldFolder, ModelFolder

__all__ = ["FAST_STEP", "fast_loss", "made_fast", "measure_fast", "told"]

#: Largest distance of tiles, as a share of their edge; usually one half.
FAST_STEP = 0.75
#: Held-out cases of each fold that are predicted in both ways.
MOST_CASES = 10


def made_fast(predictor: Predictor) -> Predictor:
    """The same predictor, with the stages before it, in the fast way from now on."""
    for each in (predictor, *predictor.earlier):
        each.mirror_axes, each.step, each.skips_air = (), FAST_STEP, True
    return predictor


def measure_fast(
    predictor: Predictor,
    plan: Plan,
    store: CaseStore,
    keys: Mapping[str, str],
    annotated: Mapping[str, Sequence[str]],
    folder: FoldFolder,
    logger: Logger,
    stop: Callable[[], bool],
) -> None:
    """Predicts some held-out cases of a validated fold in the fast way, too, and keeps their Dice beside the usual one.

    What is measured is not measured again. A case that cannot be read is left out.

    Args:
        predictor: of the fold; is fast afterwards.
        plan: it belongs to.
        store: of the preprocessed cases.
        keys: case id to content key, of the fold's held-out cases.
        annotated: case id to the labels that were looked for, of the cases in which not all were.
        folder: of the training, validated.
        logger: for progress.
        stop: asked before every case.

    Raises:
        InterruptedRunError: ``stop`` said so; what is measured is kept.
    """
    files, weights = ValidationFiles(folder), weights_id(folder.model)
    found = read_document(FastScores, files.fast) if files.fast.is_file() else None
    if found is None or (found.weights, found.step) != (weights, FAST_STEP):
        found = FastScores(weights=weights, step=FAST_STEP)
    chosen = _spread(sorted(keys))
    missing = [case for case in chosen if case not in found.cases]
    usual = read_document(Validation, files.record).seconds if missing else {}
    made_fast(predictor)
    for done, case in enumerate(missing, start=1):
        if stop():
            raise InterruptedRunError(f"stopped before {case} was predicted in the fast way; the same command goes on")

        def scored(case: str = case) -> tuple[CaseScore, float]:
            stored, began = store.open(case, keys[case]), time.perf_counter()
            prediction = prediction_of(predictor, plan, stored, lambda tiles, of: None)
            seconds = time.perf_counter() - began
            return case_score(stored, prediction, plan, annotated.get(case)), seconds

        try:
            score, seconds = with_whole_case(store, keys[case], scored)
        except DamagedCaseError:
            continue
        before = read_document(CaseScore, folder.score(case))
        both = FastCase(
            dice=_mean_dice(before),
            fast_dice=_mean_dice(score),
            seconds=usual.get(case),
            fast_seconds=round(seconds, 4),
        )
        found = msgspec.structs.replace(found, cases={**found.cases, case: both})
        write_document(files.fast, found)
        logger.event("progress", stage="measure --fast", done=done, total=len(missing), detail=case)


def _spread(cases: Sequence[str]) -> list[str]:
    """At most so many, evenly."""
    places = np.linspace(0, len(cases) - 1, min(MOST_CASES, len(cases))).round().astype(int)
    return [cases[place] for place in places]


def _mean_dice(score: CaseScore) -> float | None:
    known = [each.dice for each in score.metrics.values() if each.dice is not None]
    return sum(known) / len(known) if known else None


def fast_loss(model: ModelFolder, choices: Sequence[Choice]) -> FastLoss:
    """What the fast way costs these configurations, by the held-out cases of their folds, or as an export tells."""
    if fast_loss_file(model).is_file():
        return read_document(FastLoss, fast_loss_file(model))
    measured: dict[str, FastLossOf] = {}
    for choice in choices:
        cases: dict[str, FastCase] = {}
        for fold in choice.folds:
            folder = model.fold(choice.configuration, fold)
            file = ValidationFiles(folder).fast
            if file.is_file():
                found = read_document(FastScores, file)
                if found.step == FAST_STEP and found.weights == weights_id(folder.model):
                    cases |= found.cases
        if (loss := _loss(list(cases.values()))) is not None:
            measured[choice.configuration] = loss
    return FastLoss(step=FAST_STEP, configurations=measured)


def _loss(cases: Sequence[FastCase]) -> FastLossOf | None:
    both = [each for each in cases if each.dice is not None and each.fast_dice is not None]
    if not both:
        return None
    found = bootstrap_of_mean(np.array([(each.fast_dice or 0.0) - (each.dice or 0.0) for each in both]))
    assert found.mean is not None
    timed = [each for each in both if each.seconds is not None]
    faster = None
    if timed:
        faster = sum(each.seconds or 0.0 for each in timed) / max(sum(each.fast_seconds for each in timed), 1e-9)
    return FastLossOf(cases=len(both), difference=found.mean, lower=found.lower, upper=found.upper, times_faster=faster)


def told(loss: FastLoss, choices: Sequence[Choice]) -> str:
    """In one sentence what ``--fast`` leaves out, and what that costs."""
    parts = []
    for choice in choices:
        found = loss.configurations.get(choice.configuration)
        if found is None:
            parts.append(
                f"{choice.configuration}: not measured (autoseg train {choice.configuration} {choice.folds[0]} does it)"
            )
            continue
        between = "" if found.lower is None else f" ({found.lower:+.4f} to {found.upper:+.4f})"
        faster = "" if found.times_faster is None else f", {found.times_faster:.1f} times as fast"
        parts.append(
            f"{choice.configuration}: Dice {found.difference:+.4f}{between} on {found.cases} held-out cases{faster}"
        )
    return (
        f"--fast: no flips, tiles {loss.step:g} of their edge apart instead of 0.5, none where the image has one value. "
        f"What that costs, by cross-validation: {'; '.join(parts)}"
    )
