"""Weights on disk: safetensors, written atomically, with a checksum, never pickled; names as in nnU-Net's networks."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import nn

from autoseg.errors import InputError, UnreadableFileError
from autoseg.files import content_hash, write_atomically

__all__ = [
    "drop_aliases",
    "load_metadata",
    "load_tensors",
    "load_weights",
    "save_tensors",
    "tensor_bytes",
    "weights_id",
]


#: All of our metadata is one entry: safetensors writes several in random order, and equal files should be equal bytes.
ENTRY = "autoseg"


#: Our metadata's name of the checksum over everything else; safetensors itself does not notice a flipped bit.
CHECKSUM = "sha256"


def save_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, Any],
    before: Callable[[], None] = lambda: None,
) -> None:
    """Writes tensors and a few values of JSON's types to one file, atomically; equal content gives equal bytes.

    ``before`` is done when the new file is safe on the disk, just before it takes its place.
    """
    write_atomically(path, tensor_bytes(tensors, metadata), before)


def tensor_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> bytes:
    """The content of a file of tensors and a few values of JSON's types, with a checksum."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    whole = {**metadata, CHECKSUM: _checksum(plain, metadata)}
    return to_bytes(plain, {ENTRY: json.dumps(whole, sort_keys=True)})


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads tensors and values back; a file that states no checksum, of another program for example, is taken as it is.

    Raises:
        UnreadableFileError: the file is missing or damaged.
    """
    with _opened(path) as (file, metadata):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        stated = metadata.pop(CHECKSUM, None)
        if stated is not None and stated != _checksum(tensors, metadata):
            raise ValueError("its content is not what was written (its checksum differs)")
        return tensors, metadata


def load_metadata(path: Path) -> dict[str, Any]:
    """Reads the values alone.

    Raises:
        UnreadableFileError: the file is missing or damaged.
    """
    with _opened(path) as (_, metadata):
        metadata.pop(CHECKSUM, None)
        return metadata


def weights_id(path: Path) -> str:
    """SHA-256 that the file states of its content, without reading all of it; of a file that states none, its own.

    Raises:
        UnreadableFileError: the file is missing or damaged.
    """
    with _opened(path) as (_, metadata):
        stated = metadata.get(CHECKSUM)
    return stated if isinstance(stated, str) else content_hash(path)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(ENTRY, "{}"))
            if not isinstance(metadata, dict):
                raise ValueError("its metadata is not an object")
            yield file, metadata
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise UnreadableFileError(
            f"cannot read the weights: {error}", file=path, remedy="Restore the file, or train that fold anew."
        ) from error


def _checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 over the values, and over names, types, shapes and bytes of the tensors."""
    summed = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        summed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        summed.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return summed.hexdigest()


def load_weights(network: nn.Module, tensors: Mapping[str, torch.Tensor], *, source: Path) -> None:
    """Puts weights into a network.

    Raises:
        InputError: names, shapes or kinds of numbers do not fit, or some are infinite or no numbers.
    """
    own = network.state_dict()
    missing, surplus = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    misfits = [name for name in own.keys() & tensors.keys() if _form(own[name]) != _form(tensors[name])]
    if missing or surplus or misfits:
        raise InputError(
            "the weights do not fit the network of the plan",
            file=source,
            found=f"{len(missing)} missing, {len(surplus)} unknown, {len(misfits)} of another shape or kind of number "
            f"(such as {(missing + surplus + misfits)[0]})",
        )
    senseless = sorted(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())
    if senseless:
        raise InputError(
            "some weights are infinite or no numbers, so every prediction would be",
            file=source,
            found=f"{len(senseless)} of {len(tensors)} tensors, such as {senseless[0]}",
            expected="finite numbers",
            remedy="Restore the file, or train that fold anew.",
        )
    network.load_state_dict(dict(tensors))


def _form(tensor: torch.Tensor) -> tuple[tuple[int, ...], bool, bool]:
    """Shape and kind of number: torch would copy complex or whole numbers into real ones, and lose a part of them."""
    return tuple(tensor.shape), tensor.is_floating_point(), tensor.is_complex()


def drop_aliases(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """nnU-Net's state dict without its second names: it lists the encoder and every block's layers twice."""
    return {
        name: tensor
        for name, tensor in state_dict.items()
        if not name.startswith("decoder.encoder.") and ".all_modules." not in name
    }
