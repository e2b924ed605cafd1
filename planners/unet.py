"""The planners: from a fingerprint and a budget to a plan, by the rules of a preset."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence

import msgspec

from autoseg import __version__
from autoseg.errors import InputError, UnknownNameError
from autoseg.planning import GIBIBYTE, Budget, MemoryCost
from autoseg.values import (
    AugmentationSpec,
    Configuration,
    Fingerprint,
    NetworkSpec,
    Plan,
    ResamplingSpec,
    TrainingSpec,
)
from autoseg.values.json_form import Value
from planners.architecture import Width, network_spec, width
from planners.around import plan_around
from planners.augmentation import augmentation
from planners.intensity import normalization
from planners.lowres import LowResolution, low_resolution
from planners.memory import FittedPatch, Room, TooLittleMemoryError, fit_count, fit_memory
from planners.order import fixed_axes, sides_and_order
from planners.presets import (
    DEFAULT,
    NNUNET,
    NNUNET_RESENC_L,
    NNUNET_RESENC_M,
    NNUNET_RESENC_XL,
    RESIDUAL,
    Preset,
)
from planners.reasons import configuration_reasons, over_budget, plan_reasons
from planners.sides import LEFT_RIGHT_AXIS
from planners.spacing import Grid, common_grid, large_after_resampling
from planners.topology import Topology
from planners.training import Length, largest_batch, length, training

__all__ = [
    "DefaultPlanner",
    "NnunetPlanner",
    "NnunetResencLPlanner",
    "NnunetResencMPlanner",
    "NnunetResencXLPlanner",
    "PresetPlanner",
    "ResidualPlanner",
]

Triple = tuple[float, float, float]
FLAT, FULL, LOW, CASCADE = "2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"
#: At equal memory, patches of different grids hold about equally many voxels.
LIKE_PATCHES = 3.0


class PresetPlanner:
    """Plans by the rules of a preset.

    Args:
        preset: what makes this planner differ from others.
    """

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        rule = preset.count_rule
        self.default_memory_bytes = rule.memory_bytes if rule else None

    def plan(self, fingerprint: Fingerprint, budget: Budget, cost: MemoryCost, *, name: str) -> Plan:
        """See ``autoseg.planning.Planner``."""
        if budget.template is not None:
            return plan_around(self.preset, budget.template, fingerprint, budget, cost, name=name)
        planning = _Planning(self.preset, fingerprint, budget, cost)
        try:
            return planning.plan(name)
        except TooLittleMemoryError as error:
            raise planning.with_enough_named(error, name) from None


DefaultPlanner = functools.partial(PresetPlanner, DEFAULT)
ResidualPlanner = functools.partial(PresetPlanner, RESIDUAL)
NnunetPlanner = functools.partial(PresetPlanner, NNUNET)
NnunetResencMPlanner = functools.partial(PresetPlanner, NNUNET_RESENC_M)
NnunetResencLPlanner = functools.partial(PresetPlanner, NNUNET_RESENC_L)
NnunetResencXLPlanner = functools.partial(PresetPlanner, NNUNET_RESENC_XL)


class _View(Value, frozen=True, kw_only=True):
    """One way to look at the data, before its training is decided.

    Attributes:
        name: of the configuration.
        spacing: of its grid in millimetres; the slice axis comes first, also in 2D.
        shape: median size on that grid in voxels.
        fitted: patch and batch.
    """

    name: str
    spacing: Triple
    shape: Triple
    fitted: FittedPatch


class _Planning:
    """One planning: what everything in it needs, so that its steps read as sentences."""

    def __init__(self, preset: Preset, fingerprint: Fingerprint, budget: Budget, cost: MemoryCost) -> None:
        self.preset, self.fingerprint, self.budget, self.cost = preset, fingerprint, budget, cost
        self._known_costs: dict[tuple[int, Topology, int], int] = {}
        self.grid: Grid = common_grid(fingerprint, preset.orientation, budget.wishes.spacing)
        self.sides, self.order = sides_and_order(preset, fingerprint)

    def plan(self, name: str) -> Plan:
        """The plan of all configurations that make sense, or those that are wanted."""
        views = self._views()
        possible = tuple(dict.fromkeys((FLAT, *views)))
        self._check_wishes(possible)
        wanted = self._wanted(possible)
        configurations = tuple(self._configuration(views, which) for which in views if which in wanted)
        preset, fingerprint, budget = self.preset, self.fingerprint, self.budget
        blown_up = large_after_resampling(fingerprint, preset.orientation, self.grid)
        return Plan(
            name=name,
            planner=preset.name,
            autoseg_version=__version__,
            dataset=fingerprint.dataset,
            channels=fingerprint.channels,
            labels=fingerprint.labels,
            file_ending=fingerprint.file_ending,
            orientation=preset.orientation,
            axis_order=self.grid.order,
            normalization=normalization(fingerprint, budget.wishes.normalization),
            seed=budget.seed,
            budget_bytes=budget.memory_bytes,
            device=budget.device,
            configurations=configurations,
            reasons=plan_reasons(preset, self.sides, self.order),
            warnings=(*self.sides.warnings, *blown_up, *over_budget(preset, budget, configurations)),
        )

    def with_enough_named(self, error: TooLittleMemoryError, name: str) -> TooLittleMemoryError:
        """The error that names a budget with which the whole plan can be made, not only what did not fit first."""
        least = 0.0
        while True:
            least = max(error.enough, round(least + 0.1, 1))
            richer = copy.copy(self)  # that knows the same costs
            richer.budget = msgspec.structs.replace(self.budget, memory_bytes=int(least * GIBIBYTE))
            try:
                richer.plan(name)
            except TooLittleMemoryError as further:
                error = further
            else:
                return error.in_plan(self.budget.memory_bytes, richer.budget.memory_bytes)

    def _views(self) -> dict[str, _View]:
        """The configurations that make sense; one that nobody wants is not looked at, so it cannot stand in the way."""
        grid, wanted = self.grid, set(self.budget.configurations)
        is_flat, views = grid.shape[0] == 1, {}
        if is_flat or not wanted or FLAT in wanted or FLAT in self._wished():
            views[FLAT] = self._view(FLAT, grid.spacing, grid.shape, grid.dataset_voxels)
        if is_flat or (wanted == {FLAT} and self._wished() <= {FLAT}):
            return views
        full = self._view(FULL, grid.spacing, grid.shape, grid.dataset_voxels)
        views[FULL] = full
        low = self._low_resolution(full)
        if low is not None:
            views[LOW] = _View(name=LOW, spacing=low.spacing, shape=_rounded(low.shape), fitted=low.fitted)
            views[CASCADE] = self._cascade(full)
        return views

    def _view(self, name: str, spacing: Triple, shape: Triple, dataset_voxels: float) -> _View:
        fitted = self._fit(name, spacing, shape, dataset_voxels)
        return _View(name=name, spacing=spacing, shape=shape, fitted=fitted)

    def _low_resolution(self, full: _View) -> LowResolution | None:
        cases = len(self.fingerprint.cases)

        def fit(spacing: Triple, shape: Triple) -> FittedPatch:
            return self._fit(LOW, spacing, _rounded(shape), math.prod(shape) * cases)

        return low_resolution(
            full.spacing,
            full.shape,
            full.fitted.topology.patch_size,
            fit,
            at_most_times=math.inf if self.preset.count_rule else LIKE_PATCHES,
        )

    def _cascade(self, full: _View) -> _View:
        """Full resolution again, with the low resolution's prediction as further input channels."""
        if self.preset.count_rule is not None and CASCADE not in self._wished():
            return _View(name=CASCADE, spacing=full.spacing, shape=full.shape, fitted=full.fitted)
        return self._view(CASCADE, full.spacing, full.shape, self.grid.dataset_voxels)

    def _wished(self) -> set[str]:
        """The configurations that wishes name."""
        wishes = self.budget.wishes
        return {name for name, _ in (*wishes.patch_sizes, *wishes.batch_sizes) if name}

    def _check_wishes(self, possible: Sequence[str]) -> None:
        for missing in sorted(self._wished().difference(possible)):
            raise _unknown(missing, possible)
        for name, size in self.budget.wishes.patch_sizes:
            if not name and len(size) == 3 and tuple(possible) == (FLAT,):
                raise InputError(f"{FLAT} has patches of 2 axes", found=" x ".join(map(str, size)))

    def _fit(self, name: str, spacing: Triple, shape: Triple, dataset_voxels: float) -> FittedPatch:
        first, wishes = (1 if name == FLAT else 0), self.budget.wishes
        room = Room(
            spacing=spacing[first:],
            shape=shape[first:],
            dataset_voxels=dataset_voxels,
            largest_share=self.preset.largest_share,
            memory_bytes=self.budget.memory_bytes,
            largest_batch=largest_batch(as_nnunet=self.preset.as_nnunet, device=self.budget.device, axes=3 - first),
            patch_size=wishes.patch_size(name, 3 - first),
            batch_size=wishes.batch_size(name),
        )
        if self.preset.count_rule is None:
            return fit_memory(room, self._cost_of(name))
        labels = self.fingerprint.labels.declared_count
        return fit_count(room, self.preset.count_rule, self.preset.architecture, labels)

    def _cost_of(self, name: str) -> Callable[[Topology, int], int]:
        """Predicted bytes; each network is looked at once, for grids that differ little need the same ones."""
        inputs = self._inputs(name)
        spec = training(as_nnunet=self.preset.as_nnunet, batch_dice=True, device=self.budget.device, epochs=1)

        def predicted(topology: Topology, batch_size: int) -> int:
            key = (inputs, topology, batch_size)
            if key not in self._known_costs:
                network = self._network(name, topology)
                self._known_costs[key] = self.cost(network, topology.patch_size, batch_size, spec)
            return self._known_costs[key]

        return predicted

    def _inputs(self, name: str) -> int:
        """Image channels, and in a cascade one for every label that the stage before predicts."""
        return len(self.fingerprint.channels) + (len(self.fingerprint.labels.foreground) if name == CASCADE else 0)

    def _network(self, name: str, topology: Topology, share: float = 1.0) -> NetworkSpec:
        outputs = self.fingerprint.labels.output_count
        return network_spec(self.preset.architecture, topology, self._inputs(name), outputs, share)

    def _width(self) -> Width:
        preset = self.preset
        return width(as_nnunet=preset.as_nnunet, architecture=preset.architecture, device=self.budget.device)

    def _length(self, view: _View) -> Length:
        return length(
            as_nnunet=self.preset.as_nnunet,
            device=self.budget.device,
            dataset_voxels=math.prod(view.shape) * len(self.fingerprint.cases),
            patch_size=view.fitted.topology.patch_size,
            batch_size=view.fitted.batch_size,
        )

    def _training(self, *, batch_dice: bool, epochs: int) -> TrainingSpec:
        preset = self.preset
        return training(as_nnunet=preset.as_nnunet, batch_dice=batch_dice, device=self.budget.device, epochs=epochs)

    def _wanted(self, possible: Sequence[str]) -> set[str]:
        """The configurations to plan; a cascade brings the stages that it is made of."""
        wanted = set(self.budget.configurations or possible)
        for missing in sorted(wanted.difference(possible)):
            raise _unknown(missing, possible)
        return wanted | ({FULL, LOW} if CASCADE in wanted else set())

    def _configuration(self, views: dict[str, _View], name: str) -> Configuration:
        view = views[name]
        topology, duration = view.fitted.topology, self._length(view)
        batch_dice = name == FLAT or (name != LOW and LOW in views)
        network = self._network(name, topology, self._width().share)
        spec = self._training(batch_dice=batch_dice, epochs=duration.epochs)
        return Configuration(
            name=name,
            spacing=(None, *view.spacing[1:]) if name == FLAT else view.spacing,
            median_shape=view.shape,
            patch_size=topology.patch_size,
            batch_size=view.fitted.batch_size,
            network=network,
            training=spec,
            augmentation=self._augmentation(topology.patch_size),
            resampling=ResamplingSpec(separate_axis_order=0 if self.preset.as_nnunet else 1),
            expected_memory_bytes=self.cost(network, topology.patch_size, view.fitted.batch_size, spec),
            inherits_from=FULL if name == CASCADE else None,
            previous_stage=LOW if name == CASCADE else None,
            reasons=configuration_reasons(
                *(self.preset, name, self.grid, view.spacing, view.fitted, self.budget),
                length=duration.reason,
                features=self._width().reason,
            ),
        )

    def _augmentation(self, patch_size: Sequence[int]) -> AugmentationSpec:
        """nnU-Net mirrors all axes whatever the labels mean; here sides change places with the image, or nothing does."""
        if self.preset.as_nnunet:
            return augmentation(patch_size)
        axis = self.grid.order.index(LEFT_RIGHT_AXIS) - (3 - len(patch_size))
        return augmentation(
            patch_size,
            left_right_axis=axis if axis >= 0 else None,
            forbid_mirroring=self.sides.forbid_mirroring,
            swapped_labels=self.sides.swapped_labels,
            fixed_axes=fixed_axes(self.order, self.grid.order, len(patch_size)),
        )


def _unknown(name: str, possible: Sequence[str]) -> UnknownNameError:
    return UnknownNameError(
        f"{name!r} cannot be planned for this data set",
        expected=" or ".join(possible),
        remedy="A low resolution and a cascade exist where a patch covers less than a quarter of an image."
        if name in (LOW, CASCADE)
        else None,
    )


def _rounded(shape: Triple) -> Triple:
    first, second, third = (float(max(1, round(edge))) for edge in shape)
    return (first, second, third)
