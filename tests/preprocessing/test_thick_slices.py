"""Slices of 3, 5 and 7 mm in one data set: planned, then brought to one grid, without repeating slices of labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from autoseg.planning import Budget
from autoseg.preprocessing.forward import preprocess_case
from autoseg.values import Geometry, Plan, Volume
from planners.unet import DefaultPlanner, NnunetPlanner, ResidualPlanner
from tests.planners.synthetic import CPU_COST, fingerprint

HEIGHT_MM, EDGE, STEP_MM = 105, 72, 0.8
#: Thickness and how many cases have it.
CASES = {7.0: 12, 5.0: 4, 3.0: 4}


def plan_of(planner) -> Plan:
    groups = [
        ((thickness, STEP_MM, STEP_MM), (round(HEIGHT_MM / thickness), EDGE, EDGE), count)
        for thickness, count in CASES.items()
    ]
    return planner().plan(fingerprint(groups), Budget(), CPU_COST, name="thick")


def cone(thickness: float) -> tuple[Volume, Volume]:
    """A cone that widens from slice to slice, by nearly a pixel every 3 mm: no two slices of it are equal."""
    heights = (np.arange(round(HEIGHT_MM / thickness)) + 0.5) * thickness
    middle = (np.arange(EDGE) - (EDGE - 1) / 2) * STEP_MM
    distance = np.hypot(middle[:, None], middle[None, :])
    labels = (distance[None] < 3 + 24 * heights[:, None, None] / HEIGHT_MM)[None].astype(np.int32)
    geometry = Geometry(shape=labels.shape[1:], spacing=(thickness, STEP_MM, STEP_MM))
    image = (50 + 100 * labels).astype(np.float32)
    return Volume(array=image, geometry=geometry), Volume(array=labels, geometry=geometry)


def repeated_slices(labels: np.ndarray) -> int:
    """Pairs of neighbouring slices with equal labels."""
    return sum(np.array_equal(one, other) for one, other in itertools.pairwise(labels))


def preprocessed(planner, thickness: float) -> np.ndarray:
    plan = plan_of(planner)
    full = plan.configuration("3d_fullres")
    assert full.spacing[0] == pytest.approx(3.0)
    segmentation = preprocess_case(*cone(thickness), plan, full, case_id="a", key="k").segmentation
    assert segmentation.shape == (HEIGHT_MM // 3, EDGE, EDGE)
    return segmentation


@pytest.mark.parametrize("thickness", CASES)
def test_the_cone_itself_has_no_equal_slices(thickness: float) -> None:
    assert repeated_slices(cone(thickness)[1].array[0]) == 0


@pytest.mark.parametrize("planner", [DefaultPlanner, ResidualPlanner])
@pytest.mark.parametrize("thickness", CASES)
def test_no_slice_of_labels_is_repeated(planner, thickness: float) -> None:
    """Beyond the centres of the outermost slices nothing is known: there, one slice at each end may be repeated."""
    assert repeated_slices(preprocessed(planner, thickness)[1:-1]) == 0


@pytest.mark.parametrize(("thickness", "repeated"), [(3.0, 0), (5.0, 14), (7.0, 20)])
def test_nnunet_repeats_the_nearest_slice(thickness: float, repeated: int) -> None:
    """Its quirk, kept under its presets: 35 slices come from 21 or 15."""
    assert repeated_slices(preprocessed(NnunetPlanner, thickness)) == repeated


def test_interpolated_slices_lie_between_their_neighbours() -> None:
    """The cone goes on widening: its radius is that of the cone that was scanned in thin slices, to within a step."""
    thick, thin = preprocessed(DefaultPlanner, 7.0), cone(3.0)[1].array[0]
    radii, expected = (np.sqrt((labels == 1).sum((1, 2)) / np.pi) for labels in (thick, thin))
    assert (np.diff(radii[1:-1]) > 0).all()
    np.testing.assert_allclose(radii[1:-1], expected[1:-1], atol=24 / HEIGHT_MM * 3 / STEP_MM)
