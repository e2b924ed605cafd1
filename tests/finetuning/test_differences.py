"""What differs between the images that weights come from and those that they go on with is told, each in a sentence."""

from __future__ import annotations

import msgspec
import pytest

from autoseg.finetuning.differences import differences
from autoseg.finetuning.source import find_template
from autoseg.values import IntensityProperties, NormalizationSpec, Plan, ResamplingSpec
from autoseg.values.adoption import Template
from tests.small_plans import small_configuration, small_network, small_plan


def properties(mean: float = 100.0, std: float = 50.0) -> IntensityProperties:
    return IntensityProperties(
        mean=mean, median=mean, std=std, min=-1000, max=1000, percentile_00_5=0.0, percentile_99_5=300.0
    )


def plan_of(
    *, schemes=("ct", "zscore"), channels=("CT", "PET"), mean=100.0, masked=False, changes=None, **fields
) -> Plan:
    """Of two channels; ``changes`` of its configuration, ``fields`` of the plan."""
    known = {"ct": properties(mean)}
    normalization = tuple(
        NormalizationSpec(scheme=scheme, use_mask=masked and scheme == "zscore", properties=known.get(scheme))
        for scheme in schemes
    )
    configuration = small_configuration(inputs=len(channels), **(changes or {}))
    return small_plan(configuration, channels=channels, normalization=normalization, **fields)


@pytest.fixture
def model(tmp_path) -> Template:
    """What the weights come from."""
    (tmp_path / "plan.json").write_bytes(msgspec.json.encode(plan_of()))
    return find_template(tmp_path)


def test_nothing_is_told_where_nothing_differs(model: Template) -> None:
    assert differences(model, plan_of(), "tiny") == ()
    close = plan_of(mean=109.0, changes={"spacing": (1.0, 1.15, 0.85)})
    assert differences(model, close, "tiny") == ()


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"changes": {"spacing": (1.0, 1.3, 1.0)}}, "spacing: 1 x 1.3 x 1 mm, the model's was 1 x 1 x 1 mm"),
        ({"changes": {"spacing": (None, 1.0, 0.5)}}, "spacing: 1 x 0.5 mm, the model's was 1 x 1 x 1 mm"),
        (
            {"orientation": "as_stored"},
            "orientation: arrays are as their files store them, the model's were turned to one orientation",
        ),
        (
            {"changes": {"resampling": ResamplingSpec(separate_axis_order=0)}},
            "resampling: order 3, along an axis 3 times coarser the nearest slice, the model's was order 3, along an axis "
            "3 times coarser interpolated",
        ),
        ({"axis_order": (1, 0, 2)}, "axis order: 1 x 0 x 2, the model's was 0 x 1 x 2"),
        (
            {"changes": {"network": msgspec.structs.replace(small_network(inputs=2), strides=((1, 1, 1), (1, 2, 2)))}},
            "strides: 1 x 1 x 1, 1 x 2 x 2, the model's were 1 x 1 x 1, 2 x 2 x 2",
        ),
        (
            {"changes": {"network": msgspec.structs.replace(small_network(inputs=2), architecture="own:Net")}},
            "network: 'own:Net', the model's was 'plain_unet'",
        ),
        ({"schemes": ("zscore", "zscore")}, "normalization of 'CT': zscore, the model's was ct"),
        ({"masked": True}, "normalization of 'PET': zscore inside the non-zero region, the model's was zscore"),
        (
            {"mean": 160.0},
            "normalization of 'CT': ct with mean 160, std 50, percentile_00_5 0, percentile_99_5 300, "
            "the model's was with mean 100, std 50, percentile_00_5 0, percentile_99_5 300",
        ),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "",
)
def test_each_difference_is_told(model: Template, wanted: dict, told: str) -> None:
    assert differences(model, plan_of(**wanted), "tiny") == (told,)


def test_channels_are_compared_as_their_kernels_are_taken_over(model: Template) -> None:
    """By name, whatever their order; in order where no name agrees; a new one with none."""
    assert differences(model, plan_of(channels=("PET", "ct "), schemes=("zscore", "ct")), "tiny") == ()
    (told,) = differences(model, plan_of(channels=("T1", "T2"), schemes=("zscore", "zscore")), "tiny")
    assert told == "normalization of 'T1': zscore, the model's was ct"
    assert differences(model, plan_of(channels=("T1", "CT"), schemes=("none", "ct")), "tiny") == ()
