"""Soft Dice by hand, in parts as in one piece, and alike of logits and of the probabilities that are kept of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.inference import soft_dice
from autoseg.inference.probabilities import KeptProbabilities, keep_probabilities
from autoseg.inference.soft_dice import SoftDice, soft_dice_of_levels, soft_dice_of_logits
from autoseg.phantom import make_phantom
from autoseg.preprocessing.forward import preprocess_image
from autoseg.values import Label, Labels
from tests.small_plans import ONE_LABEL, small_configuration, small_plan

NESTED = Labels(foreground=(Label(name="whole", values=(1, 2)), Label(name="core", values=(2,))), region_values=(1, 2))


def test_by_hand() -> None:
    found = SoftDice(ONE_LABEL)
    found.add(torch.tensor([[0.1, 0.4, 0.7], [0.9, 0.6, 0.3]]))
    assert found.values() == pytest.approx({"organ": 2 * (0.9 + 0.6) / (2 + 1.8)})
    regions = SoftDice(NESTED)
    regions.add(torch.tensor([[0.9, 0.6, 0.3], [0.5, 0.2, 0.1]]))
    assert regions.values() == {"whole": pytest.approx(2 * 1.5 / (2 + 1.8)), "core": None}


def test_a_label_that_is_certain_has_all_and_one_that_is_not_found_none() -> None:
    logits = np.full((3, 2, 2, 2), -40, np.float32)
    logits[0], logits[2, 0] = 0, 40
    labels = Labels(foreground=(Label(name="absent", values=(1,)), Label(name="sure", values=(2,))))
    assert soft_dice_of_logits(logits, labels) == {"absent": None, "sure": 1.0}


@pytest.mark.parametrize("labels", [ONE_LABEL, NESTED])
def test_the_parts_do_not_matter(labels: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(0).normal(size=(2, 9, 7, 5)).astype(np.float32)
    whole = soft_dice_of_logits(logits, labels)
    monkeypatch.setattr(soft_dice, "VALUES_AT_ONCE", 100)
    assert soft_dice_of_logits(logits, labels) == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize(("spacing", "apart"), [(None, 1e-4), ((3.0, 1.5, 1.5), 0.01)])
def test_logits_on_their_grid_tell_what_kept_probabilities_tell_on_the_case_s(
    tmp_path: Path, spacing: tuple[float, float, float] | None, apart: float
) -> None:
    """New images are judged by the former, held-out cases by the latter: it must not matter much."""
    image = make_phantom(2, shape=(12, 32, 32), spacing=(4.0, 2.0, 2.0)).image
    configuration = small_configuration(spacing=spacing or (4.0, 2.0, 2.0))
    plan = small_plan(configuration)
    array, record = preprocess_image(image, plan, configuration, case_id="a")
    distance = np.linalg.norm(np.indices(record.shape).T - np.array(record.shape) / 2, axis=-1).T
    logits = np.stack([np.zeros(record.shape), min(record.shape) * 0.45 - distance]).astype(np.float32)
    keep_probabilities(tmp_path / "kept", logits, record, configuration, ONE_LABEL, "weights")
    kept = KeptProbabilities(tmp_path / "kept")
    on_grid, on_case = soft_dice_of_logits(logits, ONE_LABEL), soft_dice_of_levels([kept], ONE_LABEL)
    assert array.shape[1:] == record.shape
    assert on_grid["organ"] == pytest.approx(on_case["organ"], abs=apart)
    assert 0.5 < on_grid["organ"] < 0.95
    assert soft_dice_of_levels([kept, kept], ONE_LABEL) == pytest.approx(on_case, abs=1e-6)
