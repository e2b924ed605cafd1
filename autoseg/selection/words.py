"""A choice in words, made from its numbers and claiming no more than they carry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from autoseg.errors import counted
from autoseg.values import Cost, Evidence, Missing, SelectionRule, Standing, Verdict

__all__ = ["reason_for"]


def reason_for(
    winner: str, best: str, verdict: Verdict, rule: SelectionRule, standings: Sequence[Standing], evidence: Evidence
) -> str:
    """A paragraph: what was chosen, why, what it cannot be told from, on which cases, and what is missing."""
    by_name = {standing.candidate: standing for standing in standings}
    parts = [
        _choice(by_name[winner], by_name[best], verdict, rule, evidence),
        *_tied(standings, rule),
        _basis(rule, evidence),
        *_gaps(evidence),
    ]
    return " ".join(parts)


def _points(dice: float) -> str:
    """Dice in points: 0.912 is 91.2."""
    return f"{100 * dice:.2f}"


def _choice(winner: Standing, best: Standing, verdict: Verdict, rule: SelectionRule, evidence: Evidence) -> str:
    score = f"{winner.candidate} (Dice {_points(winner.mean)})"
    if verdict == "only":
        return f"{score} is the only candidate that is scored."
    start = f"A tie; {score} is taken" if verdict == "tie" else f"{score} is taken"
    if rule.name == "nnunet":
        return f"{start}: the highest mean."
    if verdict == "clear":
        return f"{start}: every other candidate is surely behind it."
    margin = f"less than {_points(rule.margin)} points behind"
    if winner.candidate == best.candidate:
        return f"{start}: the best, and nothing cheaper is surely {margin} it."
    upper = 0.0 if winner.regret_upper is None else winner.regret_upper
    cost = next(each.cost for each in evidence.candidates if each.name == winner.candidate)
    return (
        f"{start}: {_cheapest(cost)} of those that are surely {margin} the best, {best.candidate} "
        f"(Dice {_points(best.mean)}): {_points(winner.regret)} points, at most {_points(upper)}."
    )


def _cheapest(cost: Cost) -> str:
    if cost.seconds_per_case is not None:
        return f"the cheapest ({cost.seconds_per_case:.3g} s per case)"
    return "the one of fewest members" if cost.training_hours is None else "the one of fewest hours of training"


def _tied(standings: Sequence[Standing], rule: SelectionRule) -> Iterator[str]:
    equivalent = [each.candidate for each in standings if each.place == "equivalent"]
    undecided = [each for each in standings if each.place == "undecided"]
    if equivalent:
        yield f"As good as the best, up to {_points(rule.margin)} points: {', '.join(equivalent)}."
    if undecided:
        yield f"These cases cannot tell from the best: {', '.join(map(_undecided, undecided))}."


def _undecided(standing: Standing) -> str:
    behind = f"{standing.candidate} ({_points(standing.regret)} points behind"
    if standing.regret_lower is None or standing.regret_upper is None:
        return f"{behind}, with no bounds)"
    return f"{behind}, between {_points(standing.regret_lower)} and {_points(standing.regret_upper)})"


def _basis(rule: SelectionRule, evidence: Evidence) -> str:
    patients = len(set(evidence.patients))
    basis = f"Based on {counted(len(evidence.cases), 'case')} of {counted(patients, 'patient')}"
    if len(evidence.candidates) == 1:
        return f"{basis}."
    if patients < rule.fewest_patients:
        return f"{basis}: of fewer than {rule.fewest_patients} patients nothing is sure."
    return f"{basis}; bounds are one-sided at {100 * rule.confidence:.3g} %."


def _gaps(evidence: Evidence) -> Iterator[str]:
    groups: dict[Missing, list[str]] = {}
    for missing in evidence.missing:
        groups.setdefault(msgspec.structs.replace(missing, candidate=""), []).append(missing.candidate)
    for gap, names in groups.items():
        yield f"{_listed(names)}: {_lack(gap)}."
    rows = [row for table in evidence.dice.values() for row in table]
    absent = [label for place, label in enumerate(evidence.labels) if all(row[place] is None for row in rows)]
    if absent:
        yield f"In no case is there a score of {', '.join(absent)}."


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {counted(len(names) - 4, 'other')}"


def _lack(gap: Missing) -> str:
    if gap.nothing:
        return "nothing is scored, so not compared"
    folds = f" (nothing of fold {', '.join(gap.folds)})" if gap.folds else ""
    return f"{counted(len(gap.cases), 'case')} not scored{folds}, which count for no candidate"
