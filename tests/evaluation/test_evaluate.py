"""Folders of label maps: pairs by name, on one grid, and everything that does not fit is named."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import CasesFailedError, InputError
from autoseg.evaluation.evaluate import evaluate_case, evaluate_folders, find_annotated, find_labels, label_files
from autoseg.evaluation.score_table import score_table
from autoseg.executors import SerialExecutor, ThreadExecutor
from autoseg.files import write_document
from autoseg.io.formats import format_of
from autoseg.logs import SilentLogger
from autoseg.values import (
    PREDICTION_RECORD,
    Case,
    Dataset,
    Geometry,
    Label,
    Labels,
    Measuring,
    PredictionRecord,
    Summary,
    Volume,
    decode,
    encode,
)
from autoseg.workspace import Workspace

LABELS = Labels(foreground=(Label(name="a", values=(1,)), Label(name="b", values=(2,))))
GEOMETRY = Geometry(shape=(4, 5, 6), spacing=(3.0, 1.0, 1.5), origin=(1.0, 2.0, 3.0))


def label_map(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, GEOMETRY.shape).astype(np.uint8)


def write(file: Path, array: np.ndarray, geometry: Geometry = GEOMETRY) -> Path:
    format_of(file).write(file, Volume(array=array[None], geometry=geometry))
    return file


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and references of the cases a, b and c."""
    for seed, name in enumerate("abc"):
        write(tmp_path / "predictions" / f"{name}.nii.gz", label_map(seed + 10))
        write(tmp_path / "references" / f"{name}.nii.gz", label_map(seed))
    return tmp_path / "predictions", tmp_path / "references"


def evaluate(folders: tuple[Path, Path]) -> Summary:
    return evaluate_folders(*folders, LABELS, SerialExecutor(), SilentLogger())


def measure(folders: tuple[Path, Path], **settings: object) -> Summary:
    return evaluate_folders(*folders, LABELS, SerialExecutor(), SilentLogger(), measuring=Measuring(**settings))


def by_hand(seed: int, label: int) -> float:
    reference, prediction = label_map(seed) == label, label_map(seed + 10) == label
    return 2 * int((reference & prediction).sum()) / int(reference.sum() + prediction.sum())


def test_every_pair_is_scored(folders) -> None:
    summary = evaluate(folders)
    assert summary.not_scored == ()
    assert len(summary.metric_per_case) == 3
    for seed, score in enumerate(summary.metric_per_case):
        assert Path(score.prediction_file).name == Path(score.reference_file).name == f"{'abc'[seed]}.nii.gz"
        for label in (1, 2):
            assert score.metrics[str(label)].dice == pytest.approx(by_hand(seed, label))
    assert summary.mean["2"].dice == pytest.approx(np.mean([by_hand(seed, 2) for seed in range(3)]))


def test_folders_against_themselves_are_perfect(folders) -> None:
    summary = evaluate((folders[1], folders[1]))
    assert summary.foreground_mean.dice == summary.foreground_mean.iou == 1.0


def test_threads_give_the_same_summary(folders) -> None:
    threaded = evaluate_folders(*folders, LABELS, ThreadExecutor(2), SilentLogger())
    assert threaded == evaluate(folders)


def test_what_stands_in_one_folder_only_is_told(folders) -> None:
    (folders[0] / "a.nii.gz").unlink()
    (folders[1] / "c.nii.gz").unlink()
    summary = evaluate(folders)
    assert summary.not_scored == ("a", "c")
    assert [Path(score.prediction_file).name for score in summary.metric_per_case] == ["b.nii.gz"]


def test_other_files_are_not_label_maps(folders) -> None:
    (folders[0] / "autoseg-prediction.json").write_text("{}")
    (folders[0] / ".DS_Store").write_bytes(b"x")
    (folders[0] / ".hidden.nii.gz").write_bytes(b"x")
    (folders[0] / "folder.nii.gz").mkdir()
    assert list(label_files(folders[0])) == ["a", "b", "c"]
    assert evaluate(folders).not_scored == ()


def test_a_prediction_may_have_another_file_ending_than_its_reference(folders) -> None:
    (folders[0] / "a.nii.gz").unlink()
    write(folders[0] / "a.nrrd", label_map(10))
    summary = evaluate(folders)
    assert summary.not_scored == ()
    assert summary.metric_per_case[0].metrics["1"].dice == pytest.approx(by_hand(0, 1))


@pytest.mark.parametrize(
    ("geometry", "named"),
    [
        (
            Geometry(shape=(4, 6, 5), spacing=(3.0, 1.0, 1.5), origin=(1.0, 2.0, 3.0)),
            r"shape \(4, 5, 6\) and \(4, 6, 5\)",
        ),
        (Geometry(shape=(4, 5, 6), spacing=(3.0, 1.2, 1.5), origin=(1.0, 2.0, 3.0)), "spacing"),
        (Geometry(shape=(4, 5, 6), spacing=(3.0, 1.0, 1.5), origin=(9.0, 2.0, 3.0)), "8.0 voxels apart"),
        (
            Geometry(
                shape=(4, 5, 6),
                spacing=(3.0, 1.0, 1.5),
                origin=(1.0, 2.0, 3.0),
                directions=((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 0.0)),
            ),
            "directions differ by 180",
        ),
    ],
    ids=["shape", "spacing", "place", "direction"],
)
def test_a_pair_on_different_grids_is_refused_and_named(folders, geometry: Geometry, named: str) -> None:
    write(folders[0] / "b.nii.gz", np.zeros(geometry.shape, np.uint8), geometry)
    with pytest.raises(CasesFailedError, match=rf"evaluate: 1 of 3 cases failed(.|\n)*case b: .*{named}") as caught:
        evaluate(folders)
    assert list(caught.value.failures) == ["b"]
    assert isinstance(caught.value.failures["b"], InputError)
    assert caught.value.failures["b"].file == folders[0] / "b.nii.gz"


def test_a_broken_file_is_named_and_nothing_is_summarized(folders) -> None:
    (folders[1] / "c.nii.gz").write_bytes(b"no image")
    with pytest.raises(CasesFailedError) as caught:
        evaluate(folders)
    assert list(caught.value.failures) == ["c"]
    assert caught.value.done == 2


def test_fractions_are_no_labels(tmp_path: Path) -> None:
    reference = write(tmp_path / "r" / "a.nii.gz", label_map(0))
    prediction = write(tmp_path / "p" / "a.nii.gz", label_map(0).astype(np.float32) * 0.5)
    with pytest.raises(InputError, match="must hold integers"):
        evaluate_case("a", prediction, reference, LABELS)


def test_labels_stored_as_floating_point_numbers_are_labels(tmp_path: Path) -> None:
    reference = write(tmp_path / "r" / "a.nii.gz", label_map(0))
    prediction = write(tmp_path / "p" / "a.nii.gz", label_map(0).astype(np.float32))
    assert evaluate_case("a", prediction, reference, LABELS).metrics["2"].dice == 1.0


def test_folders_without_a_common_name_are_refused_with_examples(tmp_path: Path) -> None:
    write(tmp_path / "p" / "one.nii.gz", label_map(0))
    write(tmp_path / "r" / "other.nii.gz", label_map(0))
    with pytest.raises(InputError, match=r"no prediction has a reference.*one\.nii\.gz and other\.nii\.gz"):
        evaluate((tmp_path / "p", tmp_path / "r"))


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder.*nowhere"):
        label_files(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no label file here.*empty"):
        label_files(tmp_path / "empty")


def named(name: str) -> Labels:
    return Labels(foreground=(Label(name=name, values=(1,)),))


def test_what_labels_mean_is_told_by_record_then_data_set_then_workspace(tmp_path: Path) -> None:
    predictions, references, workspace = tmp_path / "out", tmp_path / "data" / "labelsTs", Workspace(tmp_path / "w")
    predictions.mkdir()
    references.mkdir(parents=True)
    with pytest.raises(InputError, match=r"not known what the labels mean.*-w"):
        find_labels(predictions, references, workspace)
    dataset = Dataset(
        name="d", root="/d", channels=("MRI",), labels=named("of workspace"), file_ending=".nii.gz", cases=()
    )
    write_document(workspace.dataset_path, dataset)
    assert find_labels(predictions, references, workspace) == named("of workspace")
    with pytest.raises(InputError, match="not known"):
        find_labels(predictions, references, None)
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "of data set": 1},
        "numTraining": 0,
        "file_ending": ".nii.gz",
    }
    (references.parent / "dataset.json").write_text(json.dumps(description))
    assert find_labels(predictions, references, workspace) == named("of data set")
    write_document(predictions / PREDICTION_RECORD, PredictionRecord(labels=named("of record"), cases={}))
    assert find_labels(predictions, references, workspace) == named("of record")


@pytest.mark.parametrize(
    ("predicted", "wanted"),
    [
        (("Pat 00_ct.nii.gz", "Pat 01_ct.nii.gz"), ("Pat 00_gt.nrrd", "Pat 01_gt.nrrd")),
        (("im0.nii.gz", "im1.nii.gz"), ("im0_mask.nii.gz", "im1_mask.nii.gz")),
        (("image_0.nii.gz", "image_1.nii.gz"), ("label_0.nii.gz", "label_1.nii.gz")),
        (("a.nii.gz", "b.nii.gz"), ("a.nii.gz", "b_seg.nii.gz")),
    ],
    ids=str,
)
def test_names_that_plan_accepts_are_paired(
    predicted: tuple[str, ...], wanted: tuple[str, ...], tmp_path: Path
) -> None:
    for seed, (one, other) in enumerate(zip(predicted, wanted, strict=True)):
        write(tmp_path / "p" / one, label_map(seed))
        write(tmp_path / "r" / other, label_map(seed))
    summary = evaluate((tmp_path / "p", tmp_path / "r"))
    assert summary.not_scored == ()
    assert [Path(score.prediction_file).name for score in summary.metric_per_case] == list(predicted)
    assert summary.foreground_mean.dice == 1.0


def test_an_ambiguous_name_is_not_paired(tmp_path: Path) -> None:
    for name in ("p/a.nii.gz", "r/a_mask.nii.gz", "r/a_seg.nii.gz"):
        write(tmp_path / name, label_map(0))
    with pytest.raises(InputError, match=r"ambiguous.*equal but for their endings"):
        evaluate((tmp_path / "p", tmp_path / "r"))


def test_only_labels_that_were_looked_for_are_scored(folders) -> None:
    every = evaluate(folders)
    (folders[1].parent / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "a": 1, "b": 2}, "annotated": {"c": [2]}})
    )
    annotated = find_annotated(folders[1], LABELS, None)
    assert annotated == {"c": ("b",)}
    summary = evaluate_folders(*folders, LABELS, SerialExecutor(), SilentLogger(), annotated)
    by_case = {Path(score.reference_file).name: score.metrics for score in summary.metric_per_case}
    before = {Path(score.reference_file).name: score.metrics for score in every.metric_per_case}
    assert by_case["c.nii.gz"]["1"].dice is None
    assert by_case["c.nii.gz"]["2"] == before["c.nii.gz"]["2"]
    assert (summary.mean["1"].cases, summary.mean["2"].cases) == (len(by_case) - 1, len(by_case))


def test_the_workspace_of_the_references_says_what_was_looked_for_in_them(folders, tmp_path: Path) -> None:
    case = Case(id="first", images=("c_0000.nii.gz",), label=f"{folders[1].name}/c.nii.gz", annotated=("a",))
    workspace = Workspace(tmp_path / "workspace")
    for root, expected in ((folders[1].parent, {"c": ("a",)}), (tmp_path / "elsewhere", {})):
        dataset = Dataset(
            name="D", root=str(root), channels=("MRI",), labels=LABELS, file_ending=".nii.gz", cases=(case,)
        )
        write_document(workspace.dataset_path, dataset)
        assert find_annotated(folders[1], LABELS, workspace) == expected


def test_what_was_looked_for_must_be_among_the_labels_to_score(folders) -> None:
    (folders[1].parent / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "liver": 1}, "annotated": {"c": ["liver"]}})
    )
    with pytest.raises(InputError, match="not among those to score; found liver, expected some of a, b"):
        find_annotated(folders[1], LABELS, None)


def test_what_is_measured_is_told_with_the_cases_behind_it(folders) -> None:
    write(folders[0] / "a.nii.gz", np.where(label_map(10) == 1, 0, label_map(10)))
    summary = measure(folders, tolerance_mm=1.5)
    assert summary.measured_with == Measuring(tolerance_mm=1.5)
    distances = [score.metrics["1"].hd95 for score in summary.metric_per_case]
    assert distances[0] is None
    assert summary.mean["1"].hd95 == pytest.approx(np.mean(distances[1:]))
    assert (summary.mean["1"].cases, summary.mean["1"].cases_of["HD95"], summary.mean["1"].cases_of["NSD"]) == (3, 2, 3)
    assert summary.foreground_mean.hd95 == pytest.approx((summary.mean["1"].hd95 + summary.mean["2"].hd95) / 2)
    written = json.loads(encode(summary))
    assert written["metric_per_case"][0]["metrics"]["1"]["HD95"] is None
    assert written["mean"]["1"]["NSD"] == summary.mean["1"].nsd
    assert decode(Summary, encode(summary)) == summary


def test_without_measuring_the_summary_has_nnunets_keys_and_nothing_more(folders) -> None:
    written = json.loads(encode(evaluate(folders)))
    names = {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"}
    assert set(written["metric_per_case"][0]["metrics"]["1"]) == names
    assert set(written["mean"]["1"]) == set(written["foreground_mean"]) == names | {"cases"}
    assert "measured_with" not in written


def overwrite_kept(folder: Path, case: str) -> None:
    """Marks what is kept of a case, so that it is seen whether it is used."""
    file = folder / "evaluated" / f"{case}.json"
    document = json.loads(file.read_text())
    document["score"]["metrics"]["1"]["Dice"] = 0.125
    file.write_text(json.dumps(document))


def test_what_is_scored_is_kept_until_a_file_or_a_setting_changes(folders) -> None:
    first = measure(folders)
    for case in "abc":
        overwrite_kept(folders[0], case)
    assert [score.metrics["1"].dice for score in measure(folders).metric_per_case] == [0.125] * 3
    write(folders[0] / "a.nii.gz", label_map(99))
    write(folders[1] / "b.nii.gz", label_map(98))
    assert [score.metrics["1"].dice == 0.125 for score in measure(folders).metric_per_case] == [False, False, True]
    again = measure(folders, tolerance_mm=2.0).metric_per_case[2].metrics["1"]
    assert again.dice == first.metric_per_case[2].metrics["1"].dice
    assert all(score.metrics["1"].dice != 0.125 for score in measure(folders).metric_per_case)


def test_scores_that_are_kept_move_with_their_folder(folders, tmp_path: Path) -> None:
    measure(folders)
    for case in "abc":
        overwrite_kept(folders[0], case)
    moved = folders[0].rename(tmp_path / "moved")
    summary = measure((moved, folders[1]))
    assert [score.metrics["1"].dice for score in summary.metric_per_case] == [0.125] * 3
    assert all(Path(score.prediction_file).parent == moved for score in summary.metric_per_case)


def test_a_damaged_score_is_made_anew(folders) -> None:
    first = measure(folders)
    (folders[0] / "evaluated" / "b.json").write_text("{")
    assert measure(folders) == first


def test_what_was_scored_before_an_end_is_not_scored_again(folders) -> None:
    broken = (folders[1] / "c.nii.gz").read_bytes()
    (folders[1] / "c.nii.gz").write_bytes(b"no image")
    with pytest.raises(CasesFailedError):
        measure(folders)
    assert sorted(path.name for path in (folders[0] / "evaluated").iterdir()) == ["a.json", "b.json"]
    overwrite_kept(folders[0], "a")
    (folders[1] / "c.nii.gz").write_bytes(broken)
    assert [score.metrics["1"].dice == 0.125 for score in measure(folders).metric_per_case] == [True, False, False]


def test_the_table_has_a_line_for_every_case_and_label(folders) -> None:
    write(folders[0] / "a.nii.gz", np.where(label_map(10) == 1, 0, label_map(10)))
    summary = measure(folders, metrics=("hd95", "lesion_fp"))
    rows = list(csv.DictReader(score_table(summary).splitlines()))
    assert [(row["case"], row["label"], row["name"]) for row in rows] == [
        (f"{case}.nii.gz", label, name) for case in "abc" for label, name in (("1", "a"), ("2", "b"))
    ]
    assert set(rows[0]) >= {"Dice", "IoU", "HD95", "lesion_FP", "TP", "n_ref"}
    assert "NSD" not in rows[0]
    assert rows[0]["HD95"] == ""
    scores = [each for case in summary.metric_per_case[1:] for each in case.metrics.values()]
    for row, score in zip(rows[2:], scores, strict=True):
        assert float(row["Dice"]) == score.dice
        assert float(row["HD95"]) == score.hd95
        assert int(row["TP"]) == score.tp


class StopsAfter:
    """A logger that stops the command after so many cases, as Ctrl-C does."""

    def __init__(self, cases: int) -> None:
        self.cases = cases

    def event(self, kind: str, **fields: object) -> None:
        if kind == "progress" and fields["done"] == self.cases:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Nothing to close."""


def test_a_stopped_evaluation_goes_on_and_ends_as_one_that_was_not(folders) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate_folders(*folders, LABELS, SerialExecutor(), StopsAfter(2), measuring=Measuring())
    assert not (folders[0] / "summary.json").exists()
    overwrite_kept(folders[0], "b")
    summary = measure(folders)
    assert [score.metrics["1"].dice == 0.125 for score in summary.metric_per_case] == [False, True, False]
    (folders[0] / "evaluated" / "b.json").unlink()
    stopped = measure(folders)
    shutil.rmtree(folders[0] / "evaluated")
    assert measure(folders) == stopped
