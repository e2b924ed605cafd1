"""Images to predict: files of any naming that tells case and channel, one folder per case, DICOM series."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoseg.errors import FindingsError, InputError
from autoseg.io.formats import is_series, known_endings, split_ending
from autoseg.io.layouts.items import Item, readable_name, walk
from autoseg.io.layouts.names import SEPARATORS, plain_id, without_last_word
from autoseg.io.layouts.nnunet import CHANNEL_SUFFIX, channel_problem, image_files
from autoseg.values import Case, Finding
from autoseg.values.json_form import same_file_name

__all__ = ["read_inputs"]


def read_inputs(path: Path, channels: Sequence[str]) -> tuple[Case, ...]:
    """The cases to predict in a folder (or one image file, or one DICOM series), with paths relative to the folder.

    Files are ``CASE_0000.ENDING``, one per channel, or end in the channels' names, ``CASE_T1.ENDING``; with a single
    channel any name will do. Where no image lies in the folder itself, its sub-folders are cases.

    Raises:
        InputError: nothing to predict, or cases whose channels are not complete; all of them are listed.
    """
    if not path.exists():
        raise InputError("there is no such file or folder", file=path)
    items = _items(path)
    if not items:
        raise InputError(
            "there is no image here",
            file=path,
            expected=f"files with {', '.join(sorted(known_endings()))}, or folders with a DICOM series",
        )
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for id_, channel, name in _named_channels(items, channels):
        if channel in found[id_]:
            raise InputError(
                "two files are the same channel of one case",
                case=id_,
                found=f"{found[id_][channel]} and {name}",
                remedy="Remove or rename one of them.",
            )
        found[id_][channel] = name
    problems = [channel_problem(id_, files, None, len(channels)) for id_, files in sorted(found.items())]
    problems += _same_names(found)
    if any(problems):
        raise FindingsError(
            "these inputs cannot be predicted as they are:", [finding for finding in problems if finding]
        )
    return tuple(_case(id_, tuple(files[index] for index in sorted(files))) for id_, files in sorted(found.items()))


def _items(path: Path) -> list[Item]:
    if path.is_file():
        stem, ending = split_ending(path.name)
        return [Item(path=path.name, stem=stem, ending=ending)] if ending else []
    if is_series(path):
        return [Item(path=".", stem=path.resolve().name, ending="")]
    items = []
    for file in image_files(path):
        stem, ending = split_ending(file.name)
        if ending:
            items.append(Item(path=file.name, stem=stem, ending=ending))
    if not items:
        return list(walk(path, path).items)
    series = [each for each in sorted(path.iterdir()) if each.is_dir() and not each.name.startswith(".")]
    items += [Item(path=each.name, stem=each.name, ending="") for each in series if is_series(each)]
    return items


def _named_channels(items: Sequence[Item], channels: Sequence[str]) -> list[tuple[str, int, str]]:
    """Case id, channel and path of every file."""
    unreadable = [item for item in items if not readable_name(item.path)]
    if unreadable:
        raise InputError(f"{len(unreadable)} files have names that are not UTF-8 text", remedy="Rename them.")
    numbers = {item: CHANNEL_SUFFIX.match(item.stem) for item in items}
    if len(channels) > 1:
        return _of_several(items, numbers, channels)
    with_first = {match["id"] for match in numbers.values() if match and int(match["channel"]) == 0}
    result = []
    for item, match in numbers.items():
        # with one channel, a number without a channel 0 beside it belongs to the name: scan_2024.nii.gz
        if match is None or match["id"] not in with_first:
            stem = without_last_word(item.stem, "image") if "/" in item.stem else item.stem
            result.append((plain_id(stem), 0, item.path))
        else:
            result.append((plain_id(match["id"]), int(match["channel"]), item.path))
    return result


def _of_several(
    items: Sequence[Item], numbers: Mapping[Item, re.Match[str] | None], channels: Sequence[str]
) -> list[tuple[str, int, str]]:
    result, silent = [], []
    for item in items:
        named, match = _by_name(item.stem, channels), numbers[item]
        if match is not None:
            result.append((plain_id(match["id"]), int(match["channel"]), item.path))
        elif named is not None:
            result.append((plain_id(named[0]), named[1], item.path))
        else:
            silent.append(item)
    if silent:
        raise FindingsError(
            f"these files do not say which of the {len(channels)} channels they are ({', '.join(channels)}):",
            [f"{item.path}: expected a name like CASE_0000{item.ending} or CASE_{channels[0]}" for item in silent],
        )
    return result


def _by_name(stem: str, channels: Sequence[str]) -> tuple[str, int] | None:
    """Case and channel of a stem that ends, or begins, with a channel's name; the longest name that fits."""
    lower = stem.casefold()
    for index, channel in sorted(enumerate(channels), key=lambda each: -len(each[1])):
        name = channel.casefold()
        if lower.endswith(name) and len(lower) > len(name) and lower[-len(name) - 1] in SEPARATORS:
            return stem[: -len(name) - 1].rstrip(SEPARATORS), index
        if lower.startswith(name) and len(lower) > len(name) and lower[len(name)] in SEPARATORS:
            return stem[len(name) + 1 :].lstrip(SEPARATORS), index
    return None


def _same_names(found: Mapping[str, object]) -> list[Finding]:
    """Ids that some system takes for one: their label maps would overwrite one another there."""
    groups: dict[str, list[str]] = defaultdict(list)
    for id_ in sorted(found):
        groups[same_file_name(id_)].append(id_)
    return [
        Finding(
            severity="error",
            what="cases differ by letter case only",
            case=group[0],
            found=", ".join(group),
            remedy="Rename all but one.",
        )
        for group in groups.values()
        if len(group) > 1
    ]


def _case(id_: str, images: tuple[str, ...]) -> Case:
    try:
        return Case(id=id_, images=images)
    except ValueError as error:
        raise InputError(str(error), file=images[0], remedy="Rename the file.") from error
