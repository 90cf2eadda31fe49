"""Read a chunk file back with h5py alone: shares no code with the writer, so that it can testify against it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pyarrow as pa

from ingest.block import Block, Counts
from ingest.errors import CorruptError
from ingest.genes import Genes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["decode_chunk", "decode_counts"]

_PLUGIN_FILTERS = frozenset({32004, 32015})
"""lz4 and zstd, as registered with HDF5."""


def decode_chunk(data: bytes | memoryview, *, key: str) -> Block:
    """Decode an h5ad chunk.

    Raises
    ------
    CorruptError
        The bytes are no such file, or its parts contradict each other.
    """
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            _refuse_detours(file)
            _load_filters(file["X"])
            genes = _genes(file["var"])
            return Block(_counts(file["X"]), _obs(file["obs"]), pa.array(_index(file["obs"]), pa.string()), genes)
    except Exception as error:  # damage makes HDF5 and its wrapper raise anything (OverflowError, SystemError, …)
        raise CorruptError(f"{key} is no readable chunk ({error})", kind="undecodable-chunk", key=key) from error


def decode_counts(data: bytes | memoryview, *, key: str, most_entries: int) -> Iterator[Counts]:
    """Decode the counts of a chunk and nothing else, as pieces of consecutive rows, in order.

    What is decoded at once stays near `most_entries` stored entries, whatever a CSR chunk holds; a row is never cut.
    Other chunks are decoded whole.

    Raises
    ------
    CorruptError
        As `decode_chunk`, at the piece where it shows; nothing is said about the counts themselves.
    """
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            _refuse_detours(file)
            is_csr = isinstance(file["X"], h5py.Group)
            if is_csr:
                _load_filters(file["X"])
                yield from _counts_by_rows(file["X"], most_entries)
    except Exception as error:  # as in decode_chunk
        raise CorruptError(f"{key} is no readable chunk ({error})", kind="undecodable-chunk", key=key) from error
    if not is_csr:
        yield decode_chunk(data, key=key).counts


def _refuse_detours(file: h5py.File) -> None:
    """Refuse whatever would make HDF5 read another file: a chunk in DEST may have been put there by anybody."""

    # A callback returns what it found to end the walk; an exception inside one would lose its message in HDF5.
    def link(name: str, found: object) -> str | None:
        return None if isinstance(found, h5py.HardLink) else f"{name} is a {type(found).__name__}"

    def node(name: str, found: h5py.Group | h5py.Dataset) -> str | None:
        elsewhere = isinstance(found, h5py.Dataset) and (found.is_virtual or found.external)
        return f"{name} keeps its data in another file" if elsewhere else None

    detour = file.visititems_links(link) or file.visititems(node)
    if detour:
        raise ValueError(detour)


def _load_filters(group: h5py.Group) -> None:
    """Let HDF5 find the filters of the counts, where they are not its own."""
    for name in ("data", "indices", "indptr"):
        plist = group[name].id.get_create_plist()
        for at in range(plist.get_nfilters()):
            if plist.get_filter(at)[0] in _PLUGIN_FILTERS:
                import hdf5plugin  # noqa: F401 # importing registers them


def _counts(group: h5py.Group) -> Counts:
    if group.attrs["encoding-type"] != "csr_matrix":
        raise ValueError(f"X is {group.attrs['encoding-type']!r}, not csr_matrix")
    n_cells, n_genes = (int(extent) for extent in group.attrs["shape"])
    counts = Counts(
        group["indptr"][()].astype(np.int64), group["indices"][()].astype(np.int32), group["data"][()], n_genes
    )
    if counts.n_cells != n_cells or not counts.nnz == len(counts.indices) == len(counts.data):
        raise ValueError(f"X of shape ({n_cells}, {n_genes}) has arrays of other lengths")
    return counts


def _counts_by_rows(group: h5py.Group, most_entries: int) -> Iterator[Counts]:
    if group.attrs["encoding-type"] != "csr_matrix":
        raise ValueError(f"X is {group.attrs['encoding-type']!r}, not csr_matrix")
    n_cells, n_genes = (int(extent) for extent in group.attrs["shape"])
    indptr, indices, values = group["indptr"][()].astype(np.int64), group["indices"], group["data"]
    if len(indptr) != n_cells + 1 or not indptr[-1] == len(indices) == len(values):
        raise ValueError(f"X of shape ({n_cells}, {n_genes}) has arrays of other lengths")
    if indptr[0] != 0 or (np.diff(indptr) < 0).any():
        raise ValueError("indptr does not rise from 0")
    start = 0
    while start < n_cells:
        reach = int(np.searchsorted(indptr, indptr[start] + most_entries, side="right")) - 1
        stop = min(n_cells, max(reach, start + 1))
        low, high = int(indptr[start]), int(indptr[stop])
        yield Counts(
            indptr[start : stop + 1] - low, indices[low:high].astype(np.int32, copy=False), values[low:high], n_genes
        )
        start = stop


def _texts(values: h5py.Dataset) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values[()]]


def _index(group: h5py.Group) -> list[str]:
    return _texts(group[group.attrs["_index"]])


def _genes(var: h5py.Group) -> Genes:
    return Genes(
        tuple(_index(var)), tuple(_texts(var["feature_name"])), tuple(int(x) for x in var["feature_length"][()])
    )


def _obs(obs: h5py.Group) -> pa.Table:
    names: Sequence[Any] = list(obs.attrs["column-order"])
    if not names:  # a table without columns still has rows
        return pa.table({"": pa.nulls(len(obs[obs.attrs["_index"]]))}).select([])
    return pa.table({str(name): _column(obs[name]) for name in names})


def _column(element: h5py.Group | h5py.Dataset) -> pa.Array:
    if isinstance(element, h5py.Dataset):
        return pa.array(element[()])
    codes = element["codes"][()].astype(np.int32)
    return pa.DictionaryArray.from_arrays(
        pa.array(codes, mask=codes < 0), pa.array(_texts(element["categories"]), pa.string())
    )
