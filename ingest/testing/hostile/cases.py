"""All cases, by the kind of file that they are."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h5py
import numpy as np

from ingest.testing.hostile.h5ad_bytes import BYTES, RAW
from ingest.testing.hostile.h5ad_indices import INDICES, add_tall_trees
from ingest.testing.hostile.h5ad_matrix import MATRIX
from ingest.testing.hostile.h5ad_storage import CANARY_BYTES, CANARY_H5, STORAGE
from ingest.testing.hostile.h5ad_tables import TABLES
from ingest.testing.hostile.h5ad_texts import TEXTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Case", "h5ad_cases", "write_canaries"]


@dataclass(frozen=True, slots=True)
class Case:
    """One hostile file."""

    name: str
    make: Callable[[Path, Path], None]
    """Writes it, of the good file: called with both paths."""


def h5ad_cases() -> list[Case]:
    """Return all h5ad files of the corpus but those of `ingest.testing.h5ad_hostile`."""
    changed = [Case(name, _changed(change)) for name, change in {**MATRIX, **TABLES, **STORAGE}.items()]
    spoilt = [Case(name, _spoilt(spoil)) for name, spoil in BYTES.items()]
    led = [Case(name, _led_astray(spoil)) for name, spoil in INDICES.items()]
    texts = [Case(name, make) for name, make in TEXTS.items()]
    return [*changed, *spoilt, *led, *texts, *(Case(name, _written(data)) for name, data in RAW.items())]


def write_canaries(folder: Path, good: Path) -> tuple[Path, Path]:
    """Write the files that some cases point at: readable by whoever follows them."""
    shutil.copyfile(good, folder / CANARY_H5)
    (folder / CANARY_BYTES).write_bytes(np.arange(1 << 12, dtype=np.float32).tobytes())
    return folder / CANARY_H5, folder / CANARY_BYTES


def _changed(change: Callable[[h5py.File], None]) -> Callable[[Path, Path], None]:
    def make(good: Path, path: Path) -> None:
        shutil.copyfile(good, path)
        with h5py.File(path, "r+") as file:
            change(file)

    return make


def _spoilt(spoil: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    return lambda good, path: void(path.write_bytes(spoil(good.read_bytes())))


def _led_astray(spoil: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    def make(good: Path, path: Path) -> None:
        _changed(add_tall_trees)(good, path)
        path.write_bytes(spoil(path.read_bytes()))

    return make


def _written(data: bytes) -> Callable[[Path, Path], None]:
    return lambda _, path: void(path.write_bytes(data))


def void(_: object) -> None:
    """Take a result, and return none."""
