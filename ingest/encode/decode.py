"""Read a chunk file back with h5py alone: shares no code with the writer, so that it can testify against it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pyarrow as pa

from ingest.block import Block, Counts
from ingest.encode.decode_h5 import decode_dense
from ingest.encode.guard import ChunkTexts, load_filters, most_bytes, refuse_bombs, refuse_detours
from ingest.errors import CorruptError
from ingest.fetch.h5ad_bytes import MemoryBytes
from ingest.genes import Genes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["decode_chunk", "decode_counts", "decode_names"]


def decode_chunk(data: bytes | memoryview, *, key: str) -> Block:
    """Decode a chunk of either format: the one that `key` ends in, ``.h5`` or ``.h5ad``, and no other.

    Counts have the type that they have in the file; those of a dense one are CSR again.

    Raises
    ------
    CorruptError
        The bytes are no such file, or its parts contradict each other.
    """
    decode = decode_dense if key.endswith(".h5") else _decode_h5ad
    try:
        with _opened(data, key) as (file, texts):
            return decode(file, texts, most_bytes(len(data)))
    except Exception as error:  # damage makes HDF5 and its wrapper raise anything (OverflowError, SystemError, …)
        raise CorruptError(f"{key} is no readable chunk ({error})", kind="undecodable-chunk", key=key) from error


def decode_counts(data: bytes | memoryview, *, key: str, most_entries: int) -> Iterator[Counts]:
    """Decode the counts of a chunk and nothing else, as pieces of consecutive rows, in order.

    A piece has about `most_entries` entries; a row is never cut. No more is decoded at once of an h5ad, whatever it
    holds; a dense chunk is decoded whole. Of 16-bit integers 32-bit ones are made.

    Raises
    ------
    CorruptError
        As `decode_chunk`, at the piece where it shows; nothing is said about the counts themselves.
    """
    if key.endswith(".h5"):
        yield from _widened_pieces(decode_chunk(data, key=key).counts, most_entries)
        return
    try:
        with _opened(data, key) as (file, _):
            load_filters(*(file["X"][name] for name in ("data", "indices", "indptr")))
            yield from _counts_by_rows(file["X"], most_entries)
    except Exception as error:  # as in decode_chunk
        raise CorruptError(f"{key} is no readable chunk ({error})", kind="undecodable-chunk", key=key) from error


def decode_names(data: bytes | memoryview, *, key: str) -> pa.StringArray:
    """Decode the names of a chunk's cells and nothing else, ``(n_cells,)``.

    Raises
    ------
    CorruptError
        As `decode_chunk`, as far as it shows in them.
    """
    try:
        with _opened(data, key) as (file, texts):
            names = texts(file["cells"] if key.endswith(".h5") else _index(file["obs"]))
            return pa.array(names, pa.string())
    except Exception as error:  # as in decode_chunk
        raise CorruptError(f"{key} is no readable chunk ({error})", kind="undecodable-chunk", key=key) from error


@contextmanager
def _opened(data: bytes | memoryview, key: str) -> Iterator[tuple[h5py.File, ChunkTexts]]:
    stream = MemoryBytes(data, key)
    with stream.as_hdf5() as file:
        refuse_detours(file)
        yield file, ChunkTexts(stream)


def _widened_pieces(counts: Counts, most_entries: int) -> Iterator[Counts]:
    for start, stop in _row_ranges(counts.indptr, most_entries):
        piece = counts.rows(start, stop)
        narrow = piece.data.dtype.itemsize < 4
        yield replace(piece, data=piece.data.astype(np.int32)) if narrow else piece


def _row_ranges(indptr: np.ndarray[Any, np.dtype[np.int64]], most_entries: int) -> Iterator[tuple[int, int]]:
    start, n_cells = 0, len(indptr) - 1
    while start < n_cells:
        reach = int(np.searchsorted(indptr, indptr[start] + most_entries, side="right")) - 1
        stop = min(n_cells, max(reach, start + 1))
        yield start, stop
        start = stop


def _decode_h5ad(file: h5py.File, texts: ChunkTexts, most: int) -> Block:
    refuse_bombs(file, most)
    load_filters(*(file["X"][name] for name in ("data", "indices", "indptr")))
    obs = file["obs"]
    return Block(
        _counts(file["X"]), _obs(obs, texts), pa.array(texts(_index(obs)), pa.string()), _genes(file["var"], texts)
    )


def _check_csr(group: h5py.Group) -> None:
    """Refuse arrays of types that no chunk has: cast, numbers would wrap; compiled code takes no others."""
    if group.attrs["encoding-type"] != "csr_matrix":
        raise ValueError(f"X is {group.attrs['encoding-type']!r}, not csr_matrix")
    for name, types in _TYPES.items():
        dtype = group[name].dtype
        if dtype.name not in types or not dtype.isnative:
            raise ValueError(f"X/{name} is of type {dtype}")


_INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
_TYPES = {"data": ("float32", "float64", *_INTEGERS), "indices": ("int32",), "indptr": ("int32", "int64")}


def _counts(group: h5py.Group) -> Counts:
    _check_csr(group)
    n_cells, n_genes = (int(extent) for extent in group.attrs["shape"])
    counts = Counts(
        group["indptr"][()].astype(np.int64), group["indices"][()].astype(np.int32), group["data"][()], n_genes
    )
    if counts.n_cells != n_cells or not counts.nnz == len(counts.indices) == len(counts.data):
        raise ValueError(f"X of shape ({n_cells}, {n_genes}) has arrays of other lengths")
    return counts


def _counts_by_rows(group: h5py.Group, most_entries: int) -> Iterator[Counts]:
    _check_csr(group)
    n_cells, n_genes = (int(extent) for extent in group.attrs["shape"])
    indptr, indices, values = group["indptr"][()].astype(np.int64), group["indices"], group["data"]
    if len(indptr) != n_cells + 1 or not indptr[-1] == len(indices) == len(values):
        raise ValueError(f"X of shape ({n_cells}, {n_genes}) has arrays of other lengths")
    if indptr[0] != 0 or (np.diff(indptr) < 0).any():
        raise ValueError("indptr does not rise from 0")
    for start, stop in _row_ranges(indptr, most_entries):
        low, high = int(indptr[start]), int(indptr[stop])
        yield Counts(
            indptr[start : stop + 1] - low, indices[low:high].astype(np.int32, copy=False), values[low:high], n_genes
        )


def _index(group: h5py.Group) -> h5py.Dataset:
    return group[group.attrs["_index"]]


def _genes(var: h5py.Group, texts: ChunkTexts) -> Genes:
    return Genes(
        tuple(texts(_index(var))), tuple(texts(var["feature_name"])), tuple(int(x) for x in var["feature_length"][()])
    )


def _obs(obs: h5py.Group, texts: ChunkTexts) -> pa.Table:
    names: Sequence[Any] = list(obs.attrs["column-order"])
    if not names:  # a table without columns still has rows
        return pa.table({"": pa.nulls(len(_index(obs)))}).select([])
    return pa.table({str(name): _column(obs[name], texts) for name in names})


def _column(element: h5py.Group | h5py.Dataset, texts: ChunkTexts) -> pa.Array:
    if isinstance(element, h5py.Dataset):
        return pa.array(element[()])
    codes = element["codes"][()].astype(np.int32)
    return pa.DictionaryArray.from_arrays(
        pa.array(codes, mask=codes < 0), pa.array(texts(element["categories"]), pa.string())
    )
