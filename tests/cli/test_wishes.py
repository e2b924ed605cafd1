"""What a user wants otherwise, from the option's text to the plan, and what ``--explain`` tells."""

from __future__ import annotations

import json

import click
import pytest

from autoseg.cli.wishes import read_names, read_wishes
from autoseg.planning import Wishes
from tests.command_line import invoke


def test_texts_are_read() -> None:
    assert read_wishes(["64,96,96", "2d=128x128"], ["4", "2d=12"], "3, 0.5, .5", ["CT=zscore", "a=b=none"]) == Wishes(
        patch_sizes=(("", (64, 96, 96)), ("2d", (128, 128))),
        batch_sizes=(("", 4), ("2d", 12)),
        spacing=(3.0, 0.5, 0.5),
        normalization=(("CT", "zscore"), ("a=b", "none")),
    )


def test_names_come_repeated_or_with_commas() -> None:
    assert read_names(["2d,3d_fullres", "3d_lowres"]) == ("2d", "3d_fullres", "3d_lowres")


@pytest.mark.parametrize(
    "wishes",
    [
        (["a,b"], [], None, []),
        (["1,2,3,4"], [], None, []),
        ([], ["1,2"], None, []),
        ([], [], "1;2", []),
        ([], [], None, ["=x"]),
    ],
)
def test_what_cannot_be_read_is_refused(wishes) -> None:
    with pytest.raises(click.BadParameter):
        read_wishes(*wishes)


def planned(phantoms, workspace, capsys, *options):
    assert invoke(["plan", phantoms, "-w", workspace, *options]) == 0
    return json.loads((workspace / "models" / "default" / "plan.json").read_text()), capsys.readouterr().out


def test_wishes_reach_the_plan_and_their_effect_is_told(phantoms, tmp_path, capsys) -> None:
    plan, text = planned(
        phantoms,
        tmp_path / "w",
        capsys,
        *("--patch-size", "17,17,17", "--batch-size", "3d_fullres=3", "--configurations", "2d,3d_fullres"),
        *("--normalization", "0=none"),
    )
    flat, full = plan["configurations"]
    assert (full["patch_size"], full["batch_size"]) == ([16, 16, 16], 3)
    assert len(flat["patch_size"]) == 2
    assert plan["normalization"][0]["scheme"] == "none"
    told = " ".join(text.split())
    assert "asked for 17 x 17 x 17; the nearest that the poolings divide is 16 x 16 x 16" in told
    assert told.count("as asked for") == 2


def test_a_wished_spacing_is_that_of_full_resolution(phantoms, tmp_path, capsys) -> None:
    plan, text = planned(phantoms, tmp_path / "w", capsys, "--spacing", "5,3,3", "-c", "3d_fullres")
    assert plan["configurations"][0]["spacing"] == [5.0, 3.0, 3.0]
    assert "as asked for; median of the cases would be" in " ".join(text.split())


def test_explain_tells_purpose_memory_time_disk_and_what_more_would_change(phantoms, tmp_path, capsys) -> None:
    _, text = planned(phantoms, tmp_path / "w", capsys, "--explain", "--device", "cpu", "-c", "2d")
    told = " ".join(text.split())
    for part in (
        "2d, explained",
        "what for learns from slices",
        "GiB of the 8 GiB planned for",
        "s an iteration",
        "for each fold",
    ):
        assert part in told
    assert "with 12 GiB nothing would change" in told


def test_a_training_elsewhere_is_explained_without_its_time(phantoms, tmp_path, capsys) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("here is a GPU")
    _, text = planned(phantoms, tmp_path / "w", capsys, "--explain", "--gpu-memory", "1.2", "-c", "3d_fullres")
    assert "not measured: this machine has no device 'cuda'" in " ".join(text.split())
