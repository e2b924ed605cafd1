"""The choice: the cheapest candidate that is surely less than a margin behind the best.

"Surely" is a one-sided bound from the bootstrap by patients (``autoseg.statistics.bootstrap``), in which all candidates are
drawn together. The best candidate is 0 behind itself, so there always is a winner; how far it stands out is another
question, which the verdict answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from autoseg.errors import InputError
from autoseg.selection.evidence import as_array, with_right_absence
from autoseg.selection.words import reason_for
from autoseg.statistics import BootstrapMeans, bootstrap_means, tail_bounds
from autoseg.statistics.clusters import pooled_mean
from autoseg.values import Candidate, Evidence, Selection, SelectionRule, Standing, Verdict

__all__ = ["choose", "repeated"]


def choose(evidence: Evidence, rule: SelectionRule | None = None) -> Selection:
    """Chooses a candidate; the same evidence and rule give the same choice, in whatever order candidates come.

    Args:
        evidence: scores, costs and patients.
        rule: the regret rule with its margins if None.

    Raises:
        InputError: under nnU-Net's rule, a candidate has no defined score at all.
    """
    rule = rule or SelectionRule()
    raw = as_array(evidence)
    dice = raw if rule.name == "nnunet" else with_right_absence(raw)
    names = [each.name for each in evidence.candidates]
    for name, table in zip(names, dice, strict=True):
        if not np.isfinite(table).any():
            raise InputError(f"no score of {name} is defined", remedy="Leave it out, or train more folds.")
    order = sorted(range(len(names)), key=names.__getitem__)  # the draws must not depend on the order of candidates
    drawn = bootstrap_means(dice[order], evidence.patients, draws=rule.draws, seed=rule.seed)
    back = np.argsort(order)
    means = BootstrapMeans(drawn.observed[back], drawn.drawn[:, back], drawn.without[:, back])
    best = _best(means.observed, evidence, rule)
    standings = tuple(
        Standing(
            candidate=name,
            mean=float(means.observed[place]),
            per_label=_per_label(dice[place]),
            raw_mean=pooled_mean(raw[place]),
            rightly_absent=int((np.isfinite(dice[place]) & ~np.isfinite(raw[place])).sum()),
            **_regret(means.difference(best, place), rule, itself=place == best),
        )
        for place, name in enumerate(names)
    )
    winner = names[best] if rule.name == "nnunet" else _cheapest_sure(evidence, standings, names[best])
    verdict = _verdict(standings)
    return Selection(
        winner=winner,
        best=names[best],
        verdict=verdict,
        reason=reason_for(winner, names[best], verdict, rule, standings, evidence),
        rule=rule,
        standings=standings,
        evidence=evidence,
    )


def repeated(selection: Selection) -> Selection:
    """The choice made again from the evidence and the rule that it holds; it is the same unless somebody changed it."""
    return msgspec.structs.replace(choose(selection.evidence, selection.rule), basis=selection.basis)


def _best(means: np.ndarray, evidence: Evidence, rule: SelectionRule) -> int:
    """Of equally good ones the first under nnU-Net's rule, else the cheapest."""
    places = np.flatnonzero(means == means.max()).tolist()
    if rule.name == "nnunet":
        return int(places[0])
    return int(min(places, key=lambda place: _by_cost(evidence.candidates[place])))


def _by_cost(candidate: Candidate, best: str = "") -> tuple[tuple[float, float], int, bool, str]:
    """Of equal or unknown costs, first fewer members, then the best."""
    return candidate.cost.rank, len(candidate.members), candidate.name != best, candidate.name


def _per_label(table: np.ndarray) -> tuple[float | None, ...]:
    return tuple(pooled_mean(column[:, None]) for column in table.T)


def _regret(behind: BootstrapMeans, rule: SelectionRule, *, itself: bool) -> dict[str, Any]:
    """How far behind the best a candidate is, with its bounds, and what that makes of it."""
    regret = float(behind.observed[0])
    if itself:
        return {"regret": 0.0, "regret_lower": 0.0, "regret_upper": 0.0, "place": "best"}
    enough = len(behind.without) >= rule.fewest_patients
    bounds = tail_bounds(behind, 1 - rule.confidence, rule.method) if enough else None
    if bounds is None:
        return {"regret": regret, "regret_lower": None, "regret_upper": None, "place": "undecided"}
    lower, upper, _ = bounds
    place = "equivalent" if upper < rule.margin else "worse" if lower > 0 else "undecided"
    return {"regret": regret, "regret_lower": lower, "regret_upper": upper, "place": place}


def _cheapest_sure(evidence: Evidence, standings: Sequence[Standing], best: str) -> str:
    sure = {standing.candidate for standing in standings if standing.place in ("best", "equivalent")}
    candidates = [each for each in evidence.candidates if each.name in sure]
    return min(candidates, key=lambda each: _by_cost(each, best)).name


def _verdict(standings: Sequence[Standing]) -> Verdict:
    if len(standings) == 1:
        return "only"
    return "tie" if any(standing.place in ("equivalent", "undecided") for standing in standings) else "clear"
