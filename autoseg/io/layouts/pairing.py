"""Which images and which label map belong together, told by their names, and what the channels are called.

A label's stem, without words such as ``seg`` or ``mask_``, names its case. An image belongs to the longest such name that
it equals, begins with or ends with; what it has beside that, without words such as ``image``, is its channel: ``_t1``.
What most cases have is taken for the rule; a case that differs is reported, never silently completed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoseg.io.layouts.items import Item
from autoseg.io.layouts.names import IMAGE_WORDS, SEPARATORS, bare_forms, natural_order, plain_id, without_last_word
from autoseg.values import Case, Finding

__all__ = ["Pairs", "channel_names", "divisions", "group_images", "pair_up"]

_NUMBER = re.compile(r"\d{4}")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What belongs together.

    Attributes:
        cases: with and without label map.
        channels: what the names say of each channel, in order: "t1", "0000"; one empty text where they say nothing.
        findings: about what does not fit.
    """

    cases: tuple[Case, ...]
    channels: tuple[str, ...]
    findings: tuple[Finding, ...]


def pair_up(images: Sequence[Item], labels: Sequence[Item], wanted: Sequence[str] = ()) -> Pairs:
    """Pairs images with label maps.

    Args:
        images: of all cases and channels.
        labels: at most one for a case.
        wanted: names of channels that are stated; those in file names are brought into their order.
    """
    names = _names_of(labels)
    found: dict[str, dict[str, Item]] = defaultdict(dict)  # label's path -> channel -> image
    alone: list[Item] = []
    findings: list[Finding] = []
    doubtful: dict[str, list[Item]] = {}
    for image in images:
        owners, channel = _owners(image.stem, names)
        if len(owners) > 1:
            doubtful[image.path] = owners
        if len(owners) != 1:
            alone += [image] if not owners else []
            continue
        (label,) = owners
        if channel.casefold() in found[label.path]:
            findings.append(_twice(found[label.path][channel.casefold()], image))
        else:
            found[label.path][channel.casefold()] = image
    rule = _rule([frozenset(channels) for channels in found.values()], alone)
    order = _ordered(rule, wanted)
    findings += [_two_labels(image, owners) for image, owners in doubtful.items()]
    rivals = {label.path for owners in doubtful.values() for label in owners}
    cases: list[Case] = []
    for label in (label for label in labels if label.path not in rivals):
        channels = found.get(label.path, {})
        unnamed = rule == {""} and len(channels) == 1  # the only image of a label map, whatever it is called
        chosen = channels if unnamed else {key: channels[key] for key in rule & channels.keys()}
        alone += [image for key, image in channels.items() if key not in chosen and chosen]
        problem = _problem(label, channels, chosen, rule)
        if problem is not None:
            findings.append(problem)
            continue
        files = list(chosen.values()) if unnamed else [chosen[key] for key in order]
        _append(cases, findings, _stem_of(label, files), files, label)
    unlabelled, more = group_images(alone, order)
    return Pairs(cases=(*cases, *unlabelled), channels=_spelled(order, found), findings=(*findings, *more))


def _names_of(labels: Sequence[Item]) -> dict[str, list[Item]]:
    """Every name that label maps give their cases; one that several give is a contradiction if an image has it."""
    names: dict[str, list[Item]] = defaultdict(list)
    for label in labels:
        for form in bare_forms(label.stem, "label"):
            names[form].append(label)
            *way, last = form.split("/")
            if way and way[-1] == last:  # p1/p1_seg belongs to the series in the folder p1, too
                names["/".join(way)].append(label)
    return names


def _owners(stem: str, names: Mapping[str, list[Item]]) -> tuple[list[Item], str]:
    """The label maps that an image may belong to, and the image's channel."""
    best: tuple[int, str, str] | None = None  # length of the name, the name, the channel
    for form in bare_forms(stem, "image"):
        for name, channel in divisions(form):
            if name in names and (best is None or len(name) > best[0]):
                best = (len(name), name, channel)
    if best is None:
        return [], ""
    return names[best[1]], _without_image_words(best[2])


def divisions(stem: str) -> list[tuple[str, str]]:
    """The stem whole, and divided in two at every separator: case and channel, either way round."""
    places = [place for place, letter in enumerate(stem) if letter in SEPARATORS and 0 < place < len(stem) - 1]
    before = [(stem[:place], stem[place + 1 :]) for place in places]
    after = [(stem[place + 1 :], stem[:place]) for place in places]
    return [(stem, ""), *before, *after]


def _without_image_words(channel: str) -> str:
    parts = [part for part in re.split(f"[{SEPARATORS}]+", channel) if part and part.casefold() not in IMAGE_WORDS]
    return "_".join(parts)


def _rule(sets: Sequence[frozenset[str]], alone: Sequence[Item]) -> frozenset[str]:
    """The channels that most cases have, of equally frequent sets the larger; without label maps, from the numbers."""
    counted = Counter(each for each in sets if each)
    if counted:
        # a file without a channel beside files with one is more likely an image of its own
        most = max(counted, key=lambda each: (counted[each], len(each) == 1 or "" not in each, len(each), sorted(each)))
        singles = sum(count for each, count in counted.items() if len(each) == 1)
        scattered = 2 * counted[most] < counted.total()  # every case has something of its own in its name
        return frozenset({""}) if scattered and 2 * singles > counted.total() else most
    numbers = {match for image in alone if (match := _number(image.stem))}
    return frozenset(numbers) if "0000" in numbers else frozenset({""})


def _number(stem: str) -> str:
    return stem[-4:] if _NUMBER.fullmatch(stem[-4:]) and len(stem) > 5 and stem[-5] in SEPARATORS else ""


def _ordered(rule: frozenset[str], wanted: Sequence[str]) -> list[str]:
    """The channels as stated, if these are the names in the files; else by name and number."""
    stated = [_plain(name) for name in wanted]
    by_name = {_plain(key): key for key in rule}
    if len(stated) == len(rule) and set(stated) == set(by_name):
        return [by_name[name] for name in stated]
    return sorted(rule, key=natural_order)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()


def _problem(
    label: Item, channels: Mapping[str, Item], chosen: Mapping[str, Item], rule: frozenset[str]
) -> Finding | None:
    if not channels:
        return Finding(
            severity="error",
            what="a label file has no image",
            case=plain_id(list(bare_forms(label.stem, "label"))[-1]),
            file=label.path,
            remedy="Add the image, under the same name, or remove the label file.",
        )
    if rule <= chosen.keys() or (rule == {""} and chosen):
        return None
    return Finding(
        severity="error",
        what="channel files are missing",
        case=plain_id(list(bare_forms(label.stem, "label"))[-1]),
        found=", ".join(sorted(image.path for image in channels.values())),
        expected=f"one file for each of {', '.join(sorted(rule, key=natural_order))}, as most cases have",
        remedy="Every case needs the same channels.",
    )


def _stem_of(label: Item, files: Sequence[Item]) -> str:
    """What names a case: the image's stem if the label map has the same, else what remains of the label's."""
    forms = list(bare_forms(label.stem, "label"))
    shared = [
        form for form in forms if any(form in dict(divisions(each)) for each in bare_forms(files[0].stem, "image"))
    ]
    return shared[0] if shared else forms[-1]


def group_images(images: Sequence[Item], order: Sequence[str]) -> tuple[list[Case], list[Finding]]:
    """Cases of images without label maps, by the channels that are known from the others.

    Args:
        images: of any channels.
        order: channels as ``Pairs`` has them, in lower case.
    """
    groups: dict[str, dict[str, Item]] = defaultdict(dict)
    findings: list[Finding] = []
    for image in images:
        stem, channel = _base_and_channel(image.stem, order)
        if channel in groups[stem]:
            findings.append(_twice(groups[stem][channel], image))
        else:
            groups[stem][channel] = image
    cases: list[Case] = []
    for stem, found in groups.items():
        missing = [channel for channel in order if channel not in found] if len(order) > 1 else []
        if missing:
            findings.append(
                Finding(
                    severity="warning",
                    what="an image without a label file lacks channels and is left out",
                    case=plain_id(stem),
                    file=next(iter(found.values())).path,
                    expected=f"files for {', '.join(missing)}, too",
                    remedy="Add the files that are missing, or nothing if the image is not needed.",
                )
            )
            continue
        files = [found[channel] for channel in order] if len(order) > 1 else list(found.values())
        _append(cases, findings, stem, files, None)
    return cases, findings


def _base_and_channel(stem: str, order: Sequence[str]) -> tuple[str, str]:
    known = {channel for channel in order if channel}
    for form in bare_forms(stem, "image"):
        for base, rest in divisions(form):
            if rest and _without_image_words(rest).casefold() in known:
                return base, _without_image_words(rest).casefold() if len(order) > 1 else ""
    return without_last_word(stem, "image"), ""


def _append(cases: list[Case], findings: list[Finding], stem: str, files: Sequence[Item], label: Item | None) -> None:
    try:
        cases.append(
            Case(id=plain_id(stem), images=tuple(file.path for file in files), label=label.path if label else None)
        )
    except ValueError as error:
        findings.append(Finding(severity="error", what=str(error), file=files[0].path, remedy="Rename the file."))


def _two_labels(image: str, labels: Sequence[Item]) -> Finding:
    return Finding(
        severity="error",
        what="an image has several label files",
        file=image,
        found=", ".join(label.path for label in labels),
        expected="one that holds all labels",
        remedy="Join them, or name the right one in a table (CSV).",
    )


def _twice(first: Item, second: Item) -> Finding:
    return Finding(
        severity="error",
        what="two files are the same channel of one case",
        found=f"{first.path} and {second.path}",
        remedy="Remove or rename one of them.",
    )


def _spelled(order: Sequence[str], found: Mapping[str, Mapping[str, Item]]) -> tuple[str, ...]:
    """The channels as the first case spells them."""
    for channels in found.values():
        if set(order) <= channels.keys():
            return tuple(_spelling(key, channels[key].stem) for key in order)
    return tuple(order)


def _spelling(key: str, stem: str) -> str:
    plain = re.sub(f"[{SEPARATORS}]", "_", stem)
    place = plain.casefold().rfind(key)
    return plain[place : place + len(key)] if key and place >= 0 else key


def channel_names(keys: Sequence[str]) -> tuple[str, ...]:
    """Names of channels from what file names say; empty where they say nothing.

    ``t1, t2`` are names, ``0000, 0001`` are numbers only.
    """
    if any(not key for key in keys) or all(_NUMBER.fullmatch(key) for key in keys):
        return ()
    return tuple(keys)
