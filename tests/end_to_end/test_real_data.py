"""Real scans, where they are here: they are understood, planned for, and come back from the network's grid unharmed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.executors import ThreadExecutor
from autoseg.io.cases import check_case
from autoseg.pipeline import Planned, plan_dataset
from autoseg.preprocessing.forward import preprocess_case
from autoseg.preprocessing.inverse import restore_labels
from autoseg.workspace import Workspace

pytestmark = pytest.mark.real_data
NAMES = ("Dataset004_Hippocampus", "Dataset012_EMMembrane", "Dataset018_LeftAtrium")


@pytest.fixture(scope="module")
def planned(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Planned]:
    """Every data set, planned for 8 GiB on a CPU."""
    return {
        name: plan_dataset(
            real_data / name,
            Workspace(tmp_path_factory.mktemp("real") / name),
            memory_gib=8,
            device="cpu",
            executor=ThreadExecutor(2),
        )
        for name in NAMES
    }


@pytest.mark.parametrize(
    ("name", "cases", "patches"),
    [
        # nnU-Net's patches for the 260 cases of the same task; batches as a CPU learns from them fastest
        ("Dataset004_Hippocampus", 200, {"2d": ((56, 40), 16), "3d_fullres": ((40, 56, 40), 2)}),
        ("Dataset012_EMMembrane", 24, {"2d": ((512, 512), 2)}),
    ],
)
def test_plans_of_real_data(planned, name, cases, patches) -> None:
    made = planned[name]
    assert len(made.dataset.annotated_cases) == cases
    assert {each.name: (each.patch_size, each.batch_size) for each in made.plan.configurations} == patches
    assert [finding for finding in made.findings if finding.severity == "error"] == []
    held_out = [case for fold in made.split for case in fold.val]
    assert sorted(held_out) == [case.id for case in made.dataset.annotated_cases]


@pytest.mark.parametrize("name", NAMES)
def test_real_labels_come_back_from_the_networks_grid(planned, name) -> None:
    """All these sets have one spacing each, which is the plan's: nothing is resampled, so nothing may change."""
    made = planned[name]
    configuration = made.plan.configurations[-1]
    for case in made.dataset.annotated_cases[:3]:
        image, labels, findings = check_case(made.dataset, case)
        assert not [finding for finding in findings if finding.severity == "error"]
        ready = preprocess_case(image, labels, made.plan, configuration, case_id=case.id, key="")
        assert ready.record.shape == ready.record.crop_shape
        restored = restore_labels(np.maximum(ready.segmentation, 0), ready.record)
        np.testing.assert_array_equal(restored.array, labels.array)
        assert restored.geometry == image.geometry
