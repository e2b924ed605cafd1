"""Selecting: ensembles are scored from what is kept, nothing is done twice, and what does not belong together is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from autoseg import pipeline
from autoseg.crossvalidation import costs_of, finished_trainings
from autoseg.crossvalidation.ensembles import EnsembleScores
from autoseg.crossvalidation.finished import FinishedFold
from autoseg.errors import CasesFailedError, InputError, InterruptedRunError
from autoseg.evaluation.overlap import overlap_scores
from autoseg.executors import SerialExecutor
from autoseg.files import read_document, write_document
from autoseg.held_out_files import SelectionFiles, ValidationFiles
from autoseg.inference.probabilities import KeptProbabilities
from autoseg.io.cases import read_labels
from autoseg.io.checked import sealed
from autoseg.networks.weights import load_tensors, save_tensors
from autoseg.preprocessing.inverse import restore_labels
from autoseg.selection import repeated
from autoseg.status_stage import workspace_status
from autoseg.values import (
    PREDICTION_RECORD,
    ComponentStep,
    Fold,
    Postprocessing,
    PredictionRecord,
    Selection,
    SelectionRule,
    Split,
    Summary,
    TrainJob,
    TriedStep,
    Validation,
    digest,
)
from autoseg.workspace import ModelFolder, Workspace
from tests.command_line import invoke
from tests.training.test_loop import Listening

BOTH = "2d+3d_fullres"


@pytest.fixture
def workspace(trained_pair: Path, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(trained_pair, tmp_path / "W"))


def select(workspace: Workspace, **options) -> Selection:
    return pipeline.select_best(workspace, executor=SerialExecutor(), **options)


def cases_of(workspace: Workspace) -> list[str]:
    split = read_document(Split, workspace.split_path)
    return sorted((*split[0].val, *split[1].val))


def fold_of(workspace: Workspace, case: str) -> str:
    return "0" if case in read_document(Split, workspace.split_path)[0].val else "1"


def test_all_candidates_are_compared_by_their_own_scores_and_the_mean_of_probabilities(workspace, phantoms) -> None:
    selection, model = select(workspace), workspace.model()
    labels, cases = model.plan().labels, cases_of(workspace)
    assert [each.candidate for each in selection.standings] == ["2d", "3d_fullres", BOTH]
    assert list(selection.evidence.cases) == cases
    names = [label.name for label in labels.foreground]
    for place, case in enumerate(cases):
        kept = [
            KeptProbabilities(ValidationFiles(model.fold(name, fold_of(workspace, case))).probabilities(case))
            for name in ("2d", "3d_fullres")
        ]
        every = (slice(None),) * 3
        mean = sum(
            np.stack([each.levels(output, every) for output in range(each.outputs)]).astype(float) for each in kept
        )
        decided = np.array(labels.integers)[mean.argmax(axis=0)]
        prediction = restore_labels(decided.astype(np.uint8), kept[0].record).array[0]
        reference = read_labels(next(phantoms.glob(f"labelsTr/{case}.*")), case).array[0]
        scores = overlap_scores(reference, prediction, labels)
        expected = [scores[str(label.values[0])].dice for label in labels.foreground]
        assert list(selection.evidence.dice[BOTH][place]) == pytest.approx(expected)
        written = json.loads(
            (model.fold("2d", fold_of(workspace, case)).validation / "scores" / f"{case}.json").read_text()
        )
        single = [written["metrics"][str(label.values[0])]["Dice"] for label in labels.foreground]
        assert list(selection.evidence.dice["2d"][place]) == single
    assert list(selection.evidence.labels) == names


def test_the_choice_is_written_with_what_it_rests_on_and_can_be_made_again(workspace) -> None:
    selection, files = select(workspace), SelectionFiles(workspace.model())
    assert read_document(Selection, files.selection) == selection
    assert repeated(selection) == selection
    assert selection.basis.plan == workspace.model().plan().id
    assert {name: sorted(folds) for name, folds in selection.basis.weights.items()} == {
        "2d": ["0", "1"],
        "3d_fullres": ["0", "1"],
    }
    decided = read_document(Postprocessing, files.postprocessing)
    assert selection.basis.postprocessing == digest(decided)
    assert decided.cases == len(cases_of(workspace))
    costs = {each.name: each.cost for each in selection.evidence.candidates}
    assert costs[BOTH].seconds_per_case == pytest.approx(
        costs["2d"].seconds_per_case + costs["3d_fullres"].seconds_per_case
    )
    assert costs["2d"].training_hours > 0


@pytest.mark.parametrize("rule", ["regret", "nnunet"])
def test_the_winner_is_that_of_the_rule(workspace, rule) -> None:
    """Three cases tell nothing for sure, so the best is taken; nnU-Net's best is that of the raw means."""
    selection = select(workspace, rule=SelectionRule(name=rule))
    means = {each.candidate: each.mean if rule == "regret" else each.raw_mean for each in selection.standings}
    assert means[selection.winner] == max(means.values())
    assert selection.rule.name == rule


def working(heard: Listening) -> list[str]:
    """Cases that anything was computed of."""
    stages = ("ensembles", "postprocessing")
    return [fields["detail"] for _, fields in heard.heard if fields.get("stage") in stages]


def test_what_is_known_is_not_computed_again_and_a_stopped_selection_goes_on(workspace) -> None:
    files, stopped = SelectionFiles(workspace.model()), Listening()
    with pytest.raises(InterruptedRunError, match="goes on from here"):
        select(workspace, logger=stopped, stop=lambda: True)
    assert not files.selection.exists()
    assert len(working(stopped)) == 1
    rest, again = Listening(), Listening()
    selection = select(workspace, logger=rest)
    assert set(working(stopped)).isdisjoint(working(rest)[: len(cases_of(workspace)) - 1])
    before = files.selection.stat().st_mtime_ns
    assert select(workspace, logger=again) == selection
    assert working(again) == []
    assert files.selection.stat().st_mtime_ns == before
    files.case(cases_of(workspace)[0]).write_text("damaged")
    assert select(workspace) == selection


def test_references_are_made_anew_where_preprocessed_cases_are_gone(workspace) -> None:
    shutil.rmtree(workspace.path / "preprocessed")
    assert {each.name for each in select(workspace).evidence.candidates} == {"2d", "3d_fullres", BOTH}


def test_without_probabilities_singles_compete_and_the_command_that_makes_them_is_told(workspace) -> None:
    folder = workspace.model().fold("2d", "1")
    shutil.rmtree(folder.validation / "probabilities")
    heard = Listening()
    selection = select(workspace, logger=heard)
    assert [each.candidate for each in selection.standings] == ["2d", "3d_fullres"]
    assert list(selection.evidence.cases) == cases_of(workspace)
    assert [(each.candidate, each.nothing) for each in selection.evidence.missing if each.nothing] == [(BOTH, True)]
    assert any("no probabilities are kept of fold 1 of 2d" in str(event) for event in heard.heard)
    assert any("autoseg train 2d 1" in str(event) for event in heard.heard)
    pipeline.train(workspace, "2d", "1", device="cpu")
    assert len(select(workspace).standings) == 3


def test_unfinished_folds_are_told_and_what_all_have_is_compared(workspace) -> None:
    workspace.model().fold("3d_fullres", "1").summary.unlink()
    heard = Listening()
    selection = select(workspace, logger=heard)
    first = read_document(Split, workspace.split_path)[0].val
    assert list(selection.evidence.cases) == sorted(first)
    assert any("3d_fullres lacks folds 1, 2, 3, 4: autoseg train 3d_fullres 1" in str(each) for each in heard.heard)
    shutil.rmtree(workspace.model().path / "3d_fullres")
    selection = select(workspace, logger=heard)
    assert (selection.winner, selection.verdict) == ("2d", "only")
    assert any("no fold of 3d_fullres is trained" in str(each) for each in heard.heard)
    assert select(workspace, configurations=["2d"]).evidence.missing[0].candidate == "2d"


def change_job(model: ModelFolder, name: str, fold: str, change: Callable[[TrainJob], TrainJob]) -> None:
    file = model.fold(name, fold).job
    write_document(file, change(read_document(TrainJob, file)))


def another_plan_in_job(workspace: Workspace) -> None:
    change_job(workspace.model(), "2d", "1", lambda job: msgspec.structs.replace(job, plan_id="f" * 64))


def exchange_weights(model: ModelFolder, name: str, fold: str, **changes: object) -> None:
    file = model.fold(name, fold).model
    tensors, metadata = load_tensors(file)
    save_tensors(file, {key: tensor + 1 for key, tensor in tensors.items()}, {**metadata, **changes})


def another_plan_in_weights(workspace: Workspace) -> None:
    exchange_weights(workspace.model(), "2d", "0", plan="e" * 64)


def other_weights(workspace: Workspace) -> None:
    exchange_weights(workspace.model(), "3d_fullres", "1")


def moved_in_one_fold(workspace: Workspace) -> None:
    """Of both configurations fold 1 is of another split than fold 0, which still is the workspace's."""
    split = read_document(Split, workspace.split_path)
    fold, case = split[1], split[1].val[0]
    moved = msgspec.structs.replace(fold, train=(*fold.train[1:], case), val=(fold.train[0], *fold.val[1:]))
    write_document(workspace.split_path, (split[0], moved, *split[2:]))


def moved_split(workspace: Workspace) -> None:
    """All configurations agree with each other, but not with the workspace."""
    split = read_document(Split, workspace.split_path)
    write_document(workspace.split_path, (split[1], split[0], *split[2:]))


def joined_in_one(workspace: Workspace) -> None:
    """A case less was trained on in one of them, which agrees with the split otherwise."""
    change_job(
        workspace.model(),
        "3d_fullres",
        "0",
        lambda job: msgspec.structs.replace(job, cases=msgspec.structs.replace(job.cases, train=job.cases.train[1:])),
    )


def other_cases_in_summary(workspace: Workspace) -> None:
    summary = workspace.model().fold("2d", "0").summary
    case = read_document(Split, workspace.split_path)[0].val[0]
    summary.write_text(summary.read_text().replace(f'"{case}.nii.gz"', '"stranger.nii.gz"'))


def other_probabilities(workspace: Workspace) -> None:
    """Those of an earlier training, in the place of the present ones."""
    model = workspace.model()
    case = read_document(Split, workspace.split_path)[0].val[0]
    file = ValidationFiles(model.fold("2d", "0")).probabilities(case) / "record.json"
    document = json.loads(file.read_text())
    document["weights"] = "d" * 64
    from autoseg.inference.probabilities import _Document

    changed = msgspec.convert(document, _Document)
    write_document(file, sealed(changed))


def other_labels_looked_for(workspace: Workspace, folds: str = "01") -> None:
    """In the jobs of one configuration: what was not looked for would count as rightly absent."""
    case = cases_of(workspace)[0]
    for fold in folds:
        change_job(
            workspace.model(),
            "3d_fullres",
            fold,
            lambda job: msgspec.structs.replace(job, annotated={case: ("liver",)}),
        )


def held_out_twice(workspace: Workspace) -> None:
    """Fold 1 holds out a case of fold 0, too, in the split as in the trainings."""
    split, model = read_document(Split, workspace.split_path), workspace.model()
    case = split[0].val[0]
    cases = Fold(train=tuple(each for each in split[1].train if each != case), val=(*split[1].val, case))
    write_document(workspace.split_path, (split[0], cases, *split[2:]))
    for name in ("2d", "3d_fullres"):
        change_job(model, name, "1", lambda job: msgspec.structs.replace(job, cases=cases))
        first, second = (read_document(Summary, model.fold(name, fold).summary) for fold in "01")
        (score,) = (each for each in first.metric_per_case if each.prediction_file.startswith(case))
        per_case = (*second.metric_per_case, score)
        write_document(model.fold(name, "1").summary, msgspec.structs.replace(second, metric_per_case=per_case))


def corrected_label_map(workspace: Workspace) -> None:
    """By hand, of every candidate that may win."""
    case = cases_of(workspace)[0]
    for name in ("2d", "3d_fullres"):
        file = workspace.model().fold(name, fold_of(workspace, case)).validation / f"{case}.nii.gz"
        other = workspace.model().fold(name, fold_of(workspace, case)).validation.parent.parent
        source = next(path for path in other.glob("fold_*/validation/*.nii.gz") if path.name != file.name)
        shutil.copy(source, file)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (another_plan_in_job, r"fold 1 of 2d was trained by another plan.*in its job, plan f{12}, expected plan"),
        (another_plan_in_weights, r"fold 0 of 2d was trained by another plan.*in its weights, plan e{12}"),
        (other_weights, r"scores of fold 1 of 3d_fullres were made by other weights.*autoseg train 3d_fullres 1"),
        (moved_split, r"fold 0 of 2d was trained with another split than the workspace's"),
        (
            moved_in_one_fold,
            r"fold 1 of 2d was trained with another split.*split [0-9a-f]{12}, in which.*expected split",
        ),
        (joined_in_one, r"fold 0 of 2d and fold 0 of 3d_fullres were trained with different splits"),
        (other_cases_in_summary, r"summary of fold 0 of 2d is not of the cases.*stranger"),
        (other_labels_looked_for, r"fold 0 of 3d_fullres was trained and scored with other labels looked for"),
        (held_out_twice, r"cases are held out in several.*fold 0 of 2d and fold 1 of 2d"),
        (other_probabilities, r"probabilities of fold 0 of 2d were made by other weights.*d{12}"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_does_not_belong_together_is_named_and_nothing_is_chosen(workspace, spoil, said) -> None:
    spoil(workspace)
    with pytest.raises(InputError, match=said):
        select(workspace)
    assert not SelectionFiles(workspace.model()).selection.exists()


def test_damaged_probabilities_are_named_and_nothing_is_chosen(workspace) -> None:
    """The damage does not show in the size of the file."""
    case = read_document(Split, workspace.split_path)[0].val[0]
    folder = ValidationFiles(workspace.model().fold("3d_fullres", "0")).probabilities(case)
    (file,) = folder.glob("levels.*")
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    said = (
        rf"{case}: the kept probabilities .* are missing or damaged.*3d_fullres/fold_0/validation/probabilities/{case}"
    )
    with pytest.raises(CasesFailedError, match=said):
        select(workspace)
    assert not SelectionFiles(workspace.model()).selection.exists()


def test_a_label_map_that_was_changed_by_hand_is_not_decided_by(workspace) -> None:
    corrected_label_map(workspace)
    with pytest.raises((InputError, CasesFailedError), match=r"not the one that was scored|of another size"):
        select(workspace, configurations=["2d"])


def test_changed_references_are_named(workspace, phantoms, tmp_path) -> None:
    data = shutil.copytree(phantoms, tmp_path / "D")
    file = workspace.dataset_path
    file.write_text(file.read_text().replace(str(phantoms), str(data)))
    select(workspace)
    case, other = cases_of(workspace)[:2]
    reference = next(data.glob(f"labelsTr/{case}.*"))
    os.utime(reference, (1, 1))
    select(workspace)  # the content counts, not the time
    shutil.copy(next(data.glob(f"labelsTr/{other}.*")), reference)
    said = (
        rf"references have changed.*{case} \(fold 0 of 2d, fold 0 of 3d_fullres, fold 1 of 2d, fold 1 of 3d_fullres\)"
    )
    with pytest.raises(InputError, match=said):
        select(workspace)


def test_a_changed_reference_of_a_training_case_is_named_with_one_fold_finished(workspace, phantoms, tmp_path) -> None:
    data = shutil.copytree(phantoms, tmp_path / "D")
    workspace.dataset_path.write_text(workspace.dataset_path.read_text().replace(str(phantoms), str(data)))
    for name in ("2d", "3d_fullres"):
        shutil.rmtree(workspace.model().fold(name, "1").path)
    case, other = read_document(Split, workspace.split_path)[0].train[:2]
    shutil.copy(next(data.glob(f"labelsTr/{other}.*")), next(data.glob(f"labelsTr/{case}.*")))
    with pytest.raises(InputError, match=rf"references have changed.*{case} \(fold 0 of 2d, fold 0 of 3d_fullres\)"):
        select(workspace)


def test_a_fold_that_was_moved_aside_is_no_fold(workspace) -> None:
    model = workspace.model()
    shutil.move(model.fold("2d", "1").path, model.path / "2d" / "fold_1_old")
    assert model.trained("2d") == ("0",)
    selection = select(workspace)
    assert list(selection.basis.weights["2d"]) == ["0"]
    status = workspace_status(workspace)
    assert [each for each in status.plans[0].folds if "old" in each.fold] == []
    assert any("no fold's folder" in each and "fold_1_old" in each for each in status.problems)


def test_the_size_of_a_case_does_not_hang_on_what_is_scored(workspace, monkeypatch) -> None:
    """Ignored voxels are in no count, and take memory all the same."""
    for name in ("2d", "3d_fullres"):
        for fold in "01":
            file = workspace.model().fold(name, fold).summary
            summary = json.loads(file.read_text())
            for each in summary["metric_per_case"]:
                for score in each["metrics"].values():
                    score["TN"] = 0
            file.write_text(json.dumps(summary))
    told = []
    known = EnsembleScores.bytes
    monkeypatch.setattr(EnsembleScores, "bytes", lambda self, item: told.append(item.voxels) or known(self, item))
    select(workspace)
    assert set(told) == {8 * 24 * 24}


def test_times_of_different_gpus_are_not_compared_and_shared_cases_are(workspace) -> None:
    model, heard = workspace.model(), Listening()
    finished = finished_trainings(model, model.plan(), read_document(Split, workspace.split_path), ["2d", "3d_fullres"])

    def timed(name: str, fold: str, gpu: str, seconds: dict[str, float]) -> FinishedFold:
        each = finished[name][fold]
        changes = {"device": "cuda", "device_name": gpu, "seconds": seconds}
        return dataclasses.replace(each, validation=msgspec.structs.replace(each.validation, **changes))

    folds = {
        "2d": {"0": timed("2d", "0", "A", {"a": 1.0, "b": 9.0}), "1": timed("2d", "1", "A", {"c": 3.0})},
        "3d_fullres": {"0": timed("3d_fullres", "0", "A", {"a": 2.0}), "1": timed("3d_fullres", "1", "B", {"c": 90.0})},
    }
    costs = costs_of(folds, "cuda", heard)
    assert {name: each.seconds_per_case for name, each in costs.items()} == {"2d": 1.0, "3d_fullres": 2.0}
    assert "only those on cuda (A) are compared" in str(heard.heard)


def choose_by_hand(workspace: Workspace, winner: str, steps: tuple[ComponentStep, ...] = ()) -> None:
    """As if that candidate had won, with these steps."""
    files, selection = SelectionFiles(workspace.model()), select(workspace)
    decided = Postprocessing(
        steps=steps, tried=tuple(TriedStep(step=each, adopted=True, before=0.5, after=0.6, changed=1) for each in steps)
    )
    basis = msgspec.structs.replace(selection.basis, postprocessing=digest(decided))
    write_document(files.postprocessing, decided)
    write_document(files.selection, msgspec.structs.replace(selection, winner=winner, basis=basis))


def test_predict_runs_what_was_selected_and_says_so(workspace, phantoms, tmp_path) -> None:
    step = ComponentStep(name="all foreground", values=(1, 2, 3))
    choose_by_hand(workspace, BOTH, (step,))
    options = {"device": "cpu", "mirroring": False}
    predicted = pipeline.predict(phantoms / "imagesTs", tmp_path / "a", workspace=workspace, **options)
    assert (predicted.selected, predicted.steps) == (True, (step,))
    assert [(each.configuration, each.folds) for each in predicted.choices] == [
        ("2d", ("0", "1")),
        ("3d_fullres", ("0", "1")),
    ]
    record = read_document(PredictionRecord, tmp_path / "a" / PREDICTION_RECORD)
    assert {each.postprocessing for each in record.cases.values()} == {(step,)}
    assert all(each.model.startswith(BOTH) for each in record.cases.values())
    moved = ModelFolder(shutil.copytree(workspace.model().path, tmp_path / "elsewhere"))
    again = pipeline.predict(phantoms / "imagesTs", tmp_path / "b", model=moved, **options)
    for case, file in predicted.files.items():
        np.testing.assert_array_equal(read_labels(file, case).array, read_labels(again.files[case], case).array)
    named = pipeline.predict(
        phantoms / "imagesTs", tmp_path / "c", workspace=workspace, configuration="2d", folds=["0"], **options
    )
    assert (named.selected, named.choice.folds, named.steps) == (False, ("0",), ())


def test_a_selection_of_other_trainings_predicts_nothing(workspace, phantoms, tmp_path) -> None:
    select(workspace)
    fold = workspace.model().fold("2d", "1")
    record = read_document(Validation, ValidationFiles(fold).record)
    exchange_weights(workspace.model(), "2d", "1")
    with pytest.raises(InputError, match=r"fold 1 of 2d has other weights.*autoseg select.*-c"):
        pipeline.predict(phantoms / "imagesTs", tmp_path / "a", workspace=workspace, device="cpu")
    pipeline.train(workspace, "2d", "1", device="cpu")
    assert read_document(Validation, ValidationFiles(fold).record).weights != record.weights
    select(workspace)
    SelectionFiles(workspace.model()).postprocessing.unlink()
    with pytest.raises(InputError, match=r"postprocessing\.json is missing"):
        pipeline.predict(phantoms / "imagesTs", tmp_path / "a", workspace=workspace, device="cpu")
    assert not (tmp_path / "a").exists()


def test_what_was_left_out_of_a_comparison_may_be_trained_on(workspace, phantoms, tmp_path) -> None:
    select(workspace, configurations=["2d"])
    assert workspace_status(workspace).plans[0].selection.changed == ()
    predicted = pipeline.predict(phantoms / "imagesTs", tmp_path / "a", workspace=workspace, device="cpu")
    assert (predicted.selected, predicted.choice.configuration) == (True, "2d")


def test_the_command_shows_a_table_and_prints_json(workspace, capsys) -> None:
    assert invoke(["select", "-w", str(workspace.path), "--workers", "0"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("candidate", "behind the best", BOTH, "Postprocessing:", "selection.json"))
    assert "Next: autoseg predict" in text
    assert invoke(["select", "-w", str(workspace.path), "--rule", "nnunet", "--margin", "1", "--json"]) == 0
    printed = msgspec.json.decode(capsys.readouterr().out)
    assert printed == msgspec.json.decode(SelectionFiles(workspace.model()).selection.read_bytes())
    assert printed["rule"]["name"] == "nnunet"
    assert printed["rule"]["margin"] == 0.01
    assert invoke(["select", "-w", str(workspace.path), "--configurations", "3d"]) == 2
    assert "2d or 3d_fullres" in capsys.readouterr().err
