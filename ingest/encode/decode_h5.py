"""Read a dense chunk back into CSR, some rows at a time: the matrix itself is never in memory.

HDF5 finds the blocks; those of shuffle and deflate are inflated here by libdeflate, which did not make them.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import deflate
import h5py
import numpy as np
import pyarrow as pa

from ingest.block import Block, Counts
from ingest.encode.guard import load_filters, refuse_bombs
from ingest.encode.value_type import VALUE_TYPES
from ingest.genes import Genes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.encode.guard import ChunkTexts

__all__ = ["decode_dense"]

Array = np.ndarray[Any, Any]

_SLAB_BYTES = 8 << 20
_MOST_BLOCK_BYTES = 256 << 20
"""Of one HDF5 chunk, which is whole in memory; ours have two megabytes, or one row."""


def decode_dense(file: h5py.File, texts: ChunkTexts, most: int) -> Block:
    """Return the cells of an open dense chunk.

    Parameters
    ----------
    texts
        Reads its texts.
    most
        Bytes that its arrays, and its counts as CSR, may come to.

    Raises
    ------
    Exception
        The file is damaged or hostile; `ingest.encode.decode.decode_chunk` makes one error of all.
    """
    refuse_bombs(file, most, streamed="X")
    matrix = _matrix(file["X"])
    n_cells, n_genes = matrix.shape
    shapes = {"genes": n_genes, "cells": n_cells, "obs/gene_count": n_cells, "obs/umi_count": n_cells}
    for name, n in shapes.items():
        if file[name].shape != (n,):
            raise ValueError(f"{name} of shape {file[name].shape} beside X of shape {matrix.shape}")
    counts = _counts(matrix, file["obs/gene_count"][()], file["obs/umi_count"][()], most)
    var = file["var"]
    genes = Genes(
        tuple(texts(file["genes"])),
        tuple(texts(var["feature_name"])),
        tuple(int(length) for length in var["feature_length"][()]),
    )
    return Block(counts, _obs(file["obs"], n_cells, texts), pa.array(texts(file["cells"]), pa.string()), genes)


def _matrix(node: h5py.Dataset) -> h5py.Dataset:
    """Return X when it is what a chunk can hold: its size is then bounded by what is stored of it."""
    if not isinstance(node, h5py.Dataset) or node.ndim != 2 or node.dtype.name not in VALUE_TYPES:
        raise ValueError(f"X is {node!r}, no matrix of counts")
    load_filters(node)
    if node.chunks is None:
        stored = node.id.get_storage_size() == node.size * node.dtype.itemsize
    else:
        n_rows, n_columns = node.chunks
        whole_rows = n_columns == node.shape[1] and prod(node.chunks) * node.dtype.itemsize <= _MOST_BLOCK_BYTES
        stored = whole_rows and node.id.get_num_chunks() == -(-node.shape[0] // n_rows)
    if not stored:
        raise ValueError(f"X of shape {node.shape} is not stored in whole rows, all of them")
    return node


def _counts(matrix: h5py.Dataset, n_nonzero: Array, sums: Array, most: int) -> Counts:
    """Return the matrix as CSR; `n_nonzero` ``(n_cells,)`` of each row says how much that is: both are checked."""
    n_cells, n_genes = matrix.shape
    if n_nonzero.dtype.kind not in "iu" or n_nonzero.min(initial=0) < 0 or n_nonzero.max(initial=0) > n_genes:
        raise ValueError("obs/gene_count holds no numbers of genes")
    indptr = np.concatenate([[0], np.cumsum(n_nonzero, dtype=np.int64)])
    if indptr[-1] * (4 + matrix.dtype.itemsize) > most:
        raise ValueError(f"obs/gene_count adds up to {indptr[-1]:,} counts, more than is believed of such a file")
    counts = Counts(indptr, np.empty(indptr[-1], np.int32), np.empty(indptr[-1], matrix.dtype.name), n_genes)
    step = _rows_at_once(matrix)
    for number, (places, values) in enumerate(_row_groups(matrix, step)):
        start = number * step
        n_rows = min(step, n_cells - start)
        found = _take_rows(places, values, start, n_rows, counts)
        wrong = np.flatnonzero(found != sums[start : start + n_rows])
        if len(wrong):
            row, added = start + int(wrong[0]), found[wrong[0]]
            raise ValueError(f"obs/umi_count of row {row} is {sums[row]:g}, but X adds up to {added:g}")
    return counts


def _rows_at_once(matrix: h5py.Dataset) -> int:
    if matrix.chunks is not None:
        return int(matrix.chunks[0])
    return max(1, _SLAB_BYTES // max(1, int(matrix.shape[1]) * int(matrix.dtype.itemsize)))


def _row_groups(matrix: h5py.Dataset, step: int) -> Iterator[tuple[Array, Array]]:
    """Yield, for `step` rows at a time, the places of the values among theirs, ascending, and the values."""
    plist = matrix.id.get_create_plist()
    filters = [plist.get_filter(at)[0] for at in range(plist.get_nfilters())]
    by_hand = filters == [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE]
    for start in range(0, matrix.shape[0], step):
        if not by_hand:
            yield _dense(matrix[start : start + step])
            continue
        # Outside HDF5's lock, without undoing the shuffle of zeros that nobody needs: a third of the time, all told.
        skipped, stored = matrix.id.read_direct_chunk((start, 0))
        if skipped:
            raise ValueError(f"rows of X from {start} on were stored without their filters")
        yield _inflated(stored, prod(matrix.chunks), matrix.dtype)


def _dense(rows: Array) -> tuple[Array, Array]:
    flat = rows.reshape(-1)
    places = np.flatnonzero(flat != 0)
    return places, flat[places]


def _inflated(stored: bytes, length: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return the places and values of a shuffled block of `length`."""
    raw = deflate.zlib_decompress(stored, length * dtype.itemsize)
    if len(raw) != length * dtype.itemsize:
        raise ValueError(f"a block of X has {len(raw):,} bytes instead of {length * dtype.itemsize:,}")
    planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, length)
    used = planes[0] != 0
    for plane in planes[1:]:
        used |= plane != 0
    places = np.flatnonzero(used)
    return places, np.ascontiguousarray(planes[:, places].T).view(dtype).reshape(-1)


def _take_rows(places: Array, values: Array, start: int, n_rows: int, counts: Counts) -> Array:
    """Put the values of some rows where `counts` has room for them; return the sum of each row, float64."""
    indptr, n_genes = counts.indptr[start : start + n_rows + 1], counts.n_genes
    ends = np.searchsorted(places, np.arange(n_rows + 1) * n_genes)
    if not np.array_equal(ends, indptr - indptr[0]):
        row = start + int(np.flatnonzero(np.diff(ends) != np.diff(indptr))[0])
        raise ValueError(f"obs/gene_count is not the number of genes in row {row} of X")
    mine, kept = slice(indptr[0], indptr[-1]), slice(0, ends[-1])
    rows = np.repeat(np.arange(n_rows), np.diff(ends))
    counts.data[mine] = values[kept]
    counts.indices[mine] = places[kept] - rows * n_genes
    # Adds in the order of the entries: fractions, too, come to the same float.
    sums: Array = np.bincount(rows, weights=values[kept], minlength=n_rows)
    return sums


def _obs(group: h5py.Group, n_cells: int, texts: ChunkTexts) -> pa.Table:
    columns = {}
    for place in group.attrs["column-order"]:
        node = group[place]
        if node.shape != (n_cells,):
            raise ValueError(f"obs/{place} of shape {node.shape} for {n_cells} cells")
        columns[str(node.attrs.get("column", place))] = _column(node, texts)
    return pa.table(columns) if columns else pa.table({"": pa.nulls(n_cells)}).select([])


def _column(node: h5py.Dataset, texts: ChunkTexts) -> pa.Array:
    if h5py.check_string_dtype(node.dtype) is None:
        return pa.array(node[()])
    missing = node.attrs.get("missing")
    return pa.array([None if text == missing else text for text in texts(node)], pa.string()).dictionary_encode()
