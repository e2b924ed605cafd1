"""Everything about a case at once: the same as metric by metric, with regions, ignored and unannotated labels."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec import UNSET
from scipy import ndimage

from autoseg import plugins
from autoseg.errors import InputError, UnknownNameError
from autoseg.evaluation.measure import label_scores
from autoseg.evaluation.overlap import overlap_scores
from autoseg.values import Geometry, Label, Labels, Measuring
from autoseg.values.scores import MEASURES

GEOMETRY = Geometry(shape=(10, 17, 15), spacing=(3.0, 1.0, 1.25))
PLAIN = Labels(foreground=(Label(name="a", values=(1,)), Label(name="b", values=(4,)), Label(name="c", values=(300,))))
IGNORING = Labels(foreground=PLAIN.foreground, ignore=7)
REGIONS = Labels(
    foreground=(Label(name="whole", values=(1, 4, 300)), Label(name="core", values=(4, 300))), region_values=(1, 4)
)


def maps(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two label maps with objects that are alike; 300 is in none of them."""
    random = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(random.normal(size=GEOMETRY.shape), 1.5) for _ in range(3)]
    reference = np.select([fields[0] > 0.1, fields[1] > 0.12], [1, 4], 0)
    changed = np.select([fields[0] + fields[2] / 3 > 0.1, fields[1] - fields[2] / 3 > 0.12], [1, 4], 0)
    return reference.astype(np.int16), changed.astype(np.int16)


@pytest.mark.parametrize("labels", [PLAIN, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("planar", [False, True], ids=["3d", "planar"])
def test_each_metric_is_what_its_plug_gives_for_whole_masks(labels: Labels, planar: bool) -> None:
    reference, prediction = (array[4:5] if planar else array for array in maps())
    geometry = Geometry(shape=reference.shape, spacing=GEOMETRY.spacing, planar=planar)
    scores = label_scores(reference, prediction, labels, geometry, Measuring())
    for label, score in zip(labels.foreground, scores.values(), strict=True):
        masks = [np.isin(array, label.values) for array in (reference, prediction)]
        for name in ("dice", "iou", *MEASURES):
            assert getattr(score, name) == pytest.approx(plugins.load("metric", name)(*masks, geometry=geometry)), name


def test_counts_are_those_without_measuring() -> None:
    reference, prediction = maps()
    expected = overlap_scores(reference, prediction, PLAIN)
    assert label_scores(reference, prediction, PLAIN, GEOMETRY, Measuring(metrics=())) == expected
    some = label_scores(reference, prediction, PLAIN, GEOMETRY, Measuring(metrics=("recall",)))
    assert {key: (score.dice, score.tp) for key, score in some.items()} == {
        key: (score.dice, score.tp) for key, score in expected.items()
    }
    assert some["1"].hd is UNSET


def test_threads_change_nothing() -> None:
    reference, prediction = maps()
    alone = label_scores(reference, prediction, PLAIN, GEOMETRY, Measuring())
    assert label_scores(reference, prediction, PLAIN, GEOMETRY, Measuring(), threads=3) == alone


def test_settings_count() -> None:
    reference, prediction = maps()
    tight, loose = (
        label_scores(reference, prediction, PLAIN, GEOMETRY, Measuring(tolerance_mm=mm, lesion_iou=iou))["1"]
        for mm, iou in ((0.0, 0.9), (4.0, 0.01))
    )
    assert tight.nsd < loose.nsd
    assert tight.lesion_tp < loose.lesion_tp


def test_where_one_is_empty_the_policy_holds() -> None:
    reference, prediction = maps()
    scores = [label_scores(reference * 0, prediction, PLAIN, GEOMETRY, Measuring())["1"]]
    scores.append(label_scores(reference, prediction * 0, PLAIN, GEOMETRY, Measuring())["1"])
    for score in scores:
        assert (score.dice, score.iou, score.nsd, score.lesion_f1) == (0, 0, 0, 0)
        assert (score.hd, score.hd95, score.assd) == (None, None, None)
    assert (scores[0].precision, scores[0].recall, scores[0].volume_difference) == (0, None, None)
    assert (scores[1].precision, scores[1].recall, scores[1].volume_difference) == (None, 0, -1)
    diagonal = Measuring(one_empty="diagonal")
    far = label_scores(reference, prediction * 0, PLAIN, GEOMETRY, diagonal)["1"]
    assert far.hd == far.hd95 == far.assd == pytest.approx(math.hypot(30.0, 17.0, 18.75))
    assert far.nsd == 0
    both = label_scores(reference, prediction, PLAIN, GEOMETRY, diagonal)
    assert both == label_scores(reference, prediction, PLAIN, GEOMETRY, Measuring())
    empty = both["300"]
    for name in ("dice", "iou", "precision", "recall", "volume_difference", "hd", "hd95", "assd", "nsd", "lesion_f1"):
        assert getattr(empty, name) is None, name
    assert (empty.volume_difference_ml, empty.lesion_tp, empty.lesion_fp, empty.lesion_fn) == (0, 0, 0, 0)


def test_what_is_predicted_in_ignored_voxels_changes_nothing() -> None:
    reference, prediction = maps()
    ignored = ndimage.gaussian_filter(np.random.default_rng(8).normal(size=GEOMETRY.shape), 2) > 0.05
    reference[ignored] = 7
    scores = label_scores(reference, prediction, IGNORING, GEOMETRY, Measuring())
    assert scores["1"].hd is not None
    for value in (0, 1, 4):
        prediction[ignored] = value
        assert label_scores(reference, prediction, IGNORING, GEOMETRY, Measuring()) == scores
    agreeing = np.where(ignored, 1, reference)
    for key in ("1", "4"):
        score = label_scores(reference, agreeing, IGNORING, GEOMETRY, Measuring())[key]
        assert (score.dice, score.hd, score.nsd, score.lesion_f1) == (1, 0, 1, 1)


def test_nothing_ignored_is_as_no_ignore_label() -> None:
    reference, prediction = maps()
    assert label_scores(reference, prediction, IGNORING, GEOMETRY, Measuring()) == label_scores(
        reference, prediction, PLAIN, GEOMETRY, Measuring()
    )


def test_a_surface_at_the_border_of_ignored_voxels_outside_a_labels_box_is_not_compared() -> None:
    """The voxel that nobody annotated touches the object from outside its box."""
    reference = np.zeros(GEOMETRY.shape, np.int16)
    reference[2:6, 3:9, 3:9] = 1
    prediction = reference.copy()
    whole = label_scores(reference, prediction, IGNORING, GEOMETRY, Measuring())["1"]
    reference[6, 3:9, 3:9] = 7
    prediction[5, 3:9, 3:9] = 0  # where the object ends here is not known
    partly = label_scores(reference, prediction, IGNORING, GEOMETRY, Measuring(tolerance_mm=0.5))["1"]
    assert whole.hd == 0
    assert partly.fn == 36
    assert 0 < partly.hd <= 2 * 3.0


def test_labels_that_nobody_looked_for_have_no_scores() -> None:
    reference, prediction = maps()
    every = label_scores(reference, prediction, PLAIN, GEOMETRY, Measuring())
    partly = label_scores(reference, prediction, PLAIN, GEOMETRY, Measuring(), annotated=("b",))
    assert partly["4"] == every["4"]
    assert {getattr(partly["1"], name) for name in MEASURES} == {None}


OWN = """
import numpy as np

def specificity(reference, prediction, *, probabilities=None, geometry):
    outside = ~reference
    return float((outside & ~prediction).sum() / outside.sum()) if outside.any() else None

def broken(reference, prediction, *, probabilities=None, geometry):
    return float("nan")
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_metrics.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_metrics", raising=False)
    return "own_metrics"


def test_a_metric_of_ones_own_sees_the_whole_image(own_module: str) -> None:
    reference, prediction = maps()
    name = f"{own_module}:specificity"
    scores = label_scores(reference, prediction, PLAIN, GEOMETRY, Measuring(metrics=("hd95", name)))
    assert scores["1"].own == {name: pytest.approx(scores["1"].tn / (scores["1"].tn + scores["1"].fp))}
    assert scores["1"].hd95 is not None
    partly = label_scores(reference, prediction, PLAIN, GEOMETRY, Measuring(metrics=("hd95", name)), annotated=("b",))
    assert partly["1"].own == {name: None}


def test_what_is_no_metric_or_gives_no_number_is_named(own_module: str) -> None:
    reference, prediction = maps()
    with pytest.raises(UnknownNameError, match="hausdorf"):
        label_scores(reference, prediction, PLAIN, GEOMETRY, Measuring(metrics=("hausdorf",)))
    with pytest.raises(InputError, match=r"own_metrics:broken.*no number.*found nan"):
        label_scores(reference, prediction, PLAIN, GEOMETRY, Measuring(metrics=(f"{own_module}:broken",)))
