"""What disturbs an earlier stage's prediction, against SciPy's morphology and by counting components."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from autoseg.augmentation.cascade import OPERATIONS, OnlyImages, RandomMorphology, RemoveComponent
from autoseg.augmentation.intensity import Brightness
from tests.augmentation.applying import apply

DRAWS = 4000


def draws(transform: Any, channels: int) -> list[Any]:
    random = np.random.default_rng(3)
    found = (transform.draw(random, (channels, 8, 8, 8)) for _ in range(DRAWS))
    return [parameters for parameters in found if parameters is not None]


def assert_frequency(count: int, probability: float, total: int = DRAWS) -> None:
    assert abs(count - total * probability) < 4 * (total * probability * (1 - probability)) ** 0.5


def ball(radius: float, dimensions: int) -> np.ndarray:
    edge = int(radius)
    offsets = np.meshgrid(*[np.arange(-edge, edge + 1)] * dimensions, indexing="ij")
    return sum(offset**2 for offset in offsets) <= radius**2


@pytest.mark.parametrize("shape", [(24, 20), (14, 16, 15)], ids=["disk", "ball"])
@pytest.mark.parametrize("radius", [1.0, 2.3, 4.0])
def test_shapes_change_as_scipys_do_by_a_ball(shape: tuple[int, ...], radius: float) -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 2) > 0.05
    element = ball(radius, len(shape))
    grown = ndimage.binary_dilation(mask, element)
    shrunk = ndimage.binary_erosion(mask, element, border_value=1)
    expected = {
        "dilate": grown,
        "erode": shrunk,
        "close": ndimage.binary_erosion(grown, element, border_value=1),
        "open": ndimage.binary_dilation(shrunk, element),
    }
    assert expected.keys() == OPERATIONS.keys()
    for name, wanted in expected.items():
        np.testing.assert_array_equal(OPERATIONS[name](mask, radius), wanted)


@pytest.mark.parametrize("value", [False, True])
def test_nothing_and_everything_stay_as_they_are(value: bool) -> None:
    mask = np.full((5, 6, 7), value)
    for operation in OPERATIONS.values():
        np.testing.assert_array_equal(operation(mask, 3.0), mask)


def test_what_a_channel_gains_is_taken_from_the_others() -> None:
    channels = np.zeros((3, 9, 12), np.float32)
    channels[0] = 7
    channels[1, 2:7, 2:5] = 1
    channels[2, 2:7, 5:8] = 1
    drawn = {"changes": [{"channel": -2, "operation": "dilate", "radius": 2.0}]}
    after, _ = apply(RandomMorphology((-2, -1)), channels, np.zeros((9, 12), np.int8), drawn)
    grown = ndimage.binary_dilation(channels[1] > 0, ball(2.0, 2))
    np.testing.assert_array_equal(after[0], channels[0])
    np.testing.assert_array_equal(after[1], grown)
    np.testing.assert_array_equal(after[2], (channels[2] > 0) & ~grown)


def test_morphology_is_drawn_as_in_nnunet() -> None:
    drawn = draws(RandomMorphology((-3, -2, -1)), 5)
    assert_frequency(len(drawn), 0.4 * (1 - 0.5**3))
    changes = [change for parameters in drawn for change in parameters["changes"]]
    assert_frequency(len(changes), 0.4 * 0.5, 3 * DRAWS)
    for operation in OPERATIONS:
        assert_frequency(sum(change["operation"] == operation for change in changes), 0.25, len(changes))
    radii = np.array([change["radius"] for change in changes])
    assert 1 <= radii.min() < 1.05
    assert 7.95 < radii.max() <= 8
    assert radii.mean() == pytest.approx(4.5, abs=0.2)
    firsts = [parameters["changes"][0]["channel"] for parameters in drawn if len(parameters["changes"]) == 3]
    for channel in (-3, -2, -1):  # in random order
        assert_frequency(firsts.count(channel), 1 / 3, len(firsts))


def test_one_small_component_is_removed_and_large_ones_stay() -> None:
    channels = np.zeros((2, 20, 20), np.float32)
    channels[1, :10, :10] = 1  # a quarter of the patch
    channels[1, 12:14, 12:14] = channels[1, 14, 14] = 1  # joined by a corner
    channels[1, 18, 2] = 1
    counts = set()
    for choice in (0.0, 0.49, 0.5, 0.999):
        drawn = {"removals": [{"channel": -1, "choice": choice}]}
        after, _ = apply(RemoveComponent((-1,)), channels, np.zeros((20, 20), np.int8), drawn)
        assert after[1, :10, :10].all()
        assert (after <= channels).all()
        counts.add(int(channels.sum() - after.sum()))
    assert counts == {5, 1}
    alone = channels * 0
    alone[1, :10, :10] = 1
    after, _ = apply(RemoveComponent((-1,)), alone, np.zeros((20, 20), np.int8), drawn)
    np.testing.assert_array_equal(after, alone)


def test_removal_is_drawn_as_in_nnunet() -> None:
    drawn = draws(RemoveComponent((-2, -1)), 3)
    assert_frequency(len(drawn), 0.2 * (1 - 0.5**2))
    removals = [removal for parameters in drawn for removal in parameters["removals"]]
    assert_frequency(len(removals), 0.2 * 0.5, 2 * DRAWS)
    assert np.mean([removal["choice"] for removal in removals]) == pytest.approx(0.5, abs=0.05)


def test_only_images_are_changed_and_only_they_are_drawn_for() -> None:
    transform = OnlyImages(Brightness(1.0), 2)
    drawn = transform.draw(np.random.default_rng(0), (5, 6, 7))
    assert len(drawn["factors"]) == 3
    image = np.random.default_rng(1).normal(size=(5, 6, 7)).astype(np.float32)
    after, _ = apply(transform, image, np.zeros((6, 7), np.int8), drawn)
    np.testing.assert_array_equal(after[3:], image[3:])
    for channel, factor in enumerate(drawn["factors"]):
        np.testing.assert_array_equal(after[channel], image[channel] * np.float32(factor))
