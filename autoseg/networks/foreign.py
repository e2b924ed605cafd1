"""Weights that others pickled: nnU-Net's checkpoints, read without running any code of theirs.

The only place where torch unpickles. It does so with ``weights_only``: tensors, numbers, text, lists and dictionaries, and
beyond them the few names below, which nnU-Net's learning curves need. Everything else in a file is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoseg.errors import UnreadableFileError
from autoseg.networks.weights import drop_aliases

__all__ = ["load_checkpoint"]

#: Numbers of NumPy, under the names of its old and new versions; none of them runs anything.
_SCALAR: Any = np.float64(0).__reduce__()[0]
ALLOWED: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
]
#: What wrappers of networks put before every name.
WRAPPERS = ("module.", "_orig_mod.")


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The network's weights of an nnU-Net checkpoint, without second names, and what it was made with (``init_args``).

    Raises:
        UnreadableFileError: no such file, or one that holds something else, or more than tensors and plain values.
    """
    remedy = "It has to be a checkpoint_*.pth of nnU-Net v2, as nnU-Net wrote it."
    try:
        with torch.serialization.safe_globals(ALLOWED):
            document = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged file ends in whatever the archive's reader raises
        kind, said = type(error).__name__, (str(error).splitlines() or [""])[0]
        what = f"cannot read the weights: {kind}: {said}"
        if kind == "UnpicklingError":
            what = f"the file holds more than tensors and plain values, and is not read ({said})"
        raise UnreadableFileError(what, file=path, remedy=remedy) from error
    weights = document.get("network_weights") if isinstance(document, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise UnreadableFileError("the file holds no network_weights", file=path, remedy=remedy)
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or not _is_whole(tensor):
            raise UnreadableFileError(f"the weights {name!r} are no whole tensor", file=path, remedy=remedy)
    made_with = document.get("init_args")
    tensors = drop_aliases({_bare(name): tensor for name, tensor in weights.items()})
    return tensors, made_with if isinstance(made_with, dict) else {}


def _bare(name: str) -> str:
    for wrapper in WRAPPERS * 2:
        name = name.removeprefix(wrapper)
    return name


def _is_whole(tensor: torch.Tensor) -> bool:
    """Whether the file has a number for every element: a few bytes may claim to be a huge tensor."""
    plain = tensor.layout is torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    return plain and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
