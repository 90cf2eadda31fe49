"""The same cells as every loader wants them: our datasets, one gzip h5ad, a collection of annbatch's, arrays of SCDL's.

What others read is made by their own conversion, in their environments, from the one h5ad file, once into the user's
cache; ours is made anew.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import scipy.sparse as sp
from platformdirs import user_cache_path

from benchmarks.loading_matrix import Truth, fingerprints

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.loading_env import PeerPythons

__all__ = ["CHUNK_CELLS", "LoadingData", "make_loading_data", "once", "read_chunks", "read_truth"]

_ROOT = Path(__file__).resolve().parents[1]
CHUNK_CELLS = 5_000
"""A chunk of ours."""
_READ_CELLS = 4_096
_CODECS = ("deflate", "lz4", "zstd")


@dataclass(frozen=True, slots=True)
class LoadingData:
    """Where what is."""

    ours: Path
    others: Path

    def place(self, name: str) -> Path:
        """Return where it is: ``ours-deflate`` and the like, ``whole.h5ad``, ``scdl``, ``annbatch-64.zarr``."""
        return (self.ours if name.startswith("ours-") else self.others) / name

    @property
    def truth(self) -> Path:
        """What has to come."""
        return self.others / "truth.npz"


def make_loading_data(folder: Path, census: Path, index: Path, pythons: PeerPythons) -> LoadingData:
    """Make what is not there yet.

    Parameters
    ----------
    folder
        For ours.
    census
        That the cells of `index` are of: its name, a digest of its making, names the cache.
    """
    pins = "".join(str(python.parent.parent.name) for python in (pythons.py311, pythons.py312) if python)
    name = f"{census.name}-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"
    data = LoadingData(folder, user_cache_path("cell-ingest") / "loading" / name)
    data.others.mkdir(parents=True, exist_ok=True)
    _make_ours(folder, index)
    whole = data.place("whole.h5ad")
    once(whole, lambda path: _write_whole(data.place("ours-deflate"), path))
    once(data.truth, lambda path: read_truth(whole).write(path))
    once(data.place("scdl"), lambda path: _convert(pythons.py311, "loading_scdl", whole, path))
    if (newer := pythons.py312) is not None:
        for cells in (64, 32):  # its default, and one that fits smaller blocks
            collection = data.place(f"annbatch-{cells}.zarr")
            once(collection, partial(_convert, newer, "loading_annbatch", whole, cells))
    return data


def once(path: Path, make: Callable[[Path], object]) -> None:
    """Make what is not there, under another name first: what was broken off is not taken for it."""
    if path.exists():
        return
    part = path.with_name(f"part-{path.name}")
    shutil.rmtree(part, ignore_errors=True)
    make(part)
    part.rename(path)


def _make_ours(folder: Path, index: Path) -> None:
    from pyarrow import feather

    from ingest.settings import DataSettings
    from ingest.testing.datasets import make_dataset

    n_cells = int(feather.read_table(index, columns=["source"]).num_rows)
    wanted = {f"ours-{codec}": DataSettings(cells_per_chunk=CHUNK_CELLS, codec=codec) for codec in _CODECS}
    wanted["ours-h5"] = DataSettings(cells_per_chunk=CHUNK_CELLS, format="h5", dtype="int16")
    wanted["ours-100"] = DataSettings(cells_per_chunk=-(-n_cells // 100))
    for name, settings in wanted.items():
        if not (folder / name).exists():
            make_dataset(str(folder / name), index, data=settings)


def _write_whole(dest: Path, path: Path) -> None:
    read_chunks(dest).write_h5ad(path, compression="gzip")


def read_chunks(dest: Path) -> Any:
    """Return all cells of a dataset as one AnnData, in order."""
    import anndata

    return anndata.concat([anndata.read_h5ad(chunk) for chunk in sorted((dest / "chunks").iterdir())])


def read_truth(path: Path, group: str = "X") -> Truth:
    """Return what the cells of an h5ad are, by h5py alone, of the CSR matrix in `group`."""
    cells, total = [], 0
    with h5py.File(path) as file:
        matrix: Any = file[group]
        starts = matrix["indptr"][:]
        n_genes = int(matrix.attrs["shape"][1])
        for first in range(0, len(starts) - 1, _READ_CELLS):
            part = starts[first : first + _READ_CELLS + 1]
            values, columns = (matrix[name][part[0] : part[-1]] for name in ("data", "indices"))
            csr = sp.csr_matrix((values, columns, part - part[0]), shape=(len(part) - 1, n_genes))
            cells.append(fingerprints(csr))
            total += int(values.sum(dtype=np.float64))
    return Truth(np.sort(np.concatenate(cells)), total)


def _convert(python: Path, module: str, *arguments: Path | int) -> None:
    command = [str(python), "-m", f"benchmarks.{module}", *map(str, arguments)]
    ran = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} ended with {ran.returncode}: {ran.stderr.strip()[-500:]}")
