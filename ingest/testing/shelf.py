"""Finished datasets of every kind of chunk, each made when it is first asked for: for tests of what reads them.

They are small, and so are their blocks: rows cross blocks, chunks have dozens of them, cells lack genes or have all.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
import pandas as pd
from scipy import sparse

from ingest.settings import DataSettings
from ingest.testing.datasets import make_dataset, write_h5ad_index
from ingest.testing.h5ad_files import sample_counts, sample_obs, write_h5ad_variant
from ingest.testing.plain_chunks import PlainCells, read_plainly

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["KINDS", "Shelf", "add_columns", "make_blocky", "small_blocks", "write_sample"]

_N_CELLS, _N_GENES = 53, 40
_BASE = DataSettings(cells_per_chunk=19)
_CODECS = ("deflate", "lz4", "zstd", "none")
_TYPES = {
    "float32": _BASE,
    "int32": replace(_BASE, dtype="int32"),
    "uint16": replace(_BASE, dtype="uint16"),
    "fractions": replace(_BASE, allow_noninteger=True),
    "h5": replace(_BASE, format="h5", dtype="int16"),
}
KINDS: dict[str, DataSettings] = {
    f"{name}-{codec}": replace(data, codec=codec) for name, data in _TYPES.items() for codec in _CODECS
}
"""``uint16-lz4``, ``h5-none``, …"""
_LARGEST = {"uint16": 70_000.0, "h5": 40_000.0, "int32": 200_000.0}
"""A count for which a chunk of this type, but for int32, has to be wider than the others."""


def write_sample(
    path: Path,
    *,
    n_cells: int = _N_CELLS,
    n_genes: int = _N_GENES,
    seed: int = 1,
    scale: float = 1.0,
    largest: float = 0.0,
    genes: Sequence[str] | None = None,
) -> Path:
    """Write an h5ad of counts, one cell without any gene and one that has them all."""
    counts = sample_counts(n_cells, n_genes, density=0.3, seed=seed).toarray()
    counts[n_cells // 2] = 0
    counts[n_cells // 3] = np.arange(1, n_genes + 1)
    if largest:
        counts[n_cells // 3, 1] = largest
    matrix = sparse.csr_matrix((counts * scale).astype(np.float32))
    return write_h5ad_variant(path, matrix, obs=sample_obs(n_cells, seed=seed), var_ids=genes)


def add_columns(index: Path) -> Path:
    """Add to an index what people filter by: a text with gaps, accessions, whole numbers, flags."""
    table = pd.read_feather(index)
    n = len(table)
    tissues = ["lung", "liver", None, "brain"] * (n // 4 + 1)
    table["tissue"] = pd.Categorical(tissues[:n])
    table["SRX_accession"] = pd.Categorical([f"SRX{number // 30}" for number in range(n)])
    table["age"] = np.arange(n) % 7
    table["primary"] = np.arange(n) % 3 == 0
    table["note"] = [f"well {number % 11}" for number in range(n)]
    table.to_feather(index)
    return index


@contextmanager
def small_blocks() -> Iterator[None]:
    """Write blocks of 32 entries, or of 4 dense rows."""
    with mock.patch("ingest.encode.array_stream.BLOCK", 32), mock.patch("ingest.encode.row_stream._MOST_ROWS", 4):
        yield


def make_blocky(dest: str, index: Path, data: DataSettings = _BASE) -> None:
    """Make a dataset of small blocks."""
    with small_blocks():
        made = make_dataset(dest, index, data=data)
    if made.report.exit_code:
        raise RuntimeError(f"{dest} is not finished: exit code {made.report.exit_code}")


@dataclass(eq=False)
class Shelf:
    """The datasets that one session of tests shares; nobody may write to them."""

    folder: Path
    _made: dict[str, Path] = field(default_factory=dict)
    _plain: dict[str, PlainCells] = field(default_factory=dict)

    def index(self, kind: str) -> Path:
        """Return the index of a dataset of one of `KINDS`."""
        name = kind.partition("-")[0]
        path = self.folder / f"{name}.feather"
        if not path.exists():
            scale = 0.37 if name == "fractions" else 1.0
            first = write_sample(self.folder / f"{name}-a.h5ad", seed=1, scale=scale)
            second = write_sample(self.folder / f"{name}-b.h5ad", seed=2, scale=scale, largest=_LARGEST.get(name, 0.0))
            add_columns(write_h5ad_index(path, [first, second]))
        return path

    def made(self, kind: str) -> Path:
        """Return the folder of a dataset of one of `KINDS`."""
        if kind not in self._made:
            make_blocky(str(self.folder / kind), self.index(kind), KINDS[kind])
            self._made[kind] = self.folder / kind
        return self._made[kind]

    def plain(self, kind: str) -> PlainCells:
        """Return what plain readers find in it."""
        if kind not in self._plain:
            self._plain[kind] = read_plainly(self.made(kind))
        return self._plain[kind]
