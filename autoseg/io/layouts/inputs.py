"""Images to predict: files of any naming that tells case and channel, one folder per case, DICOM series."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from autoseg.errors import FindingsError, InputError, counted
from autoseg.io.colours import image_channels
from autoseg.io.dicom_files import is_dicom
from autoseg.io.formats import is_series, known_endings, read_header, split_ending
from autoseg.io.layouts.items import Item, readable_name, walk
from autoseg.io.layouts.names import SEPARATORS, plain_id, without_last_word
from autoseg.io.layouts.nnunet import CHANNEL_SUFFIX, channel_problem, image_files
from autoseg.values import Case, Finding
from autoseg.values.json_form import same_file_name

__all__ = ["read_inputs"]


def read_inputs(path: Path, channels: Sequence[str]) -> tuple[Case, ...]:
    """The cases to predict in a folder (or one image file, or one DICOM series), with paths relative to the folder.

    Files are ``CASE_0000.ENDING``, one per channel, or end in the channels' names, ``CASE_T1.ENDING``; a file that holds all
    channels is a whole case, whatever its name. Where no image lies in the folder itself, its sub-folders are cases.

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
    for id_, channel, name in _named_channels(items, channels, path if path.is_dir() else path.parent):
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
        return [Item(path=path.name, stem=stem, ending=ending)] if ending or is_dicom(path) else []
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


def _named_channels(items: Sequence[Item], channels: Sequence[str], root: Path) -> list[tuple[str, int, str]]:
    """Case id, channel and path of every file; a file that is a whole case counts as its first channel."""
    unreadable = [item for item in items if not readable_name(item.path)]
    if unreadable:
        raise InputError(f"{len(unreadable)} files have names that are not UTF-8 text", remedy="Rename them.")
    parts, whole = _of_several(items, channels, root) if len(channels) > 1 else _of_one(items)
    names = _case_names(whole, channels, taken={id_ for id_, _, _ in parts})
    return [*parts, *((plain_id(names[item]), 0, item.path) for item in whole)]


def _of_one(items: Sequence[Item]) -> tuple[list[tuple[str, int, str]], list[Item]]:
    """Files with a channel's number, and the others: without a channel 0 beside it, a number belongs to the name."""
    numbers = {item: CHANNEL_SUFFIX.match(item.stem) for item in items}
    with_first = {match["id"] for match in numbers.values() if match and int(match["channel"]) == 0}
    parts, whole = [], []
    for item, match in numbers.items():
        if match is None or match["id"] not in with_first:
            whole.append(item)
        else:
            parts.append((plain_id(match["id"]), int(match["channel"]), item.path))
    return parts, whole


def _of_several(
    items: Sequence[Item], channels: Sequence[str], root: Path
) -> tuple[list[tuple[str, int, str]], list[Item]]:
    """Files that are one channel, by their names, and those that hold all channels, by their headers."""
    held = {item: _channels_in(root / item.path) if item.ending else 1 for item in items}
    numbers = {item: CHANNEL_SUFFIX.match(item.stem) for item in items}
    ids = Counter(match["id"] for match in numbers.values() if match)
    parts, whole, problems = [], [], []
    for item, match in numbers.items():
        named = _by_name(item.stem, channels)
        first = match is not None and int(match["channel"]) == 0 and ids[match["id"]] == 1
        if held[item] == len(channels) and not first:
            whole.append(item)
        elif match is not None:
            parts.append((plain_id(match["id"]), int(match["channel"]), item.path))
        elif named is not None:
            parts.append((plain_id(named[0]), named[1], item.path))
        else:
            problems.append(f"{item.path}: {_not_told(held[item], item.ending, channels)}")
    if problems:
        raise FindingsError(
            f"these files do not say which of the {len(channels)} channels they are ({', '.join(channels)}), and do not "
            "hold all of them:",
            problems,
        )
    return parts, whole


def _channels_in(file: Path) -> int | InputError:
    """How many channels an image file holds, by its header."""
    try:
        return image_channels(read_header(file))
    except InputError as error:  # told of its case when that is read, or here if its name tells no case either
        return error


def _not_told(held: int | InputError, ending: str, channels: Sequence[str]) -> str:
    if isinstance(held, InputError):
        return held.what
    found = f"found {counted(held, 'channel')}, expected {len(channels)} in one file"
    return found if held > 1 else f"{found}, or a name like CASE_0000{ending} or CASE_{channels[0]}{ending}"


def _case_names(items: Sequence[Item], channels: Sequence[str], taken: Set[str]) -> dict[Item, str]:
    """What names each case whose only file this is, as in a data set: ``Pat 00_ct`` is Pat 00, if no other is that."""
    short = {item: _short(item.stem, channels) for item in items}
    frequency = Counter(same_file_name(plain_id(stem)) for stem in short.values())
    frequency.update(same_file_name(id_) for id_ in taken)
    frequency.update(same_file_name(plain_id(item.stem)) for item in items if short[item] != item.stem)
    return {item: stem if frequency[same_file_name(plain_id(stem))] == 1 else item.stem for item, stem in short.items()}


def _short(stem: str, channels: Sequence[str]) -> str:
    """The stem without a word for images, or the only channel's name, at its end."""
    if len(channels) == 1 and not channels[0].isdecimal():
        name, lower = channels[0].casefold(), stem.casefold()
        if lower.endswith(name) and len(lower) > len(name) and lower[-len(name) - 1] in SEPARATORS:
            stem = stem[: -len(name) - 1].rstrip(SEPARATORS) or stem
    return without_last_word(stem, "image")


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
