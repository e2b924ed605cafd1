"""The first stage: from a folder to a plan, and to what the plan will cost."""

from __future__ import annotations

import contextlib
import functools
import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from autoseg import plugins
from autoseg.check_stage import check_cases
from autoseg.errors import FindingsError, InputError, UnknownNameError
from autoseg.executors import Executor
from autoseg.files import write_document
from autoseg.held_out_files import training_images_file
from autoseg.logs import Logger, SilentLogger
from autoseg.planning import Budget, Planner, Wishes
from autoseg.values import (
    AxisMap,
    Dataset,
    Finding,
    Fingerprint,
    IntensityProperties,
    IntensityRange,
    Parts,
    Patients,
    Plan,
    Split,
    TrainingImages,
)
from autoseg.values.adoption import Template
from autoseg.values.json_form import require_file_name
from autoseg.workspace import ModelFolder, Workspace

if TYPE_CHECKING:
    from autoseg.estimates import Explanation

__all__ = ["Planned", "explain", "plan_dataset", "plan_in_memory", "training_images", "with_training_grids"]

SILENT = SilentLogger()
#: Sees what was understood of a data set before anything is computed, and may raise to stop.
Understood = Callable[[Dataset, Sequence[Finding]], None]
#: Intensity statistics that moved by less than this, in standard deviations, are kept from the plan before.
SHARE_OF_DEVIATION = 0.1


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What ``plan_dataset`` made: the plan, where it is, the folds, whose cases are whose and what was noticed.

    ``replan`` gives the plan for another budget in bytes.
    """

    plan: Plan
    folder: ModelFolder
    dataset: Dataset
    split: Split
    patients: Patients
    fingerprint: Fingerprint
    findings: tuple[Finding, ...]
    replan: Callable[[int], Plan]


def plan_dataset(
    folder: Path,
    workspace: Workspace,
    *,
    preset: str = "default",
    name: str | None = None,
    memory_gib: float | str | None = None,
    device: str | None = None,
    configurations: Sequence[str] = (),
    wishes: Wishes | None = None,
    parts: Parts | None = None,
    around: Path | None = None,
    trust_code: bool = False,
    seed: int = 12345,
    group_by: str | None = None,
    fix: bool | None = None,
    channel_names: Sequence[str] = (),
    understood: Understood | None = None,
    executor: Executor | None = None,
    logger: Logger = SILENT,
) -> Planned:
    """Looks at a data set, checks it, and plans how to segment it.

    Args:
        folder: of the data set, or a table of its paths; never written to.
        workspace: to keep everything in.
        preset: the planner plug.
        name: of the plan; the preset's by default.
        memory_gib: of the training device; "auto" for what it has free; None for what the planner is made for, or the GPU
            has free, or 8 GiB.
        device: that will train (cpu, cuda or mps; it need not be here). None: cuda if ``memory_gib`` is a number, else
            this machine's.
        configurations: wanted ones; empty for all.
        wishes: what the user wants otherwise than the planner would choose.
        parts: plugs that the user wants instead of the planner's, in every configuration.
        around: a trained model of ours or of nnU-Net's, around which the plan is made, so that its weights fit.
        trust_code: let the plan name code of that model that is no installed plug.
        seed: of the experiment.
        group_by: which cases are of one patient: a table's path, or a pattern. None: as before, else by their names.
        fix: True does the safe fixes of what is wrong, into the workspace; False forgets earlier ones; None keeps them.
        channel_names: of the channels, in order; overrule those that the data set states or that were found.
        understood: sees what was understood before anything is computed, and may raise to stop.
        executor: runs the cases.
        logger: for events.

    Raises:
        InputError: the data set cannot be used as it is; everything that is wrong is listed.
    """
    from autoseg.integrity.across import equal_images
    from autoseg.integrity.fixes import remove_unused
    from autoseg.io.layouts import read_dataset
    from autoseg.patients import current_patients, joined
    from autoseg.splitting import division_findings

    planner, name = _planner(preset), _plan_name(name or preset.replace(":", "-") + ("+from" if around else ""))
    template = _template(around, trust_code=trust_code) if around else None
    wishes, parts = wishes or Wishes(), parts or Parts()
    _require_plugs(wishes, parts)
    budgeted = functools.partial(_budget, planner, memory_gib, device, configurations, wishes, template, seed)
    # what was asked for may be wrong, which is to be told at once; else torch, which takes its time, is loaded meanwhile
    budget = budgeted() if device or memory_gib is not None else None
    dataset, known = read_dataset(folder, channel_names=channel_names, workspace=workspace, executor=executor)
    if understood is not None:
        understood(dataset, known)
    patients = current_patients(workspace, dataset, group_by)
    with _loading("autoseg.estimates"):
        checked = check_cases(dataset, known, workspace, fix=fix, executor=executor, logger=logger)
    dataset, fingerprint = checked.dataset, checked.fingerprint()
    patients = joined(patients, equal_images(fingerprint.cases))
    split = _split(workspace, dataset, patients, checked.findings)
    budget = budget or budgeted()
    plan_for = _replanner(planner, fingerprint, budget, name, parts, before=_plan_before(workspace, name))
    plan = plan_for(budget.memory_bytes)
    model = workspace.save(dataset, fingerprint, split, plan, patients)
    write_document(training_images_file(model), training_images(plan, fingerprint))
    remove_unused(workspace)
    logger.event("planned", plan=plan.id, file=str(model.path / "plan.json"))
    return Planned(
        plan=plan,
        folder=model,
        dataset=dataset,
        split=split,
        patients=patients,
        fingerprint=fingerprint,
        findings=(*checked.findings, *division_findings(split, patients)),
        replan=plan_for,
    )


def _require_plugs(wishes: Wishes, parts: Parts) -> None:
    for _, scheme in wishes.normalization:
        plugins.load("normalizer", scheme)
    plugins.require(parts.chosen)


def _split(workspace: Workspace, dataset: Dataset, patients: Patients, findings: Sequence[Finding]) -> Split:
    """The folds; if there can be none, the error tells the findings, too, among which the reason may be."""
    from autoseg.splitting import current_split

    try:
        return current_split(workspace, dataset, patients)
    except InputError as error:
        noticed = [finding for finding in findings if finding.severity != "note"]
        if not noticed:
            raise
        raise FindingsError(f"{error}\nThis was noticed about the data:", noticed) from error


def plan_in_memory(fingerprint: Fingerprint, preset: str, *, device: str) -> Plan:
    """The plan of a preset for a known data set, with the preset's usual memory; nothing is kept.

    Args:
        fingerprint: of the data set.
        preset: the planner plug.
        device: that will train.

    Raises:
        UnknownNameError: no such planner.
    """
    planner, wishes = _planner(preset), Wishes()
    budget = _budget(planner, None, device, (), wishes, None, seed=12345)
    return _replanner(planner, fingerprint, budget, _plan_name(preset.replace(":", "-")), Parts(), before=None)(
        budget.memory_bytes
    )


def _replanner(
    planner: Planner, fingerprint: Fingerprint, budget: Budget, name: str, parts: Parts, *, before: Plan | None
) -> Callable[[int], Plan]:
    """The plan for any memory in bytes, with parts of the user's own; ``before`` is the one that it follows."""
    from autoseg.networks.execution import training_backend
    from autoseg.networks.memory import process_bytes
    from autoseg.plan_parts import cost_with, with_parts

    cost = cost_with(parts, functools.partial(process_bytes, backend=training_backend(budget.device)))

    def plan_for(memory_bytes: int) -> Plan:
        plan = planner.plan(fingerprint, msgspec.structs.replace(budget, memory_bytes=memory_bytes), cost, name=name)
        _check_follows(plan, budget)
        followed = None if budget.template else before  # the model's statistics are those that its weights saw
        return with_training_grids(_with_kept_statistics(with_parts(plan, parts), followed), fingerprint)

    return plan_for


def _template(model: Path, *, trust_code: bool) -> Template:
    """What a plan is made around."""
    from autoseg.finetuning.source import find_template
    from autoseg.plan_check import check_trusted
    from autoseg.sharing.reading import opened_model

    with opened_model(model) as opened:
        template = find_template(opened.path)
    if not trust_code:
        check_trusted(template.code_paths, model)
    return template


def _check_follows(plan: Plan, budget: Budget) -> None:
    """Sees to it that a plan around a model really is one: somebody's own planner may not know of such plans."""
    if budget.template is None:
        return
    for each in plan.configurations:
        of_model, network = budget.template.configuration(each.name), each.network
        wanted = of_model and (of_model.network.features, of_model.network.strides, of_model.network.kernel_sizes)
        if wanted != (network.features, network.strides, network.kernel_sizes):
            raise InputError(
                f"the planner {plan.planner!r} does not plan around a model", remedy="Take another --preset."
            )


def with_training_grids(plan: Plan, fingerprint: Fingerprint) -> Plan:
    """The plan that tells how the training images lay, by which prediction knows an image that is unlike them."""
    order = AxisMap(order=plan.axis_order)
    per_axis = list(zip(*map(order.reorder, fingerprint.spacings(plan.orientation)), strict=True))
    return msgspec.structs.replace(
        plan,
        orientations=fingerprint.orientations,
        spacing_range=tuple((min(steps), max(steps)) for steps in per_axis),
    )


def training_images(plan: Plan, fingerprint: Fingerprint) -> TrainingImages:
    """What the images of the fingerprint are like, by which prediction knows one that is unlike them."""
    order = AxisMap(order=plan.axis_order)
    first, second, third = zip(*map(order.reorder, fingerprint.sizes(plan.orientation)), strict=True)
    intensities = []
    for channel in range(len(fingerprint.channels)):
        known = [case.image_quantiles[channel] for case in fingerprint.cases if case.image_quantiles]
        if known:
            ranges = tuple((min(each), max(each)) for each in zip(*known, strict=True))
            spreads = sorted(each[-1] - each[0] for each in known)
            intensities.append(IntensityRange(quantiles=ranges, spread=spreads[len(spreads) // 2]))
    return TrainingImages(
        cases=len(fingerprint.cases),
        sizes=((min(first), max(first)), (min(second), max(second)), (min(third), max(third))),
        intensities=tuple(intensities),
    )


@contextlib.contextmanager
def _loading(module: str) -> Iterator[None]:
    """Imports a module in a thread meanwhile; if that fails, whoever needs it is told."""

    def load() -> None:
        with contextlib.suppress(Exception):
            importlib.import_module(module)

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _plan_before(workspace: Workspace, name: str) -> Plan | None:
    """The plan that a new one follows: that of its name, else the active one."""
    for wanted in (name, None):
        with contextlib.suppress(InputError):  # none, or a damaged one, which is told where it would be lost
            return workspace.model(wanted).plan()
    return None


def _with_kept_statistics(plan: Plan, before: Plan | None) -> Plan:
    """The plan with the intensity statistics of the one before, where they hardly moved: what is preprocessed stays.

    One case more, or a corrected label, changes the statistics in some late digit; every case would be made anew for it.
    """
    if before is None or before.channels != plan.channels:
        return plan
    specs = []
    for spec, old in zip(plan.normalization, before.normalization, strict=True):
        same = (spec.scheme, spec.use_mask) == (old.scheme, old.use_mask)
        if same and spec.properties and old.properties and _moved_little(spec.properties, old.properties):
            reason = f"{spec.reason}; with the statistics of the plan {before.name}, which have hardly moved since"
            specs.append(msgspec.structs.replace(spec, properties=old.properties, reason=reason))
        else:
            specs.append(spec)
    return msgspec.structs.replace(plan, normalization=tuple(specs))


def _moved_little(new: IntensityProperties, old: IntensityProperties) -> bool:
    """Whether the numbers that normalization uses differ, but none by more than a share of the standard deviation."""
    used = ("mean", "std", "percentile_00_5", "percentile_99_5")
    most = max(abs(getattr(new, name) - getattr(old, name)) for name in used)
    return new != old and most <= SHARE_OF_DEVIATION * old.std


def _budget(
    planner: Planner,
    memory_gib: float | str | None,
    device: str | None,
    configurations: Sequence[str],
    wishes: Wishes,
    template: Template | None,
    seed: int,
) -> Budget:
    from autoseg.estimates import memory_to_plan_for
    from autoseg.networks.execution import resolve_device

    elsewhere = "cuda" if isinstance(memory_gib, int | float) else None
    trains_on = resolve_device(device or elsewhere or "auto", here=False)
    return Budget(
        memory_bytes=memory_to_plan_for(memory_gib, getattr(planner, "default_memory_bytes", None), trains_on),
        device=trains_on,
        configurations=tuple(configurations),
        seed=seed,
        wishes=wishes,
        template=template,
    )


def _planner(preset: str) -> Planner:
    make: Any = plugins.load("planner", preset)
    made = getattr(make, "func", make)  # a preset is a planner's class with its first argument given
    if not hasattr(made, "plan"):
        raise UnknownNameError(f"{preset!r} is no planner: it has no method plan")
    planner: Planner = make()
    return planner


def _plan_name(name: str) -> str:
    try:
        require_file_name("plan", name)
    except ValueError as error:
        raise InputError(str(error), remedy="Name it otherwise with --name.") from error
    return name


def explain(planned: Planned) -> list[Explanation]:
    """What every configuration costs, its time measured if the device is here, and what more memory would give."""
    from autoseg.estimates import Explanation, expectation, larger_budget

    plan = planned.plan
    memory = larger_budget(plan.budget_bytes)
    larger = {each.name: each for each in planned.replan(memory).configurations}
    return [
        Explanation(
            configuration=each,
            expected=expectation(
                plan, each, planned.fingerprint, plan.device, iterations=each.training.iterations, timed=True
            ),
            device=plan.device,
            larger_bytes=memory,
            larger=larger.get(each.name),
        )
        for each in plan.configurations
    ]
