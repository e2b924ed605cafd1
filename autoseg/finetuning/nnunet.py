"""nnU-Net's results folders as models to begin with: ``plans.json`` and ``dataset.json``, read as anybody's files.

The form of these files, old and new: nnU-Net 2.0 to 2.8. Networks are PlainConvUNet and ResidualEncoderUNet with instance
norm and leaky ReLU, which autoseg builds with the same names; one with other constants fits by name and shape, and would
compute something else: it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from autoseg.errors import DocumentError, InputError, UnreadableFileError
from autoseg.finetuning.nnunet_resampling import StatedResampling, read_resampling
from autoseg.values import IntensityProperties, Label, Labels, NetworkSpec, NormalizationSpec
from autoseg.values.adoption import Template, TemplateConfiguration
from autoseg.values.json_form import decode

__all__ = ["read_template", "template_of"]

#: More than any such document has ever had.
MOST_BYTES = 2**24
ARCHITECTURES = {"PlainConvUNet": "plain_unet", "ResidualEncoderUNet": "residual_encoder_unet"}
SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}
#: What the networks are built of, by the last part of the name in the plans.
LAYERS = {
    "conv_op": ("Conv2d", "Conv3d"),
    "norm_op": ("InstanceNorm2d", "InstanceNorm3d"),
    "nonlin": ("LeakyReLU",),
    "dropout_op": ("None",),
    "block": ("BasicBlockD", "None"),
}
#: Arguments of the networks and their layers that change what the same weights compute: the value that autoseg's networks
#: have, and the one that holds where the plans state none.
ARGUMENTS: dict[str, dict[str, tuple[Any, Any]]] = {
    "": {
        "conv_bias": (True, False),
        "nonlin_first": (False, False),
        "pool": ("conv", "conv"),
        "pool_type": ("conv", "conv"),
        "stochastic_depth_p": (0.0, 0.0),
    },
    "norm_op_kwargs": {"eps": (1e-5, 1e-5), "affine": (True, False)},
    "nonlin_kwargs": {"negative_slope": (0.01, 0.01)},
}
#: Arguments that are read elsewhere, or change nothing.
HARMLESS = {
    "": {
        "n_stages",
        "features_per_stage",
        "kernel_sizes",
        "strides",
        "n_conv_per_stage",
        "n_blocks_per_stage",
        "n_conv_per_stage_decoder",
        "deep_supervision",
        "dropout_op_kwargs",
        "squeeze_excitation_reduction_ratio",
        *ARGUMENTS,
        *LAYERS,
    },
    "norm_op_kwargs": {"momentum"},
    "nonlin_kwargs": {"inplace"},
}

Numbers = list[int]


class _Dataset(msgspec.Struct):
    labels: dict[str, int | Numbers]
    channel_names: dict[str, str] = {}
    modality: dict[str, str] = {}  # its older name
    regions_class_order: Numbers = []


class _Plans(msgspec.Struct):
    configurations: dict[str, dict[str, Any]]
    transpose_forward: Numbers
    foreground_intensity_properties_per_channel: dict[str, dict[str, float]] = {}


class _Architecture(msgspec.Struct):
    network_class_name: str
    arch_kwargs: dict[str, Any]


class _Configuration(StatedResampling, kw_only=True):
    patch_size: Numbers
    spacing: list[float]
    normalization_schemes: list[str]
    use_mask_for_norm: list[bool]
    previous_stage: str | list[str] | None = None
    architecture: _Architecture | None = None
    UNet_class_name: str = ""  # the older form, up to 2.3
    UNet_base_num_features: int = 32
    unet_max_num_features: int = 320
    n_conv_per_stage_encoder: Numbers = []
    n_conv_per_stage_decoder: Numbers = []
    conv_kernel_sizes: list[Numbers] = []
    pool_op_kernel_sizes: list[Numbers] = []


def read_template(folder: Path, configuration: str) -> Template:
    """What a results folder tells of its network, its grid and its labels.

    Args:
        folder: that holds ``plans.json`` and ``dataset.json``.
        configuration: of the plans.

    Raises:
        InputError: a file is missing, not of the form, or tells of a network that autoseg does not build.
    """
    plans = decode(_Plans, _text(folder / "plans.json"), source=folder / "plans.json")
    dataset = decode(_Dataset, _text(folder / "dataset.json"), source=folder / "dataset.json")
    return _template(plans, dataset, configuration, folder / "plans.json")


def template_of(made_with: Mapping[str, Any], file: Path) -> Template:
    """The same from what a checkpoint was made with, where no folder is around it."""
    try:
        plans = msgspec.convert(made_with.get("plans"), _Plans)
        dataset = msgspec.convert(made_with.get("dataset_json"), _Dataset)
        configuration = msgspec.convert(made_with.get("configuration"), str)
    except msgspec.ValidationError as error:
        what = f"neither the checkpoint nor its folder tells how the network is made: {error}"
        remedy = "Name the results folder, with plans.json and dataset.json in it."
        raise DocumentError(what, file=file, remedy=remedy) from error
    return _template(plans, dataset, configuration, file)


def _text(path: Path) -> bytes:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UnreadableFileError("the document is too large to be one of nnU-Net's", file=path)
        return path.read_bytes()
    except OSError as error:
        raise UnreadableFileError(f"cannot read the file: {error.strerror or error}", file=path) from error


def _template(plans: _Plans, dataset: _Dataset, name: str, file: Path) -> Template:
    names = dataset.channel_names or dataset.modality
    channels = tuple(names[key] for key in sorted(names, key=lambda key: (len(key), key)))
    try:
        labels = _labels(dataset)
        stated = _resolved(plans.configurations, name, file)
        if stated.previous_stage:
            raise InputError(f"{name!r} is the second stage of a cascade, and has inputs that no image has", file=file)
        network = _network(stated, len(channels), labels.output_count, file)
        resampling, unlike = read_resampling(stated)
        first, second, third = plans.transpose_forward
        return Template(
            source=f"nnU-Net's {name}",
            channels=channels,
            labels=labels,
            orientation="as_stored",
            axis_order=(first, second, third),
            normalization=_normalization(stated, plans, file),
            configurations=(
                TemplateConfiguration(
                    name=name,
                    spacing=_spacing(stated.spacing),
                    patch_size=tuple(stated.patch_size),
                    network=network,
                    resampling=resampling,
                ),
            ),
            unlike=unlike,
        )
    except (InputError, DocumentError):
        raise
    except (ValueError, TypeError) as error:
        raise DocumentError(f"this is not a plan of nnU-Net's that can be followed: {error}", file=file) from error


def _resolved(configurations: Mapping[str, dict[str, Any]], name: str, file: Path) -> _Configuration:
    """The configuration with all that it inherits."""
    chain: list[dict[str, Any]] = []
    current: Any = name
    while current is not None:
        if current not in configurations or len(chain) > len(configurations):
            expected = " or ".join(sorted(configurations))
            raise DocumentError(f"the plans have no configuration {current!r}", file=file, expected=expected)
        chain.append(configurations[current])
        current = configurations[current].get("inherits_from")
    merged = {key: value for part in reversed(chain) for key, value in part.items()}
    return msgspec.convert(merged, _Configuration)


def _labels(dataset: _Dataset) -> Labels:
    stated = {
        name: tuple(values if isinstance(values, list) else [values])
        for name, values in dataset.labels.items()
        if name != "background"
    }
    ignore = stated.pop("ignore", None)
    foreground = tuple(Label(name=name, values=values) for name, values in stated.items())
    regions = any(len(label.values) > 1 for label in foreground)
    order = tuple(dataset.regions_class_order) if regions else ()
    return Labels(foreground=foreground, ignore=ignore[0] if ignore else None, region_values=order)


def _spacing(spacing: list[float]) -> tuple[float | None, float, float]:
    first, second, third = [None, *spacing] if len(spacing) == 2 else spacing
    assert second is not None
    assert third is not None
    return (first, second, third)


def _network(stated: _Configuration, inputs: int, outputs: int, file: Path) -> NetworkSpec:
    if stated.architecture is None:
        name = stated.UNet_class_name
        stages = len(stated.n_conv_per_stage_encoder)
        features = [
            min(stated.unet_max_num_features, stated.UNet_base_num_features * 2**stage) for stage in range(stages)
        ]
        encoder, decoder = stated.n_conv_per_stage_encoder, stated.n_conv_per_stage_decoder
        kernels, strides = stated.conv_kernel_sizes, stated.pool_op_kernel_sizes
    else:
        name = stated.architecture.network_class_name.rpartition(".")[2]
        told = stated.architecture.arch_kwargs
        _check_layers(told, file)
        stages = msgspec.convert(told.get("n_stages"), int)
        features = _each(told.get("features_per_stage"), stages)
        encoder = _each(told.get("n_conv_per_stage", told.get("n_blocks_per_stage")), stages)
        decoder = _each(told.get("n_conv_per_stage_decoder"), stages - 1)
        kernels = msgspec.convert(told.get("kernel_sizes"), list[Numbers])
        strides = msgspec.convert(told.get("strides"), list[Numbers])
    if name not in ARCHITECTURES:
        raise _not_built("network", name, ARCHITECTURES, file)
    return NetworkSpec(
        architecture=ARCHITECTURES[name],
        input_channels=inputs,
        output_channels=outputs,
        features=tuple(features),
        kernel_sizes=tuple(map(tuple, kernels)),
        strides=tuple(map(tuple, strides)),
        encoder_blocks=tuple(encoder),
        decoder_blocks=tuple(reversed(decoder)),  # theirs begin at the lowest resolution
    )


def _each(value: Any, stages: int) -> Numbers:
    """One number per stage, from one for all or a list."""
    told = msgspec.convert(value, int | Numbers)
    return [told] * max(0, min(stages, 16)) if isinstance(told, int) else told


def _check_layers(told: Mapping[str, Any], file: Path) -> None:
    for field, allowed in LAYERS.items():
        found = str(told.get(field)).rpartition(".")[2]
        if found not in allowed:
            raise _not_built(f"network with {field}", found, allowed, file)
    for group, known in ARGUMENTS.items():
        inner = told if group == "" else told.get(group)
        stated = {} if inner is None else msgspec.convert(inner, dict[str, Any])
        for name in sorted(known.keys() | stated.keys() - HARMLESS[group]):
            wanted, absent = known.get(name, (None, None))
            value = stated.get(name, absent)
            if not isinstance(value, bool | int | float | str | None):
                value = str(value)  # a checkpoint may hold a tensor here
            if value != wanted and (name in known or value not in (None, False)):
                what = f"network with {f'{group}: ' if group else ''}{name}"
                raise _not_built(what, str(value)[:40], ["none" if wanted is None else str(wanted)], file)


def _not_built(what: str, found: str, known: Any, file: Path) -> InputError:
    return InputError(f"autoseg does not build this {what}", file=file, found=found, expected=" or ".join(known))


def _normalization(stated: _Configuration, plans: _Plans, file: Path) -> tuple[NormalizationSpec, ...]:
    known = plans.foreground_intensity_properties_per_channel
    specs = []
    for place, (scheme, use_mask) in enumerate(
        zip(stated.normalization_schemes, stated.use_mask_for_norm, strict=True)
    ):
        if scheme not in SCHEMES:
            raise _not_built("normalization", scheme, SCHEMES, file)
        numbers = known.get(str(place), {})
        fields = {field: numbers[field] for field in IntensityProperties.__struct_fields__ if field in numbers}
        properties = msgspec.convert(fields, IntensityProperties) if SCHEMES[scheme] == "ct" else None
        specs.append(NormalizationSpec(scheme=SCHEMES[scheme], use_mask=use_mask, properties=properties))
    return tuple(specs)
