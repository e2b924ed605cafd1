"""What a network takes over from another: by name and shape, channels and labels by their names, nothing in silence."""

from __future__ import annotations

import msgspec
import pytest
import torch

from autoseg.errors import InputError
from autoseg.networks.adoption import Names, adopt
from autoseg.networks.build import build_network
from autoseg.values import NetworkSpec
from autoseg.values.adoption import Adoption
from tests.small_plans import small_network

FIRST, HEAD = "encoder.stages.0.0.convs.0.conv.weight", "decoder.seg_layers.1.weight"
RESIDUAL_FIRST = "encoder.stem.convs.0.conv.weight"
LABELS = ("background", "liver", "spleen")


def network(inputs: int = 1, outputs: int = 3, architecture: str = "plain_unet") -> NetworkSpec:
    spec = small_network(inputs=inputs, outputs=outputs, features=(4, 8, 8))
    return msgspec.structs.replace(spec, architecture=architecture)


def weights(spec: NetworkSpec) -> dict[str, torch.Tensor]:
    return build_network(spec, seed=5).state_dict()


def taken(
    channels: tuple[str, ...] | None = ("T1",),
    source_channels: tuple[str, ...] | None = ("T1",),
    labels: tuple[str, ...] | None = LABELS,
    source_labels: tuple[str, ...] | None = LABELS,
    *,
    counts: tuple[int, int, int, int] | None = None,
    architecture: str = "plain_unet",
    regions: tuple[bool, bool] = (False, False),
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Adoption]:
    """The weights made, those of the source, and what is told; ``counts`` where names are not known."""
    inputs, outputs, old_inputs, old_outputs = counts or (
        *(len(channels), len(labels)),
        *(len(source_channels), len(source_labels)),
    )
    source = weights(network(old_inputs, old_outputs, architecture))
    made, adoption = adopt(
        network(inputs, outputs, architecture),
        Names(channels=channels, outputs=labels, has_regions=regions[0]),
        source,
        Names(channels=source_channels, outputs=source_labels, has_regions=regions[1]),
        seed=1,
        title="a model",
        sha256="0" * 64,
    )
    return made, source, adoption


def fate(adoption: Adoption, name: str) -> tuple[str, str]:
    return next((layer.outcome, layer.reason) for layer in adoption.layers if layer.name == name)


@pytest.mark.parametrize("architecture", ["plain_unet", "residual_encoder_unet"])
def test_the_same_network_is_taken_over_bit_for_bit(architecture: str) -> None:
    made, source, adoption = taken(architecture=architecture)
    assert all(torch.equal(made[name], tensor) for name, tensor in source.items())
    assert adoption.share == 1
    assert {layer.outcome for layer in adoption.layers} == {"adopted"}


@pytest.mark.parametrize(("architecture", "first"), [("plain_unet", FIRST), ("residual_encoder_unet", RESIDUAL_FIRST)])
def test_channels_are_taken_by_name(architecture: str, first: str) -> None:
    made, source, adoption = taken(("t2 ", "FLAIR"), ("T1", "T2", "flair"), architecture=architecture)
    assert torch.equal(made[first], source[first][:, [1, 2]])
    assert fate(adoption, first) == ("mapped", "2 of 3 channels by name")


def test_a_new_channel_begins_with_the_mean_and_the_sum_stays() -> None:
    made, source, adoption = taken(("T2", "PET", "T1"), ("T1", "T2"))
    old = source[FIRST]
    torch.testing.assert_close(made[FIRST][:, 1:2], old.mean(1, keepdim=True) * 2 / 3)
    torch.testing.assert_close(made[FIRST][:, 2], old[:, 0] * 2 / 3)
    torch.testing.assert_close(made[FIRST].sum(1), old.sum(1))
    assert fate(adoption, FIRST)[0] == "mapped"
    assert "1 new from the mean of the old" in fate(adoption, FIRST)[1]


@pytest.mark.parametrize(
    ("channels", "source_channels", "alike"),
    [
        (("T1", "FLAIR"), ("T1", "T2"), {0: 0}),
        (("FLAIR", "T2", "PD"), ("T1", "T2"), {1: 1}),
        (("T1", "FLAIR"), ("T1", "T2", "PD"), {0: 0}),
        (("FLAIR",), ("T1", "T2", "PD"), {}),
    ],
    ids=str,
)
def test_channels_that_are_replaced_hand_their_sum_on(channels, source_channels, alike: dict[int, int]) -> None:
    """Those that are kept stay as they are to the bit; the new ones are equal to each other."""
    made, source, adoption = taken(channels, source_channels)
    torch.testing.assert_close(made[FIRST].sum(1), source[FIRST].sum(1))
    for here, there in alike.items():
        assert torch.equal(made[FIRST][:, here], source[FIRST][:, there])
    new = [made[FIRST][:, place] for place in range(len(channels)) if place not in alike]
    assert all(torch.equal(each, new[0]) for each in new)
    assert "so that the sum of all stays" in fate(adoption, FIRST)[1]


def test_without_names_channels_are_taken_in_order_or_from_the_mean() -> None:
    made, source, adoption = taken(("A", "B"), None, counts=(2, 3, 2, 3))
    assert torch.equal(made[FIRST], source[FIRST])
    assert "names are not known" in fate(adoption, FIRST)[1]
    made, source, _ = taken(("A", "B"), None, counts=(2, 3, 3, 3))
    torch.testing.assert_close(made[FIRST].sum(1), source[FIRST].sum(1))
    made, source, adoption = taken(("A", "B"), ("C", "D"))
    assert torch.equal(made[FIRST], source[FIRST])
    assert "no names in common" in fate(adoption, FIRST)[1]
    _, _, adoption = taken(("CT",), ("MRI",))
    assert "no names in common" in fate(adoption, FIRST)[1]
    _, _, adoption = taken(("CT",), ("CT",))
    assert fate(adoption, FIRST)[1] == "same name, shape and channels"


def test_heads_take_the_rows_of_equal_names_and_begin_anew_elsewhere() -> None:
    made, source, adoption = taken(
        labels=("background", "spleen", "kidney", "liver"), source_labels=("background", "liver", "spleen")
    )
    fresh = build_network(network(1, 4), seed=1).state_dict()
    assert torch.equal(made[HEAD][[0, 1, 3]], source[HEAD][[0, 2, 1]])
    assert torch.equal(made[HEAD][2], fresh[HEAD][2])
    assert torch.equal(made["decoder.seg_layers.1.bias"][2], fresh["decoder.seg_layers.1.bias"][2])
    assert fate(adoption, HEAD) == ("mapped", "by name: background, spleen, liver; 1 begin anew")


@pytest.mark.parametrize(
    ("labels", "source_labels", "regions", "reason"),
    [
        (("background", "a", "b"), LABELS, (False, False), "no label of the same name"),
        (LABELS, None, (False, False), "not known"),
        (LABELS, LABELS, (True, False), "one has regions, the other labels"),
    ],
)
def test_heads_of_other_labels_are_renewed(labels, source_labels, regions, reason) -> None:
    made, source, adoption = taken(labels=labels, source_labels=source_labels, counts=(1, 3, 1, 3), regions=regions)
    assert torch.equal(made[HEAD], build_network(network(), seed=1).state_dict()[HEAD])
    assert not torch.equal(made[HEAD], source[HEAD])
    outcome, told = fate(adoption, HEAD)
    assert outcome == "renewed"
    assert reason in told


def test_every_tensor_of_both_is_told_of() -> None:
    source = weights(network())
    source["extra.weight"] = torch.zeros(3)
    moved = source.pop("encoder.stages.1.0.convs.0.norm.bias")
    source["encoder.stages.0.0.convs.0.norm.weight"] = torch.ones(5)
    names = Names(channels=("T1",), outputs=LABELS)
    _, adoption = adopt(network(), names, source, names, seed=1, title="a model", sha256="0" * 64)
    assert {layer.name for layer in adoption.layers} == weights(network()).keys() | {"extra.weight"}
    assert fate(adoption, "extra.weight")[0] == "unused"
    assert fate(adoption, "encoder.stages.1.0.convs.0.norm.bias") == ("renewed", "the source has none of this name")
    assert fate(adoption, "encoder.stages.0.0.convs.0.norm.weight") == ("renewed", "of shape 5 there, 4 here")
    numbers = sum(tensor.numel() for tensor in weights(network()).values())
    assert adoption.share == pytest.approx(1 - (len(moved) + 4) / numbers)
    assert all(name in adoption.text for name in ("extra.weight", "of shape 5 there, 4 here"))


def test_a_model_that_hardly_fits_is_refused_with_what_to_do() -> None:
    names = Names(channels=("T1",), outputs=LABELS)
    other = weights(small_network(outputs=3, features=(6, 12, 12)))
    with pytest.raises(
        InputError, match=r"too few.*0% of its numbers.*of shape.*expected 50%.*autoseg plan DATASET --from"
    ):
        adopt(network(), names, other, names, seed=1, title="a model", sha256="0" * 64)


ODD = {
    "whole numbers": lambda tensor: tensor.to(torch.int32),
    "truth values": lambda tensor: tensor > 0,
    "complex": lambda tensor: tensor.to(torch.complex64),
    "8 bits": lambda tensor: tensor.to(torch.float8_e4m3fn),
    "too large for the network": lambda tensor: tensor.double() * 1e300,
}


@pytest.mark.parametrize(
    "place", [FIRST, "encoder.stages.1.0.convs.0.conv.weight", HEAD], ids=["first", "inner", "head"]
)
@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_weights_of_odd_number_types_are_refused_in_a_sentence(change, place: str) -> None:
    source = weights(network())
    source[place] = change(source[place])
    own, theirs = Names(channels=("T1", "T2"), outputs=LABELS[:2]), Names(channels=("T1",), outputs=LABELS)
    with pytest.raises(InputError, match=f"the weights '{place}' of the model"):
        adopt(network(2, 2), own, source, theirs, seed=1, title="a model", sha256="0" * 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_other_widths_are_taken_in_the_networks_own(dtype: torch.dtype) -> None:
    source = {name: tensor.to(dtype) for name, tensor in weights(network()).items()}
    names = Names(channels=("T1",), outputs=LABELS)
    made, adoption = adopt(network(), names, source, names, seed=1, title="a model", sha256="0" * 64)
    assert adoption.share == 1
    assert all(
        tensor.dtype == torch.float32 and torch.equal(tensor, source[name].float()) for name, tensor in made.items()
    )


def test_weights_that_are_no_numbers_are_refused() -> None:
    source = weights(network())
    source[HEAD][0] = float("nan")
    names = Names(channels=("T1",), outputs=LABELS)
    with pytest.raises(InputError, match="NaN"):
        adopt(network(), names, source, names, seed=1, title="a model", sha256="0" * 64)
