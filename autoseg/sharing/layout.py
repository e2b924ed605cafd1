"""Which files an exported model consists of: no others are written, and no others are taken.

MODEL_CARD.md               for people
manifest.json               the list of all other files, with their sizes and SHA-256; what predicts
plan.json
metrics.json                scores of held-out cases, pooled
selection.json postprocessing.json      where something was selected
calibration.json                how certain the networks were of held-out cases, and how right; where that is known
fast.json                       what the fast way to predict costs; where that was measured
training-images.json            what the training images were like; where that is known
CONFIGURATION/fold_K/       or full/: of every member, and of the stages before it
    model.safetensors
    execution.json          how training found the network to run fast and right
"""

from __future__ import annotations

import re
from pathlib import Path

from autoseg.errors import InputError
from autoseg.files import read_document
from autoseg.values import Exported
from autoseg.values.json_form import BrokenRuleError, require_file_name
from autoseg.workspace import ModelFolder

__all__ = ["CARD", "MANIFEST", "METRICS", "is_archive", "known_name", "largest", "names_in", "not_whole", "read_export"]

CARD, MANIFEST, METRICS = "MODEL_CARD.md", "manifest.json", "metrics.json"
_FOLD = re.compile(r"fold_\d{1,4}|full")
#: Of a fold's files and of all others the most bytes: more is taken for an attack.
_FOLD_FILES = {"model.safetensors": 2**35, "execution.json": 2**20}
_FILES = {
    CARD: 2**22,
    MANIFEST: 2**22,
    METRICS: 2**24,
    "plan.json": 2**24,
    "selection.json": 2**28,
    "postprocessing.json": 2**24,
    "calibration.json": 2**26,
    "fast.json": 2**20,
    "training-images.json": 2**22,
}


def known_name(name: str) -> bool:
    """Whether an export may hold a file of that path, which is relative and has ``/`` between its parts."""
    parts = name.split("/")
    if len(parts) == 1:
        return name in _FILES
    if len(parts) != 3 or not _FOLD.fullmatch(parts[1]) or parts[2] not in _FOLD_FILES:
        return False
    try:
        require_file_name("configuration", parts[0])
    except BrokenRuleError:
        return False
    return True


def largest(name: str) -> int:
    """The most bytes that a file of a known name may have."""
    return _FILES[name] if name in _FILES else _FOLD_FILES[name.rpartition("/")[2]]


def names_in(folder: Path) -> list[str]:
    """The files of known names that lie in a folder, sorted; whatever else lies there does not count."""
    found = [*folder.glob("*"), *folder.glob("*/*/*")]
    names = [path.relative_to(folder).as_posix() for path in found if path.is_symlink() or path.is_file()]
    return sorted(filter(known_name, names))


def is_archive(path: Path) -> bool:
    """Whether a path is that of an exported model in one file, by its name."""
    return path.suffix.lower() == ".zip" and not path.is_dir()


def read_export(model: ModelFolder) -> Exported | None:
    """The list of an exported model's files, and what of it predicts; None of a model folder that was not exported."""
    path = model.path / MANIFEST
    return read_document(Exported, path) if path.is_file() else None


def not_whole(path: Path, what: str, *, found: object = None, expected: object = None) -> InputError:
    """The error of an export that is not as it was written."""
    return InputError(
        f"the exported model is not whole, or not what was exported: {what}",
        file=path,
        found=found,
        expected=expected,
        remedy="Take it from where it came from again, or have it exported anew: autoseg export.",
    )
