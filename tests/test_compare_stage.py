"""Comparing trained configurations: what is kept is used again, what is bad is named, what cannot be compared is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from autoseg import compare_stage, pipeline
from autoseg.crossvalidation.ensembles import HeldOutCase
from autoseg.errors import InputError, InterruptedRunError
from autoseg.executors import SerialExecutor
from autoseg.files import read_document, write_document
from autoseg.held_out_files import ComparisonFiles
from autoseg.values import Comparison, Split, TrainJob
from autoseg.workspace import Workspace
from tests.command_line import failure, invoke
from tests.conftest import TINY_PRESET
from tests.training.test_loop import Listening


@pytest.fixture(scope="module")
def trained(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with fold 0 of two configurations, and fold 1 of one; tests work on a copy."""
    workspace = Workspace(tmp_path_factory.mktemp("comparing") / "W")
    pipeline.plan_dataset(phantoms, workspace, preset=TINY_PRESET, name="tiny", device="cpu", memory_gib=2)
    for configuration, fold in (("2d", "0"), ("2d", "1"), ("3d_fullres", "0")):
        pipeline.train(workspace, configuration, fold, iterations=8, device="cpu", probabilities=configuration == "2d")
    return workspace.path


@pytest.fixture
def workspace(trained: Path, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(trained, tmp_path / "W"))


def compare(workspace: Workspace, *names: str, **options) -> Comparison:
    return compare_stage.compare(workspace, names, probe_cases=0, device="cpu", executor=SerialExecutor(), **options)


def held_out(workspace: Workspace) -> list[str]:
    """Of the fold that both have."""
    return sorted(read_document(Split, workspace.split_path)[0].val)


def worked_on(heard: Listening) -> list[str]:
    return [fields["detail"] for _, fields in heard.heard if fields.get("stage") == "compare"]


def test_the_folds_of_both_are_compared_and_the_answer_is_written(workspace) -> None:
    heard = Listening()
    comparison, files = compare(workspace, logger=heard), ComparisonFiles(workspace.model())
    assert (comparison.first, comparison.second) == ("3d_fullres", "2d")
    assert {name: list(folds) for name, folds in comparison.weights.items()} == {"3d_fullres": ["0"], "2d": ["0"]}
    assert any("autoseg train 3d_fullres 1" in str(event) for event in heard.heard)
    assert read_document(Comparison, files.comparison) == comparison
    report = files.report.read_text()
    assert report.startswith("# 3d_fullres and 2d compared\n")
    for experiment in comparison.experiments:
        assert experiment.question in report
    assert comparison.difference.contrasts[0].interval.cases == len(held_out(workspace))
    assert "Undecided" in comparison.answer  # of two cases
    costs = comparison.costs["3d_fullres"]
    assert all(value is not None and value > 0 for value in costs.values())
    scores = json.loads((workspace.model().fold("2d", "0").validation / "summary.json").read_text())
    assert comparison.dice["2d"]["all"] == pytest.approx(scores["foreground_mean"]["Dice"], abs=0.2)
    assert not comparison.left_out
    assert costs["iterations of training a fold"] == 8
    assert "3d_fullres was trained for 8 of the " in comparison.answer


def test_exchanged_names_turn_the_difference(workspace) -> None:
    there, back = compare(workspace, "3d_fullres", "2d"), compare(workspace, "2d", "3d_fullres")
    assert there.difference.contrasts[0].interval.mean == -back.difference.contrasts[0].interval.mean
    assert back.difference.question == "Is 2d better than 3d_fullres here?"


def test_what_is_known_is_not_measured_again_and_a_stopped_comparison_goes_on(workspace) -> None:
    stopped, rest, again, files = Listening(), Listening(), Listening(), ComparisonFiles(workspace.model())
    with pytest.raises(InterruptedRunError):
        compare(workspace, logger=stopped, stop=lambda: True)
    assert not files.comparison.exists()
    comparison = compare(workspace, logger=rest)
    assert len(worked_on(stopped)) + len(worked_on(rest)) == 2 * len(held_out(workspace))
    assert compare(workspace, logger=again) == comparison
    assert worked_on(again) == []
    files.case(held_out(workspace)[0]).write_text("damaged")
    assert compare(workspace) == comparison


def test_a_label_map_that_is_gone_is_made_of_probabilities(workspace) -> None:
    comparison = compare(workspace)
    case = held_out(workspace)[0]
    next(workspace.model().fold("2d", "0").validation.glob(f"{case}.*")).unlink()
    assert compare(workspace) == comparison


def test_a_bad_case_is_named_and_costs_itself(workspace, capsys) -> None:
    case, other = held_out(workspace)
    folder = workspace.model().fold("3d_fullres", "0").validation
    file = next(folder.glob(f"{case}.*"))
    file.write_bytes(b"damaged")
    comparison = compare(workspace)
    assert list(comparison.left_out) == [case]
    assert comparison.difference.contrasts[0].interval.cases == 2
    assert [each.contrasts[0].interval.cases for each in comparison.experiments if each.contrasts] == [1, 1]
    shutil.copy(next(folder.glob(f"{other}.*")), file)
    assert set(compare(workspace).left_out) == {case}  # another case's map
    file.unlink()
    assert "neither the label map nor the probabilities" in compare(workspace).left_out[case]
    assert invoke(["compare", "-w", workspace.path, "--workers", "0", "--probe-cases", "0"]) == 1
    shown = capsys.readouterr()
    assert case in shown.err
    assert "Undecided" in shown.out


def test_references_are_made_anew_where_preprocessed_cases_are_gone(workspace) -> None:
    comparison = compare(workspace)
    shutil.rmtree(workspace.path / "preprocessed")
    shutil.rmtree(ComparisonFiles(workspace.model()).case("x").parent)
    assert compare(workspace) == comparison


def test_what_cannot_be_compared_is_refused(workspace, capsys) -> None:
    where = ["-w", workspace.path, "--workers", "0", "--probe-cases", "0"]
    assert "two different configurations" in failure(capsys, "compare", *where, "-c", "2d")
    assert "two different configurations" in failure(capsys, "compare", *where, "-c", "2d,2d")
    assert "2d or 3d_fullres" in failure(capsys, "compare", *where, "-c", "2d,3d")
    job_file = workspace.model().fold("2d", "0").job
    job = read_document(TrainJob, job_file)
    write_document(job_file, msgspec.structs.replace(job, plan_id="f" * 64))
    assert "another plan" in failure(capsys, "compare", *where)
    write_document(job_file, job)
    workspace.model().fold("2d", "0").summary.unlink()
    assert "no finished fold in common" in failure(capsys, "compare", *where)
    with pytest.raises(InputError, match=r"3d_fullres: 0; 2d: 1.*autoseg train 3d_fullres 1"):
        compare(workspace)


def test_the_command_shows_tables_and_prints_json(workspace, capsys) -> None:
    where = ["-w", workspace.path, "--probe-cases", "0", "--device", "cpu"]
    assert invoke(["compare", *where]) == 0  # in worker processes
    text = capsys.readouterr().out
    assert all(part in text for part in ("95 % interval", "million parameters", "slice consistency", "comparison.md"))
    assert invoke(["compare", *where, "--workers", "0", "--json"]) == 0
    printed = msgspec.json.decode(capsys.readouterr().out)
    assert printed == msgspec.json.decode(ComparisonFiles(workspace.model()).comparison.read_bytes())


def test_what_was_not_asked_for_is_told_as_not_measured(workspace) -> None:
    comparison = compare(workspace)
    missing = {each.name: each.missing for each in comparison.experiments if each.missing}
    assert missing["shuffled_slices"] == "no cases were to be predicted again: --probe-cases 0"
    assert missing["equal_time"] == "that needs new trainings: autoseg compare --retrain"
    assert "Not measured: " in comparison.answer
    assert "equal time" in comparison.answer


def test_a_retraining_of_two_of_one_kind_is_refused_before_anything_is_computed(workspace) -> None:
    heard = Listening()
    plan = workspace.model().plan()
    twin = msgspec.structs.replace(plan.configuration("2d"), name="2d_twin")
    folder = workspace.model().path
    write_document(folder / "plan.json", msgspec.structs.replace(plan, configurations=(*plan.configurations, twin)))
    with pytest.raises(InputError):
        compare(workspace, "2d", "2d_twin", retrain=True, logger=heard)
    assert worked_on(heard) == []


@pytest.mark.slow
def test_a_comparison_with_new_trainings_goes_on_after_a_stop_and_ends_the_same(workspace, tmp_path) -> None:
    def asked(place: Path) -> int:
        how = ["--workers", "0", "--device", "cpu", "--probe-cases", "2", "--retrain"]
        return invoke(["compare", "-w", place, *how])

    other = Workspace(shutil.copytree(workspace.path, tmp_path / "other"))
    assert asked(other.path) == 0
    whole = read_document(Comparison, ComparisonFiles(other.model()).comparison)
    made = {each.name: each for each in whole.experiments}
    assert all(made[name].contrasts for name in ("equal_parameters", "shuffled_slices"))
    heard = Listening()

    def after_a_training_has_begun() -> bool:
        return any(kind == "iterations" for kind, _ in heard.heard)

    how = {"probe_cases": 2, "retrain": True, "device": "cpu", "executor": SerialExecutor()}
    with pytest.raises(InterruptedRunError):
        compare_stage.compare(workspace, (), logger=heard, stop=after_a_training_has_begun, **how)
    assert not ComparisonFiles(workspace.model()).comparison.exists()
    assert asked(workspace.path) == 0
    ended = {
        each.name: each for each in read_document(Comparison, ComparisonFiles(workspace.model()).comparison).experiments
    }
    for name in ("equal_parameters", "equal_field_of_view", "shuffled_slices", "repeated_slices"):
        assert ended[name] == made[name]


def test_a_case_tells_its_memory(workspace) -> None:
    from autoseg.comparison.kept import MeasureLabelMap

    labels = workspace.model().plan().labels
    of = {kind: HeldOutCase(id="a", store="", key="", voxels=1000, label_map=kind) for kind in ("", "a.nii.gz")}
    sizes = {kind: MeasureLabelMap(labels=labels).bytes(item) for kind, item in of.items()}
    assert sizes[""] > sizes["a.nii.gz"] > 16 * 1000
