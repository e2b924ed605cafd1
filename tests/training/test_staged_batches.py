"""Batches of a cascade's second stage: what the first predicted is turned and mirrored as labels are."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from autoseg.augmentation.cascade import RandomMorphology, RemoveComponent
from autoseg.augmentation.contract import Recipe
from autoseg.augmentation.recipe import default_recipe
from autoseg.augmentation.streams import TRAINING
from autoseg.io.case_store import CaseStore
from autoseg.io.earlier_store import EarlierStore, StagedStore
from autoseg.networks.memory import BOX
from autoseg.training.batches import PatchLoader
from autoseg.training.records import BatchRecord
from autoseg.values import AugmentationSpec, decode, digest, encode
from tests.training.test_batches import add_case

SHAPE = (20, 22, 24)
SIDES = AugmentationSpec(
    rotation_degrees=(30.0, 30.0, 30.0),
    mirror_axes=(0, 1, 2),
    swap_axis=2,
    swapped_labels=((1, 2),),
    predicted_channels=2,
)
IN_2D = msgspec.structs.replace(SIDES, rotation_degrees=(30.0,), mirror_axes=(0, 1), swap_axis=1)


def staged(folder: Path, **maps: np.ndarray) -> tuple[StagedStore, dict[str, str]]:
    """Cases whose image and label map are the truth, with these label maps of a first stage."""
    cases, earlier = CaseStore(folder / "cases"), EarlierStore(folder / "maps")
    keys, kept = {}, {}
    for name, labels in maps.items():
        keys[name], kept[name] = add_case(cases, name, truth(name), image=truth(name)[None]), digest([name, "map"])
        earlier.save(name, kept[name], labels.astype(np.uint8), patch_size=(8, 8, 8))
    return StagedStore(cases, earlier, kept, 2, lambda case: None), keys


def truth(name: str) -> np.ndarray:
    """Two boxes side by side, away from the border."""
    labels, shift = np.zeros(SHAPE, np.int8), "ab".index(name)
    labels[5 + shift : 14, 5:15, 5:12] = 1
    labels[6:15, 6 + shift : 16, 12:18] = 2
    return labels


def loader_of(store: CaseStore, keys: dict[str, str], spec: AugmentationSpec, recipe: Recipe) -> PatchLoader:
    patch = (8, 10, 12) if len(spec.rotation_degrees) == 3 else (12, 12)
    return PatchLoader(
        *(store, keys, patch, 4), foreground_share=0.5, recipe=recipe, seed=3, purpose=TRAINING, masked_channels=[0]
    )


@pytest.mark.parametrize("spec", [SIDES, IN_2D], ids=["3D", "2D"])
def test_a_perfect_first_stage_shows_the_labels_of_the_patch(tmp_path: Path, spec: AugmentationSpec) -> None:
    """However it is turned and mirrored, also where the sides change places; intensities are not theirs."""
    store, keys = staged(tmp_path, a=truth("a"), b=truth("b"))
    recipe = default_recipe(spec)
    kept = tuple(step for step in recipe.steps() if not isinstance(step, RandomMorphology | RemoveComponent))
    loader = loader_of(store, keys, spec, Recipe(recipe.spatial, kept, recipe.label_channels))
    turned = exchanged = 0
    for iteration in range(8):
        batch = loader.batch(iteration)
        assert batch["data"].shape[1] == 3
        for label in (1, 2):
            np.testing.assert_array_equal(batch["data"][:, label], batch["seg"][:, 0] == label)
        turned += sum(sample.matrix is not None for sample in batch["record"].samples)
        drawn = [sample.parameters[7] for sample in batch["record"].samples]
        exchanged += sum(each is not None and spec.swap_axis in each["axes"] for each in drawn)
    assert turned > 4
    assert exchanged > 4


@pytest.mark.parametrize("spec", [SIDES, IN_2D], ids=["3D", "2D"])
def test_a_batch_is_made_again_from_its_record(tmp_path: Path, spec: AugmentationSpec) -> None:
    store, keys = staged(tmp_path, a=truth("a"), b=truth("a"))
    loader = loader_of(store, keys, spec, default_recipe(spec))
    disturbed = 0
    for iteration in range(6):
        batch = loader.batch(iteration)
        again = loader.make(decode(BatchRecord, encode(batch["record"])))
        as_on_a_device = loader.finish(loader.prepare(iteration, BOX[len(loader.patch_size)]))
        for other in (again, as_on_a_device):
            np.testing.assert_array_equal(other["data"], batch["data"])
            np.testing.assert_array_equal(other["seg"], batch["seg"])
        assert set(np.unique(batch["data"][:, 1:])) <= {0, 1}
        assert (batch["data"][:, 1:].sum(1) <= 1).all()
        disturbed += sum(any(sample.parameters[8:10]) for sample in batch["record"].samples)
    assert disturbed > 2


def test_beyond_the_image_nothing_was_predicted(tmp_path: Path) -> None:
    store, keys = staged(tmp_path, a=np.ones(SHAPE))
    loader = PatchLoader(*(store, keys, (32, 32, 32), 1), foreground_share=0, recipe=Recipe(), seed=0, purpose=TRAINING)
    data = loader.batch(0)["data"][0]
    assert data[1].sum() == np.prod(SHAPE)
    assert not data[2].any()
