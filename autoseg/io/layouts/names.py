"""What the names of files and folders tell: image or label, training or test, and what remains for the case.

``imagesTr``, ``Masks``, ``ground_truth`` are folders; ``case_01_seg``, ``mask-01``, ``img0001``, ``CASE/segmentation`` are
stems: paths without ending, the folders on the way included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

__all__ = [
    "IMAGE_WORDS",
    "SEPARATORS",
    "bare_forms",
    "folder_part",
    "folder_role",
    "is_label_name",
    "natural_order",
    "own_words",
    "plain_id",
    "without_last_word",
]


def _set_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


IMAGE_WORDS = _set_of(
    "image images img imgs im scan scans volume volumes vol vols imaging picture pictures photo photos raw data input "
    "inputs dicom dcm orig original"
)
LABEL_WORDS = _set_of(
    "label labels mask masks segmentation segmentations seg segs annotation annotations gt gts truth groundtruth target "
    "targets labelmap labelmaps lbl lbls contour contours dseg"
)
#: May stand beside a word for labels: ``case_manual_seg``, ``ground_truth``.
_QUALIFIERS = _set_of("ground manual expert final binary multilabel")
_TRAIN_WORDS = _set_of("tr train training trainset")
_VALIDATION_WORDS = _set_of("val validation valid")
_TEST_WORDS = _set_of("ts test testing testset tst")
_PART_WORDS = (
    _TRAIN_WORDS | _VALIDATION_WORDS | _TEST_WORDS | IMAGE_WORDS | LABEL_WORDS | _QUALIFIERS | {"set", "cases"}
)
SEPARATORS = "_. /-"  # in this order they can stand in a regular expression's set
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_]+")


def _words(name: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(name)]


def folder_role(name: str) -> Literal["image", "label"] | None:
    """Whether a folder, by its name, holds images or labels; a word for labels wins, as in ``image_masks``."""
    words = set(_words(name))
    known = words | {name.casefold()}
    if known & LABEL_WORDS:
        return "label"
    return "image" if known & IMAGE_WORDS else None


def folder_part(name: str) -> Literal["train", "validation", "test"] | None:
    """Which part of a data set a folder holds, if its name says nothing else: ``imagesTs`` does, ``test_007`` is a case."""
    words = set(_words(name))
    if not words <= _PART_WORDS:
        return None
    if words & _TEST_WORDS:
        return "test"
    if words & _VALIDATION_WORDS:
        return "validation"
    return "train" if words & _TRAIN_WORDS else None


def own_words(path: str) -> str:
    """What a folder's path says beside that it holds images or labels: ``images_t1`` t1, ``train/labels`` train."""
    return "_".join(word for word in re.findall(r"[^\W_]+", path) if not _words(word) or not folder_role(word))


def _ends(kind: frozenset[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns for a word of that kind at the end, and at the beginning, of the last part of a stem."""
    words = "|".join(sorted(kind, key=lambda word: (-len(word), word)))
    end = re.compile(rf"^(?P<rest>|.*[{SEPARATORS}])(?:{words})$", re.IGNORECASE)
    begin = re.compile(rf"^(?P<way>|.*/)(?:{words})(?:[_\-. ]+|(?=\d))(?P<rest>[^/]+)$", re.IGNORECASE)
    return end, begin


_PATTERNS = {"image": _ends(IMAGE_WORDS), "label": _ends(LABEL_WORDS | _QUALIFIERS)}
_LABEL_END, _LABEL_BEGIN = _ends(LABEL_WORDS)


def is_label_name(stem: str) -> bool:
    """Whether a stem says that it is a label file: ``case_01_seg``, ``mask_01``, ``CASE/segmentation``."""
    return bool(_LABEL_END.match(stem) or _LABEL_BEGIN.match(stem))


def bare_forms(stem: str, role: Literal["image", "label"]) -> Iterator[str]:
    """The stem, and what remains of it without the words for its role at the end or the beginning; never empty."""
    end, begin = _PATTERNS[role]
    seen: set[str] = set()
    waiting = [stem]
    while waiting:
        form = waiting.pop(0)
        if form in seen or not form:
            continue
        seen.add(form)
        yield form
        if match := end.match(form):
            waiting.append(match["rest"].rstrip(SEPARATORS))
        if match := begin.match(form):
            waiting.append(match["way"] + match["rest"])


def without_last_word(stem: str, role: Literal["image", "label"]) -> str:
    """The stem without a word for its role at the end: ``case_01_image`` is case_01, ``img_01`` stays as it is."""
    match = _PATTERNS[role][0].match(stem)
    return (match["rest"].rstrip(SEPARATORS) if match else "") or stem


def plain_id(stem: str) -> str:
    """A case id from a stem: ``A/A_01`` is A_01, ``A/01`` is A_01, ``A`` is A."""
    parts: list[str] = []
    for part in stem.split("/"):
        if parts and part.casefold().startswith(parts[-1].casefold()):
            parts[-1] = part
        else:
            parts.append(part)
    return "_".join(parts)


def natural_order(name: str) -> tuple[tuple[int, str | int], ...]:
    """A key that sorts ``t2`` before ``t10``, and ignores letter case."""
    return tuple(
        (0, int(part)) if part.isdecimal() and len(part) < 1000 else (1, part.casefold())
        for part in re.split(r"(\d+)", name)
        if part
    )
