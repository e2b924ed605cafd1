"""What a user states about a data set in ``dataset.json`` or ``autoseg.json``: every part of it is optional.

Both nnU-Net's form (``{"liver": 1}``) and that of the Medical Segmentation Decathlon (``{"1": "liver"}``) are understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from autoseg.errors import DocumentError, UnreadableFileError
from autoseg.io.layouts.misspelled import near_misses, refuse_unknown
from autoseg.io.layouts.regions import in_writing_order, order_findings, parts_findings
from autoseg.values import Finding, Label, Labels, decode

__all__ = [
    "DESCRIPTIONS",
    "Description",
    "Listed",
    "Pair",
    "labels_of",
    "misspelled_fields",
    "read_description",
    "read_listing",
    "stated_channels",
]

#: In a folder; what the later one says overrules the earlier.
OWN, FOREIGN = "autoseg.json", "dataset.json"
DESCRIPTIONS = (FOREIGN, OWN)


class Listed(msgspec.Struct):
    """An entry of nnU-Net's table of cases."""

    images: list[str]
    label: str | None = None


class Pair(msgspec.Struct):
    """An entry of the Decathlon's lists."""

    image: str | list[str]
    label: str | None = None


class Description(msgspec.Struct):
    """The fields that autoseg reads; others (licence, release, …) are free. What is missing is found in the files."""

    channel_names: dict[str, str] = {}
    modality: dict[str, str] | list[str] | str = {}
    labels: dict[str, int | str | list[int]] = {}
    regions: dict[str, list[str | int]] = {}
    regions_class_order: list[int] = []
    annotated: dict[str, list[str | int]] = {}
    patients: dict[str, str] = {}
    file_ending: str | None = None
    numTraining: int | None = None  # noqa: N815  the name in the file
    dataset: dict[str, Listed] = {}
    training: list[Pair | str] = []
    test: list[str | list[str] | Pair] = []
    source: str = ""  # file that it came from, for messages; overwritten by the reader


#: Names of the fields, and of those in the objects that lie in them.
_FIELDS: dict[str, tuple[str, ...]] = {
    "": tuple(name for name in Description.__struct_fields__ if name != "source"),
    "dataset": Listed.__struct_fields__,
    "training": Pair.__struct_fields__,
    "test": Pair.__struct_fields__,
}


def misspelled_fields(folder: Path) -> list[Finding]:
    """Warnings about fields of somebody else's ``dataset.json`` that are almost called like one that is read."""
    file = folder / FOREIGN
    return near_misses(file.read_bytes(), _FIELDS[""], file) if file.is_file() else []


def read_description(folder: Path) -> Description:
    """What the folder's descriptions state; an empty description where there is none.

    Raises:
        DocumentError: one of them is not of that form.
    """
    stated = Description(source=str(folder))
    for name in DESCRIPTIONS:
        file = folder / name
        if file.is_file():
            stated = _overruled(stated, file)
    return stated


def read_listing(file: Path) -> Description | None:
    """A JSON file that lists training pairs as the Decathlon's ``dataset.json`` does, under any name; None for another.

    Raises:
        DocumentError: it is a JSON object, but none of that form.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UnreadableFileError(f"cannot read the file: {error.strerror or error}", file=file) from error
    if not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return None
    stated = _overruled(read_description(file.parent), file)
    return stated if any(isinstance(entry, Pair) for entry in stated.training) else None


def _overruled(stated: Description, file: Path) -> Description:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UnreadableFileError(f"cannot read the file: {error.strerror or error}", file=file) from error
    more = decode(Description, data, source=file)
    if file.name == OWN:
        refuse_unknown(data, _FIELDS, file)
    given = {name: getattr(more, name) for name in _keys(data) if name in more.__struct_fields__}
    return msgspec.structs.replace(stated, **{**given, "source": str(file)})


def _keys(data: bytes) -> list[str]:
    return list(msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"), type=dict[str, msgspec.Raw]))


def stated_channels(stated: Description) -> tuple[str, ...]:
    """Names of the channels in order; empty where nothing is stated.

    Raises:
        DocumentError: the numbers are not 0, 1, 2, …
    """
    names = stated.channel_names or stated.modality
    if not isinstance(names, dict):
        return tuple([names] if isinstance(names, str) else names)
    if sorted(names) != sorted(str(index) for index in range(len(names))):
        raise DocumentError(
            "channel_names must name every channel by its number",
            file=stated.source,
            found=names,
            expected='for example {"0": "T1", "1": "T2"}',
        )
    return tuple(names[str(index)] for index in range(len(names)))


def labels_of(stated: Description, found: Mapping[int, str] | None = None) -> tuple[Labels, list[Finding]]:
    """The labels that are stated or, where none are, those found in the label files; and warnings about their order.

    Args:
        stated: with labels or regions, perhaps.
        found: integer to name of what the label files hold, used if the description has no labels.

    Raises:
        DocumentError: they cannot be meant.
    """
    entries: dict[str, tuple[int, ...]] = {name: (value,) for value, name in (found or {}).items()}
    if stated.labels:
        entries = _entries(stated)
    try:
        return _labels(entries, stated)
    except ValueError as error:
        raise DocumentError(f"the labels are not usable: {error}", file=stated.source) from error


def _entries(stated: Description) -> dict[str, tuple[int, ...]]:
    """Name to integers, background and ignore included."""
    if all(isinstance(value, str) for value in stated.labels.values()):
        return _decathlon_entries(stated)
    entries: dict[str, tuple[int, ...]] = {}
    for name, value in stated.labels.items():
        if isinstance(value, str):
            raise DocumentError(
                f"the label {name!r} must be an integer or a list of integers",
                file=stated.source,
                found=repr(value),
                expected='for example "liver": 1, in all of labels',
            )
        entries[name] = (value,) if isinstance(value, int) else tuple(value)
    return entries


def _decathlon_entries(stated: Description) -> dict[str, tuple[int, ...]]:
    entries: dict[str, tuple[int, ...]] = {}
    for key, name in stated.labels.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 18) or not isinstance(name, str):
            raise DocumentError(
                "labels must be names with integers, or integers with names",
                file=stated.source,
                found=f"{key[:30]!r}: {name!r}",
                expected='{"liver": 1} or {"1": "liver"}',
            )
        if name in entries:
            raise DocumentError(f"two integers have the name {name!r}", file=stated.source)
        entries[name] = (int(key),)
    return {("background" if values == (0,) else name): values for name, values in entries.items()}


def _labels(entries: dict[str, tuple[int, ...]], stated: Description) -> tuple[Labels, list[Finding]]:
    ignore = entries.pop("ignore", None)
    if entries.pop("background", (0,)) != (0,):
        raise ValueError("background must be 0")
    if ignore is not None and len(ignore) != 1:
        raise ValueError("ignore must be one integer")
    foreground = [Label(name=name, values=values) for name, values in entries.items()]
    declared = foreground
    if stated.regions:
        foreground = _regions_by_name(foreground, stated.regions)
    order = tuple(stated.regions_class_order)
    has_regions = any(len(label.values) > 1 for label in foreground)
    if has_regions and not order:
        ordered, order = in_writing_order(foreground)
        foreground = list(ordered)
    labels = Labels(
        foreground=tuple(foreground),
        ignore=None if ignore is None else ignore[0],
        region_values=order if has_regions else (),
    )
    findings = order_findings(labels) if stated.regions_class_order else []
    return labels, [*findings, *parts_findings(declared, labels)]


def _regions_by_name(declared: list[Label], regions: Mapping[str, list[str | int]]) -> list[Label]:
    """The regions, with the labels that are in none of them: nothing that is declared is lost."""
    values: dict[str | int, tuple[int, ...]] = {value: (value,) for label in declared for value in label.values}
    values |= {label.name: label.values for label in declared}
    result = []
    for name, parts in regions.items():
        unknown = [part for part in parts if part not in values]
        if unknown or not parts:
            raise ValueError(
                f"the region {name!r} names {', '.join(map(repr, unknown)) or 'no label'}; "
                f"there are {', '.join(f'{label.name!r} {list(label.values)}' for label in declared)}"
            )
        result.append(Label(name=name, values=tuple(sorted({value for part in parts for value in values[part]}))))
    joined = {value for region in result for value in region.values}
    return [*result, *(label for label in declared if not joined.issuperset(label.values))]
