"""Whether a plan, perhaps edited by hand, can be used here: every plug that it names is there and gets what it needs.

Asked before any work is done; a refusal names the path of the field, the file and what is installed. Apart from the values,
which know no plugs, and from the workspace, which does not look into plans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from autoseg import plugins
from autoseg.errors import DocumentError, InputError, MissingPartError, UnknownNameError
from autoseg.values import PartRecord, Plan
from autoseg.values.plan import PART_FIELDS
from autoseg.workspace import ModelFolder

__all__ = [
    "USED_IN_PREDICTION",
    "changed_parts",
    "check_no_foreign_code",
    "check_plugs",
    "check_trusted",
    "foreign_parts",
    "usable_plan",
]

#: Kinds of plugs that a trained model needs; a machine that only predicts may lack the others.
USED_IN_PREDICTION = ("normalizer", "resampler", "network")


def usable_plan(
    model: ModelFolder,
    *,
    configurations: Sequence[str] = (),
    kinds: Sequence[str] = plugins.KINDS,
    records: Sequence[PartRecord] = (),
) -> Plan:
    """The plan of a model folder after ``check_plugs``."""
    plan = model.plan()
    check_plugs(plan, model.path / "plan.json", configurations=configurations, kinds=kinds, records=records)
    return plan


def foreign_parts(plan: Plan, configuration: str) -> tuple[PartRecord, ...]:
    """Where the plugs of a configuration come from that are not autoseg's own, as they are here and now.

    Raises:
        UnknownNameError: one is not installed.
        MissingPartError: the code of one cannot be imported.
    """
    found = (plugins.record(kind, name) for kind, name, _ in _named(plan, [configuration]))
    return tuple(dict.fromkeys(filter(None, found)))


def changed_parts(plan: Plan, configuration: str, records: Sequence[PartRecord], *, kinds: Sequence[str]) -> list[str]:
    """A sentence for every part whose code is not that which the model was trained with.

    Args:
        plan: of the model, which ``check_trusted`` has seen if it may come from elsewhere.
        configuration: to be used.
        records: of the parts when the model was trained. They stand in the weights: one whose part the plan does not name
            is passed over, for looking at a part imports it.
        kinds: of parts that will be used.
    """
    named = {(kind, name) for kind, name, _ in _named(plan, [configuration]) if kind in kinds}
    told = []
    for before in (each for each in records if (each.kind, each.name) in named):
        now = plugins.record(before.kind, before.name)
        if now != before:
            found = now.origin if now else "autoseg itself"
            told.append(
                f"the {before.kind} {before.name!r} is not the code that the model was trained with: found {found}"
                f"{', changed since' if now and now.origin == before.origin else ''}, expected {before.origin}"
                f"{f' (SHA-256 {before.sha256[:12]}…)' if before.sha256 else ''}. The result may be another one."
            )
    return told


def check_no_foreign_code(model: ModelFolder) -> None:
    """Sees to it that a model folder that may come from elsewhere names installed plugs only.

    Raises:
        InputError: its plan names a ``module:name``.
    """
    check_trusted(model.plan().code_paths, model.path)


def check_trusted(names: Sequence[str], file: Path) -> None:
    """Sees to it that no code is named that comes with somebody's files.

    Raises:
        InputError: there is a ``module:name`` among the names.
    """
    if names:
        raise InputError(
            "the model wants to run code that is not an installed plug",
            file=file,
            found=", ".join(names),
            remedy="If you know this code and trust it, repeat the command with --trust-code.",
        )


def check_plugs(
    plan: Plan,
    file: Path,
    *,
    configurations: Sequence[str] = (),
    kinds: Sequence[str] = plugins.KINDS,
    records: Sequence[PartRecord] = (),
) -> None:
    """Sees to it that a plan names only plugs that there are, and gives normalizers the statistics they need.

    Args:
        plan: as read.
        file: it was read from, for the message.
        configurations: to be used; empty for all.
        kinds: of plugs that will be used.
        records: where plugs came from when the model was trained: what to do when one is missing.

    Raises:
        UnknownNameError: a name that is neither installed nor in a module.
        MissingPartError: the module behind a name cannot be imported.
        DocumentError: a normalizer lacks the statistics of the data set.
    """
    known = {(record.kind, record.name): record for record in records}
    for kind, name, path in _named(plan, configurations):
        if kind in kinds:
            _check_name(kind, name, path, file, known)
    for index, spec in enumerate(plan.normalization):
        needs = getattr(plugins.load("normalizer", spec.scheme), "needs_properties", False)
        if needs and spec.properties is None:
            raise DocumentError(
                f"the normalization {spec.scheme!r} of channel {plan.channels[index]!r} needs the intensities of the "
                f"foreground - at `$.normalization[{index}].properties`",
                file=file,
                found="null",
                expected="the statistics of fingerprint.json: mean, std, percentile_00_5, percentile_99_5, …",
                remedy="Copy them from there, or choose a scheme without, such as zscore. "
                "If they are null there, too, no training case has foreground: check the labels.",
            )


def _named(plan: Plan, configurations: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Kind, name and path in the document of every plug that the configurations use."""
    for index, spec in enumerate(plan.normalization):
        yield "normalizer", spec.scheme, f"$.normalization[{index}].scheme"
    for index, each in enumerate(plan.configurations):
        if not configurations or each.name in configurations:
            for kind, name in each.parts.items():
                yield kind, name, f"$.configurations[{index}].{PART_FIELDS[kind]}"


def _check_name(kind: str, name: str, path: str, file: Path, records: Mapping[tuple[str, str], PartRecord]) -> None:
    record = records.get((kind, name))
    if name in plugins.available(kind):  # imported by whoever uses it, and not where only the names are looked at
        return
    try:
        plugins.load(kind, name)
    except UnknownNameError as error:
        raise UnknownNameError(
            f"{error.what} - at `{path}`",
            file=file,
            expected=error.expected,
            remedy=record.remedy if record else error.remedy or "Correct the field that is named.",
        ) from error
    except MissingPartError as error:
        raise MissingPartError(f"{error} - at `{path}` [{file}]" + (f". {record.remedy}" if record else "")) from error
