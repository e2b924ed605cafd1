"""The choice: planted winners, hand-worked numbers, laws, and the same again from its own document."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import InputError
from autoseg.selection import choose, gather_evidence, repeated, without_names
from autoseg.values import Evidence, Selection, SelectionRule, Standing, decode, encode
from tests.selection.tables import LABELS, candidate, cohort, evidence_of, rows, shifted

NNUNET = SelectionRule(name="nnunet", draws=200)
QUICK = SelectionRule(draws=1000)


def standing(selection: Selection, name: str) -> Standing:
    return next(each for each in selection.standings if each.candidate == name)


def three(cheap_behind: float, noise: float, cases: int = 40) -> Evidence:
    """A cheap candidate so many points behind a dear one, and one that is hopeless."""
    best = cohort(cases)
    tables = {
        "hopeless": shifted(best, 10, 0.5, 1),
        "cheap": shifted(best, cheap_behind, noise, 2),
        "dear": best,
    }
    return evidence_of(tables, [1, 2, 9])


def test_the_cheapest_that_is_surely_close_enough_wins_and_it_is_a_tie() -> None:
    selection = choose(three(0.2, 0.3))
    assert (selection.winner, selection.best, selection.verdict) == ("cheap", "dear", "tie")
    cheap = standing(selection, "cheap")
    assert cheap.place == "equivalent"
    assert cheap.regret == pytest.approx(0.002)
    assert cheap.regret_upper is not None
    assert 0.002 < cheap.regret_upper < 0.005
    assert standing(selection, "hopeless").place == "worse"
    assert selection.tied == ("cheap", "dear")


def test_what_is_surely_behind_by_more_than_nothing_but_not_surely_by_less_than_the_margin_is_worse() -> None:
    selection = choose(three(0.6, 0.3))
    assert (selection.winner, selection.best, selection.verdict) == ("dear", "dear", "clear")
    assert standing(selection, "cheap").place == "worse"
    assert "every other candidate is surely behind it" in selection.reason


def test_noise_hides_the_answer_and_then_the_best_is_taken_and_it_is_a_tie() -> None:
    selection = choose(three(0.2, 3.0))
    assert (selection.winner, selection.verdict) == ("dear", "tie")
    cheap = standing(selection, "cheap")
    assert cheap.place == "undecided"
    assert cheap.regret_lower is not None
    assert cheap.regret_upper is not None
    assert cheap.regret_lower < 0 < 0.005 < cheap.regret_upper
    assert "These cases cannot tell from the best: cheap (0.20 points behind" in selection.reason


def test_the_means_are_those_of_a_hand_worked_table() -> None:
    evidence = evidence_of(
        {"a": np.array([[0.8, 0.4], [0.6, np.nan]]), "b": np.array([[0.9, 0.5], [0.7, np.nan]])}, [1, 2]
    )
    selection = choose(evidence)
    assert standing(selection, "a").mean == pytest.approx((0.7 + 0.4) / 2)
    assert standing(selection, "b").per_label == pytest.approx((0.8, 0.5))
    assert standing(selection, "a").regret == pytest.approx(0.1)
    assert selection.winner == "b"


def test_finding_nothing_where_nothing_is_counts_as_right_if_another_found_something() -> None:
    """nnU-Net's mean leaves the case out for the one that was right: here that would choose the wrong one."""
    absent = np.array([[0.90, np.nan], [0.90, 0.70], [0.90, 0.80]])
    found = np.array([[0.90, 0.00], [0.90, 0.76], [0.90, 0.86]])
    careful = choose(evidence_of({"careful": absent, "eager": found}, [1, 1]), QUICK)
    assert careful.winner == "careful"
    assert standing(careful, "careful").per_label == pytest.approx((0.9, 2.5 / 3))
    assert standing(careful, "careful").raw_mean == pytest.approx((0.9 + 0.75) / 2)
    assert standing(careful, "careful").rightly_absent == 1
    assert standing(careful, "eager").rightly_absent == 0


def test_nnunets_rule_takes_the_highest_raw_mean_however_close() -> None:
    best = cohort(30)
    evidence = evidence_of({"dear": best, "cheap": best - 1e-6}, [9, 1])
    assert choose(evidence).winner == "cheap"
    assert choose(evidence, NNUNET).winner == "dear"
    assert "the highest mean" in choose(evidence, NNUNET).reason


def test_nnunets_rule_counts_only_defined_scores_and_takes_the_first_of_equals() -> None:
    absent = np.array([[0.90, np.nan], [0.90, 0.80]])
    found = np.array([[0.90, 0.70], [0.90, 0.80]])
    assert choose(evidence_of({"found": found, "absent": absent}, [1, 1]), NNUNET).winner == "absent"
    assert choose(evidence_of({"second": found, "first": found}, [2, 1]), NNUNET).winner == "second"
    assert choose(evidence_of({"second": found, "first": found}, [2, 1]), QUICK).winner == "first"


def test_equal_predictions_are_equivalent_and_the_cheaper_wins() -> None:
    best = cohort(12)
    selection = choose(evidence_of({"dear": best, "cheap": best}, [9, 1]), QUICK)
    assert (selection.winner, selection.verdict) == ("cheap", "tie")


def test_what_nobody_measured_is_never_cheap() -> None:
    best = cohort(12)
    assert choose(evidence_of({"unknown": best, "dear": best}, [None, 99]), QUICK).winner == "dear"


def test_a_single_candidate_wins_and_nothing_is_claimed() -> None:
    selection = choose(evidence_of({"2d": cohort(8)}, [1]), QUICK)
    assert (selection.winner, selection.verdict, selection.tied) == ("2d", "only", ("2d",))
    assert "the only candidate" in selection.reason


@pytest.mark.parametrize("patients", [1, 2, 4])
def test_of_a_few_patients_nothing_is_sure(patients: int) -> None:
    best = cohort(12)
    evidence = evidence_of(
        {"dear": best, "cheap": best - 0.0001}, [9, 1], {f"c{n:02d}": f"P{n % patients}" for n in range(12)}
    )
    selection = choose(evidence, QUICK)
    assert (selection.winner, selection.verdict) == ("dear", "tie")
    assert standing(selection, "cheap").regret_upper is None
    assert "of fewer than 5 patients nothing is sure" in selection.reason
    if patients > 1:
        assert choose(evidence, msgspec.structs.replace(QUICK, fewest_patients=2)).winner == "cheap"


def test_patients_with_many_cases_make_bounds_wider() -> None:
    best = cohort(40)
    behind = np.repeat(np.random.default_rng(4).normal(0.001, 0.02, 8), 5)[:, None]
    tables = {"dear": best, "cheap": best - behind}
    together = choose(evidence_of(tables, [9, 1], {f"c{n:02d}": f"P{n // 5}" for n in range(40)}), QUICK)
    apart = choose(evidence_of(tables, [9, 1]), QUICK)

    def width(selection: Selection) -> float:
        other = next(each for each in selection.standings if each.place != "best")
        assert other.regret_lower is not None
        assert other.regret_upper is not None
        return other.regret_upper - other.regret_lower

    assert width(together) > 1.5 * width(apart)


def made(seed: int, cases: int = 14) -> Evidence:
    best = cohort(cases, seed)
    tables = {
        name: shifted(best, behind, 1.0, seed + place)
        for place, (name, behind) in enumerate([("a", 0), ("b", 0.2), ("c", 0.4), ("a+b", -0.2)], start=1)
    }
    return evidence_of(tables, [1, 2, 3, 3])


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000))
def test_a_wider_margin_never_makes_the_winner_dearer_and_more_confidence_never_cheaper(seed: int) -> None:
    evidence = made(seed)
    cost = {each.name: each.cost.rank for each in evidence.candidates}
    margins = [
        choose(evidence, SelectionRule(margin=margin, draws=300)).winner for margin in (0, 0.002, 0.005, 0.02, 1)
    ]
    assert sorted((cost[name] for name in margins), reverse=True) == [cost[name] for name in margins]
    assert cost[margins[-1]] == min(cost.values())
    levels = [choose(evidence, SelectionRule(confidence=level, draws=300)).winner for level in (0.5, 0.8, 0.95, 0.999)]
    assert sorted(cost[name] for name in levels) == [cost[name] for name in levels]


@pytest.mark.parametrize("seed", range(4))
def test_neither_the_order_of_candidates_nor_that_of_cases_changes_the_choice(seed: int) -> None:
    evidence = made(seed)
    one = choose(evidence, QUICK)
    turned = msgspec.structs.replace(evidence, candidates=evidence.candidates[::-1])
    other = choose(turned, QUICK)
    assert (other.winner, other.best, other.verdict) == (one.winner, one.best, one.verdict)
    assert other.standings == one.standings[::-1]
    order = np.random.default_rng(seed).permutation(len(evidence.cases))
    renamed = msgspec.structs.replace(
        evidence, dice={name: tuple(table[place] for place in order) for name, table in evidence.dice.items()}
    )
    assert choose(renamed, QUICK).standings == one.standings


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000), st.floats(0.001, 0.02))
def test_a_better_candidate_is_never_chosen_less(seed: int, more: float) -> None:
    """Where the winner improves in every case and the others stay, it still wins."""
    evidence = made(seed)
    winner = choose(evidence, SelectionRule(draws=300)).best
    lifted = {
        name: tuple(
            tuple(min(1.0, score + more * (name == winner)) for score in row if score is not None) for row in table
        )
        for name, table in evidence.dice.items()
    }
    better = choose(msgspec.structs.replace(evidence, dice=lifted), SelectionRule(draws=300))
    assert better.best == winner


@pytest.mark.parametrize("rule", [QUICK, NNUNET, SelectionRule(draws=300, method="bca", seed=4)], ids=str)
def test_the_document_holds_all_that_is_needed_to_make_the_choice_again(rule: SelectionRule) -> None:
    selection = choose(made(1), rule)
    read = decode(Selection, encode(selection))
    assert read == selection
    assert repeated(read) == selection


def test_without_names_it_is_the_same_choice_and_names_nobody() -> None:
    tables = {"a": rows(cohort(9)), "b": rows(cohort(9, 1)[:7])}
    patients = {f"c{n:02d}": f"Zimmermann {9 - n // 2}" for n in range(9)}
    evidence = gather_evidence([candidate("a", 1), candidate("b", 2)], tables, patients)
    selection = choose(evidence, QUICK)
    anonymous = without_names(selection)
    text = encode(anonymous).decode()
    assert "Zimmermann" not in text
    assert "c00" not in text
    assert repeated(anonymous) == anonymous
    assert anonymous.standings == selection.standings
    assert anonymous.evidence.missing[0].cases == ("case 8", "case 9")
    assert json.loads(text)["evidence"]["patients"][0] == json.loads(text)["evidence"]["patients"][1]


def test_a_candidate_without_any_score_is_named_under_nnunets_rule() -> None:
    nothing = np.full((2, 2), np.nan)
    evidence = evidence_of({"silent": nothing, "eager": np.zeros((2, 2))}, [1, 1])
    with pytest.raises(InputError, match="silent"):
        choose(evidence, NNUNET)
    assert choose(evidence, QUICK).winner == "silent"


def test_a_candidate_that_is_behind_by_the_margin_is_rarely_taken_for_one_that_is_not() -> None:
    """At most in one of 20 simulated data sets, as promised; 200 of 12 patients, up to three standard errors of that."""
    random, taken = np.random.default_rng(8), 0
    for _ in range(200):
        best = random.uniform(0.6, 0.8, (12, 1))
        behind = random.normal(0.005, 0.004, (12, 1))
        selection = choose(evidence_of({"dear": best, "cheap": best - behind}, [9, 1]), SelectionRule(draws=200))
        taken += selection.winner == "cheap" and standing(selection, "cheap").place == "equivalent"
    assert taken <= 200 * (0.05 + 3 * np.sqrt(0.05 * 0.95 / 200))


def test_eleven_candidates_of_a_thousand_cases_are_no_trouble() -> None:
    names = [f"m{place}" for place in range(11)]
    tables = {name: cohort(1000, place) for place, name in enumerate(names)}
    evidence = gather_evidence(
        [candidate(name, 1.0) for name in names],
        {
            name: {f"c{number:04d}": dict(zip(LABELS, row, strict=True)) for number, row in enumerate(table.tolist())}
            for name, table in tables.items()
        },
    )
    assert len(choose(evidence, QUICK).standings) == 11


def test_of_unknown_costs_fewer_members_and_then_the_best_are_taken() -> None:
    near = cohort(40)
    tables = {"2d+3d": near, "3d": near + 1e-4, "2d": near}
    selection = choose(evidence_of(tables, [None] * 3))
    assert (selection.winner, selection.best) == ("3d", "3d")
    unknown = choose(evidence_of({"a+b": near + 1e-4, "b": near, "a": near}, [None] * 3))
    assert (unknown.winner, unknown.best) == ("a", "a+b")


def test_what_is_defined_in_one_case_has_no_bounds_and_the_choice_can_be_read_again() -> None:
    rare = np.full((8, 2), np.nan)
    rare[0] = 0.9
    selection = choose(evidence_of({"a": rare, "b": cohort(8)}, [1.0, 2.0]), SelectionRule(name="nnunet"))
    assert "nan" not in selection.reason
    assert decode(Selection, encode(selection)) == selection == repeated(selection)
