"""Overlap of label maps, against scikit-learn and by its laws."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.evaluation.overlap import dice, iou, label_keys, overlap_scores, places_with_labels
from autoseg.values import Geometry, Label, Labels

SHAPE = (5, 6, 7)
GEOMETRY = Geometry(shape=SHAPE, spacing=(1.0, 1.0, 1.0))
PLAIN = Labels(foreground=(Label(name="a", values=(1,)), Label(name="b", values=(4,)), Label(name="c", values=(300,))))
IGNORING = Labels(foreground=PLAIN.foreground, ignore=7)
REGIONS = Labels(
    foreground=(
        Label(name="whole", values=(1, 2, 3)),
        Label(name="core", values=(2, 3)),
        Label(name="last", values=(3,)),
    ),
    region_values=(1, 2, 3),
)


def maps(values: tuple[int, ...], seed: int = 0, weights: list[float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    reference = random.choice(values, SHAPE, p=weights)
    changed = random.random(SHAPE) < 0.4
    return reference, np.where(changed, random.choice(values, SHAPE, p=weights), reference)


@pytest.mark.parametrize("seed", range(5))
def test_dice_and_iou_are_scikit_learns_f1_and_jaccard(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    reference, prediction = maps((0, 1, 4, 300), seed)
    scores = overlap_scores(reference, prediction, PLAIN)
    wanted = [1, 4, 300]
    f1 = metrics.f1_score(reference.ravel(), prediction.ravel(), labels=wanted, average=None)
    jaccard = metrics.jaccard_score(reference.ravel(), prediction.ravel(), labels=wanted, average=None)
    assert [scores[str(label)].dice for label in wanted] == pytest.approx(f1.tolist())
    assert [scores[str(label)].iou for label in wanted] == pytest.approx(jaccard.tolist())


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_scikit_learns_confusion_matrices(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    reference, prediction = maps((0, 1, 4, 300), seed)
    scores = overlap_scores(reference, prediction, PLAIN)
    matrices = metrics.multilabel_confusion_matrix(reference.ravel(), prediction.ravel(), labels=[1, 4, 300])
    for key, ((tn, fp), (fn, tp)) in zip(("1", "4", "300"), matrices, strict=True):
        score = scores[key]
        assert (score.tn, score.fp, score.fn, score.tp) == (tn, fp, fn, tp)
        assert (score.n_pred, score.n_ref) == (tp + fp, tp + fn)


def test_regions_are_scored_as_the_union_of_their_labels() -> None:
    reference, prediction = maps((0, 1, 2, 3))
    scores = overlap_scores(reference, prediction, REGIONS)
    assert list(scores) == label_keys(REGIONS) == ["(1, 2, 3)", "(2, 3)", "3"]
    for key, values in (("(1, 2, 3)", (1, 2, 3)), ("(2, 3)", (2, 3)), ("3", (3,))):
        one, other = np.isin(reference, values), np.isin(prediction, values)
        assert scores[key].dice == dice(one, other, geometry=GEOMETRY)
        assert scores[key].iou == iou(one, other, geometry=GEOMETRY)
        assert scores[key].tn == int((~one & ~other).sum())


def test_keys_are_the_integers_of_the_label_files() -> None:
    assert label_keys(PLAIN) == ["1", "4", "300"]


def test_ignored_voxels_count_nowhere() -> None:
    reference, prediction = maps((0, 1, 4, 300))
    ignored = np.random.default_rng(9).random(SHAPE) < 0.3
    reference[ignored] = 7
    scores = overlap_scores(reference, prediction, IGNORING)
    assert scores == overlap_scores(reference[~ignored], prediction[~ignored], PLAIN)
    prediction[ignored] = np.random.default_rng(1).choice([0, 1, 4, 7], ignored.sum())
    assert overlap_scores(reference, prediction, IGNORING) == scores
    total = scores["1"]
    assert total.tp + total.fp + total.fn + total.tn == int((~ignored).sum())


def test_a_label_that_is_nowhere_has_no_score() -> None:
    reference, prediction = maps((0, 1))
    score = overlap_scores(reference, prediction, PLAIN)["4"]
    assert score.dice is None
    assert score.iou is None
    assert (score.tp, score.fp, score.fn, score.tn) == (0, 0, 0, reference.size)


def test_a_label_in_one_of_the_two_scores_zero() -> None:
    empty, full = np.zeros(SHAPE, int), np.ones(SHAPE, int)
    for reference, prediction in ((empty, full), (full, empty)):
        score = overlap_scores(reference, prediction, PLAIN)["1"]
        assert score.dice == score.iou == 0.0


def test_everything_ignored_has_no_score() -> None:
    score = overlap_scores(np.full(SHAPE, 7), np.ones(SHAPE, int), IGNORING)["1"]
    assert score.dice is None
    assert score.tn == 0


@pytest.mark.parametrize("undeclared", [2, 9, 1000, -1, 2**31 - 1])
def test_integers_that_are_not_declared_count_as_background(undeclared: int) -> None:
    reference, prediction = maps((0, 1, 4, 300))
    expected = overlap_scores(reference, np.where(prediction == 4, 0, prediction), PLAIN)
    assert overlap_scores(reference, np.where(prediction == 4, undeclared, prediction), PLAIN) == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64])
def test_the_number_type_does_not_matter(dtype: type) -> None:
    reference, prediction = maps((0, 1, 4))
    expected = overlap_scores(reference, prediction, PLAIN)
    assert overlap_scores(reference.astype(dtype), prediction.astype(np.uint8), PLAIN) == expected


def test_exchanging_the_two_exchanges_false_positives_and_negatives() -> None:
    reference, prediction = maps((0, 1, 4, 300))
    forth, back = overlap_scores(reference, prediction, PLAIN), overlap_scores(prediction, reference, PLAIN)
    for key, score in forth.items():
        assert (score.dice, score.iou) == (back[key].dice, back[key].iou)
        assert (score.fp, score.fn, score.n_pred) == (back[key].fn, back[key].fp, back[key].n_ref)


def test_the_metric_plugs_agree_with_each_other() -> None:
    for seed in range(5):
        reference, prediction = (array > 0 for array in maps((0, 1), seed, [0.7, 0.3]))
        overlap = dice(reference, prediction, geometry=GEOMETRY)
        assert iou(reference, prediction, geometry=GEOMETRY) == pytest.approx(overlap / (2 - overlap))
        assert isinstance(overlap, float)


def test_counts_exceed_the_number_type_of_the_labels() -> None:
    reference, prediction = np.zeros((60, 60, 60), np.uint8), np.zeros((60, 60, 60), np.uint8)
    reference[:, :, :40] = 1
    prediction[:, :, 20:] = 1
    score = overlap_scores(reference, prediction, PLAIN)["1"]
    assert score.tp == 60 * 60 * 20
    assert score.dice == pytest.approx(0.5)


def test_a_label_that_was_not_looked_for_is_known_nowhere_and_the_others_are_scored_as_ever() -> None:
    reference, prediction = maps((0, 1, 4, 300))
    scores, every = (overlap_scores(reference, prediction, PLAIN, known) for known in (("a", "c"), ("a", "b", "c")))
    assert every == overlap_scores(reference, prediction, PLAIN)
    assert {key: scores[key] for key in ("1", "300")} == {key: every[key] for key in ("1", "300")}
    assert (scores["4"].dice, scores["4"].iou) == (None, None)
    assert {getattr(scores["4"], name) for name in ("tp", "fp", "fn", "tn", "n_pred", "n_ref")} == {0}


def test_a_region_is_scored_where_it_was_looked_for() -> None:
    reference, prediction = maps((0, 1, 2, 3))
    scores = overlap_scores(reference, prediction, REGIONS, ("whole", "last"))
    assert [key for key, score in scores.items() if score.dice is not None] == ["(1, 2, 3)", "3"]


@pytest.mark.parametrize("shape", [(40,), (3, 5), (7, 11), (1, 1)], ids=str)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.int64])
def test_no_voxel_with_a_label_is_passed_over(kind: type, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(3)
    one, other = ((random.random((2, *shape)) < 0.1) * 200).astype(kind)
    places = places_with_labels(one, other)
    assert set(np.flatnonzero(one | other)) <= set(places)
    assert (np.diff(places) > 0).all()
    assert len(places_with_labels(one * 0, other * 0)) < 8


def test_integers_of_every_width_count() -> None:
    """Also where the integers that are declared do not fit into the type of an array."""
    reference, prediction = maps((0, 1, 4))
    expected = overlap_scores(reference, prediction, PLAIN)
    for kind in (np.uint8, np.int8, np.uint16, np.int32):
        assert overlap_scores(reference.astype(kind), prediction, PLAIN) == expected
    undeclared = np.where(prediction == 0, -5, prediction)
    assert overlap_scores(reference, undeclared, PLAIN) == expected
    assert overlap_scores(reference, np.where(prediction == 0, 30000, prediction), PLAIN) == expected
