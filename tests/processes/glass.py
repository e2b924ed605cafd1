"""A package that is installed for as long as a test runs, here and in workers: a format whose files may be cracked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autoseg import plugins
from autoseg.io import formats
from tests.io.layouts.trees import SHAPE, write_image

__all__ = ["installed_glass", "write_glass_tree"]


def _forget() -> None:
    plugins._entry_points.cache_clear()
    for cached in (formats._handlers, formats._by_ending, formats._foreign):
        cached.cache_clear()


@pytest.fixture
def installed_glass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files with ``.glass`` can be read."""
    package = tmp_path / "packages" / "glass-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: glass\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[autoseg.format]\nglass = tests.processes.plugs:GlassFormat\n")
    monkeypatch.syspath_prepend(str(package.parent))
    _forget()
    yield
    monkeypatch.undo()
    _forget()


def write_glass_tree(folder: Path, values: dict[str, int]) -> Path:
    """A data set without description: images, and label maps of glass, which hold 1 and the value of the case."""
    (folder / "labels").mkdir(parents=True)
    for seed, (name, value) in enumerate(values.items()):
        write_image(folder / "images" / f"{name}.nrrd", seed=seed)
        labels = np.zeros(SHAPE, np.uint8)
        labels.reshape(-1)[1:4] = (1, 1, value)
        with (folder / "labels" / f"{name}.glass").open("wb") as file:
            np.save(file, labels)
    return folder
