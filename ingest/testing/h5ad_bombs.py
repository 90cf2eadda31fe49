"""Compression bombs: HDF5 datasets that decode to a thousand times what they take on disk."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import h5py

__all__ = ["bombs"]


def bombs(bomb_bytes: int) -> dict[str, tuple[str, Callable[[h5py.File], None]]]:
    """Return by name the rule broken and the change that puts a bomb of `bomb_bytes` into a good file.

    They are all zeros: the entries of a sparse matrix, a column of obs, and a single HDF5 chunk of which any reading,
    however little, decodes the whole.
    """

    def entries(file: h5py.File) -> None:
        nnz = bomb_bytes // 4
        file["X/indptr"][-1] = nnz
        _replace_by_zeros(file, "X/data", nnz)
        _replace_by_zeros(file, "X/indices", nnz)

    def column(file: h5py.File) -> None:
        attributes = dict(file["obs/score"].attrs)
        _replace_by_zeros(file, "obs/score", bomb_bytes // 4)
        file["obs/score"].attrs.update(attributes)

    def one_chunk(file: h5py.File) -> None:
        del file["X"]
        rows_columns = (len(file["obs/_index"]), len(file["var/_index"]))
        matrix = file.create_dataset(
            "X", rows_columns, np.float32, maxshape=(None, None), chunks=(1024, bomb_bytes // 4096), compression="gzip"
        )
        matrix.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        matrix.id.write_direct_chunk((0, 0), _deflated_zeros(bomb_bytes))

    return {
        "bomb-entries": ("decoded-size", entries),
        "bomb-column": ("decoded-size", column),
        "bomb-chunk": ("decoded-size", one_chunk),
    }


def _replace_by_zeros(file: h5py.File, name: str, length: int) -> None:
    chunk = 1 << 24
    dtype = file[name].dtype if file[name].dtype.itemsize == 4 else np.dtype(np.float32)
    del file[name]
    dataset = file.create_dataset(name, (length,), dtype, chunks=(chunk,), compression="gzip")
    packed = _deflated_zeros(chunk * 4)
    for start in range(0, length, chunk):
        dataset.id.write_direct_chunk((start,), packed)


def _deflated_zeros(size: int) -> bytes:
    packer, block = zlib.compressobj(1), bytes(1 << 20)
    return b"".join([*(packer.compress(block) for _ in range(size >> 20)), packer.flush()])
