"""Probes of trained networks: kept by content, gone on with after a stop, and honest about cases that fail."""

from __future__ import annotations

import shutil

import pytest

from autoseg import pipeline
from autoseg.comparison import probes
from autoseg.comparison.probes import probe_experiments
from autoseg.comparison.probing import drawn_cases
from autoseg.crossvalidation import finished_trainings
from autoseg.errors import InterruptedRunError
from autoseg.executors import SerialExecutor
from autoseg.files import read_document
from autoseg.held_out_files import probe_file
from autoseg.inference.predict import Predictor
from autoseg.networks.weights import load_tensors, save_tensors
from autoseg.values import Experiment, Split
from autoseg.workspace import Workspace
from tests.training.test_loop import Listening

PAIR = ("3d_fullres", "2d")


@pytest.fixture
def workspace(pair_workspace: Workspace) -> Workspace:
    return pair_workspace


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Name of the configuration for every volume that a network was run on."""
    heard, logits = [], Predictor.logits

    def told(self, *arguments):
        heard.append(self.configuration.name)
        return logits(self, *arguments)

    monkeypatch.setattr(Predictor, "logits", told)
    return heard


def finished_of(workspace: Workspace) -> dict:
    model = workspace.model()
    return finished_trainings(model, model.plan(), read_document(Split, workspace.split_path), PAIR)


def probe(workspace: Workspace, *, cases: int = 2, **options) -> tuple[Experiment, ...]:
    model = workspace.model()
    how = {"logger": Listening(), "stop": lambda: False, **options}
    return probe_experiments(
        *(workspace, model, model.plan(), finished_of(workspace), PAIR),
        cases=cases,
        device="cpu",
        executor=SerialExecutor(),
        **how,
    )


def test_what_is_known_is_not_run_again_and_other_weights_are(workspace, runs) -> None:
    made = probe(workspace)
    assert [each.name for each in made] == ["shuffled_slices", "repeated_slices", "field_of_view"]
    shuffled, repeated, _ = made
    assert "changed nothing, as it must" in shuffled.method
    assert {each.interval.cases for each in (*shuffled.contrasts, *repeated.contrasts)} <= {1, 2}
    assert "nothing is sure" in shuffled.answer
    first = list(runs)
    assert {"3d_fullres", "2d"} == set(first)
    assert probe(workspace) == made
    assert runs == first
    file = workspace.model().fold("3d_fullres", "0").model
    tensors, metadata = load_tensors(file)
    save_tensors(file, {name: tensor * 1.5 for name, tensor in tensors.items()}, metadata)
    shutil.rmtree(workspace.model().fold("3d_fullres", "0").validation)
    pipeline.train(workspace, "3d_fullres", "0", device="cpu", probabilities=False)
    runs.clear()
    other = probe(workspace)
    assert set(runs) == {"3d_fullres"}
    assert other[0].contrasts != made[0].contrasts


def test_a_stopped_probe_goes_on_and_ends_the_same(workspace, tmp_path, runs) -> None:
    whole = probe(Workspace(shutil.copytree(workspace.path, tmp_path / "other")))
    cost = runs.count("3d_fullres")
    runs.clear()
    heard = Listening()

    def after_one() -> bool:
        return any(fields.get("stage") == "probe slices" and fields["done"] == 1 for _, fields in heard.heard)

    with pytest.raises(InterruptedRunError, match="goes on from here"):
        probe(workspace, logger=heard, stop=after_one)
    assert 0 < len(runs) < cost
    assert probe(workspace) == whole
    assert runs.count("3d_fullres") == cost


def test_a_case_that_fails_is_named_and_costs_itself(workspace, monkeypatch) -> None:
    bad = drawn_cases(*(finished_of(workspace)[name] for name in PAIR), 2)[0][0]
    shutil.rmtree(workspace.path / "preprocessed")  # made anew
    measure = probes.THROUGH_PLANE.measure

    def failing(predictor, case):
        if case.seed.endswith(f" {bad}"):
            raise MemoryError("too large")
        return measure(predictor, case)

    monkeypatch.setattr(probes, "THROUGH_PLANE", probes.Probe(name="slices", measure=failing))
    heard = Listening()
    shuffled = probe(workspace, logger=heard)[0]
    assert f"1 case could not be predicted: {bad}" in shuffled.method
    assert shuffled.contrasts[0].interval.cases == 1
    assert shuffled.failures == {bad: "too large"}
    assert ("case_failed", bad) in [(kind, fields.get("case")) for kind, fields in heard.heard]
    alone = probe(workspace, cases=0)
    assert all("trained and scored" in each.missing for each in alone)


def test_a_probe_that_the_control_does_not_pass_says_nothing(workspace, monkeypatch) -> None:
    measure = probes.THROUGH_PLANE.measure

    def wrong(predictor, case):
        found = measure(predictor, case)
        return {**found, "shuffled": {label: (dice or 0) + 0.01 for label, dice in found["intact"].items()}}

    monkeypatch.setattr(probes, "THROUGH_PLANE", probes.Probe(name="slices", measure=wrong))
    assert all("something else than the order was changed" in each.missing for each in probe(workspace)[:2])


def test_a_control_that_cannot_be_made_is_no_control(workspace, monkeypatch) -> None:
    measure = probes.THROUGH_PLANE.measure

    def failing(predictor, case):
        if predictor.configuration.dimensions == 2:
            raise MemoryError("too large")
        return measure(predictor, case)

    monkeypatch.setattr(probes, "THROUGH_PLANE", probes.Probe(name="slices", measure=failing))
    made = probe(workspace)[:2]
    assert all("the control, the same done to 2d, could not be made" in each.missing for each in made)
    assert all("too large" in each.missing and not each.contrasts for each in made)
    assert all("too large" in each.failures.values() for each in made)


def test_a_damaged_file_of_what_is_known_is_made_anew(workspace) -> None:
    made = probe(workspace)
    case = drawn_cases(*(finished_of(workspace)[name] for name in PAIR), 2)[0][0]
    probe_file(workspace.model(), "3d_fullres", case).write_text("damaged")
    assert probe(workspace) == made
