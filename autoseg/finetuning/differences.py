"""What a network will see otherwise than it did in the training that its weights come from.

Weights fit by name and shape whatever the images were like; that they lay on another grid, say, nothing else tells.
"""

from __future__ import annotations

from collections.abc import Iterator

from autoseg.networks.adoption import channel_places
from autoseg.values import IntensityProperties, NormalizationSpec, Plan, ResamplingSpec
from autoseg.values.adoption import Template, TemplateConfiguration

__all__ = ["differences"]

#: Spacings and statistics are told from this share on: augmentation changes sizes by up to 40 %.
TOLD_FROM = 0.2
#: The numbers of a channel's intensities that normalizations use.
STATISTICS = ("mean", "std", "percentile_00_5", "percentile_99_5")


def differences(template: Template, plan: Plan, configuration: str) -> tuple[str, ...]:
    """A sentence for everything in which the network's images, or its strides, are not those of the model.

    Args:
        template: what the model was made for.
        plan: to train with the model's weights.
        configuration: of the plan; where the model has several, the one of that name is compared, else the first.
    """
    model = template.configuration(configuration) or template.configurations[0]
    return (
        *_of_arrays(template, plan),
        *_of_grid(model, plan, configuration),
        *_of_channels(template, plan),
        *template.unlike,
    )


def _of_arrays(template: Template, plan: Plan) -> Iterator[str]:
    words = {"canonical": "turned to one orientation", "as_stored": "as their files store them"}
    if template.orientation != plan.orientation:
        yield f"orientation: arrays are {words[plan.orientation]}, the model's were {words[template.orientation]}"
    if template.axis_order != plan.axis_order:
        yield f"axis order: {_list(plan.axis_order)}, the model's was {_list(template.axis_order)}"


def _of_grid(model: TemplateConfiguration, plan: Plan, name: str) -> Iterator[str]:
    here = plan.configuration(name)
    steps = [(one, other) for one, other in zip(here.spacing, model.spacing, strict=True) if one and other]
    if any(max(pair) > (1 + TOLD_FROM) * min(pair) for pair in steps):
        yield f"spacing: {_millimetres(here.spacing)}, the model's was {_millimetres(model.spacing)}"
    if (now := _resampling(here.resampling)) != (before := _resampling(model.resampling)):
        yield f"resampling: {now}, the model's was {before}"
    if here.network.architecture != model.network.architecture:
        yield f"network: {here.network.architecture!r}, the model's was {model.network.architecture!r}"
    if here.network.strides != model.network.strides:
        strides = [", ".join(map(_list, each.network.strides)) for each in (here, model)]
        yield f"strides: {strides[0]}, the model's were {strides[1]}"


def _of_channels(template: Template, plan: Plan) -> Iterator[str]:
    """Of the channels whose kernels are taken over."""
    places = channel_places(plan.channels, template.channels)
    for channel, spec, place in zip(plan.channels, plan.normalization, places, strict=True):
        if place is not None:
            before = template.normalization[place]
            if (spec.scheme, spec.use_mask) != (before.scheme, before.use_mask):
                yield f"normalization of {channel!r}: {_scheme(spec)}, the model's was {_scheme(before)}"
            elif spec.properties and before.properties and _moved(spec.properties, before.properties):
                statistics = f"{_numbers(spec.properties)}, the model's was with {_numbers(before.properties)}"
                yield f"normalization of {channel!r}: {_scheme(spec)} with {statistics}"


def _scheme(spec: NormalizationSpec) -> str:
    return spec.scheme + (" inside the non-zero region" if spec.use_mask else "")


def _moved(now: IntensityProperties, before: IntensityProperties) -> bool:
    most = max(abs(getattr(now, name) - getattr(before, name)) for name in STATISTICS)
    return most > TOLD_FROM * before.std


def _numbers(properties: IntensityProperties) -> str:
    return ", ".join(f"{name} {getattr(properties, name):.4g}" for name in STATISTICS)


def _resampling(spec: ResamplingSpec) -> str:
    """As far as it makes the images: along a coarse axis, both interpolating and taking the nearest slice."""
    along = ("the nearest slice", "interpolated")[spec.separate_axis_order]
    return f"order {spec.image_order}, along an axis {spec.anisotropy_threshold:.4g} times coarser {along}"


def _millimetres(spacing: tuple[float | None, ...]) -> str:
    return " x ".join(f"{step:.4g}" for step in spacing if step is not None) + " mm"


def _list(numbers: tuple[int, ...]) -> str:
    return " x ".join(map(str, numbers))
