"""The same cells as every loader wants them: our datasets, one gzip h5ad, a collection of annbatch's, arrays of SCDL's.

What others read is made by their own conversion, in their environments, from the one h5ad file.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import scipy.sparse as sp

from benchmarks.loading_matrix import Truth, fingerprints

if TYPE_CHECKING:
    from benchmarks.loading_env import PeerPythons

__all__ = ["CHUNK_CELLS", "LoadingData", "make_loading_data"]

_ROOT = Path(__file__).resolve().parents[1]
CHUNK_CELLS = 5_000
"""A chunk of ours."""
_READ_CELLS = 4_096
_CODECS = ("deflate", "lz4", "zstd")


@dataclass(frozen=True, slots=True)
class LoadingData:
    """Where what is."""

    folder: Path
    n_cells: int

    def place(self, name: str) -> Path:
        """Return where it is: ``ours-deflate`` and the like, ``whole.h5ad``, ``scdl``, ``annbatch-64.zarr``."""
        return self.folder / name

    @property
    def truth(self) -> Path:
        """What has to come."""
        return self.folder / "truth.npz"


def make_loading_data(folder: Path, index: Path, pythons: PeerPythons) -> LoadingData:
    """Make what is not there yet."""
    data = LoadingData(folder, _make_ours(folder, index))
    whole = data.place("whole.h5ad")
    if not whole.exists():
        _write_whole(data.place("ours-deflate"), whole)
        _read_truth(whole).write(data.truth)
    if not data.place("scdl").exists():
        _convert(pythons.py311, "loading_scdl", whole, data.place("scdl"))
    if pythons.py312 is not None:
        for cells in (64, 32):  # its default, and one that fits smaller blocks
            if not (collection := data.place(f"annbatch-{cells}.zarr")).exists():
                _convert(pythons.py312, "loading_annbatch", whole, collection, cells)
    return data


def _make_ours(folder: Path, index: Path) -> int:
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
    return n_cells


def _write_whole(dest: Path, path: Path) -> None:
    import anndata

    chunks = [anndata.read_h5ad(chunk) for chunk in sorted((dest / "chunks").iterdir())]
    anndata.concat(chunks).write_h5ad(path, compression="gzip")


def _read_truth(path: Path) -> Truth:
    cells, total = [], 0
    with h5py.File(path) as file:
        matrix: Any = file["X"]
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
