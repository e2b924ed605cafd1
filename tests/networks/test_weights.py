"""Weights on disk: what is written is read back, and nothing else passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch as safetensors_torch
import torch
from torch import nn

from autoseg.errors import InputError, UnreadableFileError
from autoseg.networks.weights import ENTRY, drop_aliases, load_tensors, load_weights, save_tensors


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(3, 4, 5, generator=generator),
        "a.bias": torch.tensor([float("inf"), -0.0, 1e-42]),
        "count": torch.tensor(7, dtype=torch.int64),
        "half": torch.randn(4, generator=generator).bfloat16(),
        "empty": torch.empty(0, 2),
    }


def test_tensors_and_values_come_back_bit_for_bit(tmp_path: Path) -> None:
    path, values = tmp_path / "folder" / "weights.safetensors", {"plan": "ünïcode", "list": [1, 0.1, None], "": {}}
    save_tensors(path, tensors(), values)
    back, metadata = load_tensors(path)
    assert metadata == values
    assert back.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert back[name].reshape(-1).view(torch.uint8).tolist() == tensor.reshape(-1).view(torch.uint8).tolist()


def test_channels_last_and_shared_tensors_are_stored_by_their_values(tmp_path: Path) -> None:
    tensor = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    save_tensors(tmp_path / "w.safetensors", {"one": tensor, "part": tensor[:1]}, {})
    back, metadata = load_tensors(tmp_path / "w.safetensors")
    assert torch.equal(back["one"], tensor)
    assert torch.equal(back["part"], tensor[:1])
    assert metadata == {}


def test_saving_again_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(path, {"one": torch.zeros(100)}, {})
    save_tensors(path, {"two": torch.ones(1)}, {})
    assert list(load_tensors(path)[0]) == ["two"]
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    """Predictions are recognised by the hash of the weights' file, so it must not change by itself."""
    path, values = tmp_path / "w.safetensors", {"plan": "0123456789abcdef", "fold": "0", "more": ""}
    made = set()
    for _ in range(16):
        save_tensors(path, tensors(), values)
        made.add(path.read_bytes())
        values = dict(reversed(values.items()))
    assert len(made) == 1


@pytest.mark.parametrize("keep", [0, 5, 60, -1], ids=["empty", "no header", "half a header", "one byte short"])
def test_a_damaged_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(path, tensors(), {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UnreadableFileError, match=r"w\.safetensors"):
        load_tensors(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=r"none\.safetensors"):
        load_tensors(tmp_path / "none.safetensors")


def test_tensors_of_other_programs_are_read(tmp_path: Path) -> None:
    safetensors_torch.save_file({"one": torch.ones(2)}, tmp_path / "w.safetensors", {"format": "pt"})
    back, metadata = load_tensors(tmp_path / "w.safetensors")
    assert torch.equal(back["one"], torch.ones(2))
    assert metadata == {}


@pytest.mark.parametrize("text", ["no json", "[1, 2]", "[" * 100_000], ids=["no json", "a list", "too deep"])
def test_damaged_metadata_is_a_damaged_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "w.safetensors"
    safetensors_torch.save_file({"one": torch.ones(2)}, path, {ENTRY: text})
    with pytest.raises(UnreadableFileError, match=r"w\.safetensors"):
        load_tensors(path)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    torch.save({"one": torch.zeros(3)}, path)
    with pytest.raises(UnreadableFileError):
        load_tensors(path)


def test_weights_that_fit_are_taken(tmp_path: Path) -> None:
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    load_weights(target, source.state_dict(), source=tmp_path)
    assert torch.equal(source.weight, target.weight)
    assert target.weight.data_ptr() != source.weight.data_ptr()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            lambda weights: weights.pop("bias"),
            r"1 missing, 0 unknown, 0 of another shape or kind of number \(such as bias\)",
        ),
        (lambda weights: weights.update(more=torch.zeros(1)), r"0 missing, 1 unknown, 0 .*such as more"),
        (lambda weights: weights.update(bias=torch.zeros(3)), r"0 missing, 0 unknown, 1 .*such as bias"),
        (lambda weights: weights.update(bias=torch.zeros(2, dtype=torch.complex64)), r"1 of another .*such as bias"),
        (lambda weights: weights.update(bias=torch.zeros(2, dtype=torch.int8)), r"1 of another .*such as bias"),
        (lambda weights: weights["bias"].fill_(float("nan")), r"infinite or no numbers.*1 of 2 tensors, such as bias"),
        (lambda weights: weights["bias"].fill_(float("inf")), r"infinite or no numbers.*1 of 2 tensors, such as bias"),
    ],
    ids=["missing", "surplus", "other shape", "complex", "whole", "no numbers", "infinite"],
)
def test_weights_that_do_not_fit_change_nothing_and_name_the_file(tmp_path: Path, change, found: str) -> None:
    network = nn.Linear(3, 2)
    before = network.weight.clone()
    weights = {name: torch.ones_like(tensor) for name, tensor in network.state_dict().items()}
    change(weights)
    with pytest.raises(InputError, match=found) as caught:
        load_weights(network, weights, source=tmp_path / "fold.safetensors")
    assert "fold.safetensors" in str(caught.value)
    assert torch.equal(network.weight, before)


def test_second_names_are_dropped_and_first_names_kept() -> None:
    names = [
        "encoder.stages.0.0.convs.0.conv.weight",
        "encoder.stages.0.0.convs.0.all_modules.0.weight",
        "decoder.encoder.stages.0.0.convs.0.conv.weight",
        "decoder.stages.0.convs.0.norm.bias",
        "decoder.seg_layers.0.bias",
    ]
    kept = drop_aliases({name: torch.zeros(1) for name in names})
    assert list(kept) == [names[0], names[3], names[4]]
