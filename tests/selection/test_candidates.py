"""Which candidates there are, and what they cost."""

from __future__ import annotations

from autoseg.selection import all_candidates
from autoseg.values import Cost


def cost(seconds: float | None, hours: float | None = 1.0) -> Cost:
    return Cost(seconds_per_case=seconds, training_hours=hours)


def test_singles_then_pairs_then_all() -> None:
    names = [each.name for each in all_candidates({"2d": cost(1), "low": cost(2), "full": cost(4)})]
    assert names == ["2d", "low", "full", "2d+low", "2d+full", "low+full", "2d+low+full"]


def test_two_configurations_have_one_ensemble_and_one_has_none() -> None:
    assert [each.members for each in all_candidates({"a": cost(1), "b": cost(1)})] == [("a",), ("b",), ("a", "b")]
    assert len(all_candidates({"a": cost(1)})) == 1
    assert len(all_candidates(dict.fromkeys("abcd", cost(1)))) == 4 + 6 + 1


def test_an_earlier_stage_is_paid_for_once() -> None:
    costs = {"low": cost(2, 10), "cascade": cost(5, 20)}
    low, cascade, both = all_candidates(costs, {"cascade": "low", "low": None})
    assert (low.cost, cascade.cost) == (cost(2, 10), cost(7, 30))
    assert both.cost == cascade.cost


def test_a_stage_that_is_not_to_choose_from_is_paid_for_too_and_an_unknown_cost_stays_unknown() -> None:
    assert all_candidates({"cascade": cost(5)}, {"cascade": "low"})[0].cost == cost(None, None)
    assert all_candidates({"a": cost(5), "b": cost(None, 2)})[2].cost == cost(None, 3)


def test_a_stage_that_is_not_to_choose_from_is_paid_for_with_its_known_cost() -> None:
    (cascade,) = all_candidates({"cascade": cost(5, 20)}, {"cascade": "low"}, {"low": cost(2, 10), "2d": cost(1)})
    assert (cascade.name, cascade.cost) == ("cascade", cost(7, 30))


def test_the_faster_is_cheaper_then_the_sooner_trained_and_the_unknown_last() -> None:
    ranked = sorted([cost(None), cost(2, None), cost(2, 5), cost(2, 3), cost(1, 9)], key=lambda each: each.rank)
    assert ranked == [cost(1, 9), cost(2, 3), cost(2, 5), cost(2, None), cost(None)]
