"""A folder of cases: in parts, with an account of the run, with probabilities, and written while the next is predicted."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from autoseg import open_probabilities
from autoseg.errors import CasesFailedError, InputError
from autoseg.evaluation.evaluate import find_labels
from autoseg.files import read_document
from autoseg.inference.folder import Extras, predict_files
from autoseg.inference.ledger import Ledger
from autoseg.inference.probabilities import LEVELS
from autoseg.io.label_files import AsFiles
from autoseg.logs import SilentLogger
from autoseg.values import Case, ComponentStep, Part, PredictionRecord, PredictionRun, prediction_records
from tests.inference.test_cases import LABELS, THRESHOLD, Threshold, make_plan, make_predictor, read, scan, write_scan
from tests.inference.test_ensembles import predictors, two_plan

PLAN = make_plan()


@pytest.fixture
def scans(tmp_path: Path) -> tuple[Path, list[Case]]:
    folder = tmp_path / "images"
    return folder, [write_scan(folder, f"case_{number}", scan(number)) for number in range(5)]


def predict(scans, target: Path, network=None, *, part: Part | None = None, key: str = "k", **options):
    folder, cases = scans
    part = part or Part()
    extras = Extras(part=part, probabilities=options.pop("probabilities", False))
    cases = cases[part.number :: part.of]
    predictor = options.pop("predictor", None) or make_predictor(PLAN, network)
    plan = options.pop("plan", PLAN)
    return predict_files(predictor, plan, key, cases, folder, target, SilentLogger(), extras=extras, **options)


def test_parts_fill_one_folder_and_the_whole_finds_nothing_left_to_do(tmp_path: Path, scans) -> None:
    target, network = tmp_path / "out", Threshold()
    found = [predict(scans, target, network, part=Part(number=number, of=2)) for number in (1, 0)]
    assert sorted([*found[0], *found[1]]) == [case.id for case in scans[1]]
    assert [path.name for path in prediction_records(target)] == [
        "autoseg-prediction.part-0-of-2.json",
        "autoseg-prediction.part-1-of-2.json",
    ]
    assert find_labels(target, tmp_path / "elsewhere", None) == LABELS
    network.calls = 0
    whole = predict(scans, target, network)
    assert network.calls == 0
    for case, file in whole.items():
        np.testing.assert_array_equal(read(file).array, read(scans[0] / f"{case}.nii.gz").array > THRESHOLD)


@pytest.mark.parametrize("first", ["parts", "whole"])
def test_of_records_that_differ_the_one_counts_that_knows_the_file(tmp_path: Path, scans, first: str) -> None:
    target = tmp_path / "out"
    halves = [Part(number=0, of=2), Part(number=1, of=2)]
    runs = {"parts": halves, "whole": [None]}
    for part in runs[first]:
        predict(scans, target, part=part, key="old")
    other = "whole" if first == "parts" else "parts"
    for part in runs[other]:
        predict(scans, target, part=part, key="new")
    network = Threshold()
    for part in (*halves, None):
        predict(scans, target, network, part=part, key="new")
    assert network.calls == 0


def test_a_part_is_one_of_those_that_there_are() -> None:
    for number, of in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="part"):
            Part(number=number, of=of)


def test_the_account_tells_of_every_case_and_keeps_what_was_told_before(tmp_path: Path, scans) -> None:
    target, folder = tmp_path / "out", scans[0]
    whole = (folder / "case_1.nii.gz").read_bytes()
    (folder / "case_1.nii.gz").write_bytes(b"this is no image")
    with pytest.raises(CasesFailedError):
        predict(scans, target)
    run = read_document(PredictionRun, target / "run.json")
    assert {case: told.outcome for case, told in run.cases.items()} == {
        case.id: "failed" if case.id == "case_1" else "predicted" for case in scans[1]
    }
    assert "case_1.nii.gz" in run.cases["case_1"].error
    assert run.seconds is not None
    for told in run.cases.values():
        if told.outcome == "predicted":
            assert told.seconds.keys() == {"read", "networks", "write"}
            assert all(0 <= seconds <= run.seconds for seconds in told.seconds.values())
    assert (run.plan, run.weights, run.device, run.mirroring) == (PLAN.id, "k", "cpu", True)
    (folder / "case_1.nii.gz").write_bytes(whole)
    predict(scans, target)
    again = read_document(PredictionRun, target / "run.json")
    assert again.cases["case_1"].outcome == "predicted"
    assert {case: told for case, told in again.cases.items() if case != "case_1"} == {
        case: told for case, told in run.cases.items() if case != "case_1"
    }
    (target / "run.json").unlink()
    predict(scans, target)
    assert not (target / "run.json").exists(), "nothing was done"
    (target / "case_3.nii.gz").unlink()
    predict(scans, target)
    outcomes = {case: told.outcome for case, told in read_document(PredictionRun, target / "run.json").cases.items()}
    assert {case for case, outcome in outcomes.items() if outcome == "predicted"} == {"case_3"}
    assert set(outcomes.values()) == {"predicted", "there already"}


def test_where_all_is_done_nothing_is_written(tmp_path: Path, scans) -> None:
    """A folder that nobody may write to any more can still be asked."""
    target = tmp_path / "out"
    predict(scans, target, probabilities=True)
    before = {path: path.stat().st_mtime_ns for path in [target, *target.rglob("*")]}
    predict(scans, target, probabilities=True)
    assert {path: path.stat().st_mtime_ns for path in [target, *target.rglob("*")]} == before


def test_a_run_file_of_somebody_else_is_not_replaced(tmp_path: Path, scans) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text('{"mine": 1}')
    with pytest.raises(InputError, match="did not write"):
        predict(scans, tmp_path / "out")
    assert (tmp_path / "out" / "run.json").read_text() == '{"mine": 1}'


def test_probabilities_lie_on_the_images_grid_sum_to_one_and_say_what_the_label_map_says(tmp_path: Path, scans) -> None:
    written = predict(scans, tmp_path / "out", probabilities=True)
    for case, file in written.items():
        kept, labels = open_probabilities(tmp_path / "out" / "probabilities" / case), read(file)
        assert kept.names == ("background", "bright")
        background, bright = kept.volume("background"), kept.volume("bright")
        assert bright.geometry.displacement_from(labels.geometry) < 1e-3
        np.testing.assert_allclose(background.array + bright.array, 1, atol=1.5 / LEVELS)
        np.testing.assert_array_equal(bright.array > 0.5, labels.array == 1)
        image = read(scans[0] / f"{case}.nii.gz").array.astype(np.float64)
        inside = image > 0
        expected = 1 / (1 + np.exp(-np.clip(image - THRESHOLD, -50, 50)))
        np.testing.assert_allclose(bright.array[inside], expected[inside], atol=1 / LEVELS)
    with pytest.raises(InputError, match="bright"):
        kept.volume("spleen")


def test_probabilities_of_several_configurations_are_their_mean(tmp_path: Path, scans) -> None:
    plan = two_plan()
    members = predictors(plan)
    single = [
        predict(scans, tmp_path / str(number), plan=plan, predictor=each, probabilities=True)
        for number, each in enumerate(members)
    ]
    both = predict(scans, tmp_path / "both", plan=plan, predictor=members[0], others=members[1:], probabilities=True)
    for case in both:
        levels = [
            open_probabilities(tmp_path / name / "probabilities" / case).volume("bright").array.astype(np.float64)
            for name in ("0", "1", "both")
        ]
        np.testing.assert_allclose(levels[2], (levels[0] + levels[1]) / 2, atol=0.51 / LEVELS)
    assert single


def test_probabilities_that_are_missing_or_of_other_weights_are_made(tmp_path: Path, scans) -> None:
    target, network = tmp_path / "out", Threshold()
    predict(scans, target)
    predict(scans, target, network, probabilities=True)
    assert network.calls > 0
    network.calls = 0
    predict(scans, target, network, probabilities=True)
    predict(scans, target, network)
    assert network.calls == 0
    shutil.rmtree(target / "probabilities" / "case_2")
    predict(scans, target, network, probabilities=True)
    assert open_probabilities(target / "probabilities" / "case_2").outputs == 2
    before = open_probabilities(target / "probabilities" / "case_3").weights
    predict(scans, target, key="other")
    assert not (target / "probabilities" / "case_3").exists(), "they are of other weights than the label map"
    predict(scans, target, key="other", probabilities=True)
    assert open_probabilities(target / "probabilities" / "case_3").weights != before


def test_probabilities_of_somebody_else_are_not_replaced(tmp_path: Path, scans) -> None:
    (tmp_path / "out" / "probabilities" / "case_0").mkdir(parents=True)
    with pytest.raises(InputError, match="probabilities/case_0"):
        predict(scans, tmp_path / "out", probabilities=True)


class Slow(AsFiles):
    """Writes a case only after the networks have begun with another one, and fails of one case."""

    def __init__(self, begun: threading.Semaphore) -> None:
        self._begun, self.waited = begun, 0

    def write(self, file: Path, volume, case: Case, root: Path, hashes) -> None:
        if case.id == "case_3":
            raise InputError("this one is not to be written", case=case.id)
        if case.id != "case_4":
            assert self._begun.acquire(timeout=30), "the networks wait for the writing"
            self.waited += 1
        super().write(file, volume, case, root, hashes)


def test_a_label_map_is_written_while_the_next_is_predicted_and_a_failed_write_costs_one_case(
    tmp_path: Path, scans
) -> None:
    begun, seen = threading.Semaphore(0), set[float]()

    class Telling(Threshold):
        def forward(self, x):
            seen.add(float(x.sum()))
            if len(seen) > 1:
                begun.release()
            return super().forward(x)

    output = Slow(begun)
    with pytest.raises(CasesFailedError) as caught:
        predict(scans, tmp_path / "out", Telling(), output=output)
    assert set(caught.value.failures) == {"case_3"}
    assert output.waited == 3
    for name in ("case_0", "case_1", "case_2", "case_4"):
        image = read(scans[0] / f"{name}.nii.gz").array
        np.testing.assert_array_equal(read(tmp_path / "out" / f"{name}.nii.gz").array, image > THRESHOLD)


@pytest.mark.parametrize("at", [1, 2])
def test_killed_before_a_case_is_recorded_the_same_command_goes_on(tmp_path: Path, scans, monkeypatch, at: int) -> None:
    """Whatever lies there then is known to be ours: label map, probabilities, map of disagreement."""
    plan, calls, end = two_plan(), [], Ledger.end

    class Killed(BaseException):
        pass

    def ending(self: Ledger, case_id: str, made: object) -> None:
        calls.append(case_id)
        if len(calls) == at:
            raise Killed
        end(self, case_id, made)

    def run(target: Path) -> dict[str, Path]:
        members, (folder, cases) = predictors(plan), scans
        extras = Extras(disagreement_maps=True, probabilities=True)
        where = (cases[:3], folder, target, SilentLogger())
        return predict_files(members[0], plan, "k", *where, others=members[1:], extras=extras)

    monkeypatch.setattr(Ledger, "end", ending)
    with pytest.raises(Killed):
        run(tmp_path / "out")
    monkeypatch.setattr(Ledger, "end", end)
    assert (tmp_path / "out" / "disagreement" / f"{calls[-1]}.nii.gz").is_file()
    for case, file in run(tmp_path / "out").items():
        np.testing.assert_array_equal(read(file).array, read(run(tmp_path / "whole")[case]).array)


def test_stopped_by_hand_what_was_predicted_is_written(tmp_path: Path, scans) -> None:
    class Stopping(Threshold):
        def forward(self, x):
            if self.calls > 20:
                raise KeyboardInterrupt
            return super().forward(x)

    with pytest.raises(KeyboardInterrupt):
        predict(scans, tmp_path / "out", Stopping())
    there = {file.name for file in (tmp_path / "out").glob("case_*.nii.gz")}
    assert there
    network = Threshold()
    written = predict(scans, tmp_path / "out", network)
    alone = Threshold()
    predict(scans, tmp_path / "all", alone)
    assert 0 < network.calls < alone.calls
    for case, file in written.items():
        np.testing.assert_array_equal(read(file).array, read(tmp_path / "all" / f"{case}.nii.gz").array)
    assert not list((tmp_path / "out").glob(".prepared-*"))


def test_steps_change_the_label_map_and_not_the_probabilities(tmp_path: Path, scans) -> None:
    step = ComponentStep(name="bright", values=(1,))
    plain = predict(scans, tmp_path / "plain", probabilities=True)
    kept = predict(scans, tmp_path / "kept", probabilities=True, steps=[step])
    assert any((read(plain[case]).array != read(kept[case]).array).any() for case in plain)
    for case in plain:
        one, other = (open_probabilities(tmp_path / name / "probabilities" / case) for name in ("plain", "kept"))
        np.testing.assert_array_equal(one.volume("bright").array, other.volume("bright").array)
    record = read_document(PredictionRecord, tmp_path / "kept" / "autoseg-prediction.json")
    assert all(each.probabilities for each in record.cases.values())
    assert msgspec.structs.replace(record.cases["case_0"], probabilities=False) != record.cases["case_0"]
