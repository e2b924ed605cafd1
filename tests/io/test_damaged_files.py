"""Files with bytes changed at random: read, or refused by name, but never a crash, another error, or noise on a terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import InputError, MissingPartError
from autoseg.io.formats import Format
from tests.contracts.test_format_contract import assert_told, each, sample
from tests.io.dicom_phantoms import grid, noise, write_series

DAMAGES = 60


def damaged(data: bytes, seed: int) -> bytes:
    """One to three bytes of the first 400 changed, most of them to extremes."""
    random, changed = np.random.default_rng(seed), bytearray(data)
    for _ in range(random.integers(1, 4)):
        at = int(random.integers(0, min(len(changed), 400)))
        changed[at] = int(random.choice([0, 127, 128, 255, random.integers(256)]))
    return bytes(changed)


@each
def test_damaged_files_are_read_or_refused(plug: Format, ending: str, tmp_path: Path, capfd) -> None:
    path = sample(plug, tmp_path / f"a{ending}")
    data = path.read_bytes()
    read, refused = 0, []
    for seed in range(DAMAGES):
        path.write_bytes(damaged(data, seed))
        try:
            header = plug.header(path)
            volume = plug.read(path)
        except (InputError, MissingPartError) as error:
            refused.append(str(error))
        else:
            assert_told(header, volume)
            read += 1
    assert refused
    assert read + len(refused) == DAMAGES
    assert all(path.name in message for message in refused)
    assert capfd.readouterr() == ("", "")


def test_damaged_dicom_files_are_read_or_refused(tmp_path: Path, capfd) -> None:
    from autoseg.io.formats import format_of

    geometry = grid(shape=(2, 8, 10))
    files = write_series(tmp_path / "scan", noise(geometry), geometry)
    data = files[0].read_bytes()
    refused = []
    for seed in range(DAMAGES):
        files[0].write_bytes(data[:132] + damaged(data[132:], seed))
        try:
            header = format_of(files[1]).header(tmp_path / "scan")
            assert_told(header, format_of(files[1]).read(tmp_path / "scan"))
        except InputError as error:
            refused.append(error.file)
    assert refused
    assert None not in refused
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


@pytest.mark.parametrize("seed", range(3))
def test_damage_is_damage(seed: int) -> None:
    data = bytes(range(256)) * 2
    assert damaged(data, seed) != data
    assert len(damaged(data, seed)) == len(data)
