"""Configurations that inherit: a file holds of them only what differs from their base, in memory each is complete.

Pure functions on the decoded JSON of a plan, whatever a hand has written there: what is not of the form is left as it is,
for the reader of the whole document to refuse. ``network``, ``training``, ``augmentation`` and ``resampling`` are merged
field by field, everything else is replaced whole; a name is never inherited, nor the base.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from autoseg.values.json_form import FileForm, one_of, require

__all__ = ["INHERITANCE", "condensed", "expanded", "origin", "require_links"]

MERGED = ("network", "training", "augmentation", "resampling")
OWN = ("name", "inherits_from")
_FIELD = re.compile(r"\$\.configurations\[(?P<index>\d+)\](?P<rest>\.(?P<field>\w+)(?:\.(?P<inner>\w+))?.*)")

JsonObject = dict[str, Any]


def expanded(raw: Any) -> Any:
    """The plan with all configurations complete; the same object where none inherits.

    Raises:
        BrokenRuleError: a base that does not exist, or configurations that inherit in a circle.
    """
    parts = _parts(raw)
    bases = [_text(part, "inherits_from") for part in parts]
    if not any(bases):
        return raw
    names = [_text(part, "name") for part in parts]
    require_links(names, bases, "inherits_from")

    def complete(index: int) -> Any:
        base = bases[index]
        return parts[index] if base is None else _merged(complete(names.index(base)), parts[index])

    return {**raw, "configurations": [complete(index) for index in range(len(parts))]}


def condensed(raw: Any) -> Any:
    """Of each configuration that inherits only what differs from its base; all others, and all else, as it is."""
    parts = {part["name"]: part for part in raw["configurations"]}
    return {
        **raw,
        "configurations": [
            _difference(parts[part["inherits_from"]], part) if part["inherits_from"] else part
            for part in raw["configurations"]
        ],
    }


def origin(raw: Any, path: str) -> str:
    """Where the field stands in the file: of a configuration that inherits it, at its base."""
    place = _FIELD.fullmatch(path)
    if place is None:
        return path
    parts, index = _parts(raw), int(place["index"])
    names = [_text(part, "name") for part in parts]
    while (base := _text(parts[index], "inherits_from")) and not _stands(parts[index], place["field"], place["inner"]):
        index = names.index(base)
    return f"$.configurations[{index}]{place['rest']}"


def require_links(names: Sequence[str | None], targets: Sequence[str | None], field: str) -> None:
    """Sees to it that ``field`` of each configuration names another one or none, and that no chain comes back.

    Args:
        names: of the configurations.
        targets: for each, the name that the field holds.
        field: its name.

    Raises:
        BrokenRuleError: one does not; names the field.
    """
    for index, target in enumerate(targets):
        others = [name for name in names if name not in (None, names[index])]
        require(
            target is None or target in names,
            f"configuration {names[index]!r} refers to one that is not in this plan",
            field=f"configurations[{index}].{field}",
            found=target,
            expected=one_of(("null", *others)),
        )
    for index, name in enumerate(names):
        chain = [index]
        while (target := targets[chain[-1]]) is not None and names.index(target) not in chain:
            chain.append(names.index(target))
        require(
            target is None or names.index(target) != index,
            f"configuration {name!r} leads back to itself",
            field=f"configurations[{index}].{field}",
            found=" -> ".join(str(names[step]) for step in (*chain, index)),
            expected="a chain that ends at a configuration without " + field,
        )


def _merged(base: Any, part: JsonObject) -> JsonObject:
    if not isinstance(base, dict):
        return part
    inherited = {field: value for field, value in base.items() if field not in OWN}
    objects = {
        field: {**base[field], **part[field]}
        for field in MERGED
        if isinstance(base.get(field), dict) and isinstance(part.get(field), dict)
    }
    return {**inherited, **part, **objects}


def _difference(base: JsonObject, part: JsonObject) -> JsonObject:
    kept = {}
    for field, value in part.items():
        if field in MERGED:
            value = {inner: of for inner, of in value.items() if not _equal(base[field][inner], of)}
        if field in OWN or (value if field in MERGED else not _equal(base[field], value)):
            kept[field] = value
    return kept


def _equal(one: Any, other: Any) -> bool:
    """Equal as JSON: 0.0 and -0.0 are not."""
    return msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")


def _stands(part: JsonObject, field: str, inner: str | None) -> bool:
    if field in OWN:
        return True
    value = part.get(field)
    return field in part and (inner is None or field not in MERGED or not isinstance(value, dict) or inner in value)


def _parts(raw: Any) -> list[Any]:
    parts = raw.get("configurations") if isinstance(raw, dict) else None
    return parts if isinstance(parts, list) else []


def _text(part: Any, field: str) -> str | None:
    value = part.get(field) if isinstance(part, dict) else None
    return value if isinstance(value, str) else None


INHERITANCE = FileForm(expanded=expanded, condensed=condensed, origin=origin)
