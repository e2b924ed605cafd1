"""What a network took over from a model that was trained before: Adoption; and what a plan is made around: Template."""

from __future__ import annotations

import itertools
from typing import Literal

from autoseg.values.dataset import Labels
from autoseg.values.fingerprint import Orientation
from autoseg.values.json_form import Value, require, require_file_name
from autoseg.values.network import NetworkSpec, Sizes
from autoseg.values.processing import NormalizationSpec, ResamplingSpec

__all__ = ["AdoptedLayer", "Adoption", "Outcome", "Template", "TemplateConfiguration"]

Outcome = Literal["adopted", "mapped", "renewed", "unused"]


class AdoptedLayer(Value, frozen=True, kw_only=True):
    """What became of one tensor.

    Attributes:
        name: of the tensor.
        numbers: in it.
        outcome: adopted as it was; mapped: taken over in part or in another order; renewed: begins anew; unused: a tensor
            of the source that this network has no place for.
        reason: why, in a phrase.
    """

    name: str
    numbers: int
    outcome: Outcome
    reason: str


class Adoption(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.adoption/1"):
    """What a network took over from a model that was trained before.

    Attributes:
        source: in words.
        sha256: of the source's weight file.
        layers: every tensor of the network, in order, then those of the source that are not used.
        differences: sentences: what the network will see otherwise than the source did.
    """

    source: str
    sha256: str
    layers: tuple[AdoptedLayer, ...]
    differences: tuple[str, ...] = ()

    def count(self, outcome: str) -> int:
        """Numbers of the tensors with that outcome."""
        return sum(layer.numbers for layer in self.layers if layer.outcome == outcome)

    @property
    def share(self) -> float:
        """Of the network's numbers, those that come from the source."""
        taken = self.count("adopted") + self.count("mapped")
        return taken / max(1, taken + self.count("renewed"))

    @property
    def text(self) -> str:
        """A table for people; tensors in a row with the same fate and reason stand on one line, differences at the end."""
        rows = []
        for (outcome, reason), group in itertools.groupby(self.layers, lambda layer: (layer.outcome, layer.reason)):
            layers = list(group)
            last = f" … {layers[-1].name} ({len(layers)})" if len(layers) > 1 else ""
            rows.append((outcome, f"{layers[0].name}{last}", reason))
        width = max(len(name) for _, name, _ in rows)
        lines = [f"  {outcome:<8}  {name.ljust(width)}  {reason}" for outcome, name, reason in rows]
        head = f"beginning with {self.source}: {self.share:.1%} of the network's numbers come from it"
        if self.differences:
            lines += [
                "it will see something else than the model was trained on:",
                *map("  {}".format, self.differences),
            ]
        return "\n".join([head, *lines])


class TemplateConfiguration(Value, frozen=True, kw_only=True):
    """One configuration of a trained model; attributes as of ``Configuration``."""

    name: str
    spacing: tuple[float | None, float | None, float | None]
    patch_size: Sizes
    network: NetworkSpec
    resampling: ResamplingSpec

    def __post_init__(self) -> None:
        require_file_name("configuration", self.name, field="name")
        require(len(self.patch_size) == self.network.dimensions, "patch size and network differ in dimension")
        divisible = all(
            edge > 0 and edge % step == 0 for edge, step in zip(self.patch_size, self.network.divisor, strict=True)
        )
        require(divisible, "the patch is not divisible by the network's strides", found=self.patch_size)
        require(all(edge <= 2**14 for edge in self.patch_size), "the patch is too large", found=self.patch_size)
        steps = [step for step in self.spacing if step is not None]
        require(all(1e-6 < step < 1e6 for step in steps), "spacing must be within 1e-6..1e6 mm", found=self.spacing)


class Template(Value, frozen=True, kw_only=True):
    """A trained model, as far as a plan can be made around it.

    Attributes:
        source: in words.
        channels: their names, in order.
        labels: names and integers.
        orientation: of the arrays that the weights saw.
        axis_order: of these arrays.
        normalization: one entry per channel.
        configurations: those that stand on their own.
        unlike: sentences: what of the model a plan cannot say, and does otherwise.
    """

    source: str
    channels: tuple[str, ...]
    labels: Labels
    orientation: Orientation
    axis_order: tuple[int, int, int]
    normalization: tuple[NormalizationSpec, ...]
    configurations: tuple[TemplateConfiguration, ...]
    unlike: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(sorted(self.axis_order) == [0, 1, 2], "axis_order must name each axis once", found=self.axis_order)
        require(len(self.normalization) == len(self.channels), "normalization and channels differ in number")
        require(len(self.configurations) > 0, "the model has no configuration that stands on its own")

    @property
    def code_paths(self) -> tuple[str, ...]:
        """Names that are no entry points but ``module:name``: code that comes with somebody's files."""
        names = {spec.scheme for spec in self.normalization}
        for each in self.configurations:
            names |= {each.network.architecture, each.resampling.resampler}
        return tuple(sorted(name for name in names if ":" in name))

    def configuration(self, name: str) -> TemplateConfiguration | None:
        """The configuration of that name, if there is one."""
        return next((each for each in self.configurations if each.name == name), None)
