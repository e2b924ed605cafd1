"""The decision for largest components: known answers by hand, and the rule carried out literally, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from skimage.measure import label as number_components

from autoseg.errors import InputError
from autoseg.evaluation.overlap import label_keys, overlap_scores
from autoseg.selection import case_effects, decide_postprocessing
from autoseg.selection.postprocessing import ALL_FOREGROUND
from autoseg.values import CaseEffects, Label, Labels, Postprocessing, decode, encode
from autoseg.volume.components import keep_largest_components

ONE = Labels(foreground=(Label(name="heart", values=(1,)),))
TWO = Labels(foreground=(Label(name="heart", values=(1,)), Label(name="lung", values=(4,))))
FOUR = Labels(foreground=tuple(Label(name=name, values=(value,)) for value, name in enumerate("abcd", start=1)))
IGNORING = Labels(foreground=TWO.foreground, ignore=9)
REGIONS = Labels(
    foreground=(
        Label(name="whole", values=(1, 2, 3)),
        Label(name="core", values=(2, 3)),
        Label(name="last", values=(3,)),
        Label(name="other", values=(7,)),
    ),
    ignore=9,
    region_values=(1, 2, 3, 7),
)
Pair = tuple[np.ndarray, np.ndarray]


def line(text: str) -> np.ndarray:
    """A label map of one row; a dot is background."""
    return np.array([0 if letter == "." else int(letter) for letter in text], np.uint8).reshape(1, 1, -1)


def pairs(*texts: tuple[str, str]) -> dict[str, Pair]:
    """Cases ``c0``, ``c1``, … of reference and prediction."""
    return {f"c{number}": (line(wanted), line(predicted)) for number, (wanted, predicted) in enumerate(texts)}


def decided(cases: Mapping[str, Pair], labels: Labels) -> Postprocessing:
    return decide_postprocessing({case: case_effects(*pair, labels) for case, pair in cases.items()}, labels)


def names(postprocessing: Postprocessing) -> list[str]:
    return [step.name for step in postprocessing.steps]


def test_an_island_that_is_not_there_is_removed_and_the_gain_told() -> None:
    """Dice 2 x 4 / (4 + 5) becomes 1 in one of two cases; the other is right already."""
    answer = decided(pairs(("1111....", "1111...1"), ("11......", "11......")), ONE)
    assert names(answer) == [ALL_FOREGROUND]
    assert answer.dice_before == pytest.approx((8 / 9 + 1) / 2)
    assert answer.dice_after == 1
    assert (answer.cases, answer.tried[0].changed) == (2, 1)
    assert len(answer.tried) == 1, "of a single label nothing is tried after all foreground"


def test_two_true_parts_stay() -> None:
    answer = decided(pairs(("111...11", "111...11"), ("111....1", "111..1.1")), ONE)
    assert names(answer) == []
    assert answer.tried[0].fell == ("heart",)
    assert answer.dice_before == answer.dice_after


def test_no_change_is_no_rise() -> None:
    answer = decided(pairs(("111.....", "111....."), ("...11111", ".....111")), ONE)
    assert names(answer) == []
    assert answer.tried[0].changed == 0


def test_all_foreground_is_refused_if_one_label_falls_although_the_mean_rises_and_labels_are_decided_alone() -> None:
    """The lung lies apart, in part: as one object with the heart it would be lost. The heart's islands are wrong."""
    cases = pairs(("1111..44....", "1111..44.1.1"))
    answer = decided(cases, TWO)
    assert names(answer) == ["heart"]
    assert answer.tried[0].fell == ("lung",)
    assert answer.dice_after == 1


def test_the_mean_must_rise_even_if_no_label_falls() -> None:
    assert names(decided(pairs(("1144....", "1144....")), TWO)) == []


def test_a_label_is_adopted_on_top_of_all_foreground() -> None:
    """All foreground removes the island on the right; heart within the lung goes only by its own step."""
    cases = pairs(("1111444444....", "1111444144..11"))
    answer = decided(cases, TWO)
    assert names(answer) == [ALL_FOREGROUND, "heart"]
    assert answer.tried[1].before == pytest.approx(8 / 9)
    assert answer.tried[1].after == 1
    assert [tried.adopted for tried in answer.tried] == [True, True, False]


def test_a_label_that_is_wrong_wherever_it_is_goes_with_its_zeros() -> None:
    """The only lung is a false one, apart from the heart: without it there is no Dice of the lung at all."""
    answer = decided(pairs(("1111....", "1111..4."), ("1111....", "1111....")), TWO)
    assert names(answer) == [ALL_FOREGROUND]
    assert (answer.dice_before, answer.dice_after) == (0.5, 1.0)


def test_what_the_reference_ignores_counts_nowhere_but_lies_between() -> None:
    """The bridge over the ignored voxels joins; the island within them is not scored."""
    joined = pairs(("1199114.", "1111114."))
    assert names(decided(joined, IGNORING)) == []
    assert decided(joined, IGNORING).dice_before == 1
    island = pairs(("11...999", "11....1."))
    assert decided(island, IGNORING).tried[0].changed == 0
    larger = pairs(("11.99999", "11.11111"))
    assert decided(larger, IGNORING).tried[0].fell == ("heart",)


def test_a_label_that_was_not_looked_for_has_no_say() -> None:
    wanted, predicted = line("1111......"), line("1111.44..4")
    effects = case_effects(wanted, predicted, TWO, annotated=["heart"])
    assert effects.dice[0][1] == effects.dice[1][1] == (None, None)
    assert names(decide_postprocessing({"c": effects}, TWO)) == []


def test_regions_are_objects_of_all_their_integers() -> None:
    """The core's island within the whole: removed by its own step, as background, which the whole pays for."""
    cases = pairs(("1122331177", "1122331137"), ("112233..77", "112233..77"))
    answer = decided(cases, REGIONS)
    assert names(answer) == ["core"]
    whole, core, last = answer.tried[1:4]
    assert (whole.step.values, core.step.values, last.step.values) == ((1, 2, 3), (2, 3), (3,))
    assert (whole.changed, core.changed) == (0, 1)
    assert core.after == 1
    assert last.before == 1, "the core's step has removed that island already"


# ---- the rule carried out literally: whole label maps, one pass over all cases for every step -------------------------


def literal(cases: Mapping[str, Pair], labels: Labels) -> tuple[Postprocessing, dict[str, np.ndarray]]:
    """As nnU-Net does it, with scikit-image; the numbers that are told are filled in from our answer's form."""
    current = {case: predicted for case, (_, predicted) in cases.items()}

    def means(maps: Mapping[str, np.ndarray]) -> list[float]:
        rows = []
        for case, (wanted, _) in cases.items():
            scores = overlap_scores(wanted, maps[case], labels)
            rows.append([np.nan if scores[key].dice is None else scores[key].dice for key in label_keys(labels)])
        table = np.array(rows, float)
        return [column[np.isfinite(column)].mean() if np.isfinite(column).any() else np.nan for column in table.T]

    def removed(maps: Mapping[str, np.ndarray], values: Sequence[int]) -> dict[str, np.ndarray]:
        return {case: _largest_only(each, values) for case, each in maps.items()}

    everything = sorted({value for label in labels.foreground for value in label.values})
    steps = []
    before, proposed = means(current), removed(current, everything)
    after = means(proposed)
    falls = any(other < one for one, other in zip(before, after, strict=True))
    if np.nanmean(after) > np.nanmean(before) and not falls:
        current, steps = proposed, [ALL_FOREGROUND]
    for place, label in enumerate(labels.foreground if len(labels.foreground) > 1 else ()):
        proposed = removed(current, label.values)
        if means(proposed)[place] > means(current)[place]:
            current = proposed
            steps.append(label.name)
    answer = decided(cases, labels)
    assert names(answer) == steps
    assert answer.dice_after == pytest.approx(float(np.nanmean(means(current))), abs=1e-12)
    return answer, current


def _largest_only(label_map: np.ndarray, values: Sequence[int]) -> np.ndarray:
    mask = np.isin(label_map, values)
    numbers = number_components(mask, connectivity=3)
    sizes = np.bincount(numbers.ravel())[1:]
    if not sizes.size:
        return label_map
    kept = np.isin(numbers, 1 + np.flatnonzero(sizes == sizes.max()))
    return np.where(mask & ~kept, 0, label_map)


def blobs(seed: int, values: Sequence[int], ignore: int | None) -> dict[str, Pair]:
    """Four cases of boxes in one another, predicted with islands, some cut in two; the seed decides how many."""
    random = np.random.default_rng(seed)
    islands = random.uniform(0, 0.02, len(values))
    cuts = (0.0, 0.2, 0.6)[seed % 3]
    cases = {}
    for number in range(4):
        wanted = np.zeros((4, 10, 10), np.uint8)
        for depth, value in enumerate(values):
            z, y, x = random.integers(0, 3, 3) + np.array([0, depth, depth])
            wanted[z:4, y : 10 - depth, x : 10 - depth] = value
        predicted = wanted.copy()
        for value, share in zip(values, islands, strict=True):
            predicted[random.random(wanted.shape) < share] = value
        for label_map in (wanted, predicted):
            if random.random() < cuts:
                label_map[:, random.integers(2, 8)] = 0
        if ignore is not None:
            wanted[:, :, random.integers(0, 10)] = ignore
        cases[f"c{number}"] = (wanted, predicted)
    return cases


@pytest.mark.parametrize(
    "labels", [ONE, TWO, FOUR, IGNORING, REGIONS], ids=["one", "two", "four", "ignoring", "regions"]
)
def test_one_pass_decides_as_the_rule_carried_out_step_by_step(labels: Labels) -> None:
    decisions = set()
    for seed in range(5):
        cases = blobs(seed, labels.integers[1:], labels.ignore)
        answer, current = literal(cases, labels)
        objects = [step.values for step in answer.steps]
        for case, (_, predicted) in cases.items():
            np.testing.assert_array_equal(keep_largest_components(predicted, objects), current[case])
        decisions.add(tuple(names(answer)))
    assert len(decisions) > 1, "the data must not always lead to the same answer"


def test_it_can_stop_after_any_case_and_the_order_does_not_matter() -> None:
    cases = blobs(3, REGIONS.integers[1:], 9)
    whole = decided(cases, REGIONS)
    kept = {case: encode(case_effects(*pair, REGIONS)) for case, pair in cases.items()}
    back = {case: decode(CaseEffects, kept[case]) for case in reversed(kept)}
    assert decide_postprocessing(back, REGIONS) == whole
    assert decode(Postprocessing, encode(whole)) == whole


def test_the_prediction_is_not_changed() -> None:
    wanted, predicted = blobs(1, REGIONS.integers[1:], None)["c0"]
    before = predicted.copy()
    case_effects(wanted, predicted, REGIONS)
    np.testing.assert_array_equal(predicted, before)
    predicted.flags.writeable = False
    case_effects(wanted, predicted, REGIONS)


def test_many_regions_in_one_another_are_tried_up_to_a_number_and_the_others_named() -> None:
    labels = Labels(
        foreground=tuple(Label(name=f"r{first}", values=tuple(range(first, 9))) for first in range(1, 9)),
        region_values=tuple(range(1, 9)),
    )
    cases = pairs((".12345678.", ".1234567881"), (".12345678.", ".12345678..1"[:10]))
    cases = {case: (wanted, predicted[..., :10]) for case, (wanted, predicted) in cases.items()}
    answer = decided(cases, labels)
    assert answer.not_tried == ("r7", "r8")
    assert len(answer.tried) == 1 + 6


def test_a_region_that_holds_background_is_scored_right() -> None:
    labels = Labels(
        foreground=(Label(name="tissue", values=(0, 1)), Label(name="air", values=(2,))), region_values=(1, 2)
    )
    wanted, predicted = line("1122...1"), line("1122.2.1")
    effects = case_effects(wanted, predicted, labels)
    for bits, objects in enumerate([[], [[1]], [[2]], [[1], [2]]]):
        scores = overlap_scores(wanted, keep_largest_components(predicted, objects), labels)
        assert [row[bits] for row in effects.dice[0]] == [scores["(0, 1)"].dice, scores["2"].dice]


def test_no_case_and_effects_of_other_labels_are_refused() -> None:
    with pytest.raises(InputError, match="no case"):
        decide_postprocessing({}, ONE)
    effects = case_effects(line("11"), line("11"), ONE)
    with pytest.raises(InputError, match=r"case c: .*not of these labels"):
        decide_postprocessing({"c": effects}, TWO)
