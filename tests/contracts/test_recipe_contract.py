"""What every installed augmentation recipe must do: drawing holds all chance, applying none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from autoseg import plugins
from autoseg.augmentation.contract import Recipe
from autoseg.augmentation.spatial import sample_affine
from autoseg.augmentation.streams import stream
from autoseg.values import AugmentationSpec
from tests.augmentation.applying import apply

SPECS = {
    "3d": (AugmentationSpec(rotation_degrees=(30.0, 20.0, 10.0), mirror_axes=(0, 1, 2)), (8, 9, 7)),
    "in plane": (AugmentationSpec(rotation_degrees=(180.0,), in_plane=True, mirror_axes=(1, 2)), (3, 12, 10)),
    "2d": (AugmentationSpec(rotation_degrees=(15.0,), mirror_axes=(0,)), (12, 9)),
    "nothing allowed": (AugmentationSpec(rotation_degrees=(0.0, 0.0, 0.0), mirror_axes=()), (8, 8, 8)),
}
LABELS = [-1, 0, 2, 5]
DRAWS = 40


@pytest.fixture(params=plugins.available("recipe"))
def name(request: pytest.FixtureRequest) -> str:
    """Of a recipe plug."""
    return request.param


@pytest.fixture(params=SPECS.values(), ids=SPECS)
def case(request: pytest.FixtureRequest) -> tuple[AugmentationSpec, tuple[int, ...]]:
    """What the plan says, and a patch size that it suits."""
    return request.param


@pytest.fixture
def recipe(name: str, case: tuple[AugmentationSpec, tuple[int, ...]]) -> Recipe:
    """A recipe of that name."""
    return plugins.load("recipe", name)(case[0])


def patch(size: tuple[int, ...], channels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    source = np.random.default_rng(0)
    return source.normal(size=(channels, *size)).astype(np.float32), source.choice(LABELS, size).astype(np.int8)


def applied(recipe: Recipe, size: tuple[int, ...]) -> Iterator[tuple[Any, Mapping[str, Any], tuple, tuple]]:
    """Every step that acts in many draws: the step, its parameters, its inputs and its outputs."""
    for draw in range(DRAWS):
        random = stream(0, draw)
        arrays = patch(size)
        for step in recipe.steps():
            parameters = step.draw(random, arrays[0].shape)
            if parameters is not None:
                result = apply(step, *arrays, parameters)
                yield step, parameters, arrays, result
                arrays = result


def test_there_are_recipes() -> None:
    assert {"default", "none"} <= set(plugins.available("recipe"))


def test_shapes_and_number_types_stay(recipe: Recipe, case) -> None:
    for step, _, before, after in applied(recipe, case[1]):
        assert after[0].shape == before[0].shape, step
        assert after[0].dtype == np.float32, step
        assert after[1].shape == before[1].shape, step
        assert after[1].dtype == before[1].dtype, step


def test_values_stay_finite(recipe: Recipe, case) -> None:
    assert all(np.isfinite(after[0]).all() for _, _, _, after in applied(recipe, case[1]))


def test_labels_are_not_invented(recipe: Recipe, case) -> None:
    for step, _, before, after in applied(recipe, case[1]):
        assert set(np.unique(after[1])) <= set(np.unique(before[1])) | {-1}, step


def test_the_same_parameters_give_the_same_patch_after_json(recipe: Recipe, case) -> None:
    for step, parameters, before, after in applied(recipe, case[1]):
        again = apply(step, *before, json.loads(json.dumps(parameters)))
        np.testing.assert_array_equal(again[0], after[0], err_msg=repr(step))
        np.testing.assert_array_equal(again[1], after[1], err_msg=repr(step))


def test_inputs_are_not_changed_in_place(recipe: Recipe, case) -> None:
    image, labels = patch(case[1])
    for draw in range(DRAWS):
        random = stream(1, draw)
        for step in recipe.steps():
            parameters = step.draw(random, image.shape)
            if parameters is not None:
                apply(step, image, labels, parameters)
                np.testing.assert_array_equal(image, patch(case[1])[0], err_msg=repr(step))
                np.testing.assert_array_equal(labels, patch(case[1])[1], err_msg=repr(step))


def test_what_is_drawn_depends_on_the_given_generator_alone(name: str, case) -> None:
    def drawn() -> list[Any]:
        recipe, random = plugins.load("recipe", name)(case[0]), stream(5, 1)
        matrix = recipe.spatial.draw(random, case[1]) if recipe.spatial else None
        steps = [step.draw(random, (2, *case[1])) for step in recipe.steps() for _ in range(5)]
        return [None if matrix is None else matrix.tolist(), *steps]

    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = drawn()
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(1)
    assert drawn() == first


def test_applying_leaves_global_random_state_alone(recipe: Recipe, case) -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    list(applied(recipe, case[1]))
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_matrices_are_invertible_and_fit_the_patch(recipe: Recipe, case) -> None:
    size = case[1]
    for draw in range(DRAWS if recipe.spatial else 0):
        matrix = recipe.spatial.draw(stream(2, draw), size)
        if matrix is None:
            continue
        assert matrix.shape == (len(size), len(size))
        assert 0.1 < abs(np.linalg.det(matrix)) < 10
        image, labels = sample_affine(*map(torch.from_numpy, patch(size)), matrix, (np.array(size) - 1) / 2, size)
        assert image.shape == (2, *size)
        assert set(labels.unique().tolist()) <= set(LABELS)


def test_in_plane_sampling_stays_within_slices(name: str) -> None:
    spec, size = SPECS["in plane"]
    recipe = plugins.load("recipe", name)(spec)
    for draw in range(DRAWS if recipe.spatial else 0):
        matrix = recipe.spatial.draw(stream(3, draw), size)
        if matrix is not None:
            np.testing.assert_array_equal(matrix[0], [1, 0, 0])
            np.testing.assert_array_equal(matrix[:, 0], [1, 0, 0])


def test_axes_that_must_not_be_mirrored_are_not(name: str) -> None:
    """An image that grows along a blocked axis still does after all steps, for labels as for intensities."""
    spec = AugmentationSpec(rotation_degrees=(0.0, 0.0, 0.0), mirror_axes=(0, 1))
    labels = np.broadcast_to(np.arange(8, dtype=np.int8), (8, 8, 8)).copy()
    image = labels[None].astype(np.float32)
    for draw in range(DRAWS):
        random, arrays = stream(4, draw), (image, labels)
        for step in plugins.load("recipe", name)(spec).steps():
            parameters = step.draw(random, arrays[0].shape)
            if parameters is not None:
                arrays = apply(step, *arrays, parameters)
        assert arrays[1][0, 0, 0] < arrays[1][0, 0, -1]
        assert arrays[0][..., 0].mean() < arrays[0][..., -1].mean()
