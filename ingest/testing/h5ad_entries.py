"""Sparse matrices as h5ad files store them: entries in whatever order, numbers of all types, every filter."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import anndata
import h5py
import numpy as np
import pandas as pd
from hypothesis import strategies as st

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ARRAYS", "FILTERS", "Archived", "StoredEntries", "cast_is_defined", "convert_by_scdl", "stored_entries"]

Array = np.ndarray[Any, Any]

ARRAYS = ("data.npy", "col_ptr.npy", "row_ptr.npy")
FILTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gzip": {"compression": "gzip"},
    "shuffled": {"compression": "gzip", "shuffle": True},
    "shuffled-only": {"shuffle": True},
    "lzf": {"compression": "lzf"},
    "shuffled-lzf": {"compression": "lzf", "shuffle": True},
    "checksum": {"compression": "gzip", "fletcher32": True},
}
"""What h5py is told, by a name."""
_SCIPY_TYPES = ("<f4", "<f8", "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8", "?")
_INDEX_TYPES = ("<i1", "<u1", "<i2", "<u2", "<u4", "<u8", ">i4")


@dataclass(frozen=True, slots=True, eq=False)
class StoredEntries:
    """One matrix, entries as they are to be stored, and how."""

    indptr: Array
    indices: Array
    data: Array
    width: int
    """Columns of a CSR matrix, rows of a CSC one."""
    layout: Literal["csr", "csc"] = "csr"
    filters: tuple[str, str] = ("gzip", "gzip")
    """Of values and of indices, of `FILTERS`."""
    chunks: tuple[int | None, int | None] = (None, None)
    """Elements of an HDF5 chunk; None: one array where no filter wants chunks, else 1,000."""

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        shape = len(self.indptr) - 1, self.width
        return shape if self.layout == "csr" else shape[::-1]

    def write(self, path: Path, where: str = "X") -> Path:
        """Write a file with the matrix at `where`: ``X`` or ``raw/X``."""
        n_cells, n_genes = self.shape
        obs = pd.DataFrame({"n": np.arange(n_cells)}, index=[f"cell{number}" for number in range(n_cells)])
        var = pd.DataFrame(index=[f"gene{number}" for number in range(n_genes)])
        anndata.AnnData(obs=obs, var=var).write_h5ad(path)
        with h5py.File(path, "r+") as file:
            if where == "raw/X":
                file.copy("var", file.create_group("raw"), "var")
            group = file.create_group(where)
            encoding = {"encoding-type": f"{self.layout}_matrix", "encoding-version": "0.1.0", "shape": self.shape}
            group.attrs.update(encoding)
            group["indptr"] = self.indptr
            for number, name in enumerate(("data", "indices")):
                array = getattr(self, name)
                group.create_dataset(name, data=array, **self._options(number, len(array)))
        return path

    def _options(self, number: int, n: int) -> dict[str, Any]:
        options, chunk = FILTERS[self.filters[number]], self.chunks[number]
        return {**options, "chunks": (min(chunk or 1000, n),)} if n and (chunk or options) else {}


@dataclass(frozen=True, slots=True)
class Archived:
    """What became of a matrix."""

    arrays: dict[str, bytes]
    """Of `ARRAYS`."""
    differences: tuple[str, ...] = ()
    """What was said of casts that lose something."""

    @classmethod
    def read(cls, folder: Path, differences: tuple[str, ...] = ()) -> Archived:
        """Read the arrays of a folder."""
        return cls({name: (folder / name).read_bytes() for name in ARRAYS}, differences)


def convert_by_scdl(path: Path, folder: Path, **options: Any) -> Archived:
    """Convert a file by bionemo-scdl, and note what it warns of."""
    from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        SingleCellMemMapDataset(str(folder), str(path), **options)
    told = [re.fullmatch(r"Full Dataset: Downcasted .* Max abs diff: (.*)", str(one.message)) for one in caught]
    return Archived.read(folder, tuple(one[1] for one in told if one))


@st.composite
def stored_entries(draw: Any, *, for_scipy: bool = True) -> StoredEntries:
    """Draw CSR matrices of whatever numbers, with zeros, doubles, columns in any order, stored in any way.

    Parameters
    ----------
    for_scipy
        Of types that scipy, and so anndata, reads.
    """
    types = _SCIPY_TYPES if for_scipy else (*_SCIPY_TYPES, "<f2", ">f4", ">i4")
    index_types = ("<i4", "<i8") if for_scipy else _INDEX_TYPES
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_rows, n_columns = draw(st.integers(1, 40)), draw(st.sampled_from([1, 7, 100, 256, 257, 5000]))
    most = min(draw(st.sampled_from([1, 5, 60])), n_columns)
    lengths = rng.integers(0, most, n_rows, endpoint=True)
    lengths[draw(st.integers(0, n_rows - 1))] = 1
    n = int(lengths.sum())
    index_type = np.dtype(draw(st.sampled_from(index_types)))
    indices = rng.integers(0, min(n_columns, np.iinfo(index_type).max), n)
    kind = draw(st.sampled_from(["counts", "large", "signed", "fractions", "special"]))
    names = st.sampled_from(sorted(FILTERS))
    return StoredEntries(
        np.concatenate([[0], np.cumsum(lengths)]),
        indices.astype(index_type),
        _values(rng, kind, np.dtype(draw(st.sampled_from(types))), n),
        n_columns,
        filters=(draw(names), draw(names)),
        chunks=(draw(st.sampled_from([None, 1, 10, 64, 999])), draw(st.sampled_from([None, 3, 64, 333]))),
    )


def cast_is_defined(data: Array, dtype: str) -> bool:
    """Say whether numpy makes of each number of `data` one of `dtype` whichever others come with it.

    C leaves open what a float beyond uint32 becomes, and numpy's loops over several and over one differ in it.
    """
    return dtype != "uint32" or data.dtype.kind != "f" or bool((np.abs(data) < 2.0**32).all())


def _values(rng: np.random.Generator, kind: str, dtype: np.dtype[Any], n: int) -> Array:
    if dtype == np.bool_:
        return rng.random(n) < 0.7
    values = rng.integers(0, 2**40 if kind == "large" else 100, n).astype(np.float64)
    if kind == "signed":
        values -= 30
    if kind == "fractions":
        values = values / 7
    if kind == "special":
        values[rng.random(n) < 0.1] = rng.choice([np.nan, np.inf, -np.inf, -0.0]) if dtype.kind == "f" else 0
    if dtype.kind in "iu":
        values = np.clip(values, float(np.iinfo(dtype).min), min(float(np.iinfo(dtype).max), 2.0**62))
    with np.errstate(over="ignore"):
        return values.astype(dtype)
