"""Disagreement of networks: none of equal ones, all there can be of opposite ones, and by hand in between."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from autoseg.inference.disagreement import Disagreement, mutual_information
from autoseg.inference.predict import Predictor
from autoseg.values import ExecutionPath, Label, Labels
from tests.small_plans import small_configuration

THREE = Labels(foreground=(Label(name="a", values=(1,)), Label(name="b", values=(2,))))
NESTED = Labels(foreground=(Label(name="whole", values=(1, 2)), Label(name="core", values=(2,))), region_values=(1, 2))
PATH = ExecutionPath(device="cpu", threads=1)
SHAPE = (10, 9, 8)


class Fixed(nn.Module):
    """Says at each voxel what the image holds, and an offset of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.from_numpy(np.random.default_rng(seed).normal(size=3).astype(np.float32)))
        self.deep_supervision = False

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        own = self.offset.reshape(1, 3, *(1,) * (x.dim() - 2))
        return [torch.cat([x, 2 * x.square() - 1, -x], 1) + 0.8 * own]


def predictor_of(seeds: list[int], dimensions: int = 3) -> Predictor:
    configuration = small_configuration(patch=(8,) * dimensions, outputs=3, batch_size=2, mirror_axes=(0,))
    return Predictor([Fixed(seed) for seed in seeds], configuration, PATH)


def image() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_equal_networks_agree_everywhere_and_are_averaged_as_before(dimensions: int) -> None:
    predictor, watched = predictor_of([5, 5, 5], dimensions), Disagreement(THREE, with_map=True)
    logits = predictor.logits(image(), disagreement=watched)
    np.testing.assert_array_equal(logits, predictor.logits(image()))
    assert watched.networks == 3
    assert watched.agreement() == pytest.approx({"a": 1.0, "b": 1.0})
    assert watched.information.shape == SHAPE
    assert np.abs(watched.information).max() < 1e-6


@pytest.mark.parametrize("dimensions", [2, 3])
def test_agreement_is_the_dice_of_all_pairs_and_the_map_the_mutual_information(dimensions: int) -> None:
    """Networks that look at one voxel say the same in every tile; so whole images answer for all weights."""
    seeds = [1, 2, 3]
    watched = Disagreement(THREE, with_map=True)
    predictor_of(seeds, dimensions).logits(image(), disagreement=watched)
    alone = [predictor_of([seed], dimensions).logits(image()) for seed in seeds]
    exact = [np.exp(each.astype(np.float64)) for each in alone]
    probabilities = [each / each.sum(0) for each in exact]
    mean = sum(probabilities) / 3
    entropies = [-(each * np.log(each)).sum(0) for each in probabilities]
    expected = -(mean * np.log(mean)).sum(0) - sum(entropies) / 3
    np.testing.assert_allclose(watched.information, expected, atol=1e-5)
    assert expected.max() > 0.01
    # one tile, every voxel counting alike: the pooled Dice of the pairs
    one = Disagreement(THREE)
    one.begin(SHAPE)
    found = one.look([torch.from_numpy(each)[None] for each in alone], np.ones(SHAPE, np.float32))
    one.add(0, (), found, np.ones(SHAPE, np.float32))
    answers = [each.argmax(0) for each in alone]
    for output, name in ((1, "a"), (2, "b")):
        both = any_ = 0
        for first, second in itertools.combinations(answers, 2):
            both += 2 * ((first == output) & (second == output)).sum()
            any_ += (first == output).sum() + (second == output).sum()
        assert one.agreement()[name] == pytest.approx(both / any_)
        assert 0.3 < both / any_ < 0.999


def test_two_certain_networks_of_opposite_answers_disagree_by_one_bit() -> None:
    certain = torch.tensor([30.0, -30.0, 0.0]).reshape(1, 3, 1)
    opposite = torch.tensor([-30.0, 30.0, 0.0]).reshape(1, 3, 1)
    assert mutual_information([certain, opposite], regions=False).item() == pytest.approx(math.log(2))
    assert mutual_information([certain, certain], regions=False).item() == pytest.approx(0, abs=1e-6)
    unsure = torch.zeros(1, 3, 1)
    assert mutual_information([unsure, unsure], regions=False).item() == pytest.approx(0, abs=1e-6)
    # by hand, of 0.9 and 0.5: H(0.7) - (H(0.9) + H(0.5)) / 2
    logits = [torch.tensor([math.log(p), math.log(1 - p)]).reshape(1, 2, 1) for p in (0.9, 0.5)]
    assert mutual_information(logits, regions=False).item() == pytest.approx(
        0.610864 - (0.325083 + 0.693147) / 2, abs=1e-5
    )


def test_of_regions_the_one_that_is_disputed_most_counts() -> None:
    one = torch.tensor([[30.0, 30.0]]).reshape(1, 2, 1)
    other = torch.tensor([[30.0, -30.0]]).reshape(1, 2, 1)
    assert mutual_information([one, other], regions=True).item() == pytest.approx(math.log(2))
    watched = Disagreement(NESTED)
    watched.begin((1,))
    ones = np.ones(1, np.float32)
    watched.add(0, (), watched.look([one, other], ones), ones)
    assert watched.agreement() == {"whole": 1.0, "core": 0.0}


def test_one_network_and_labels_that_nobody_finds_are_not_measured() -> None:
    watched = Disagreement(THREE, with_map=True)
    predictor_of([1]).logits(image(), disagreement=watched)
    assert watched.agreement() == {"a": None, "b": None}
    assert watched.information is None
    background = torch.tensor([9.0, 0.0, 0.0]).reshape(1, 3, 1)
    nobody = Disagreement(THREE)
    nobody.begin((1,))
    ones = np.ones(1, np.float32)
    nobody.add(0, (), nobody.look([background, background], ones), ones)
    assert nobody.agreement() == {"a": None, "b": None}


def test_what_was_not_seen_again_after_memory_was_short_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, found = Disagreement(THREE, with_map=True), Disagreement(THREE, with_map=True)
    predictor_of([1, 2]).logits(image(), disagreement=expected)
    short = predictor_of([1, 2])
    short.at_once = 2
    whole, refused = short._predict, []

    def predict(batch, look, **how):
        result = whole(batch, look)
        if len(batch) > 1 and not refused:
            refused.append(len(batch))
            raise torch.OutOfMemoryError("none left")
        return result

    monkeypatch.setattr(short, "_predict", predict)
    short.logits(image(), disagreement=found)
    assert refused
    assert found.agreement() == pytest.approx(expected.agreement())
    np.testing.assert_allclose(found.information, expected.information, atol=1e-6)
