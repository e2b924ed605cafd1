"""A plan refuses what cannot be trained, and its id follows its content."""

from __future__ import annotations

import msgspec
import pytest

from autoseg.errors import UnknownNameError
from autoseg.values import (
    AugmentationSpec,
    Configuration,
    Label,
    Labels,
    NetworkSpec,
    NormalizationSpec,
    Plan,
    ResamplingSpec,
    TrainingSpec,
    decode,
    encode,
)

NETWORK = {
    "input_channels": 1,
    "output_channels": 2,
    "features": (8, 16, 32),
    "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    "encoder_blocks": (2, 2, 2),
    "decoder_blocks": (2, 2),
}
TRAINING = {
    "epochs": 2,
    "validation_iterations": 1,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "weight_decay": 3e-5,
    "schedule": "polynomial_per_epoch",
}


def configuration(**changes: object) -> Configuration:
    parts = {
        "name": "3d_fullres",
        "spacing": (3.0, 1.0, 1.0),
        "median_shape": (12.0, 40.0, 40.0),
        "patch_size": (12, 40, 40),
        "batch_size": 2,
        "network": NetworkSpec(**NETWORK),
        "training": TrainingSpec(**TRAINING),
        "augmentation": AugmentationSpec(rotation_degrees=(30.0, 30.0, 30.0), mirror_axes=(0, 1, 2)),
        "resampling": ResamplingSpec(),
    }
    return Configuration(**{**parts, **changes})


def plan(**changes: object) -> Plan:
    parts = {
        "name": "default",
        "planner": "default",
        "autoseg_version": "0",
        "dataset": "D",
        "channels": ("MRI",),
        "labels": Labels(foreground=(Label(name="organ", values=(1,)),)),
        "file_ending": ".nii.gz",
        "orientation": "canonical",
        "axis_order": (0, 1, 2),
        "normalization": (NormalizationSpec(scheme="zscore"),),
        "seed": 1,
        "budget_bytes": 2**33,
        "configurations": (configuration(),),
    }
    return Plan(**{**parts, **changes})


def test_the_divisor_is_the_product_of_all_strides() -> None:
    assert NetworkSpec(**NETWORK).divisor == (2, 4, 4)


def test_a_2d_patch_is_one_slice_of_three_axes() -> None:
    flat = configuration(
        patch_size=(40, 48),
        network=NetworkSpec(
            **{**NETWORK, "kernel_sizes": ((3, 3),) * 3, "strides": ((1, 1), (2, 2), (2, 2))},
        ),
        augmentation=AugmentationSpec(rotation_degrees=(180.0,), mirror_axes=(0, 1)),
    )
    assert flat.dimensions == 2
    assert flat.full_patch_size == (1, 40, 48)
    assert configuration().full_patch_size == (12, 40, 40)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("features", (8,)),
        ("input_channels", 0),
        ("output_channels", 0),
        ("kernel_sizes", ((3, 3, 3),) * 2),
        ("kernel_sizes", ((2, 3, 3), (3, 3, 3), (3, 3, 3))),
        ("kernel_sizes", ((3,), (3,), (3,))),
        ("kernel_sizes", ((3, 3, 3), (3, 3), (3, 3, 3))),
        ("strides", ((1, 1, 1), (2, 2, 2))),
        ("strides", ((2, 1, 1), (2, 2, 2), (2, 2, 2))),
        ("strides", ((1, 1, 1), (0, 2, 2), (2, 2, 2))),
        ("encoder_blocks", (2, 2)),
        ("decoder_blocks", (2, 2, 2)),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"\w+"):
        NetworkSpec(**{**NETWORK, field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("iterations_per_epoch", 0),
        ("validation_iterations", -1),
        ("learning_rate", 0.0),
        ("gradient_clip_norm", 0.0),
        ("ema_decay", 1.0),
        ("ema_decay", 0.0),
        ("foreground_share", 1.01),
        ("foreground_share", -0.01),
    ],
)
def test_a_training_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field.split("_")[0]):
        TrainingSpec(**{**TRAINING, field: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_size": (12, 40)},
        {"patch_size": (12, 42, 40)},
        {"patch_size": (0, 40, 40)},
        {"batch_size": 0},
        {"spacing": (3.0, 0.0, 1.0)},
        {"augmentation": AugmentationSpec(rotation_degrees=(30.0, 30.0, 30.0), mirror_axes=(3,))},
        {"augmentation": AugmentationSpec(rotation_degrees=(30.0,), mirror_axes=(0,))},
        {"augmentation": AugmentationSpec(rotation_degrees=(1.0, 1.0, 1.0), in_plane=True, mirror_axes=(0,))},
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit_together_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w+"):
        configuration(**changes)


@pytest.mark.parametrize(
    ("patch", "legal"),
    [
        (
            (12, 42, 40),
            "multiples of (2, 4, 4), the nearest of which are 12 on axis 0, 40 or 44 on axis 1, 40 on axis 2",
        ),
        ((1, 40, -8), "the nearest of which are 2 on axis 0, 40 on axis 1, 4 on axis 2"),
        ((0, 3, 5), "the nearest of which are 2 on axis 0, 4 on axis 1, 4 or 8 on axis 2"),
        ((12, 40), "3 edges"),
    ],
    ids=str,
)
def test_an_indivisible_patch_is_refused_with_the_nearest_legal_sizes(patch: tuple[int, ...], legal: str) -> None:
    with pytest.raises(ValueError, match="patch_size: configuration '3d_fullres': ") as caught:
        configuration(patch_size=patch)
    assert f"found {patch}, expected" in str(caught.value)
    assert legal in str(caught.value)


@pytest.mark.parametrize("changes", [{"rotation_degrees": (181.0,)}, {"mirror_axes": (1, 1)}], ids=str)
def test_an_impossible_augmentation_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes)).split("_")[0]):
        AugmentationSpec(**{"rotation_degrees": (30.0,), "mirror_axes": (0,), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"swap_axis": 1}, "together"),
        ({"swapped_labels": ((1, 2),)}, "together"),
        ({"swap_axis": 0, "swapped_labels": ((1, 2),)}, "not mirrored"),
        ({"swap_axis": 1, "swapped_labels": ((1, 2), (3, 2))}, "each label once"),
        ({"swap_axis": 1, "swapped_labels": ((1, 1),)}, "each label once"),
        ({"swap_axis": 1, "swapped_labels": ((0, 1),)}, "background"),
    ],
)
def test_sides_that_cannot_be_exchanged_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentationSpec(**{"rotation_degrees": (30.0,), "mirror_axes": (1, 2), **changes})


@pytest.mark.parametrize(
    ("pair", "region_values", "message"), [((1, 3), (), "not there"), ((1, 2), (1, 2), "regions"), ((1, 2), (), None)]
)
def test_exchanged_labels_are_labels_of_the_plan_and_no_regions(
    pair: tuple[int, int], region_values: tuple[int, ...], message: str | None
) -> None:
    first = Label(name="left", values=(1, 2) if region_values else (1,))
    labels = Labels(foreground=(first, Label(name="right", values=(2,))), region_values=region_values)
    sides = AugmentationSpec(rotation_degrees=(0.0,) * 3, mirror_axes=(2,), swap_axis=2, swapped_labels=(pair,))
    network = NetworkSpec(**{**NETWORK, "output_channels": labels.output_count})
    parts = {"labels": labels, "configurations": (configuration(network=network, augmentation=sides),)}
    if message is None:
        assert plan(**parts).configurations[0].augmentation == sides
    else:
        with pytest.raises(ValueError, match=message):
            plan(**parts)


@pytest.mark.parametrize(
    "changes",
    [
        {"axis_order": (0, 0, 1)},
        {"normalization": ()},
        {"seed": -1},
        {"configurations": ()},
        {"configurations": (configuration(), configuration())},
        {"labels": Labels(foreground=(Label(name="a", values=(1,)), Label(name="b", values=(2,))))},
        {"channels": ("T1", "T2"), "normalization": (NormalizationSpec(scheme="zscore"),) * 2},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_plan_that_contradicts_itself_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w+"):
        plan(**changes)


def second_stage(inputs: int) -> Configuration:
    return configuration(
        name="cascade", previous_stage="3d_fullres", network=NetworkSpec(**{**NETWORK, "input_channels": inputs})
    )


def test_a_second_stage_takes_the_labels_of_the_first_besides_the_channels() -> None:
    assert plan(configurations=(configuration(), second_stage(2))).names == ("3d_fullres", "cascade")
    for inputs in (1, 3):
        with pytest.raises(
            ValueError, match=rf"configurations\[1\].network.input_channels: .*found {inputs}, expected 2"
        ):
            plan(configurations=(configuration(), second_stage(inputs)))


def test_a_second_stage_tells_its_augmentation_of_the_predicted_channels_and_is_the_same_experiment() -> None:
    made = plan(configurations=(configuration(), second_stage(2)))
    found, stated = made.configuration("cascade"), made.configurations[1]
    assert found.augmentation.predicted_channels == 1
    assert msgspec.structs.replace(found, augmentation=stated.augmentation) == stated
    assert made.configuration("3d_fullres") is made.configurations[0]
    assert made.stages("cascade") == ("3d_fullres", "cascade")
    assert made.stages("3d_fullres") == ("3d_fullres",)
    assert plan(configurations=(configuration(), found)).configuration("cascade") == found
    for name, wrong in (("cascade", 2), ("3d_fullres", 1)):
        each = made.configuration(name)
        augmentation = msgspec.structs.replace(each.augmentation, predicted_channels=wrong)
        changed = msgspec.structs.replace(each, augmentation=augmentation)
        others = [other for other in made.configurations if other.name != name]
        with pytest.raises(ValueError, match=rf"augmentation.predicted_channels: .*found {wrong}, expected"):
            plan(configurations=(*others, changed))


@pytest.mark.parametrize("field", ["inherits_from", "previous_stage"])
@pytest.mark.parametrize("target", ["2d", "3d_fullres", ""])
def test_a_link_to_no_other_configuration_is_refused_in_memory_too(field: str, target: str) -> None:
    with pytest.raises(ValueError, match=rf"^configurations\[0\].{field}: "):
        plan(configurations=(configuration(**{field: target}),))


def test_a_configuration_is_found_by_name_and_others_are_named_in_the_refusal() -> None:
    both = plan(configurations=(configuration(), configuration(name="my own")))
    assert both.configuration("my own") is both.configurations[1]
    with pytest.raises(UnknownNameError, match=r"'2d'.*3d_fullres or my own"):
        both.configuration("2d")


def test_equal_plans_share_an_id_and_it_survives_the_file() -> None:
    assert plan().id == plan().id == decode(Plan, encode(plan())).id
    assert len(plan().id) == 16


def test_another_experiment_has_another_id() -> None:
    configuration_ = plan().configurations[0]
    others = [
        msgspec.structs.replace(plan(), seed=7),
        msgspec.structs.replace(plan(), configurations=(msgspec.structs.replace(configuration_, batch_size=3),)),
        msgspec.structs.replace(plan(), normalization=(NormalizationSpec(scheme="none"),)),
    ]
    assert len({plan().id, *(other.id for other in others)}) == 4


def test_names_reasons_and_budgets_do_not_make_another_experiment() -> None:
    told = msgspec.structs.replace(
        plan(),
        name="mine",
        planner="other",
        autoseg_version="9",
        budget_bytes=7,
        reasons={"why": "because"},
        normalization=(NormalizationSpec(scheme="zscore", reason="so"),),
        configurations=(configuration(expected_memory_bytes=9, reasons={"spacing": "median"}),),
    )
    assert told.id == plan().id


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a:b", "x" * 201])
def test_names_that_are_no_file_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="plan"):
        plan(name=name)
    with pytest.raises(ValueError, match="configuration"):
        configuration(name=name)
