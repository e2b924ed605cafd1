"""What the record of a folder of predictions says was made there before, and keeping it true while more is made."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from autoseg.errors import InputError
from autoseg.files import content_hash, read_document, write_document
from autoseg.inference.probabilities import KeptProbabilities
from autoseg.values import (
    DISAGREEMENT,
    PREDICTION_RECORD,
    PROBABILITIES,
    CasePrediction,
    Labels,
    Part,
    PredictionRecord,
    prediction_records,
)

__all__ = ["Ledger", "Places"]


#: In the place of a hash until there is one: a kill in between leaves a file that is known to be ours.
PENDING = "pending"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where what is made of a case lies.

    Attributes:
        label_map: file.
        disagreement: file of the map of disagreement.
        probabilities: folder.
        wanted: those of the last two that are to be made.
    """

    label_map: Path
    disagreement: Path
    probabilities: Path
    wanted: frozenset[str] = frozenset()


class Ledger:
    """The record of one part of a folder's cases; only this process writes it. For several threads.

    Where a folder was predicted in parts, by this run or by earlier ones, all records there count; where they tell
    different things of a case, that counts which is true of its label map by its content.

    Args:
        target: the folder.
        labels: of the label maps to be made.
        places: case id to where its output lies, of the cases of this part.
        part: of the folder's cases.

    Raises:
        InputError: the folder holds what autoseg did not write, and would replace; or label maps of other labels.
    """

    def __init__(self, target: Path, labels: Labels, places: Mapping[str, Places], part: Part) -> None:
        self._target, self._labels, self._places, self._lock = target, labels, places, threading.Lock()
        self._file = target / part.file_name(PREDICTION_RECORD.removesuffix(".json"))
        self._made = dict(self._read(self._file)) if self._file.is_file() else {}
        self._others: dict[str, list[CasePrediction]] = {}
        for path in prediction_records(target):
            for case_id, there in self._read(path).items() if path != self._file else ():
                if case_id in places:
                    self._others.setdefault(case_id, []).append(there)
                elif part.of == 1:  # the record of the whole folder tells of all
                    self._made.setdefault(case_id, there)
        for case_id, others in self._others.items():
            self._made.setdefault(case_id, others[0])
        self._refuse_other_names()
        self._refuse_foreign()

    def _read(self, path: Path) -> dict[str, CasePrediction]:
        record = read_document(PredictionRecord, path)
        if record.labels != self._labels:
            raise InputError(
                "the output folder holds label maps of a model with other labels",
                file=self._target,
                remedy="Name another folder with -o.",
            )
        return record.cases

    def _refuse_other_names(self) -> None:
        named = {places.label_map.name for places in self._places.values()}
        made = [self._made[case_id].file for case_id in self._places if case_id in self._made]
        others = [name for name in made if name and name not in named and (self._target / name).is_file()]
        if others:
            raise InputError(
                "the output folder holds label maps of these cases in another format",
                file=self._target,
                found=_first(others),
                remedy="Name another folder with -o, or ask for the format that is there.",
            )

    def _refuse_foreign(self) -> None:
        foreign = []
        for case_id, places in sorted(self._places.items()):
            made = self._made.get(case_id)
            if made is None and places.label_map.exists():
                foreign.append(places.label_map.name)
            if places.disagreement.exists() and not (made is not None and made.disagreement_map):
                foreign.append(f"{DISAGREEMENT}/{places.disagreement.name}")
            if places.probabilities.exists() and not (made is not None and made.probabilities):
                foreign.append(f"{PROBABILITIES}/{places.probabilities.name}")
        if foreign:
            raise InputError(
                "the output folder holds files that autoseg did not write, and would replace",
                file=self._target,
                found=_first(foreign),
                remedy="Name another folder with -o, or move these files away.",
            )

    def has(self, case_id: str, key: str) -> bool:
        """Whether all that is wanted of a case is there, made of what this key is the digest of."""
        places = self._places[case_id]
        if not places.label_map.is_file():
            return False
        self._choose(case_id, key)
        made = self._made.get(case_id)
        if made is None or made.key != key or not made.content:
            return False
        if "disagreement" in places.wanted and not (made.disagreement_map and places.disagreement.is_file()):
            return False
        return "probabilities" not in places.wanted or _are_kept(places.probabilities, key)

    def _choose(self, case_id: str, key: str) -> None:
        """Of what several records tell of a case, takes what is true of its label map, and of that what is wanted."""
        if others := self._others.pop(case_id, ()):
            told = [self._made[case_id], *others]
            content = content_hash(self._places[case_id].label_map)
            self._made[case_id] = max(told, key=lambda made: (made.content == content, made.key == key))

    def begin(self, case_id: str, made: CasePrediction) -> None:
        """Removes what was made of a case before, and records what will be: a file that is not recorded is not ours.

        Raises:
            InputError: somebody has changed the label map by hand.
        """
        before, places = self._made.get(case_id), self._places[case_id]
        file = places.label_map
        if file.exists() and before is not None and before.content and content_hash(file) != before.content:
            raise InputError(
                "the label map was changed by hand since it was written, and predicting anew would lose that",
                file=file,
                remedy="Name another folder with -o, or move the file away.",
            )
        if before is not None and before.disagreement_map:
            places.disagreement.unlink(missing_ok=True)
        if before is not None and before.probabilities:
            shutil.rmtree(places.probabilities, ignore_errors=True)
        file.unlink(missing_ok=True)
        pending = PENDING if "disagreement" in places.wanted else ""
        kept = "probabilities" in places.wanted
        self._put(case_id, msgspec.structs.replace(made, disagreement_map=pending, probabilities=kept))

    def end(self, case_id: str, made: CasePrediction) -> None:
        """Records what was made, with the content of the label map."""
        places = self._places[case_id]
        kept = "probabilities" in places.wanted
        self._put(case_id, msgspec.structs.replace(made, content=content_hash(places.label_map), probabilities=kept))

    def _put(self, case_id: str, made: CasePrediction) -> None:
        with self._lock:
            self._made[case_id] = made
            write_document(self._file, PredictionRecord(labels=self._labels, cases=dict(sorted(self._made.items()))))


def _are_kept(folder: Path, key: str) -> bool:
    try:
        return KeptProbabilities(folder).weights == key
    except InputError:
        return False


def _first(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
