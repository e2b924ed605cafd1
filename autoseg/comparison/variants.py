"""Configurations that differ from a plan's in one thing each, so that two of them can be compared on equal terms.

They stand in a plan of their own beside the configurations that they come from, so that they share the preprocessed cases
of these. The same plan and pair give the same variants again, so that a repeated command goes on with their trainings.
"""

from __future__ import annotations

import itertools

import msgspec

from autoseg.comparison.fields import field_in_plane
from autoseg.files import write_document
from autoseg.networks.execution import training_backend
from autoseg.networks.memory import parameter_count, process_bytes
from autoseg.values import Configuration, NetworkSpec, Plan
from autoseg.values.json_form import Value
from autoseg.workspace import COMPARISON_OF, ModelFolder, Workspace

__all__ = ["ITERATIONS", "PARAMETERS", "TIME", "VIEW", "comparison_model", "comparison_plan", "with_parameters"]

ITERATIONS, PARAMETERS, TIME, VIEW = "equal_iterations", "equal_parameters", "equal_time", "equal_field_of_view"
#: Widths that are tried around the one that parameters growing with its square would have.
WIDTHS = 8


class ComparisonOf(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.comparison-of/1"):
    """Name and id of the plan that another one was made to look into."""

    plan: str
    id: str


def comparison_plan(plan: Plan, pair: tuple[str, str]) -> Plan:
    """The plan with the variants of two of its configurations; a variant of a cascade's later stage is not made.

    Args:
        plan: with both.
        pair: names of the 3D configuration and of the 2D configuration.
    """
    first, second = (plan.configuration(name) for name in pair)
    made = [
        _named(each, what) for each in (first, second) if each.previous_stage is None for what in (ITERATIONS, TIME)
    ]
    if second.previous_stage is None:
        network = with_parameters(second.network, parameter_count(first.network))
        made.append(_named(msgspec.structs.replace(second, network=network), PARAMETERS))
        if (first.dimensions, second.dimensions) == (3, 2):
            made.append(_named(_with_field(second, field_in_plane(first, second)), VIEW))
    variants = tuple(_with_memory(each, plan) for each in made)
    name = f"{plan.name}-compare-{first.name}-{second.name}"
    return msgspec.structs.replace(plan, name=name, configurations=(*plan.configurations, *variants))


def with_parameters(spec: NetworkSpec, wanted: int) -> NetworkSpec:
    """The network, wider or narrower in all stages alike, that has the number of parameters nearest to the wanted one."""
    first = spec.features[0]
    guess = round(first * (wanted / parameter_count(spec)) ** 0.5)
    widths = range(max(1, guess - WIDTHS), guess + WIDTHS + 1)
    specs = [
        msgspec.structs.replace(spec, features=tuple(max(1, round(each * width / first)) for each in spec.features))
        for width in widths
    ]
    return min(specs, key=lambda each: abs(parameter_count(each) - wanted))


def _with_field(configuration: Configuration, patch: tuple[int, int]) -> Configuration:
    """Another patch, and as many of them in a batch as hold about equally many voxels."""
    (height, width), (own_height, own_width) = patch, configuration.patch_size
    batch = max(1, round(configuration.batch_size * own_height * own_width / (height * width)))
    return msgspec.structs.replace(configuration, patch_size=patch, batch_size=batch)


def _named(configuration: Configuration, what: str) -> Configuration:
    return msgspec.structs.replace(configuration, name=f"{configuration.name}_{what}", inherits_from=None, reasons={})


def _with_memory(configuration: Configuration, plan: Plan) -> Configuration:
    how = (configuration.network, configuration.patch_size, configuration.batch_size, configuration.training)
    needed = process_bytes(*how, backend=training_backend(plan.device))
    return msgspec.structs.replace(configuration, expected_memory_bytes=needed)


def comparison_model(workspace: Workspace, plan: Plan, pair: tuple[str, str]) -> ModelFolder:
    """The model folder of the plan with the variants: made once, found again later; the active plan stays.

    Args:
        workspace: that keeps the plans.
        plan: with the pair.
        pair: names of the 3D configuration and of the 2D configuration.
    """
    wanted = comparison_plan(plan, pair)
    for number in itertools.count(1):
        name = wanted.name if number == 1 else f"{wanted.name}-{number}"  # another plan's, as it was before it changed
        folder = ModelFolder(workspace.path / "models" / name)
        if not (folder.path / "plan.json").is_file():
            # the mark comes first, so that nothing ever takes the plan for one to predict with
            write_document(folder.path / COMPARISON_OF, ComparisonOf(plan=plan.name, id=plan.id))
            write_document(folder.path / "plan.json", msgspec.structs.replace(wanted, name=name))
            return folder
        if folder.plan().id == wanted.id and (folder.path / COMPARISON_OF).is_file():
            return folder
    raise AssertionError("there is always another name")
