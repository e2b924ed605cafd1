"""BIDS: raw images ``sub-X/[ses-Y/]anat/sub-X_…_T1w.nii.gz``, label maps ``derivatives/…/sub-X_…_dseg.nii.gz``.

The suffix (T1w, FLAIR) is the channel, the other entities name the case, ``sub`` is the patient, and ``*_dseg.tsv`` names
the labels. Where several kinds of label maps were derived, the one that most cases have is taken, and the choice is told.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from autoseg.io.formats import split_ending
from autoseg.io.layouts.description import Description
from autoseg.io.layouts.items import Item, walk
from autoseg.io.layouts.names import natural_order
from autoseg.io.layouts.understanding import Understanding
from autoseg.values import Case, Finding

__all__ = ["is_bids", "read_bids"]

_ENTITY = re.compile(r"^(?P<key>[A-Za-z]+)-(?P<value>[A-Za-z0-9+]+)$")
_LABEL_SUFFIXES = ("dseg", "mask", "seg", "label")
#: Not part of what names a case.
_DERIVED = ("space", "desc", "label", "from", "res", "den", "atlas", "hemi", "seg", "roi", "mode")
_OTHER_DATA = {"func", "dwi", "fmap", "perf", "eeg", "meg", "ieeg", "beh", "micr", "nirs", "motion", "figures"}


@dataclass(frozen=True, kw_only=True)
class _Named:
    """A file with what its name says."""

    item: Item
    entities: dict[str, str]
    suffix: str

    @property
    def case(self) -> str:
        """The entities that name a case, as they stand in the name."""
        return "_".join(f"{key}-{value}" for key, value in self.entities.items() if key not in _DERIVED)


def is_bids(folder: Path, stated: Description) -> bool:
    """Whether there are subjects, with data in folders of a kind, and derivatives."""
    return (folder / "derivatives").is_dir() and any(
        path.is_dir() and any(each.is_dir() for each in path.iterdir()) for path in folder.glob("sub-*")
    )


def read_bids(folder: Path, stated: Description, wanted: Sequence[str]) -> Understanding:
    """The subjects' images, and the label maps that were derived from them."""
    images: list[_Named] = []
    for path in sorted(folder.glob("sub-*")):
        if path.is_dir():
            images += _named(path, folder)
    derived = [each for each in _named(folder / "derivatives", folder) if each.suffix in _LABEL_SUFFIXES]
    raw = [each for each in images if each.suffix not in _LABEL_SUFFIXES]
    derived += [each for each in images if each.suffix in _LABEL_SUFFIXES]
    channels_of: dict[str, dict[str, _Named]] = defaultdict(dict)
    findings: list[Finding] = []
    for each in raw:
        if each.suffix in channels_of[each.case]:
            findings.append(_several(each.case, [channels_of[each.case][each.suffix], each]))
        channels_of[each.case].setdefault(each.suffix, each)
    labels, inferred, more = _labels_of(derived, list(channels_of))
    findings += more
    channels, guess, more = _common_channels(channels_of, labels, wanted)
    findings += more
    cases = _cases(channels_of, labels, channels, findings)
    return Understanding(
        layout="BIDS",
        root=folder,
        name=folder.name,
        stated=stated,
        cases=cases,
        channels=channels,
        label_names={} if stated.labels else _label_names(folder, derived),
        findings=findings,
        inferred=(*inferred, *guess),
    )


def _named(folder: Path, root: Path) -> list[_Named]:
    """The images below a folder that are named as BIDS wants."""
    found = []
    for item in walk(folder, root).items:
        path = PurePosixPath(item.path)
        *parts, suffix = split_ending(path.name)[0].split("_")
        entities = {match["key"]: match["value"] for part in parts if (match := _ENTITY.match(part))}
        if "sub" in entities and len(entities) == len(parts) and not _OTHER_DATA.intersection(path.parts[:-1]):
            found.append(_Named(item=item, entities=entities, suffix=suffix))
    return found


def _kind(label: _Named) -> str:
    """What tells one derived label map from another of the same case: where it lies, and how it is called."""
    parts = PurePosixPath(label.item.path).parts
    pipeline = parts[1] if parts[0] == "derivatives" and not parts[1].startswith("sub-") else ""
    told = "_".join(f"{key}-{value}" for key, value in label.entities.items() if key in _DERIVED)
    return " ".join(filter(None, [pipeline, told, label.suffix]))


def _labels_of(derived: Sequence[_Named], cases: Sequence[str]) -> tuple[dict[str, _Named], list[str], list[Finding]]:
    """The label map of each case, of the kind that most cases have."""
    kinds: dict[str, dict[str, list[_Named]]] = defaultdict(lambda: defaultdict(list))
    findings: list[Finding] = []
    for label in derived:
        case = _case_of(label, cases)
        if case is None:
            findings.append(
                Finding(
                    severity="error",
                    what="a label file has no image",
                    file=label.item.path,
                    expected="an image whose name has the same entities (sub, ses, run, …)",
                    remedy="Add the image, or remove the label file.",
                )
            )
        else:
            kinds[_kind(label)][case].append(label)
    if not kinds:
        return {}, [], findings

    def preferred(kind: str) -> tuple[int, int, str]:
        suffix = kind.rpartition(" ")[2]
        return -len(kinds[kind]), _LABEL_SUFFIXES.index(suffix), kind

    chosen = min(kinds, key=preferred)
    findings += [_several(case, labels) for case, labels in kinds[chosen].items() if len(labels) > 1]
    others = sorted(set(kinds) - {chosen})
    inferred = [f"the label maps: {chosen}" + (f", not {', '.join(others)}" if others else "")]
    return {case: labels[0] for case, labels in kinds[chosen].items() if len(labels) == 1}, inferred, findings


def _case_of(label: _Named, cases: Sequence[str]) -> str | None:
    """The case that has the label's name, or else the only one that agrees in all entities that both have."""
    if label.case in cases:
        return label.case
    mine = {part for part in label.case.split("_") if part}
    fitting = [case for case in cases if mine <= set(case.split("_"))]
    return fitting[0] if len(fitting) == 1 else None


def _several(case: str, files: Sequence[_Named]) -> Finding:
    return Finding(
        severity="error",
        what="several files would be the same part of one case",
        case=case,
        found=", ".join(each.item.path for each in files),
        remedy="Name the right one in a table (CSV).",
    )


def _common_channels(
    channels_of: Mapping[str, Mapping[str, _Named]], labels: Mapping[str, _Named], wanted: Sequence[str]
) -> tuple[tuple[str, ...], list[str], list[Finding]]:
    """The channels that every labelled case has, in the order that is stated or else of their names."""
    counted = Counter(suffix for case in labels for suffix in channels_of[case])
    common = sorted((suffix for suffix, count in counted.items() if count == len(labels)), key=natural_order)
    if set(wanted) and {name.casefold() for name in wanted} <= {suffix.casefold() for suffix in counted}:
        spelled = {suffix.casefold(): suffix for suffix in counted}
        return tuple(spelled[name.casefold()] for name in wanted), [], []
    partial = sorted(set(counted) - set(common))
    if not common and counted:
        most = max(counted, key=lambda suffix: (counted[suffix], suffix))
        common, partial = [most], sorted(set(counted) - {most})
    if not partial:
        return tuple(common), [], []
    guess = f"the channels: {', '.join(common)}; not every case has {', '.join(partial)} (--channel-names chooses)"
    return tuple(common), [guess], []


def _cases(
    channels_of: Mapping[str, Mapping[str, _Named]],
    labels: Mapping[str, _Named],
    channels: Sequence[str],
    findings: list[Finding],
) -> list[Case]:
    cases = []
    for name, found in sorted(channels_of.items()):
        label = labels.get(name)
        missing = [channel for channel in channels if channel not in found]
        if missing:
            findings.append(
                Finding(
                    severity="error" if label else "warning",
                    what="channel files are missing" if label else "an image without a label map lacks channels",
                    case=name,
                    found=", ".join(sorted(found)),
                    expected=", ".join(channels),
                )
            )
            continue
        cases.append(
            Case(
                id=name,
                images=tuple(found[channel].item.path for channel in channels),
                label=label.item.path if label else None,
                patient=f"sub-{next(iter(found.values())).entities['sub']}",
            )
        )
    return cases


def _label_names(folder: Path, derived: Sequence[_Named]) -> dict[int, str]:
    """Integers and names of the first ``dseg.tsv`` that lies with the label maps, or above them."""
    places = {PurePosixPath(each.item.path).parent for each in derived if each.suffix == "dseg"}
    above = sorted({parent for place in places for parent in (place, *place.parents)}, key=lambda each: len(each.parts))
    for place in above:
        for table in sorted((folder / place).glob("*dseg.tsv")):
            names = _table(table)
            if names:
                return names
    return {}


def _table(path: Path) -> dict[int, str]:
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig")), delimiter="\t"))
        return {int(row["index"]): row["name"].strip() for row in rows if int(row["index"]) > 0 and row["name"].strip()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error):  # without names, integers do
        return {}
