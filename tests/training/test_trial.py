"""Parts of a user's own are tried before anything long begins: what does not fit is told in a sentence."""

from __future__ import annotations

import sys
import time

import msgspec
import pytest
import torch

from autoseg.errors import InputError
from autoseg.training.trial import try_parts
from autoseg.values import Configuration, Label, Labels, Parts
from tests.conftest import PROJECT
from tests.small_plans import ONE_LABEL, small_configuration

TWO_LABELS = Labels(foreground=(Label(name="left", values=(1,)), Label(name="right", values=(2,))))
REGIONS = Labels(
    foreground=(Label(name="whole", values=(1, 2)), Label(name="core", values=(2,))), region_values=(1, 2), ignore=3
)


def with_part(kind: str, name: str, configuration: Configuration | None = None) -> Configuration:
    parts = Parts(**{kind: f"tests.training.misfits:{name}"})
    return parts.in_configuration(configuration or small_configuration())


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("network", "Network"),
        ("loss", "Loss"),
        ("recipe", "recipe"),
        ("recipe", "recipe_that_fits"),
        ("optimizer", "Fitting"),
        ("optimizer", "optimizer_with_scales"),
        ("schedule", "schedule"),
    ],
)
@pytest.mark.parametrize("labels", [ONE_LABEL, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("patch", [(8, 8, 8), (16, 8)], ids=str)
def test_what_fits_passes_and_leaves_no_trace_in_the_random_state(kind, name, labels, patch) -> None:
    configuration = small_configuration(patch=patch, outputs=labels.output_count)
    before = torch.random.get_rng_state()
    try_parts(with_part(kind, name, configuration), labels, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("network", "ManyChannels", r"found logits of shape \(1, 5, 8, 8, 8\), expected .*\(1, 2, 8, 8, 8\)"),
        ("network", "BareTensor", r"found a torch\.Tensor, expected a list of logits"),
        ("network", "Smaller", r"found logits of shape \(1, 2, 8, 8, 4\)"),
        ("network", "NotANumber", "found logits with NaN or infinity"),
        ("network", "NoSwitch", "expected an attribute deep_supervision"),
        ("network", "InPlace", r"failed when it was tried.*RuntimeError.*inplace"),
        ("network", "network_without_arguments", r"TypeError.*takes 0 positional arguments"),
        ("loss", "LossWithoutLabels", r"failed when it was tried.*TypeError"),
        ("loss", "LossPerVoxel", r"found a tensor of shape \(2, 2, 8, 8, 8\), expected one number"),
        ("loss", "LossOfNumbers", r"found a builtins\.float, expected one number"),
        ("loss", "LossNaN", "found the loss nan for random logits, expected a finite number"),
        ("loss", "LossDetached", "found a loss without a gradient"),
        ("recipe", "recipe_of_nothing", r"found nothing \(None\), expected an autoseg.*Recipe"),
        ("recipe", "recipe_that_cuts", r"found tensors of \(1, 1, 7, 8, 8\) and \(1, 7, 8, 8\) after Cuts"),
        ("recipe", "recipe_with_float_labels", r"found torch\.float32 as label map after FloatLabels.*torch\.int16"),
        ("recipe", "recipe_that_seldom_acts", r"found torch\.float32 as label map after Seldom"),
        ("recipe", "recipe_with_double_images", r"found torch\.float64 as image after DoubleImages.*torch\.float32"),
        ("recipe", "recipe_with_arrays", r"found a numpy\.ndarray as image after Arrays"),
        ("recipe", "recipe_that_draws_numpy", r"found \{'by': .*0\.5.*\} drawn by DrawsNumPy, expected JSON's types"),
        ("recipe", "recipe_that_draws_nan", r"found \{'by': nan\} drawn by DrawsNotANumber, expected JSON's types"),
        ("recipe", "recipe_of_lists", r"found a builtins\.list of shape \(3, 3\) as sampling, expected an array"),
        ("optimizer", "optimizer_of_nothing", r"found nothing \(None\), expected a torch.optim.Optimizer"),
        ("optimizer", "optimizer_with_closure", r"failed when it was tried.*TypeError.*closure"),
        ("optimizer", "Forgets", "found another step after a checkpoint than without"),
        ("optimizer", "CountsInItself", "found another step after a checkpoint than without"),
        ("optimizer", "CountsInGroups", r"found steps that change 'count' in param_groups, expected .*in its state"),
        ("optimizer", "KeepsLists", r"found a builtins\.list in its state"),
        (
            "optimizer",
            "optimizer_with_rates",
            r"found learning rates of 0\.001 and 0\.01 in different groups.*lr_scale",
        ),
        ("schedule", "schedule_of_words", "found 'fast' for iteration 0"),
        ("schedule", "schedule_below_zero", r"found -0\.99 for iteration 1 of 250"),
    ],
)
def test_what_does_not_fit_is_told_with_its_name_what_it_gave_and_what_was_expected(kind, name, said) -> None:
    with pytest.raises(InputError, match=said) as caught:
        try_parts(with_part(kind, name), ONE_LABEL, device="cpu")
    assert f"the {kind} 'tests.training.misfits:{name}'" in str(caught.value)
    assert "docs/reference/plugs.md" in str(caught.value)


def with_sides(name: str, patch: tuple[int, ...], *, swap: bool = True) -> Configuration:
    configuration = with_part("recipe", name, small_configuration(patch=patch, outputs=3))
    last = len(patch) - 1
    sides = {"swap_axis": last, "swapped_labels": ((1, 2),)} if swap else {}
    spec = msgspec.structs.replace(configuration.augmentation, mirror_axes=tuple(range(len(patch))), **sides)
    return msgspec.structs.replace(configuration, augmentation=spec)


@pytest.mark.parametrize("patch", [(8, 8, 8), (16, 8)], ids=str)
def test_a_recipe_that_mirrors_and_does_not_exchange_the_sides_is_refused(patch: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"mirrored along axis .*from left to right.*labels 1 and 2 exchanged"):
        try_parts(with_sides("recipe_that_mixes_sides", patch), TWO_LABELS, device="cpu")
    try_parts(with_sides("recipe_that_mixes_sides", patch, swap=False), TWO_LABELS, device="cpu")
    for name in ("recipe_with_sides", "recipe_that_turns", "recipe"):
        try_parts(with_sides(name, patch), TWO_LABELS, device="cpu")


def test_the_examples_recipe_exchanges_the_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT / "examples")
    configuration = Parts(recipe="own_recipe:recipe").in_configuration(with_sides("recipe", (8, 8, 8)))
    try_parts(configuration, TWO_LABELS, device="cpu")
    sys.modules.pop("own_recipe")


def test_a_part_that_fails_is_told_with_the_line_of_the_users_own_file() -> None:
    with pytest.raises(InputError, match=r"misfits\.py, line \d+"):
        try_parts(with_part("network", "Fails"), ONE_LABEL, device="cpu")


def test_what_is_built_in_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError(time.time())

    monkeypatch.setattr("autoseg.training.trial.build_network", never)
    monkeypatch.setattr("autoseg.training.trial.make_optimizer", never)
    try_parts(small_configuration(), ONE_LABEL, device="cpu")
