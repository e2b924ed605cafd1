"""Surface metrics: against DeepMind's surface-distance, a slow reference of our own, closed forms, and by their laws."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from autoseg.evaluation.surface import SurfaceDistances, hd, surface_distances
from autoseg.evaluation.surface_elements import element_areas
from autoseg.values import Geometry

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (3.0, 1.3, 0.5), (0.5, 2.0, 1.0)]


def blobs(
    seed: int, *, planar: bool = False, smooth: float = 1.5, change: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Two objects of irregular form that are alike; they touch the borders of the image."""
    random = np.random.default_rng(seed)
    shape = (1, 30, 25) if planar else tuple(random.integers(8, 22, 3))
    field = ndimage.gaussian_filter(random.normal(size=shape), smooth)
    other = field + change * ndimage.gaussian_filter(random.normal(size=shape), 1.0)
    return field > 0.8 * field.std(), other > 0.8 * other.std()


def metrics(measured: SurfaceDistances) -> list[float | None]:
    return [
        measured.hausdorff(),
        measured.hausdorff(95),
        measured.hausdorff(50),
        measured.average(),
        measured.dice_at(0.0),
        measured.dice_at(1.0),
        measured.dice_at(2.6),
    ]


def slow(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]) -> list[float]:
    """Every element of one surface against every one of the other, by the definition."""
    table, ways = element_areas(spacing), []
    surfaces = []
    for mask in (reference, prediction):
        padded = np.pad(mask, 1)
        found = []
        for place in itertools.product(*(range(size - 1) for size in padded.shape)):
            corners = padded[tuple(slice(index, index + 2) for index in place)].ravel()
            if corners.any() and not corners.all():
                found.append((np.array(place) * spacing, table[int(corners @ (1 << np.arange(7, -1, -1)))]))
        surfaces.append((np.array([place for place, _ in found]), np.array([area for _, area in found])))
    apart = cdist(surfaces[0][0], surfaces[1][0])
    ways = [(apart.min(axis=1), surfaces[0][1]), (apart.min(axis=0), surfaces[1][1])]
    whole = sum(areas.sum() for _, areas in ways)

    def part(percent: float) -> float:
        found = []
        for distances, areas in ways:
            candidates = np.unique(distances)
            shares = np.array([areas[distances <= each].sum() / areas.sum() for each in candidates])
            found.append(candidates[np.flatnonzero(shares >= percent / 100 - 1e-9)[0]])
        return float(max(found))

    average = sum((distances * areas).sum() for distances, areas in ways) / whole
    near = [sum(areas[distances <= mm + 1e-9].sum() for distances, areas in ways) / whole for mm in (0.0, 1.0, 2.6)]
    return [part(100), part(95), part(50), average, *near]


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_a_slow_reference(seed: int, spacing: tuple[float, float, float]) -> None:
    reference, prediction = (array[:12, :12, :12] for array in blobs(seed))
    assert metrics(surface_distances(reference, prediction, spacing)) == pytest.approx(
        slow(reference, prediction, spacing), abs=1e-9
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the oracle is of 2018
@pytest.mark.parametrize("planar", [False, True], ids=["surfaces", "contours"])
@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize(("seed", "smooth", "change"), [(0, 1.5, 0.5), (1, 0.5, 0.0), (2, 0.0, 1.0), (3, 2.0, 2.0)])
def test_metrics_are_those_of_surface_distance(
    seed: int, smooth: float, change: float, spacing: tuple[float, float, float], planar: bool
) -> None:
    oracle = pytest.importorskip("surface_distance")
    reference, prediction = blobs(seed, planar=planar, smooth=smooth, change=change)
    if planar:
        expected = oracle.compute_surface_distances(reference[0], prediction[0], spacing[1:])
    else:
        expected = oracle.compute_surface_distances(reference, prediction, spacing)
    means = oracle.compute_average_surface_distance(expected)
    areas = (expected["surfel_areas_gt"].sum(), expected["surfel_areas_pred"].sum())
    mine = surface_distances(reference, prediction, spacing, planar=planar)
    assert metrics(mine) == pytest.approx(
        [
            *(oracle.compute_robust_hausdorff(expected, percent) for percent in (100, 95, 50)),
            float(np.average(means, weights=areas)),
            *(oracle.compute_surface_dice_at_tolerance(expected, mm) for mm in (0.0, 1.0, 2.6)),
        ],
        abs=1e-9,
    )


def box(shape: Sequence[int], start: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(first, first + size) for first, size in zip(start, sizes, strict=True))] = True
    return mask


def lattice(first: np.ndarray, last: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The surface of a box in closed form: places of its elements, in steps, and their areas."""
    places = np.array(list(itertools.product(*(range(low, high + 1) for low, high in zip(first, last, strict=True)))))
    ends = (places == first) | (places == last)
    a, b, c = (spacing / 2)[:, None] * np.eye(3)
    corner = np.linalg.norm(np.cross(b - a, c - a)) / 2
    face = spacing.prod() / spacing
    edge = np.array([spacing[axis] * np.hypot(*np.delete(spacing, axis)) / 2 for axis in range(3)])
    count = ends.sum(axis=1)
    areas = np.select(
        [count == 1, count == 2, count == 3], [(ends * face).sum(axis=1), (~ends * edge).sum(axis=1), corner]
    )
    return places[count > 0], areas[count > 0]


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_a_box_within_a_box(spacing: tuple[float, float, float]) -> None:
    """From within, the nearest of six planes is as far as it is; from outside, a box is as far as its nearest point."""
    low, high, inner_low, inner_high = (np.array(place) for place in ((2, 3, 2), (13, 13, 12), (5, 6, 4), (11, 10, 9)))
    steps = np.array(spacing)
    inner, inner_areas = lattice(inner_low, inner_high, steps)
    outer, outer_areas = lattice(low, high, steps)
    outwards = (np.minimum(inner - low, high - inner) * steps).min(axis=1)
    inwards = np.linalg.norm((outer - outer.clip(inner_low, inner_high)) * steps, axis=1)
    whole = inner_areas.sum() + outer_areas.sum()

    def filled(first: np.ndarray, last: np.ndarray) -> np.ndarray:
        return box((16, 16, 16), first + 1, last - first)

    measured = surface_distances(filled(inner_low, inner_high), filled(low, high), spacing)
    assert measured.from_reference.area == pytest.approx(inner_areas.sum(), abs=1e-6)
    assert measured.hausdorff() == pytest.approx(max(inwards.max(), outwards.max()), abs=1e-6)
    expected = ((inwards * outer_areas).sum() + (outwards * inner_areas).sum()) / whole
    assert measured.average() == pytest.approx(expected, abs=1e-6)
    for mm in (0.5, 1.4, 2.0, 3.9, 7.0):
        near = inner_areas[outwards <= mm + 1e-9].sum() + outer_areas[inwards <= mm + 1e-9].sum()
        assert measured.dice_at(mm) == pytest.approx(near / whole, abs=1e-6)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("steps", [1, 3, 30])
def test_a_displaced_box(axis: int, steps: int) -> None:
    """30 steps are farther than what is looked at step by step."""
    spacing, sizes = (1.5, 1.0, 0.1), (7, 8, 9)
    shape = [50 if along == axis else 12 for along in range(3)]
    start = [2, 2, 2]
    moved = [place + steps * (along == axis) for along, place in enumerate(start)]
    measured = surface_distances(box(shape, start, sizes), box(shape, moved, sizes), spacing)
    assert measured.hausdorff() == pytest.approx(steps * spacing[axis], abs=1e-6)
    assert measured.dice_at(steps * spacing[axis]) == 1.0  # 3 * 0.1 is not 0.3, but means that


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_two_voxels_far_apart(spacing: tuple[float, float, float]) -> None:
    one, other = box((40, 30, 20), (1, 1, 1), (1, 1, 1)), box((40, 30, 20), (37, 25, 17), (1, 1, 1))
    measured = surface_distances(one, other, spacing)
    apart = np.array(spacing) * (36, 24, 16)
    nearest = apart - spacing
    assert measured.hausdorff() == pytest.approx(np.linalg.norm(apart), abs=1e-9)
    assert measured.from_reference.distances_mm[0] == pytest.approx(np.linalg.norm(nearest), abs=1e-9)


def sphere(radius_mm: float, spacing: float, size_mm: float = 40.0) -> np.ndarray:
    axis = np.arange(-size_mm / 2, size_mm / 2, spacing) + spacing / 3  # no symmetry of the grid
    squares = np.meshgrid(axis**2, axis**2, axis**2, indexing="ij", sparse=True)
    return sum(squares) <= radius_mm**2


def test_spheres_converge_with_resolution() -> None:
    """Around one centre, 10 and 13 mm: every distance is 3 mm."""
    errors = []
    for spacing in (2.0, 1.0, 0.5):
        measured = surface_distances(sphere(10, spacing), sphere(13, spacing), (spacing,) * 3)
        errors.append((abs(measured.average() - 3), abs(measured.hausdorff(95) - 3)))
    assert (np.array(errors) < 0.6 * np.array([[2.0], [1.0], [0.5]])).all()  # elements lie on the grid
    assert (np.diff(np.array(errors), axis=0) < 0).all()


def test_laws() -> None:
    reference, prediction = blobs(5)
    spacing = (3.0, 1.3, 0.5)
    expected = metrics(surface_distances(reference, prediction, spacing))
    assert metrics(surface_distances(prediction, reference, spacing)) == pytest.approx(expected, abs=1e-12)
    moved = [np.pad(mask, ((1, 4), (0, 2), (7, 0))) for mask in (reference, prediction)]
    assert metrics(surface_distances(*moved, spacing)) == pytest.approx(expected, abs=1e-12)
    scaled = surface_distances(reference, prediction, [step * 2.5 for step in spacing])
    assert metrics(scaled)[:4] == pytest.approx([2.5 * value for value in expected[:4]], abs=1e-9)
    assert scaled.dice_at(2.5) == pytest.approx(expected[5], abs=1e-9)
    assert metrics(surface_distances(reference, reference, spacing)) == [0, 0, 0, 0, 1, 1, 1]


def test_without_a_surface_there_is_no_distance() -> None:
    full, empty = np.ones((3, 4, 5), bool), np.zeros((3, 4, 5), bool)
    for pair in ((full, empty), (empty, full)):
        measured = surface_distances(*pair, (1, 1, 1))
        assert [measured.hausdorff(), measured.hausdorff(95), measured.average()] == [None] * 3
        assert measured.dice_at(100.0) == 0.0
    measured = surface_distances(empty, empty, (1, 1, 1))
    assert metrics(measured) == [None] * 7


def test_a_planar_image_has_contours_and_a_thin_one_surfaces() -> None:
    """A pixel more in the middle of a hole: the surfaces above and below it know."""
    full = np.ones((1, 9, 9), bool)
    hole = full.copy()
    hole[0, 4, 4] = False
    geometry = {"shape": (1, 9, 9), "spacing": (1.0, 1.0, 1.0)}
    contours = hd(full, hole, geometry=Geometry(**geometry, planar=True))
    assert contours == 4.0  # from the hole to the border of the image
    assert hd(full, hole, geometry=Geometry(**geometry)) == 0.0  # above and below it there is surface in both


def test_what_lies_beside_unknown_voxels_is_not_compared() -> None:
    reference, prediction = blobs(6)
    unknown = np.zeros(reference.shape, bool)
    unknown[: len(unknown) // 2] = True
    same = np.where(unknown, False, reference)
    margin = np.pad(unknown, 1)
    measured = surface_distances(same, np.where(unknown, False, prediction), (1, 1, 1), unknown=margin)
    below = [mask[len(unknown) // 2 :] for mask in (reference, prediction)]
    alone = surface_distances(*below, (1, 1, 1))
    assert measured.from_reference.area < alone.from_reference.area  # the cut through the object is none of its surface
    assert metrics(surface_distances(same, same, (1, 1, 1), unknown=margin)) == [0, 0, 0, 0, 1, 1, 1]
    everything = np.ones_like(margin)
    assert metrics(surface_distances(reference, prediction, (1, 1, 1), unknown=everything)) == [None] * 7
