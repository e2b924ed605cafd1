"""Folds that somebody wrote, in nnU-Net's form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autoseg.errors import InputError
from autoseg.values import Split, decode

__all__ = ["read_split"]


def read_split(path: Path, cases: Sequence[str]) -> Split:
    """Folds from a ``splits_final.json`` that somebody wrote.

    Raises:
        InputError: not its form, or cases that the data set does not have.
    """
    split: Split = decode(Split, path.read_bytes(), source=path)
    if not split:
        raise InputError("the split has no folds", file=path, remedy="Remove the file and let autoseg make the folds.")
    surplus = sorted({case for fold in split for case in (*fold.train, *fold.val)} - set(cases))
    if surplus:
        raise InputError(
            "the split names cases that are not in the data set",
            file=path,
            found=", ".join(surplus[:5]) + (" …" if len(surplus) > 5 else ""),
            remedy="Correct the file, or remove it and let autoseg make the folds.",
        )
    return split
