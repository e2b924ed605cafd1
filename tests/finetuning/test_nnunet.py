"""nnU-Net's models: their documents are read as anybody's, their weights give nnU-Net's own logits."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import msgspec
import pytest
import torch
from msgspec.structs import replace

from autoseg.errors import AutosegError, InputError, UnreadableFileError
from autoseg.finetuning.nnunet import template_of
from autoseg.finetuning.source import Source, find_source, find_template
from autoseg.networks.adoption import adopt
from autoseg.networks.build import build_network
from autoseg.networks.foreign import load_checkpoint
from autoseg.values import ResamplingSpec
from autoseg.volume.resample import separate_axis
from tests.conftest import PROJECT
from tests.finetuning.nnunet_models import dataset, old_form, plans, results_folder, their_network

PEER = Path(os.environ.get("AUTOSEG_PEER_PYTHON", "/nowhere/python"))
kinds = pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
shapes = pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])


def made(folder: Path, kind: str = "PlainConvUNet", configuration: str = "3d_fullres") -> tuple[Path, torch.nn.Module]:
    plan = plans(kind, configuration)
    theirs = their_network(plan, 2, 3, configuration)
    return results_folder(folder, plan, dataset(), theirs.state_dict(), configuration), theirs


def adopted(source: Source) -> torch.nn.Module:
    """Our network of the source's numbers with its weights."""
    spec = source.template.configurations[0].network
    weights, adoption = adopt(spec, source.names, source.tensors(), source.names, seed=0, title="", sha256="")
    assert adoption.share == 1
    assert {layer.outcome for layer in adoption.layers} == {"adopted"}
    network = build_network(spec, seed=1)
    network.load_state_dict(weights)
    network.deep_supervision = False
    return network.eval()


@kinds
@shapes
def test_adopted_weights_give_the_logits_of_nnunets_own_network(kind: str, configuration: str, tmp_path: Path) -> None:
    folder, theirs = made(tmp_path, kind, configuration)
    ours = adopted(find_source(folder, configuration, "0"))
    image = torch.randn(2, 2, *((16, 32) if configuration == "2d" else (8, 16, 32)))
    with torch.no_grad():
        torch.testing.assert_close(ours(image)[0], theirs.eval()(image), rtol=1e-4, atol=1e-5)


def test_what_the_documents_tell_is_kept(tmp_path: Path) -> None:
    folder, _ = made(tmp_path)
    template = find_template(folder)
    assert template.code_paths == ()
    assert (template.orientation, template.axis_order, template.channels) == ("as_stored", (0, 1, 2), ("CT", "PET"))
    assert template.labels.output_names == ("background", "liver", "spleen")
    assert [spec.scheme for spec in template.normalization] == ["ct", "zscore"]
    assert template.normalization[0].properties.percentile_99_5 == 99.0
    (each,) = template.configurations
    assert (each.name, each.spacing, each.patch_size) == ("3d_fullres", (4.0, 1.5, 1.25), (8, 16, 16))
    assert each.network.encoder_blocks == (1, 2, 2)
    assert each.resampling.separate_axis_order == 0
    flat, _ = made(tmp_path / "flat", configuration="2d")
    assert find_template(flat).configurations[0].spacing == (None, 1.5, 1.25)


def test_every_way_to_name_the_model_leads_to_the_same_weights(tmp_path: Path) -> None:
    folder, _ = made(tmp_path)
    alone = tmp_path / "elsewhere" / "deep" / "checkpoint_final.pth"
    alone.parent.mkdir(parents=True)
    alone.write_bytes((folder / "fold_0" / "checkpoint_final.pth").read_bytes())
    ways = (tmp_path, folder, folder / "fold_0", folder / "fold_0" / "checkpoint_final.pth", alone)
    sources = [find_source(path, "3d_fullres", "3") for path in ways]
    assert len({source.sha256 for source in sources}) == 1
    assert len({msgspec.json.encode(source.template) for source in sources}) == 1


def test_plans_in_the_older_form_say_the_same(tmp_path: Path) -> None:
    new, _ = made(tmp_path)
    expected = find_template(new)
    old = old_form(plans(), "3d_fullres")
    (new / "plans.json").write_text(json.dumps(old))
    stated = dataset()
    stated["modality"] = stated.pop("channel_names")
    (new / "dataset.json").write_text(json.dumps(stated))
    assert find_template(new) == expected


def test_configurations_that_inherit_are_completed_and_circles_are_refused(tmp_path: Path) -> None:
    folder, _ = made(tmp_path)
    plan = plans()
    base = plan["configurations"].pop("3d_fullres")
    plan["configurations"] = {"base": base, "3d_fullres": {"inherits_from": "base", "batch_size": 5}}
    (folder / "plans.json").write_text(json.dumps(plan))
    assert find_template(folder).configurations[0].patch_size == (8, 16, 16)
    base["inherits_from"] = "3d_fullres"
    (folder / "plans.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match="no configuration"):
        find_template(folder)


def test_regions_and_ignore_are_understood(tmp_path: Path) -> None:
    stated = dataset(labels={"whole": [1, 2], "core": [2], "ignore": 3})
    stated["regions_class_order"] = [1, 2]
    folder = results_folder(
        tmp_path, plans(), stated, their_network(plans(), 2, 2, "3d_fullres").state_dict(), "3d_fullres"
    )
    labels = find_template(folder).labels
    assert (labels.output_names, labels.ignore, labels.has_regions) == (("whole", "core"), 3, True)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("architecture", "network_class_name"), "mine.Transformer", "does not build this network; found Transformer"),
        (("architecture", "arch_kwargs", "norm_op"), "torch.nn.BatchNorm3d", "norm_op; found BatchNorm3d"),
        (("architecture", "arch_kwargs", "nonlin"), "torch.nn.GELU", "nonlin; found GELU"),
        (("architecture", "arch_kwargs", "conv_bias"), False, "conv_bias; found False"),
        (("architecture", "arch_kwargs", "conv_op"), "mine.Conv3dSame", "conv_op; found Conv3dSame"),
        (("architecture", "arch_kwargs", "nonlin_kwargs"), {"negative_slope": 0.2}, "negative_slope; found 0.2"),
        (("architecture", "arch_kwargs", "norm_op_kwargs"), {"eps": 1e-3, "affine": True}, "eps; found 0.001"),
        (("architecture", "arch_kwargs", "norm_op_kwargs"), {"eps": 1e-5}, "affine; found False, expected True"),
        (("architecture", "arch_kwargs", "norm_op_kwargs"), {"affine": True, "track_running_stats": True}, "track_run"),
        (("architecture", "arch_kwargs", "norm_op_kwargs"), None, "affine; found False"),
        (("architecture", "arch_kwargs", "norm_op_kwargs"), [1], "can be followed"),
        (("architecture", "arch_kwargs", "nonlin_first"), True, "nonlin_first; found True, expected False"),
        (("architecture", "arch_kwargs", "block"), "mine.BottleneckD", "block; found BottleneckD"),
        (("architecture", "arch_kwargs", "bottleneck_channels"), [4, 4, 4], "bottleneck_channels; .*expected none"),
        (("architecture", "arch_kwargs", "squeeze_excitation"), True, "squeeze_excitation; found True"),
        (("architecture", "arch_kwargs", "stem_channels"), 4, "stem_channels; found 4"),
        (("architecture", "arch_kwargs", "pool_type"), "avg", "pool_type; found avg, expected conv"),
        (("architecture", "arch_kwargs", "n_stages"), "three", "cannot|can be followed"),
        (("architecture", "arch_kwargs", "features_per_stage"), [10**9, 1, 1], "feature maps out of range"),
        (("architecture", "arch_kwargs", "n_conv_per_stage"), 10**9, "blocks per stage out of range"),
        (("patch_size",), [8, 16, 10**9], "patch"),
        (("resampling_fn_data_kwargs", "order"), "three", "can be followed"),
        (("patch_size",), [8, 16], "patch size and network differ"),
        (("spacing",), [1.0], "can be followed"),
        (("normalization_schemes",), ["Odd", "Odd"], "normalization; found Odd"),
        (("previous_stage",), "3d_lowres", "second stage of a cascade"),
    ],
)
def test_documents_that_cannot_be_followed_are_refused_in_a_sentence(place, value, said, tmp_path: Path) -> None:
    folder, _ = made(tmp_path)
    plan = plans()
    inner = plan["configurations"]["3d_fullres"]
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    (folder / "plans.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match=said):
        find_template(folder)


USUAL = ResamplingSpec(separate_axis_order=0)
EVERY = ("data", "seg", "probabilities")


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, USUAL),
        ({f"resampling_fn_{what}_kwargs": {} for what in EVERY}, USUAL),
        ({"resampling_fn_data_kwargs": {"order": 1, "force_separate_z": None}}, replace(USUAL, image_order=1)),
        (
            {f"resampling_fn_{what}_kwargs": {"order": 1, "order_z": 1, "force_separate_z": None} for what in EVERY},
            replace(USUAL, image_order=1, separate_axis_order=1),
        ),
        (
            {f"resampling_fn_{what}_kwargs": {"order": 1, "force_separate_z": True} for what in EVERY},
            replace(USUAL, image_order=1, anisotropy_threshold=0.0),
        ),
        (
            {f"resampling_fn_{what}_kwargs": {"order": 1} for what in EVERY},
            replace(USUAL, image_order=1, anisotropy_threshold=1e12),
        ),
        ({f"resampling_fn_{what}": "resample_torch_fornnunet" for what in EVERY}, replace(USUAL, image_order=1)),
    ],
    ids=["usual", "not stated", "order", "along", "always apart", "never apart", "linear"],
)
def test_resampling_is_the_models(stated, expected: ResamplingSpec, tmp_path: Path) -> None:
    plan = plans()
    plan["configurations"]["3d_fullres"] |= stated
    template = find_template(results_folder(tmp_path, plan, dataset(), {"a": torch.zeros(1)}, "3d_fullres"))
    assert template.configurations[0].resampling == expected
    assert template.unlike == ()


def test_a_coarse_axis_is_apart_always_or_never() -> None:
    """The thresholds that stand for it do what is meant, whatever the spacings."""
    for steps in ((1.001, 1.0, 1.0), (500.0, 0.01, 0.01)):
        assert separate_axis(steps, (1.0, 1.0, 1.0), 0.0) == 0
        assert separate_axis(steps, (1.0, 1.0, 1.0), 1e12) is None


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({"resampling_fn_data": "no_resampling_hack"}, ["data by no_resampling_hack"]),
        (
            {"resampling_fn_seg_kwargs": {"order": 3, "force_separate_z": None}},
            ["seg of order 3 in the model, of order 1"],
        ),
        ({"resampling_fn_seg_kwargs": {"order": 1}}, ["images, labels and probabilities differ"]),
    ],
    ids=["function", "order", "unequal"],
)
def test_resampling_that_cannot_be_followed_is_told(stated, told: list[str], tmp_path: Path) -> None:
    plan = plans()
    plan["configurations"]["3d_fullres"] |= stated
    template = find_template(results_folder(tmp_path, plan, dataset(), {"a": torch.zeros(1)}, "3d_fullres"))
    assert template.configurations[0].resampling == USUAL
    assert len(template.unlike) == len(told)
    assert all(phrase in sentence for phrase, sentence in zip(told, template.unlike, strict=True))


def test_arguments_that_state_what_holds_anyway_are_no_hindrance(tmp_path: Path) -> None:
    folder, _ = made(tmp_path)
    expected, plan = find_template(folder), plans()
    told = plan["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    told |= {"nonlin_first": False, "stem_channels": None, "squeeze_excitation": False, "deep_supervision": True}
    told["nonlin_kwargs"] = {"negative_slope": 0.01, "inplace": False}
    told["norm_op_kwargs"] |= {"track_running_stats": False, "momentum": 0.3}
    (folder / "plans.json").write_text(json.dumps(plan))
    assert find_template(folder) == expected


def test_tensors_in_place_of_constants_are_refused_in_a_sentence(tmp_path: Path) -> None:
    plan = plans()
    plan["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["nonlin_first"] = torch.zeros(2)
    made_with = {"plans": plan, "dataset_json": dataset(), "configuration": "3d_fullres"}
    with pytest.raises(InputError, match="nonlin_first; found tensor"):
        template_of(made_with, tmp_path)


class Evil:
    """What a pickle can be made to do."""

    def __reduce__(self):
        return (os.system, ("touch harmed",))


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"network_weights": {"a": torch.zeros(1)}, "extra": Evil()}, tmp_path / "checkpoint_final.pth")
    with pytest.raises(UnreadableFileError, match="more than tensors"):
        load_checkpoint(tmp_path / "checkpoint_final.pth")
    assert not (tmp_path / "harmed").exists()


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    torch.save({"network_weights": {"a": torch.zeros(1).expand(2**40)}}, tmp_path / "c.pth")
    with pytest.raises(UnreadableFileError, match="'a'"):
        load_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"\x80\x02}q\x00.", b"text"], ids=repr)
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(AutosegError):
        load_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize(
    "document", [{"other": 1}, {"network_weights": {}}, {"network_weights": {"a": 1}}, [1]], ids=str
)
def test_a_checkpoint_without_weights_is_refused(document: object, tmp_path: Path) -> None:
    torch.save(document, tmp_path / "c.pth")
    with pytest.raises(UnreadableFileError):
        load_checkpoint(tmp_path / "c.pth")


def test_a_place_without_a_model_is_told_what_is_expected(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "nowhere.pth"):
        with pytest.raises(InputError):
            find_source(path, "2d", "0")


@pytest.mark.peer
@pytest.mark.skipif(not PEER.exists(), reason="AUTOSEG_PEER_PYTHON does not name a Python with nnU-Net")
@kinds
def test_a_checkpoint_that_nnunets_trainer_wrote_gives_its_logits(kind: str, tmp_path: Path) -> None:
    (tmp_path / "plans.json").write_text(json.dumps(plans(kind)))
    (tmp_path / "dataset.json").write_text(json.dumps(dataset()))
    script = PROJECT / "tests" / "finetuning" / "peer_checkpoint.py"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [PEER, script, tmp_path, "3d_fullres"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    network = adopted(find_source(tmp_path / "nnUNet_results" / "Dataset777_Peer", "3d_fullres", "0"))
    shape = (1, 2, 8, 16, 16)
    image = torch.arange(torch.tensor(shape).prod()).reshape(shape).float().sin()
    expected = torch.load(tmp_path / "logits.pt", weights_only=True)["logits"]
    with torch.no_grad():
        torch.testing.assert_close(network(image)[0], expected, rtol=1e-4, atol=1e-5)
