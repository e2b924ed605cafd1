"""The candidates: every configuration, every pair, and all together, with what each costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

from autoseg.values import Candidate, Cost

__all__ = ["all_candidates"]


def all_candidates(
    costs: Mapping[str, Cost],
    previous_stage: Mapping[str, str | None] | None = None,
    others: Mapping[str, Cost] | None = None,
) -> tuple[Candidate, ...]:
    """Single configurations in the order given, then all pairs, then the ensemble of all if there are more than two.

    Args:
        costs: configuration to what itself costs, without earlier stages.
        previous_stage: configuration to the one whose prediction it takes, where there is one; that must be run, too, but
            only once for several members that need it.
        others: what earlier stages cost that are no candidates, where it is known.
    """
    names = list(costs)
    groups: list[tuple[str, ...]] = [(name,) for name in names] + [*combinations(names, 2)]
    if len(names) > 2:
        groups.append(tuple(names))
    return tuple(
        Candidate(
            name="+".join(group), members=group, cost=_cost(group, {**(others or {}), **costs}, previous_stage or {})
        )
        for group in groups
    )


def _cost(group: Iterable[str], costs: Mapping[str, Cost], previous_stage: Mapping[str, str | None]) -> Cost:
    needed: dict[str, Cost | None] = {}
    for member in group:
        stage: str | None = member
        while stage is not None and stage not in needed:
            needed[stage] = costs.get(stage)
            stage = previous_stage.get(stage)
    return Cost(
        seconds_per_case=_total([cost.seconds_per_case if cost else None for cost in needed.values()]),
        training_hours=_total([cost.training_hours if cost else None for cost in needed.values()]),
    )


def _total(parts: list[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
