"""``plan`` of folders that state nothing: it shows what it understood, asks on a terminal only, and goes the whole way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg.errors import InputError
from autoseg.files import read_document, write_document
from autoseg.io.layouts import read_dataset
from autoseg.values import Patients, Split, Summary, TrainJob
from autoseg.workspace import Workspace
from tests.cli.test_bad_input import failure, invoke
from tests.conftest import TINY_PRESET

LABELS = {"background": 0, "liver": 1, "spleen": 2, "spine": 3}


@pytest.fixture
def bare(phantoms, tmp_path) -> Path:
    """The phantoms without any description, in images/, labels/ and test/, with some files that are no images."""
    folder = tmp_path / "scans"
    for kind, before in (("images", "imagesTr"), ("labels", "labelsTr"), ("test", "imagesTs")):
        shutil.copytree(phantoms / before, folder / kind)
    (folder / "images" / ".DS_Store").touch()
    (folder / "images" / "thumbnails.bin").touch()
    return folder


def plan(source: Path, workspace: Path, *arguments: object) -> list[object]:
    tiny = ["--preset", TINY_PRESET, "--name", "tiny", "-c", "2d", "--device", "cpu"]
    return ["plan", source, "-w", workspace, *tiny, *arguments]


def test_what_was_understood_is_shown_and_nobody_is_asked_where_there_is_no_terminal(bare, tmp_path, capsys):
    assert invoke(plan(bare, tmp_path / "W")) == 0
    assert capsys.readouterr().out.split("\n\n")[0] == "\n".join(
        [
            "Understood of scans",
            "  layout     images and labels in folders of their own: images/ and labels/",
            "  cases      6 with image and label, 2 test images, left alone",
            "  example    phantom_000: images/phantom_000_0000.nii.gz with labels/phantom_000.nii.gz",
            "  channels   image",
            "  labels     label_1 1, label_2 2, label_3 3",
            "  left out   1 file: images/thumbnails.bin",
            "  guessed    which files belong together, images/phantom_000_0000.nii.gz and labels/phantom_000.nii.gz for",
            "             example",
            "             the names of the channels: image (--channel-names tells; CT has a meaning)",
            "             the labels, from the integers in the label files: 1, 2, 3",
        ]
    )
    dataset = Workspace(tmp_path / "W").dataset()
    assert [case.id for case in dataset.test] == ["phantom_100", "phantom_101"]
    assert read_document(dict[str, list[int]], tmp_path / "W" / "label_integers.json")


def test_nothing_is_written_into_the_workspace_of_another_data_set(bare, phantoms, tmp_path):
    for file in [*bare.glob("*/phantom_*")]:
        file.rename(file.with_name(file.name.replace("phantom", "scan")))
    write_document(tmp_path / "W" / "dataset.json", read_dataset(phantoms)[0])
    with pytest.raises(InputError, match="belongs to another data set"):
        read_dataset(bare, workspace=Workspace(tmp_path / "W"))
    assert [path.name for path in (tmp_path / "W").iterdir()] == ["dataset.json"]


def test_integers_of_label_files_are_looked_up_only_where_they_changed(bare, tmp_path):
    def integers() -> tuple[int, ...]:
        return read_dataset(bare, workspace=Workspace(tmp_path / "W"))[0].labels.integers

    assert integers() == (0, 1, 2, 3)
    path = tmp_path / "W" / "label_integers.json"
    known = json.loads(path.read_text())
    first = next(iter(known))
    path.write_text(json.dumps({**known, first: [*known[first], 77]}))
    assert 77 in integers()  # nobody looked again
    path.write_text("damaged")
    assert integers() == (0, 1, 2, 3)


def test_json_output_is_json_alone(bare, tmp_path, capsys):
    assert invoke(plan(bare, tmp_path / "W", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["channels"] == ["image"]


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    ("arguments", "answer", "code", "asked"),
    [([], "n\n", 2, True), ([], "y\n", 0, True), (["--yes"], "", 0, False)],
    ids=["no", "yes", "--yes"],
)
def test_on_a_terminal_a_guess_is_asked_about(arguments, answer, code, asked, bare, tmp_path):
    import pty

    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    script = "from autoseg.cli import main; main()"
    command = [sys.executable, "-c", script, *map(str, plan(bare, tmp_path / "W", *arguments))]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # the other end is closed
            pass
        error = process.stderr.read() if process.stderr else ""
    os.close(ours)
    assert process.returncode == code, error
    assert (b"Is that right?" in shown) == asked
    if code:
        assert "Name its files in a table" in error
        assert not (tmp_path / "W" / "workspace.json").exists()


def test_a_stated_data_set_is_nobodys_guess(phantoms, tmp_path, capsys):
    assert invoke(plan(phantoms, tmp_path / "W")) == 0
    text = capsys.readouterr().out
    assert "nnU-Net's layout" in text
    assert "guessed" not in text


def table(folder: Path, path: Path, patients: dict[int, str], annotated: dict[int, str] | None = None) -> Path:
    rows = [
        f"{folder}/images/phantom_{number:03d}_0000.nii.gz,{folder}/labels/phantom_{number:03d}.nii.gz,"
        f"{patients.get(number, f'P{number}')},{(annotated or {}).get(number, '')}\n"
        for number in range(6)
    ]
    path.write_text("image,label,patient,annotated\n" + "".join(rows))
    (path.parent / "autoseg.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": LABELS}))
    return path


def test_patients_of_a_table_stay_in_one_fold_and_the_workspace_may_lie_beside_it(bare, tmp_path, monkeypatch, capsys):
    table(bare, tmp_path / "cases.csv", {0: "Ada", 3: "Ada", 1: "Bo", 5: "Bo"})
    monkeypatch.chdir(tmp_path)
    assert invoke(plan(Path("cases.csv"), Path("autoseg-workspace"))) == 0
    assert "patients: 4 in 6 cases, by the data set (Ada: phantom_000, phantom_003" in capsys.readouterr().out
    workspace = Workspace("autoseg-workspace")
    assert read_document(Patients, workspace.patients_path).source == "dataset"
    split = read_document(Split, workspace.split_path)
    for fold in split:
        for pair in ({"phantom_000", "phantom_003"}, {"phantom_001", "phantom_005"}):
            assert len(pair & set(fold.val)) != 1
    assert "inside the data set" in failure(capsys, *plan(Path("cases.csv"), bare / "images" / "W"))


def test_a_table_that_leaves_a_patient_out_is_refused(bare, tmp_path, capsys):
    path = table(bare, tmp_path / "cases.csv", {2: ""})
    assert "none for 1; found phantom_002" in failure(capsys, *plan(path, tmp_path / "W"))
    assert invoke(plan(path, tmp_path / "W", "--group-by", ".*")) == 0


def test_partly_annotated_cases_are_trained_on_and_scored_by_what_is_known_of_them(bare, tmp_path, capsys):
    partly = dict.fromkeys(range(1, 6), "liver;spine") | {2: "liver;spleen;spine"}
    path, workspace = table(bare, tmp_path / "cases.csv", {}, partly), tmp_path / "W"
    assert invoke(plan(path, workspace)) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  - ")]
    assert any("phantom_001" in line and "annotated for some labels only" in line for line in told)
    assert any("labels that the case is not annotated for; found spleen" in line for line in told)
    assert invoke(["train", "2d", "0", "-w", workspace, "--iterations", "2", "--device", "cpu"]) == 0
    fold = Workspace(workspace).model().fold("2d", "0")
    job, summary = read_document(TrainJob, fold.job), read_document(Summary, fold.summary)
    assert job.annotated == {f"phantom_00{number}": ("liver", "spine") for number in (1, 3, 4, 5)}
    spleen = next(key for key, name in summary.label_names.items() if name == "spleen")
    for score in summary.metric_per_case:
        unknown = score.prediction_file.removesuffix(".nii.gz") in job.annotated
        for key, found in score.metrics.items():
            assert (found.tn == 0) == (unknown and key == spleen)
    text = (Path(bare) / "labels").as_posix()
    again = ["evaluate", "-p", fold.validation, "-r", text, "-w", workspace]
    assert invoke(again) == 0
    assert read_document(Summary, fold.validation / "summary.json").mean == summary.mean


@pytest.fixture(scope="module")
def trained(phantoms, tmp_path_factory) -> Path:
    """A workspace with a training from a folder that states nothing."""
    folder = tmp_path_factory.mktemp("trained")
    for kind, before in (("images", "imagesTr"), ("labels", "labelsTr")):
        shutil.copytree(phantoms / before, folder / "scans" / kind)
    assert invoke(plan(folder / "scans", folder / "W")) == 0
    assert invoke(["train", "2d", "0", "-w", folder / "W", "--iterations", "2", "--device", "cpu"]) == 0
    assert sorted(path.name for path in (folder / "scans").iterdir()) == ["images", "labels"]
    return folder / "W"


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_links_out_of_an_output_folder_are_refused(trained, phantoms, tmp_path, capsys):
    inputs, out, elsewhere = tmp_path / "in", tmp_path / "out", tmp_path / "elsewhere"
    for folder in (inputs, out, elsewhere):
        folder.mkdir()
    (inputs / "phantom_100.nii.gz").symlink_to(phantoms / "imagesTs" / "phantom_100_0000.nii.gz")  # inputs may be links
    (elsewhere / "file").write_text("precious")
    predict = ["predict", "-i", inputs, "-o", out, "-w", trained, "--device", "cpu", "--no-mirroring"]
    for name in ("phantom_100.nii.gz", "autoseg-prediction.json"):
        (out / name).symlink_to(elsewhere / "file")
        assert f"{name} -> " in failure(capsys, *predict)
        (out / name).unlink()
    (out / "notes").symlink_to(elsewhere)  # nothing that would be written
    (out / "own").touch()
    (out / "phantom_100.nii.gz").symlink_to(out / "own")  # within the folder; it is not ours, though
    assert "autoseg did not write" in failure(capsys, *predict)
    (out / "phantom_100.nii.gz").unlink()
    (tmp_path / "link").symlink_to(out)  # the folder itself may be one: the user named it
    predict[4] = tmp_path / "link"
    assert invoke(predict) == 0
    assert (out / "phantom_100.nii.gz").is_file()
    (out / "summary.json").symlink_to(elsewhere / "file")
    assert "summary.json -> " in failure(capsys, "evaluate", "-p", out, "-r", phantoms / "labelsTs", "-w", trained)
    assert (elsewhere / "file").read_text() == "precious"


def test_convert_tells_what_it_did(bare, tmp_path, capsys):
    assert invoke(["convert", bare, tmp_path / "Dataset007_Scans", "--channel-names", "CT"]) == 0
    text = capsys.readouterr().out
    assert "6 training cases and 2 others" in text
    assert "8 written now" in text
    assert invoke(["convert", bare, tmp_path / "Dataset007_Scans", "--channel-names", "CT"]) == 0
    assert "0 written now" in capsys.readouterr().out
    assert invoke(plan(tmp_path / "Dataset007_Scans", tmp_path / "W")) == 0
    assert "guessed" not in capsys.readouterr().out
