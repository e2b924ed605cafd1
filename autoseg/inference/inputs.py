"""New images on their way to the network: read and brought to its grid by workers, handed over as memory-mapped files.

A program that hands over one image keeps it in memory. The files lie in a hidden folder beside the label maps, are removed
once they are used, and, if a kill left some, by the next run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from autoseg.errors import InputError
from autoseg.files import replacing
from autoseg.io.case_work import CaseFiles
from autoseg.io.cases import read_image
from autoseg.io.formats import read_header
from autoseg.io.headers import Header
from autoseg.io.nifti_voxels import can_be_mapped
from autoseg.machine import machine_memory
from autoseg.preprocessing.forward import preprocess_image
from autoseg.preprocessing.memory import mapped_bytes, preparing_bytes
from autoseg.scratch import arrays_in
from autoseg.values import Configuration, Plan, PreprocessRecord, Volume
from autoseg.values.json_form import Value
from autoseg.volume.quantiles import image_quantiles

__all__ = [
    "HeldInput",
    "OnGrid",
    "PrepareInput",
    "PrepareMembers",
    "Prepared",
    "PreparedMembers",
    "hand_over_folder",
    "held_input",
]

PREFIX = ".prepared-"
#: A folder that is younger may just be about to be locked by its owner.
SECONDS_TO_LOCK = 10.0


class OnGrid(Protocol):
    """An image as the network sees it, wherever its array is."""

    @property
    def record(self) -> PreprocessRecord:
        """What was done to it."""
        ...

    @property
    def earlier(self) -> Sequence[OnGrid]:
        """In a cascade, the image as the networks of the stages before see it, the first stage first."""
        ...

    @property
    def scratch(self) -> Path | None:
        """Folder for what memory has no room for; None where nothing may be written."""
        ...

    def image(self) -> AbstractContextManager[np.ndarray]:
        """The array, float32 ``(channels, *spatial)``, for as long as it is needed."""
        ...


class Prepared(Value, frozen=True, kw_only=True):
    """An image as the network sees it.

    Attributes:
        file: float32 ``(channels, *spatial)``, as .npy.
        record: what was done to it.
        hashes: of the content of its files.
        earlier: in a cascade, the image as the networks of the stages before see it, the first stage first.
        quantiles: of the intensities of each channel, as read.
        seconds: that it took to make.
    """

    file: str
    record: PreprocessRecord
    hashes: tuple[str, ...]
    earlier: tuple[Prepared, ...] = ()
    quantiles: tuple[tuple[float, ...], ...] = ()
    seconds: float = 0.0

    @property
    def scratch(self) -> Path:
        """The folder of the file."""
        return Path(self.file).parent

    @contextlib.contextmanager
    def image(self) -> Iterator[np.ndarray]:
        """The array, memory-mapped; the file is removed afterwards."""
        try:
            yield np.load(self.file, mmap_mode="r", allow_pickle=False)
        finally:
            with contextlib.suppress(OSError):  # where mapped files cannot be removed, the folder's end will do it
                Path(self.file).unlink()


@dataclass(frozen=True, kw_only=True)
class HeldInput:
    """An image as the network sees it, in memory.

    Attributes:
        array: float32 ``(channels, *spatial)``.
        record: what was done to it.
        earlier: in a cascade, the image as the networks of the stages before see it, the first stage first.
    """

    array: np.ndarray
    record: PreprocessRecord
    earlier: tuple[HeldInput, ...] = ()

    @property
    def scratch(self) -> None:
        """Nothing is written for an image in memory."""

    @contextlib.contextmanager
    def image(self) -> Iterator[np.ndarray]:
        """The array."""
        yield self.array


def held_input(volume: Volume, plan: Plan, configuration: str, case_id: str) -> HeldInput:
    """An image on the grid of a configuration, in a cascade on those of all stages.

    Args:
        volume: float32 ``(channels, *spatial)``.
        plan: of the model.
        configuration: its name, of the last stage.
        case_id: for messages.

    Raises:
        InputError: the image cannot be used.
    """
    made = [
        HeldInput(array=image, record=record)
        for image, record in _on_grids(volume, plan, plan.stages(configuration), case_id)
    ]
    return dataclasses.replace(made[-1], earlier=tuple(made[:-1]))


def _on_grids(
    volume: Volume, plan: Plan, stages: Sequence[str], case_id: str
) -> Iterator[tuple[np.ndarray, PreprocessRecord]]:
    """The image on the grid of every stage, and what was done to it, one after the other."""
    for name in stages:
        yield preprocess_image(volume, plan, plan.configuration(name), case_id=case_id)


class PrepareInput(Value, frozen=True, kw_only=True):
    """Reads an image and brings it to the network's grid, in a cascade to those of all stages; a task for any executor.

    Attributes:
        plan: of the model.
        configuration: the name of the grid, of the last stage.
        root: folder of the images.
        folder: where the arrays go.
        locator: name of the grid of a model that locates first; empty for none.
    """

    plan: Plan
    configuration: str
    root: str
    folder: str
    locator: str = ""

    @property
    def stages(self) -> tuple[str, ...]:
        """The configurations on whose grids the image is needed, in order."""
        return (*([self.locator] if self.locator else []), *self.plan.stages(self.configuration))

    @property
    def stage(self) -> str:
        """For messages."""
        return "predict: read"

    def __call__(self, item: CaseFiles) -> Prepared:
        """Writes the array of every stage.

        Raises:
            InputError: the image cannot be used.
        """
        with arrays_in(Path(self.folder) if self._is_too_large(item, _headers(item)) else None):
            return self._made(item)

    def _made(self, item: CaseFiles) -> Prepared:
        began = time.perf_counter()
        hashes, _ = item.look()
        volume = read_image(item.case, self.root, self.plan.channels)
        quantiles = image_quantiles(volume.array)
        made: list[Prepared] = []
        for number, (image, record) in enumerate(_on_grids(volume, self.plan, self.stages, item.id)):
            file = Path(self.folder, f"{item.id}.npy" if not number else f"{item.id}.{number}.npy")
            with replacing(file) as beside:
                np.save(beside, image)
            del image  # before the next one is made
            made.append(Prepared(file=str(file), record=record, hashes=tuple(hashes)))
        seconds = time.perf_counter() - began
        return msgspec.structs.replace(made[-1], earlier=tuple(made[:-1]), quantiles=quantiles, seconds=seconds)

    def bytes(self, item: CaseFiles, headers: tuple[Header | None, ...]) -> int:
        """Memory that the work on an image takes at most; files take the place of what this machine has no room for."""
        too_large = self._is_too_large(item, headers)
        return max((mapped_bytes if too_large else preparing_bytes)(headers, self.plan, each) for each in self._grids())

    def _grids(self) -> list[Configuration]:
        return [self.plan.configuration(name) for name in self.stages]

    def _is_too_large(self, item: CaseFiles, headers: tuple[Header | None, ...]) -> bool:
        """Whether the image is larger than the machine has memory, and of a kind that can be worked on in files."""
        memory = machine_memory()
        if memory is None or max(preparing_bytes(headers, self.plan, each) for each in self._grids()) <= memory.whole:
            return False
        return all(can_be_mapped(Path(path)) for path in item.paths)


def _headers(item: CaseFiles) -> tuple[Header | None, ...]:
    """Of an image's files; without those that cannot be read, of which reading them will tell."""
    found: list[Header | None] = []
    for path in item.paths:
        with contextlib.suppress(InputError):
            found.append(read_header(Path(path)))
    return tuple(found)


class PreparedMembers(Value, frozen=True, kw_only=True):
    """An image as the networks of several configurations see it."""

    members: tuple[Prepared, ...]

    @property
    def hashes(self) -> tuple[str, ...]:
        """Of the content of the image's files."""
        return self.members[0].hashes

    @property
    def seconds(self) -> float:
        """That they took to make."""
        return sum(each.seconds for each in self.members)


class PrepareMembers(Value, frozen=True, kw_only=True):
    """Brings an image to the grids of several configurations, one after the other; a task for any executor.

    Attributes:
        tasks: for each configuration, with folders of their own if there are several.
    """

    tasks: tuple[PrepareInput, ...]

    @property
    def stage(self) -> str:
        """For messages."""
        return self.tasks[0].stage

    def __call__(self, item: CaseFiles) -> PreparedMembers:
        """Writes the arrays.

        Raises:
            InputError: the image cannot be used.
        """
        return PreparedMembers(members=tuple(task(item) for task in self.tasks))

    def bytes(self, item: CaseFiles, headers: tuple[Header | None, ...]) -> int:
        """Memory that the work on an image takes at most."""
        return max(task.bytes(item, headers) for task in self.tasks)


@contextlib.contextmanager
def hand_over_folder(target: Path) -> Iterator[Path]:
    """A hidden folder in ``target`` for as long as it is needed; those of runs that were killed are removed."""
    from filelock import FileLock, Timeout

    target.mkdir(parents=True, exist_ok=True)
    for folder in target.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, Timeout):  # another run's, which works on
            if time.time() - folder.stat().st_mtime > SECONDS_TO_LOCK:
                FileLock(folder / ".lock", timeout=0).acquire().lock.release()
                shutil.rmtree(folder, ignore_errors=True)
    own = target / f"{PREFIX}{secrets.token_hex(6)}"
    own.mkdir()
    try:
        with FileLock(own / ".lock", timeout=0):
            yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
