"""Weights of a trained network for another one: what fits is adopted, inputs and outputs are mapped by name.

Nothing is skipped in silence: what became of every tensor is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import torch

from autoseg.errors import InputError
from autoseg.networks.build import build_network
from autoseg.values import NetworkSpec
from autoseg.values.adoption import AdoptedLayer, Adoption, Outcome

__all__ = ["Names", "adopt", "channel_places"]

#: With less than this share of its numbers taken over, a network is rather new than fine-tuned.
LEAST_SHARE = 0.5

#: Number types that weights, and counters beside them, may have in a file.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

Tensors = Mapping[str, torch.Tensor]
#: For every place of ours the place of the source that fills it, or None.
Places = Sequence[int | None]


@dataclass(frozen=True, kw_only=True)
class Names:
    """What inputs and outputs of a network are called; None where it is not known.

    Attributes:
        channels: of the image.
        outputs: labels with background, or regions.
        has_regions: outputs are independent of each other.
    """

    channels: tuple[str, ...] | None
    outputs: tuple[str, ...] | None
    has_regions: bool = False


def adopt(
    spec: NetworkSpec, own: Names, tensors: Tensors, source: Names, *, seed: int, title: str, sha256: str
) -> tuple[dict[str, torch.Tensor], Adoption]:
    """A network's weights to begin with: those of the source where they fit, fresh ones elsewhere.

    Args:
        spec: of the network.
        own: what its channels and outputs are called.
        tensors: of the source.
        source: what its channels and outputs are called.
        seed: of the fresh weights.
        title: of the source, in words.
        sha256: of its file.

    Raises:
        InputError: fewer than half of the weights fit, or the source holds NaN, infinity or no real numbers.
    """
    fresh = build_network(spec, seed=seed).state_dict()
    inputs, outputs = _depends_on(spec, "input_channels"), _depends_on(spec, "output_channels")
    result: dict[str, torch.Tensor] = {}
    layers: list[AdoptedLayer] = []
    made: torch.Tensor
    outcome: Outcome
    for name, tensor in fresh.items():
        old = _usable(name, tensors[name], tensor.dtype, title) if name in tensors else None
        if old is None:
            made, outcome, reason = tensor, "renewed", "the source has none of this name"
        elif name in inputs:
            made, outcome, reason = _with_channels(tensor, old, inputs[name], own.channels, source.channels)
        elif name in outputs:
            made, outcome, reason = _with_outputs(tensor, old, outputs[name], own, source)
        elif old.shape != tensor.shape:
            made, outcome, reason = tensor, "renewed", _shapes(old, tensor)
        else:
            made, outcome, reason = old, "adopted", "same name and shape"
        result[name] = made.clone(memory_format=torch.contiguous_format)
        layers.append(AdoptedLayer(name=name, numbers=tensor.numel(), outcome=outcome, reason=reason))
    for name in [name for name in tensors if name not in fresh]:
        reason = "the network has none of this name"
        layers.append(AdoptedLayer(name=name, numbers=tensors[name].numel(), outcome="unused", reason=reason))
    adoption = Adoption(source=title, sha256=sha256, layers=tuple(layers))
    _check_share(adoption)
    return result, adoption


def _usable(name: str, old: torch.Tensor, dtype: torch.dtype, title: str) -> torch.Tensor:
    """A tensor of the source in the number type that the network has; whole numbers stay whole.

    Raises:
        InputError: it is of another kind of number, or holds NaN or infinity: if need be, only in the network's type.
    """
    kinds = FLOATS if dtype.is_floating_point else INTEGERS
    if old.dtype not in kinds:
        raise InputError(
            f"the weights {name!r} of the model are of an odd number type",
            file=title,
            found=str(old.dtype).removeprefix("torch."),
            expected=" or ".join(str(kind).removeprefix("torch.") for kind in kinds),
        )
    converted = old.detach().to(dtype)
    if not bool(torch.isfinite(converted).all()):
        raise InputError(f"the weights {name!r} of the model hold NaN or infinity, as {dtype}", file=title)
    return converted


def _depends_on(spec: NetworkSpec, field: str) -> dict[str, int]:
    """The tensors whose shape depends on a number of the network, each with the axis that does."""
    more = msgspec.structs.replace(spec, **{field: getattr(spec, field) + 1})
    now, then = (build_network(each, seed=0).state_dict() for each in (spec, more))
    changed = {}
    for name in now.keys() & then.keys():
        axes = [
            axis for axis, pair in enumerate(zip(now[name].shape, then[name].shape, strict=False)) if pair[0] != pair[1]
        ]
        if len(axes) == 1 and now[name].shape[axes[0]] == getattr(spec, field):
            changed[name] = axes[0]
    return changed


def _shapes(old: torch.Tensor, new: torch.Tensor) -> str:
    return f"of shape {_size(old)} there, {_size(new)} here"


def _size(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _fits_but_for(axis: int, old: torch.Tensor, new: torch.Tensor) -> bool:
    """Whether two tensors have the same shape, but for one axis."""
    without = [[*each.shape[:axis], *each.shape[axis + 1 :]] for each in (old, new)]
    return old.dim() == new.dim() and without[0] == without[1]


def _with_channels(
    new: torch.Tensor, old: torch.Tensor, axis: int, own: Sequence[str] | None, source: Sequence[str] | None
) -> tuple[torch.Tensor, Outcome, str]:
    """Kernels of the inputs: those of the channels of the same names.

    New channels share the sum of those that are gone; where none is, they get the mean, and all are scaled. Either way the
    sum over the channels stays, and with it the size of what the next layer gets.
    """
    if not _fits_but_for(axis, old, new):
        return new, "renewed", _shapes(old, new)
    count, before = new.shape[axis], old.shape[axis]
    if own is None or source is None or (len(own), len(source)) != (count, before):
        own = source = None
    places = _by_name(own, source) if own and source else [None] * count
    if all(place is None for place in places) and count == before:
        reason = "channels taken in order: " + ("they have no names in common" if own else "their names are not known")
        return old, "adopted", "same name and shape" if count == 1 and not own else reason
    if list(places) == list(range(before)):
        return old, "adopted", "same name, shape and channels"
    told, scale = f"{count - places.count(None)} of {before} channels by name", 1.0
    begun, added, gone = old.mean(axis, keepdim=True), places.count(None), sorted({*range(before)} - {*places})
    if added and gone:
        begun = old.index_select(axis, torch.tensor(gone)).sum(axis, keepdim=True) / added
        told += f", {added} new with the sum of the {len(gone)} that are gone shared out, so that the sum of all stays"
    elif added:
        scale = before / count
        told += f", {added} new from the mean of the old; all times {scale:.3g}, so that their sum stays"
    parts = [begun if place is None else old.narrow(axis, place, 1) for place in places]
    return torch.cat(parts, axis) * scale, "mapped", told


def channel_places(own: Sequence[str], source: Sequence[str]) -> list[int | None]:
    """For every channel the one of the source whose kernels it takes over: by name, or in order if no name agrees."""
    places = _by_name(own, source)
    if all(place is None for place in places) and len(own) == len(source):
        return list(range(len(own)))
    return places


def _with_outputs(
    new: torch.Tensor, old: torch.Tensor, axis: int, own: Names, source: Names
) -> tuple[torch.Tensor, Outcome, str]:
    """Weights of a head: kept for the same labels; else the rows of the labels of the same names, others fresh."""
    if own.outputs is None or source.outputs is None or old.dim() <= axis or old.shape[axis] != len(source.outputs):
        return new, "renewed", "what the source's outputs mean is not known"
    if not _fits_but_for(axis, old, new):
        return new, "renewed", _shapes(old, new)
    if own.has_regions != source.has_regions:
        return new, "renewed", "one has regions, the other labels"
    if own.outputs == source.outputs:
        return old, "adopted", "same labels in the same order"
    places = _by_name(own.outputs, source.outputs)
    shared = [name for name, place in zip(own.outputs, places, strict=True) if place is not None]
    if not own.has_regions and shared == ["background"]:
        shared = []  # a score of background means nothing beside other labels
    if not shared:
        return new, "renewed", "no label of the same name"
    made = new.clone()
    for here, place in enumerate(places):
        if place is not None:
            made.narrow(axis, here, 1).copy_(old.narrow(axis, place, 1))
    return made, "mapped", f"by name: {', '.join(shared)}; {len(places) - len(shared)} begin anew"


def _by_name(own: Sequence[str], source: Sequence[str]) -> list[int | None]:
    """For every name of ours the place of the same name in the source, letter case aside; each place at most once."""
    there = [name.strip().casefold() for name in source]
    places: list[int | None] = []
    for name in (name.strip().casefold() for name in own):
        free = [place for place, other in enumerate(there) if other == name and place not in places]
        places.append(free[0] if free else None)
    return places


def _check_share(adoption: Adoption) -> None:
    if adoption.share >= LEAST_SHARE:
        return
    examples = [f"{layer.name}: {layer.reason}" for layer in adoption.layers if layer.outcome == "renewed"][:3]
    raise InputError(
        "too few of the model's weights fit the planned network to begin with them",
        file=adoption.source,
        found=f"{adoption.share:.0%} of its numbers ({'; '.join(examples)})",
        expected=f"{LEAST_SHARE:.0%} or more",
        remedy="Make a plan around the model, and train that: autoseg plan DATASET --from MODEL --name NEW",
    )
