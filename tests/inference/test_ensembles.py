"""Ensembles of held-out cases and of new images take one way; and a validation keeps what they need, whenever it stops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import InterruptedRunError
from autoseg.files import content_hash, read_document
from autoseg.held_out_files import ValidationFiles
from autoseg.inference.cases import validate_cases
from autoseg.inference.ensembles import ensemble_label_maps
from autoseg.inference.folder import predict_files
from autoseg.inference.predict import Predictor
from autoseg.inference.probabilities import KeptProbabilities
from autoseg.logs import SilentLogger
from autoseg.networks.build import build_network
from autoseg.values import (
    PREDICTION_RECORD,
    ComponentStep,
    ExecutionPath,
    NormalizationSpec,
    Plan,
    PredictionRecord,
    Validation,
)
from autoseg.volume.components import keep_largest_components
from autoseg.workspace import FoldFolder
from tests.inference.test_cases import LABELS, Threshold, fill_store, make_plan, make_predictor, read, scan, write_scan
from tests.small_plans import small_configuration, small_plan

CPU = ExecutionPath(device="cpu", threads=1)


def two_plan() -> Plan:
    """A volume and a slice configuration, both on the images' own grid."""
    shape = {"spacing": (None, None, None), "median_shape": (8.0, 16.0, 14.0)}
    return small_plan(
        small_configuration("tiny", **shape),
        small_configuration("flat", (8, 8), **shape),
        labels=LABELS,
        normalization=(NormalizationSpec(scheme="zscore"),),
    )


def predictors(plan: Plan) -> list[Predictor]:
    return [Predictor([build_network(each.network, seed=3)], each, CPU) for each in plan.configurations]


def test_a_new_image_gets_what_its_ensemble_would_have_said_when_it_was_held_out(tmp_path: Path) -> None:
    plan = two_plan()
    store, keys, _ = fill_store(tmp_path / "store", plan, "abcd")
    members = predictors(plan)
    for each in members:
        fold = FoldFolder(tmp_path / each.configuration.name)
        validate_cases(each, plan, store, keys, {}, fold, SilentLogger(), lambda: False)
    cases = [
        write_scan(tmp_path / "in", name, scan(seed, stored))
        for seed, (name, stored) in enumerate(zip("abcd", _orientations(), strict=True))
    ]
    where = (cases, tmp_path / "in", tmp_path / "out", SilentLogger())
    written = predict_files(members[0], plan, "k", *where, others=members[1:])
    singles = predict_files(members[0], plan, "k", cases, tmp_path / "in", tmp_path / "single", SilentLogger())
    changed = 0
    for name in "abcd":
        folders = {
            each.name: ValidationFiles(FoldFolder(tmp_path / each.name)).probabilities(name)
            for each in plan.configurations
        }
        kept = {each: KeptProbabilities(folder) for each, folder in folders.items()}
        (held_out,) = ensemble_label_maps(kept, [("tiny", "flat")], LABELS)
        np.testing.assert_array_equal(read(written[name]).array, held_out.array)
        changed += int((read(singles[name]).array != held_out.array).sum())
    assert changed > 0, "the ensemble is not its first member"
    assert not list((tmp_path / "out").glob(".prepared-*"))
    record = read_document(PredictionRecord, tmp_path / "out" / PREDICTION_RECORD)
    assert {each.model for each in record.cases.values()} == {"tiny+flat, weights k"}


def _orientations():
    from tests.inference.test_cases import ORIENTATIONS

    return ORIENTATIONS.values()


def test_steps_are_done_recorded_and_make_another_label_map(tmp_path: Path) -> None:
    plan, case = make_plan(), write_scan(tmp_path / "in", "a", scan(0))
    where = ([case], tmp_path / "in", tmp_path / "out", SilentLogger())
    step = ComponentStep(name="bright", values=(1,))
    plain = read(predict_files(make_predictor(plan), plan, "k", *where)["a"]).array
    network = Threshold()
    kept = read(predict_files(make_predictor(plan, network), plan, "k", *where, steps=[step])["a"]).array
    assert network.calls > 0
    np.testing.assert_array_equal(kept[0], keep_largest_components(plain[0], [(1,)]))
    assert 0 < kept.sum() < plain.sum()
    record = read_document(PredictionRecord, tmp_path / "out" / PREDICTION_RECORD)
    assert record.cases["a"].postprocessing == (step,)
    network.calls = 0
    predict_files(make_predictor(plan, network), plan, "k", *where, steps=[step])
    assert network.calls == 0


def validate(plan: Plan, store, keys, folder: Path, network=None, stop=lambda: False, **options):
    predictor = make_predictor(plan, network)
    return validate_cases(predictor, plan, store, keys, {}, FoldFolder(folder), SilentLogger(), stop, **options)


def test_whenever_a_validation_stops_no_label_map_is_without_its_probabilities(tmp_path: Path) -> None:
    plan, network, folder = make_plan(), Threshold(), tmp_path / "fold"
    store, keys, _ = fill_store(tmp_path / "store", plan, "abc")
    seen = []

    def stop() -> bool:
        maps = {path.name.removesuffix(".nii.gz") for path in (folder / "validation").glob("[a-z].nii.gz")}
        kept = {path.name for path in (folder / "validation" / "probabilities").glob("[a-z]")}
        assert maps <= kept
        seen.append(len(maps))
        return len(maps) == 2

    with pytest.raises(InterruptedRunError):
        validate(plan, store, keys, folder, network, stop)
    assert max(seen) == 2
    calls, network.calls = network.calls, 0
    validate(plan, store, keys, folder, network)
    assert 0 < network.calls < calls
    kept = ValidationFiles(FoldFolder(folder))
    assert [KeptProbabilities(kept.probabilities(case)).record.case_id for case in "abc"] == list("abc")
    record = read_document(Validation, kept.record)
    assert set(record.seconds) == set("abc")
    assert (record.plan, record.configuration, record.device) == (plan.id, "tiny", "cpu")
    assert record.seconds_per_case > 0


def test_without_probabilities_nothing_is_kept_and_later_they_are_made_with_the_same_scores(tmp_path: Path) -> None:
    plan, network, folder = make_plan(), Threshold(), tmp_path / "fold"
    store, keys, _ = fill_store(tmp_path / "store", plan, "ab")
    first = validate(plan, store, keys, folder, network, probabilities=False)
    files = ValidationFiles(FoldFolder(folder))
    assert not files.probabilities("a").exists()
    network.calls = 0
    validate(plan, store, keys, folder, network, probabilities=False)
    assert network.calls == 0
    label_map = content_hash(folder / "validation" / "a.nii.gz")
    assert validate(plan, store, keys, folder, network) == first
    assert network.calls > 0
    assert files.probabilities("a").is_dir()
    assert content_hash(folder / "validation" / "a.nii.gz") == label_map


def test_what_other_weights_left_is_made_anew(tmp_path: Path) -> None:
    """The record names the weights: a model that was exchanged by hand is not scored by its predecessor's label maps."""
    from autoseg.networks.weights import save_tensors

    plan, network, folder = make_plan(), Threshold(), tmp_path / "fold"
    store, keys, _ = fill_store(tmp_path / "store", plan, "ab")
    for number in range(2):
        save_tensors(folder / "model.safetensors", {}, {"plan": plan.id, "number": number})
        network.calls = 0
        validate(plan, store, keys, folder, network)
        assert network.calls > 0
    network.calls = 0
    validate(plan, store, keys, folder, network)
    assert network.calls == 0
