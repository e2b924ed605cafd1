"""Fair comparisons: variants that differ in one thing, trained by a plan of their own, which nothing else picks up."""

from __future__ import annotations

import dataclasses
import shutil

import msgspec
import pytest

from autoseg import pipeline
from autoseg.comparison.fair import retrained_experiments
from autoseg.comparison.variants import comparison_model, comparison_plan, with_parameters
from autoseg.crossvalidation import finished_trainings
from autoseg.files import read_document, write_document
from autoseg.networks.memory import parameter_count
from autoseg.preprocessing.forward import parameters_key
from autoseg.status_stage import workspace_status
from autoseg.values import Length, Split, TrainJob
from autoseg.workspace import Workspace
from tests.small_plans import small_configuration, small_network, small_plan
from tests.training.test_loop import Listening

PAIR = ("3d_fullres", "2d")
FLAT = small_configuration("2d", (64, 48), spacing=(None, 1.0, 1.0), features=(16, 32), batch_size=4)
FULL = small_configuration("3d_fullres", (8, 32, 32), features=(16, 32))


def test_variants_differ_in_one_thing() -> None:
    plan = small_plan(FULL, FLAT)
    derived = comparison_plan(plan, PAIR)
    assert derived.name == f"{plan.name}-compare-3d_fullres-2d"
    assert derived.configurations[:2] == plan.configurations
    variants = {each.name: each for each in derived.configurations[2:]}
    assert len(variants) == 6
    for name, variant in variants.items():
        of = FULL if name.startswith("3d") else FLAT
        changed = {
            field
            for field in of.__struct_fields__
            if getattr(of, field) != getattr(variant, field) and field not in ("name", "expected_memory_bytes")
        }
        expected = {"equal_parameters": {"network"}, "equal_field_of_view": {"patch_size", "batch_size"}}
        assert changed == next((what for ending, what in expected.items() if name.endswith(ending)), set())
        # so that preprocessed cases are shared, in the folder of the configuration that stands first
        assert parameters_key(derived, variant) == parameters_key(plan, of)
    wide, view = variants["2d_equal_parameters"].network, variants["2d_equal_field_of_view"]
    assert parameter_count(wide) == pytest.approx(parameter_count(FULL.network), rel=0.05)
    assert (view.patch_size, view.batch_size) == ((32, 32), 12)


@pytest.mark.parametrize("times", [0.3, 1, 2.9])
def test_the_width_nearest_to_a_number_of_parameters_is_taken(times) -> None:
    spec = small_network(2, features=(32, 64, 128))
    wanted = round(times * parameter_count(spec))
    found = with_parameters(spec, wanted)
    assert parameter_count(found) == pytest.approx(wanted, rel=0.06)
    assert found.features[1] == 2 * found.features[0]
    assert (found == spec) == (times == 1)


def test_a_later_stage_of_a_cascade_has_no_variants() -> None:
    low = small_configuration("3d_lowres", (8, 16, 16))
    staged = small_configuration("3d_cascade", (8, 16, 16), inputs=2, previous_stage="3d_lowres")
    names = comparison_plan(small_plan(low, staged, FLAT), ("3d_cascade", "2d")).names
    assert [name for name in names if name.startswith("3d_cascade")] == ["3d_cascade"]
    assert "2d_equal_parameters" in names


@pytest.fixture
def workspace(pair_workspace: Workspace) -> Workspace:
    return pair_workspace


def finished_of(workspace: Workspace) -> dict:
    model = workspace.model()
    return finished_trainings(model, model.plan(), read_document(Split, workspace.split_path), PAIR)


def test_the_plan_of_a_comparison_is_picked_up_by_nothing_else(workspace) -> None:
    plan = workspace.model().plan()
    before = workspace_status(workspace)
    folder = comparison_model(workspace, plan, PAIR)
    assert comparison_model(workspace, plan, PAIR).path == folder.path
    assert workspace.model().path.name == "tiny"
    assert [model.path.name for model in workspace.models()] == ["tiny"]
    assert workspace_status(workspace) == before
    assert workspace.model(folder.path.name).plan() == folder.plan()
    write_document(folder.path / "plan.json", plan)  # as if the plan had been another one then
    assert comparison_model(workspace, plan, PAIR).path.name == f"{folder.path.name}-2"


@pytest.mark.slow
def test_both_are_trained_on_equal_terms_once(workspace) -> None:
    model, heard, trained = workspace.model(), Listening(), []

    def train(*arguments, **options):
        trained.append((arguments[1], options["iterations"]))
        return pipeline.train(*arguments, **options)

    def asked() -> dict:
        how = {"device": "cpu", "logger": heard, "stop": lambda: False, "train": train}
        made = retrained_experiments(workspace, model, model.plan(), finished_of(workspace), PAIR, **how)
        return {each.name: each for each in made}

    made = asked()
    assert list(made) == ["equal_iterations", "equal_parameters", "equal_time", "equal_field_of_view"]
    assert {("3d_fullres_equal_iterations", 4), ("2d_equal_parameters", 4)} <= set(trained)
    assert "After 4 iterations each" in made["equal_iterations"].answer
    quantities = [each.quantity for each in made["equal_parameters"].contrasts]
    assert quantities[0] == "Dice of 3d_fullres minus Dice of 2d_equal_parameters"
    assert quantities[-1] == "Dice of 2d_equal_parameters minus Dice of 2d as it was trained"
    assert any("fair comparisons: 3d_fullres_equal_iterations" in str(fields.get("text")) for _, fields in heard.heard)
    folder = workspace.model("tiny-compare-3d_fullres-2d")
    job = read_document(TrainJob, folder.fold("3d_fullres_equal_iterations", "0").job)
    assert job.case_keys == read_document(TrainJob, model.fold("3d_fullres", "0").job).case_keys
    assert len(list((workspace.path / "preprocessed").iterdir())) == 2
    heard.heard.clear()
    assert asked() == made
    assert not any(kind == "iterations" for kind, _ in heard.heard)
    assert workspace.model().path == model.path


def test_what_would_not_be_fair_is_not_trained(workspace) -> None:
    split = read_document(Split, workspace.split_path)
    finished = finished_of(workspace)
    first = split[0].__class__(train=split[0].train, val=(*split[0].val, "joined"))
    write_document(workspace.split_path, (first, *split[1:]))
    checkpoints = {name: workspace.model().fold(name, "0").checkpoint.read_bytes() for name in PAIR}
    for name in PAIR:
        workspace.model().fold(name, "0").checkpoint.unlink()

    trained: list[object] = []

    def train(*arguments, **options):
        trained.append(arguments)

    model, how = workspace.model(), {"device": "cpu", "logger": Listening(), "stop": lambda: False, "train": train}
    made = retrained_experiments(workspace, model, model.plan(), finished, PAIR, **how)
    reasons = {each.name: each.missing for each in made}
    assert "1 case joined the split" in reasons["equal_iterations"]
    assert "last checkpoint" in reasons["equal_time"]
    validation = msgspec.structs.replace(finished["2d"]["0"].validation, threads=64)
    elsewhere = {**finished, "2d": {"0": dataclasses.replace(finished["2d"]["0"], validation=validation)}}
    for name in PAIR:
        workspace.model().fold(name, "0").checkpoint.write_bytes(checkpoints[name])
    made = retrained_experiments(workspace, model, model.plan(), elsewhere, PAIR, **how)
    assert "2d on cpu with 64 threads: times of both say nothing" in made[2].missing
    nothing = retrained_experiments(workspace, model, model.plan(), {**finished, "2d": {}}, PAIR, **how)
    assert all("train one of each" in each.missing for each in nothing)
    assert not trained


def test_a_variant_that_does_not_fit_the_planned_memory_is_not_trained(workspace) -> None:
    model, trained = workspace.model(), []
    plan = msgspec.structs.replace(model.plan(), budget_bytes=1)
    how = {"device": "cpu", "logger": Listening(), "stop": lambda: False, "train": lambda *a, **b: trained.append(a)}
    made = retrained_experiments(workspace, model, plan, finished_of(workspace), PAIR, **how)
    assert all("GiB of memory, and the plan is for" in each.missing for each in made[:2])
    assert not trained


def test_a_comparison_that_fails_costs_no_other_one(workspace) -> None:
    def train(*arguments, **options):
        raise RuntimeError("out of memory")

    model, heard = workspace.model(), Listening()
    how = {"device": "cpu", "logger": heard, "stop": lambda: False, "train": train}
    made = {
        each.name: each
        for each in retrained_experiments(workspace, model, model.plan(), finished_of(workspace), PAIR, **how)
    }
    for name in ("equal_iterations", "equal_parameters"):
        assert made[name].missing == "RuntimeError: out of memory"
        assert list(made[name].failures.values()) == ["RuntimeError: out of memory"]
        assert "2d" in next(iter(made[name].failures)) or "3d" in next(iter(made[name].failures))
        assert any(f"{name} could not be compared" in str(fields.get("text")) for _, fields in heard.heard)


@pytest.mark.slow
def test_a_training_that_was_ended_by_hand_is_not_compared_as_if_it_were_whole(workspace) -> None:
    """And one with another course of the learning rate is compared, and that is told."""
    model, how = workspace.model(), {"device": "cpu", "logger": Listening(), "stop": lambda: False}

    def compared(train) -> dict:
        made = retrained_experiments(workspace, model, model.plan(), finished_of(workspace), PAIR, **how, train=train)
        return {each.name: each for each in made}

    def shorter(*arguments, **options):
        return pipeline.train(*arguments, **{**options, "iterations": 3})

    assert "was ended or lengthened by hand: it has 3 iterations" in compared(shorter)["equal_parameters"].missing
    path = model.fold("2d", "0").length
    length = read_document(Length, path)
    write_document(path, msgspec.structs.replace(length, held_from=length.end - 1))
    shutil.rmtree(workspace.model("tiny-compare-3d_fullres-2d").path)
    told = compared(pipeline.train)["equal_parameters"].method
    assert "2d had been trained with another course of the learning rate" in told
    assert "3d_fullres had been" not in told
