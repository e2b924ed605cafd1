"""What probes find with networks of which it is known what they use, and which cases they are asked about."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from autoseg.comparison.fields import field_in_plane
from autoseg.comparison.probes import measure_slices
from autoseg.comparison.probing import ProbedCase, drawn_cases, reference_on_grid
from autoseg.inference.predict import Predictor
from autoseg.networks.build import build_network
from autoseg.values import ExecutionPath, Label, Labels
from tests.small_plans import ONE_LABEL, small_configuration

PATH = ExecutionPath(device="cpu", threads=1)


class Kernel(nn.Module):
    """Foreground where a kernel along the slices finds something over one half."""

    deep_supervision = True

    def __init__(self, *along: float) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.tensor(along, dtype=torch.float32).reshape(1, 1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        found = nn.functional.conv3d(x, self.kernel, padding=(self.kernel.shape[2] // 2, 0, 0)) - 0.5
        return [torch.cat([-found, found], dim=1)]


def case_of(reference: np.ndarray, image: np.ndarray) -> ProbedCase:
    return ProbedCase(
        image=image[None].astype(np.float32),
        reference=reference,
        labels=ONE_LABEL,
        annotated=None,
        seed="1",
        advance=lambda done, total: None,
    )


def measured(network: nn.Module, case: ProbedCase, patch: Sequence[int] = (16, 4, 4)) -> dict[str, float | None]:
    predictor = Predictor([network], small_configuration(patch=patch), PATH)
    return {way: dice["organ"] for way, dice in measure_slices(predictor, case).items()}


@pytest.fixture
def blobs() -> np.ndarray:
    """Other voxels in every slice."""
    return (np.random.default_rng(0).random((12, 6, 5)) < 0.3).astype(np.uint8)


def test_a_network_that_sees_one_slice_loses_nothing(blobs) -> None:
    assert set(measured(Kernel(0, 1, 0), case_of(blobs, blobs)).values()) == {1.0}


def test_a_network_that_copies_its_neighbour_is_as_good_as_chance_without_it(blobs) -> None:
    """Each slice of the image is the next one's reference, so that it has all right, and nothing else to go by."""
    image = np.concatenate([blobs[1:], np.zeros_like(blobs[:1])])
    blobs[0] = 0  # which has no slice before it
    found = measured(Kernel(1, 0, 0), case_of(blobs, image))
    assert found["intact"] == found["chosen"] == 1.0
    assert all(found[way] < 0.5 for way in ("shuffled", "exchanged", "alone"))


def test_a_network_that_adds_up_its_neighbours_is_told_by_disjoint_slices() -> None:
    """A voxel is foreground if it lights up on both sides: alone, or among strangers, nothing ever does."""
    reference = np.zeros((12, 4, 12), np.uint8)
    image = np.zeros((12, 4, 12))
    for place in range(1, 11):
        reference[place, :, place] = 1
        image[place - 1, :, place] = image[place + 1, :, place] = 0.4
    found = measured(Kernel(1, 0, 1), case_of(reference, image), patch=(16, 4, 12))
    assert found["intact"] == found["chosen"] == 1.0
    assert found["shuffled"] == found["exchanged"] == 0.0
    assert found["alone"] < 0.5


def test_a_real_2d_network_does_not_notice_the_order_of_slices(blobs) -> None:
    configuration = small_configuration(patch=(8, 8))
    predictor = Predictor([build_network(configuration.network, seed=3)], configuration, PATH)
    image = np.random.default_rng(1).normal(size=blobs.shape)
    found = measure_slices(predictor, case_of(blobs, image))
    assert found["intact"] == found["shuffled"] == found["exchanged"]
    assert found["chosen"] == found["alone"]
    assert found["intact"]["organ"] > 0


def test_a_real_3d_network_without_weights_beside_the_middle_loses_nothing(blobs) -> None:
    """Its norm looks along the slices, too, so that the order alone is not seen; copies have another mean."""
    configuration = small_configuration(patch=(16, 8, 8))
    spec = msgspec.structs.replace(configuration.network, strides=((1, 1, 1), (1, 2, 2)))
    configuration = msgspec.structs.replace(configuration, network=spec, patch_size=(12, 8, 8))
    network = build_network(spec, seed=3)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv3d) and module.kernel_size[0] == 3:
                module.weight[:, :, [0, 2]] = 0
    image = np.random.default_rng(1).normal(size=blobs.shape)
    found = measure_slices(Predictor([network], configuration, PATH), case_of(blobs, image))
    assert found["shuffled"]["organ"] == pytest.approx(found["intact"]["organ"], abs=1e-3)
    assert found["exchanged"]["organ"] == pytest.approx(found["intact"]["organ"], abs=1e-3)


def test_a_case_of_few_slices_has_no_other_order(blobs) -> None:
    assert set(measured(Kernel(0, 1, 0), case_of(blobs[:3], blobs[:3]))) == {"intact", "chosen", "alone"}


def test_references_hold_the_integers_of_files() -> None:
    labels = Labels(foreground=(Label(name="a", values=(7,)), Label(name="b", values=(300,))), ignore=301)
    stored = np.array([[-1, 0, 1], [2, 3, 1]])
    np.testing.assert_array_equal(reference_on_grid(stored, labels), [[0, 0, 7], [300, 301, 7]])


def test_cases_are_drawn_evenly_from_the_folds_that_both_have() -> None:
    def folds(**cases: int) -> dict:
        return {
            name[1:]: SimpleNamespace(scores=dict.fromkeys(f"{name}-{number}" for number in range(count)))
            for name, count in cases.items()
        }

    first, second = folds(f0=9, f1=2, f3=9), folds(f0=9, f1=2, f2=4, f3=9)
    drawn = drawn_cases(first, second, 8)
    assert [sum(fold == each for _, fold in drawn) for each in "0123"] == [3, 2, 0, 3]
    assert all(case.startswith(f"f{fold}-") for case, fold in drawn)
    assert drawn == drawn_cases(second, first, 8)
    assert len(drawn_cases(first, second, 100)) == 20
    assert drawn_cases(first, {}, 8) == []
    assert set(drawn_cases(first, second, 7)) < set(drawn)


def test_a_field_of_view_is_measured_in_millimetres_and_fits_the_network() -> None:
    flat = small_configuration(patch=(64, 48), spacing=(None, 0.5, 0.5))
    assert field_in_plane(small_configuration(patch=(8, 16, 12)), flat) == (32, 24)
    assert field_in_plane(small_configuration(patch=(8, 10, 2), spacing=(2.0, 0.7, 0.1)), flat) == (14, 2)
