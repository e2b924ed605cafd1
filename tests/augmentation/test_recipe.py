"""The built-in recipes: which steps in which order, and that any patch can be made again."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from autoseg.augmentation.cascade import OnlyImages, RandomMorphology, RemoveComponent
from autoseg.augmentation.intensity import Brightness, Contrast, Gamma, GaussianBlur, GaussianNoise, LowResolution
from autoseg.augmentation.recipe import default_recipe, no_augmentation
from autoseg.augmentation.spatial import Mirror, RotateAndScale
from autoseg.augmentation.streams import stream
from autoseg.values import AugmentationSpec, digest, encode
from tests.augmentation.applying import apply

IN_3D = AugmentationSpec(rotation_degrees=(30.0, 30.0, 30.0), mirror_axes=(0, 1, 2))
WITH_SIDES = msgspec.structs.replace(IN_3D, swap_axis=2, swapped_labels=((1, 2),))
IN_PLANE = AugmentationSpec(rotation_degrees=(180.0,), in_plane=True, mirror_axes=(1, 2))
IN_2D = AugmentationSpec(rotation_degrees=(15.0,), mirror_axes=(0, 1))


def test_the_default_steps_are_in_nnunets_order() -> None:
    recipe = default_recipe(IN_3D)
    assert isinstance(recipe.spatial, RotateAndScale)
    kinds = [type(step) for step in recipe.steps()]
    assert kinds == [GaussianNoise, GaussianBlur, Brightness, Contrast, LowResolution, Gamma, Gamma, Mirror]
    assert [(step.invert, step.probability) for step in recipe.steps() if isinstance(step, Gamma)] == [
        (True, 0.1),
        (False, 0.3),
    ]


@pytest.mark.parametrize("spec", [IN_3D, IN_PLANE, IN_2D], ids=["3d", "in plane", "2d"])
def test_every_step_acts_with_nnunets_probability(spec: AugmentationSpec) -> None:
    """A step that is drawn for none of the channels does not act."""
    recipe, draws = default_recipe(spec), 4000
    shape = (1, 6, 6) if spec is IN_2D else (1, 4, 6, 6)
    plain, acted = 0, dict.fromkeys(range(len(recipe.steps())), 0)
    for draw in range(draws):
        random = stream(3, 0, draw, 0)
        plain += recipe.spatial.draw(random, shape[1:]) is None
        for place, step in enumerate(recipe.steps()):
            acted[place] += step.draw(random, shape) is not None
    mirrored = 1 - 0.5 ** len(spec.mirror_axes)
    expected = [0.8 * 0.8, 0.1, 0.2 * 0.5, 0.15, 0.15, 0.25 * 0.5, 0.1, 0.3, mirrored]
    for count, probability in zip([plain, *acted.values()], expected, strict=True):
        deviation = (draws * probability * (1 - probability)) ** 0.5
        assert abs(count - draws * probability) < 4 * deviation, (count / draws, probability)


@pytest.mark.parametrize(("spec", "axes"), [(IN_3D, None), (IN_2D, None), (IN_PLANE, (1, 2))])
def test_flat_patches_lose_no_resolution_across_slices(spec: AugmentationSpec, axes: Sequence[int] | None) -> None:
    (low,) = (step for step in default_recipe(spec).steps() if isinstance(step, LowResolution))
    assert low.axes == axes


def test_angles_and_mirror_axes_are_those_of_the_plan() -> None:
    recipe = default_recipe(IN_PLANE)
    assert recipe.spatial.degrees == (180.0,)
    assert recipe.steps()[-1].axes == (1, 2)


def test_the_sides_that_mirroring_exchanges_are_those_of_the_plan() -> None:
    mirror = default_recipe(WITH_SIDES).steps()[-1]
    assert (mirror.swap_axis, mirror.swapped_labels) == (2, ((1, 2),))
    mirror = default_recipe(IN_3D).steps()[-1]
    assert (mirror.swap_axis, mirror.swapped_labels) == (None, ())


def test_no_augmentation_does_nothing() -> None:
    recipe = no_augmentation(IN_3D)
    assert recipe.spatial is None
    assert recipe.steps() == ()


@pytest.mark.parametrize(
    ("spec", "shape"),
    [(IN_3D, (2, 8, 9, 7)), (WITH_SIDES, (2, 8, 9, 7)), (IN_PLANE, (1, 4, 12, 12)), (IN_2D, (2, 12, 9))],
)
def test_what_was_drawn_makes_the_same_patch_again_after_json(spec: AugmentationSpec, shape: tuple[int, ...]) -> None:
    source = np.random.default_rng(0)
    image = source.normal(size=shape).astype(np.float32)
    labels = source.integers(-1, 3, shape[1:]).astype(np.int8)
    acted = set()
    for iteration in range(40):
        random = stream(1, 0, iteration, 0)
        once = again = (image.copy(), labels.copy())
        for step in default_recipe(spec).steps():
            parameters = step.draw(random, shape)
            if parameters is None:
                continue
            acted.add(type(step))
            inputs = once[0].copy(), once[1].copy()
            kept = once
            once = apply(step, *once, parameters)
            again = apply(step, *again, json.loads(json.dumps(parameters)))
            np.testing.assert_array_equal(kept[0], inputs[0])  # apply works on copies
            np.testing.assert_array_equal(kept[1], inputs[1])
        np.testing.assert_array_equal(once[0], again[0])
        np.testing.assert_array_equal(once[1], again[1])
        assert once[0].dtype == np.float32
    assert acted == {GaussianNoise, GaussianBlur, Brightness, Contrast, LowResolution, Gamma, Mirror}


def test_after_an_earlier_stage_its_prediction_is_disturbed_and_its_values_stay() -> None:
    spec = msgspec.structs.replace(WITH_SIDES, predicted_channels=2)
    steps = default_recipe(spec).steps()
    assert default_recipe(spec).label_channels == 2
    assert default_recipe(WITH_SIDES).label_channels == 0
    assert [type(step) for step in steps] == [*[OnlyImages] * 7, Mirror, RandomMorphology, RemoveComponent]
    labels = np.random.default_rng(0).integers(0, 3, (8, 9, 7))
    image = np.stack([labels * 0.5, labels == 1, labels == 2]).astype(np.float32)
    for iteration in range(30):
        arrays, random = (image, labels), stream(2, 0, iteration, 0)
        for step in steps:
            arrays = apply(step, *arrays, step.draw(random, image.shape))
            assert set(np.unique(arrays[0][1:])) <= {0, 1}
            if isinstance(step, Mirror):  # still exact
                for label in (1, 2):
                    np.testing.assert_array_equal(arrays[0][label], arrays[1] == label)


def test_a_plan_without_an_earlier_stage_is_written_as_before_there_were_any() -> None:
    assert b"predicted_channels" not in encode(IN_3D)
    assert digest(IN_3D) != digest(msgspec.structs.replace(IN_3D, predicted_channels=2))
