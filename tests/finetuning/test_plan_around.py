"""Plans around a trained model: its network, grid and normalization for other data, so that all but the heads fits."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import pytest
import torch

from autoseg import pipeline
from autoseg.errors import InputError, UnknownNameError
from autoseg.files import read_document, write_document
from autoseg.finetuning.source import find_template
from autoseg.networks.weights import save_tensors
from autoseg.planning import GIBIBYTE, Budget, Wishes
from autoseg.values import Parts
from autoseg.values.adoption import Adoption, Template
from autoseg.workspace import Workspace
from planners.unet import DefaultPlanner
from tests.conftest import TINY_PRESET
from tests.finetuning.nnunet_models import dataset, plans, results_folder, their_network
from tests.planners.synthetic import CPU_COST, fingerprint
from tests.small_plans import small_plan


@pytest.fixture(scope="module")
def nnunet_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2D model of nnU-Net's for two channels, one of which is called as that of the phantoms."""
    plan = plans(configuration="2d")
    plan["transpose_forward"], plan["transpose_backward"] = [1, 0, 2], [1, 0, 2]
    theirs = their_network(plan, 2, 4, "2d")
    stated = dataset(("PET", "ct"), {"spleen": 1, "liver": 2, "kidney": 3})
    return results_folder(tmp_path_factory.mktemp("nnunet"), plan, stated, theirs.state_dict(), "2d")


def planned(phantoms: Path, folder: Path, model: Path, **options: object):
    wanted = {"device": "cpu", "memory_gib": 2, "around": model, "name": "around"}
    return pipeline.plan_dataset(phantoms, Workspace(folder / "W"), **(wanted | options))


def test_a_plan_around_nnunets_model_is_trained_from_it(phantoms: Path, nnunet_model: Path, tmp_path: Path) -> None:
    made = planned(phantoms, tmp_path, nnunet_model)
    plan, (configuration,) = made.plan, made.plan.configurations
    assert (plan.orientation, plan.axis_order) == ("as_stored", (1, 0, 2))
    assert (configuration.name, configuration.spacing, configuration.patch_size) == ("2d", (None, 1.5, 1.25), (16, 16))
    network = configuration.network
    assert (network.features, network.encoder_blocks, network.decoder_blocks) == ((8, 16, 16), (1, 2, 2), (2, 1))
    assert (network.input_channels, network.output_channels) == (len(plan.channels), plan.labels.output_count)
    assert configuration.resampling.separate_axis_order == 0
    assert configuration.training.optimizer == "adamw"
    assert configuration.batch_size >= 1
    assert configuration.expected_memory_bytes <= 2 * GIBIBYTE
    workspace = Workspace(tmp_path / "W")
    (trained,) = pipeline.train(workspace, "2d", "0", iterations=1, device="cpu", begin_from=nnunet_model)
    adoption = read_document(Adoption, trained.folder.adopted)
    assert adoption.share > 0.9
    fates = {layer.name: layer for layer in adoption.layers}
    assert {layer.outcome for name, layer in fates.items() if "seg_layers" not in name} <= {"adopted", "mapped"}
    assert "liver" in fates["decoder.seg_layers.1.weight"].reason


def test_channels_of_the_same_name_keep_the_models_normalization(
    phantoms: Path, nnunet_model: Path, tmp_path: Path
) -> None:
    spec = planned(phantoms, tmp_path, nnunet_model, channel_names=("PET",)).plan.normalization[0]
    assert (spec.scheme, spec.properties.mean) == ("ct", 50.0)  # of the model's channel, not by its name
    wishes = Wishes(normalization=(("PET", "zscore"),))
    wished = planned(phantoms, tmp_path / "b", nnunet_model, channel_names=("PET",), wishes=wishes)
    assert wished.plan.normalization[0].scheme == "zscore"


def test_a_plan_around_our_own_model_has_its_network_and_orientation(phantoms: Path, tmp_path: Path) -> None:
    own = pipeline.plan_dataset(phantoms, Workspace(tmp_path / "S"), preset=TINY_PRESET, name="first", device="cpu")
    made = planned(phantoms, tmp_path, own.folder.path, configurations=("3d_fullres",))
    (configuration,), source = made.plan.configurations, own.plan.configuration("3d_fullres")
    assert made.plan.orientation == "canonical"
    assert configuration.network == source.network
    assert (configuration.patch_size, configuration.spacing) == (source.patch_size, source.spacing)
    assert configuration.median_shape == source.median_shape
    assert configuration.augmentation == source.augmentation
    assert made.replan(4 * GIBIBYTE).configurations[0].network == source.network


def test_parts_of_the_users_own_and_a_batch_go_together_with_it(phantoms, nnunet_model, tmp_path) -> None:
    options = {"parts": Parts(optimizer="sgd"), "wishes": Wishes(batch_sizes=(("2d", 3),))}
    (configuration,) = planned(phantoms, tmp_path, nnunet_model, **options).plan.configurations
    assert (configuration.training.optimizer, configuration.batch_size) == ("sgd", 3)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"configurations": ("3d_fullres",)}, UnknownNameError, "no configuration '3d_fullres'; expected 2d"),
        ({"wishes": Wishes(spacing=(1.0, 1.0, 1.0))}, InputError, "--spacing"),
        ({"wishes": Wishes(patch_sizes=(("2d", (32, 32)),))}, InputError, "--patch-size"),
        ({"preset": TINY_PRESET, "configurations": ()}, InputError, "does not plan around a model"),
        ({"memory_gib": 0.1}, InputError, "does not fit the memory"),
    ],
    ids=str,
)
def test_what_contradicts_the_model_is_refused(options, error, said, phantoms, nnunet_model, tmp_path) -> None:
    with pytest.raises(error, match=said):
        planned(phantoms, tmp_path, nnunet_model, **options)
    assert not (tmp_path / "W" / "models").exists()


def test_code_that_a_foreign_model_names_is_not_planned_without_trust(phantoms: Path, tmp_path: Path) -> None:
    plan = Parts(network="own:Net").in_plan(small_plan())
    write_document(tmp_path / "model" / "plan.json", plan)
    with pytest.raises(InputError, match=r"own:Net.*--trust-code"):
        planned(phantoms, tmp_path, tmp_path / "model")


def test_nor_from_a_folder_that_does_not_tell_what_it_was_trained_on(
    trained_elsewhere: Path, phantoms: Path, tmp_path: Path
) -> None:
    """The plan beside weights without ``job.json`` is as foreign as that of a whole model folder."""
    for model in (trained_elsewhere, trained_elsewhere / "model.safetensors"):
        with pytest.raises(InputError, match=r"antigravity:fly.*--trust-code"):
            planned(phantoms, tmp_path, model, configurations=("tiny",))
    assert "antigravity" not in sys.modules


@pytest.fixture
def trained_elsewhere(tmp_path: Path) -> Path:
    """A fold of a model whose plan names code that is not installed; it holds nothing but weights."""
    write_document(tmp_path / "model" / "plan.json", Parts(network="antigravity:fly").in_plan(small_plan()))
    save_tensors(tmp_path / "model" / "tiny" / "fold_0" / "model.safetensors", {"a": torch.ones(1)}, {})
    return tmp_path / "model" / "tiny" / "fold_0"


@pytest.fixture
def volume_template(tmp_path: Path) -> Template:
    """Of a 3D model of nnU-Net's."""
    theirs = their_network(plans(), 2, 3, "3d_fullres")
    return find_template(results_folder(tmp_path, plans(), dataset(), theirs.state_dict(), "3d_fullres"))


def test_single_slices_are_not_planned_for_a_model_of_volumes(volume_template: Template) -> None:
    flat = fingerprint([((1.0, 1.0, 1.0), (1, 64, 64), 3)])
    with pytest.raises(InputError, match="single slices"):
        DefaultPlanner().plan(flat, Budget(template=volume_template), CPU_COST, name="x")


@pytest.mark.parametrize(
    ("names", "mirrored"), [(["liver", "spleen"], (0, 1, 2)), (["kidney_left", "kidney_right"], ())]
)
def test_arrays_as_stored_are_not_mirrored_where_labels_have_sides(names, mirrored, volume_template: Template) -> None:
    volumes = fingerprint([((3.0, 1.0, 1.0), (20, 64, 64), 6)], names=names)
    plan = DefaultPlanner().plan(volumes, Budget(template=volume_template), CPU_COST, name="x")
    assert plan.configurations[0].augmentation.mirror_axes == mirrored
    assert plan.configurations[0].median_shape == (15.0, 43.0, 51.0)


def test_the_plan_is_read_back_and_means_the_same(phantoms: Path, nnunet_model: Path, tmp_path: Path) -> None:
    made = planned(phantoms, tmp_path, nnunet_model)
    assert made.folder.plan() == made.plan
    document = json.loads((made.folder.path / "plan.json").read_text())
    assert "made around nnU-Net's 2d" in document["reasons"]["model"]
    assert msgspec.structs.replace(made.plan, name="b").id == made.plan.id
