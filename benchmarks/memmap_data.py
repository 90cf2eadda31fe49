"""What is made into memory-mapped arrays: the same cells as one h5ad file, as ten, and as chunks that `run` wrote.

Counts are in ``raw.X``, where bionemo-scdl looks first. Files are written by anndata, once into the user's cache;
chunks are made anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from platformdirs import user_cache_path

from benchmarks.loading_data import CHUNK_CELLS, once, read_chunks, read_truth

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["ARRAYS", "MemmapData", "array_digests", "make_memmap_data"]

ARRAYS = ("data.npy", "col_ptr.npy", "row_ptr.npy")
"""Of an archive; bare arrays, whatever their names say."""
_FILES = 10
_PIECE_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class MemmapData:
    """Where what is."""

    folder: Path
    h5ads: Path

    def sources(self, name: str) -> Path:
        """Return a file or a folder: ``raw.h5ad``, ``plain.h5ad``, ``both.h5ad``, ``files``, ``chunks``."""
        return (self.folder if name == "chunks" else self.h5ads) / name

    @property
    def truth(self) -> Path:
        """What has to come in an epoch."""
        return self.h5ads / "truth.npz"

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of every array that a right archive has, all cells in order, as float32."""
        digests: dict[str, str] = json.loads((self.h5ads / "arrays.json").read_text(encoding="utf-8"))
        return digests


def make_memmap_data(folder: Path, census: Path, index: Path) -> MemmapData:
    """Make what is not there yet.

    Parameters
    ----------
    folder
        For the chunks.
    census
        That the cells of `index` are of: its name, a digest of its making, names the cache.
    """
    from ingest.settings import DataSettings
    from ingest.testing.datasets import make_dataset

    data = MemmapData(folder, user_cache_path("cell-ingest") / "memmap" / census.name)
    data.h5ads.mkdir(parents=True, exist_ok=True)
    chunks = data.sources("chunks")
    if not chunks.exists():
        make_dataset(str(chunks), index, data=DataSettings(cells_per_chunk=CHUNK_CELLS))
    raw = data.sources("raw.h5ad")
    once(raw, lambda path: _with_raw(read_chunks(chunks)).write_h5ad(path, compression="gzip"))
    once(data.sources("plain.h5ad"), lambda path: _with_raw(read_chunks(chunks)).write_h5ad(path))
    once(data.sources("both.h5ad"), lambda path: _with_both(read_chunks(chunks)).write_h5ad(path, compression="gzip"))
    once(data.sources("files"), lambda path: _write_files(read_chunks(chunks), path))
    once(data.truth, lambda path: read_truth(raw, "raw/X").write(path))
    once(data.h5ads / "arrays.json", lambda path: _write_digests(raw, path))
    return data


def array_digests(archive: Path) -> dict[str, str]:
    """Return the SHA-256 of an archive's arrays."""
    digests = {}
    for name in ARRAYS:
        with (archive / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _with_raw(adata: Any) -> Any:
    """Return the cells with their counts in raw, and no X."""
    import anndata

    return anndata.AnnData(obs=adata.obs, var=adata.var, raw={"X": adata.X, "var": adata.var})


def _with_both(adata: Any) -> Any:
    """Return the cells as CELLxGENE has them: X normalised, counts in raw."""
    import anndata
    import scanpy

    raw = adata.copy()
    scanpy.pp.normalize_total(adata, target_sum=1e4)
    scanpy.pp.log1p(adata)
    return anndata.AnnData(adata.X, obs=adata.obs, var=adata.var, raw={"X": raw.X, "var": raw.var})


def _write_files(adata: Any, folder: Path) -> None:
    folder.mkdir()
    size = -(-adata.n_obs // _FILES)
    for part in range(_FILES):
        piece = adata[part * size : (part + 1) * size].copy()
        _with_raw(piece).write_h5ad(folder / f"part-{part:02d}.h5ad", compression="gzip")


def _write_digests(h5ad: Path, path: Path) -> None:
    """Write what h5py reads, in the types that an archive of these cells has: bionemo-scdl's smallest that fit."""
    with h5py.File(h5ad) as file:
        matrix: Any = file["raw/X"]
        n_entries, n_genes = matrix["data"].shape[0], int(matrix.attrs["shape"][1])
        wanted = (("data", np.dtype(np.float32)), ("indices", _smallest(n_genes - 1)), ("indptr", _smallest(n_entries)))
        digests = {name: _digest(matrix[array], dtype) for name, (array, dtype) in zip(ARRAYS, wanted, strict=True)}
    path.write_text(json.dumps(digests), encoding="utf-8")


def _smallest(largest: int) -> np.dtype[Any]:
    return np.min_scalar_type(largest)


def _digest(dataset: Any, dtype: np.dtype[Any]) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(dataset):
        digest.update(piece.astype(dtype).tobytes())
    return digest.hexdigest()


def _pieces(dataset: Any) -> Iterator[Any]:
    step = _PIECE_BYTES // dataset.dtype.itemsize
    for start in range(0, dataset.shape[0], step):
        yield dataset[start : start + step]
