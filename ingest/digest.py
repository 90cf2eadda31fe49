"""Content digests: what a block or a list of cells *is*, whatever file, codec or library holds it.

128-bit XXH3 (https://xxhash.com) over canonical arrays: fast enough to run over every byte, and no defence against
an attacker, which sha256 over file bytes is. Every array is preceded by its name, type and length, so that no two
different contents spell the same stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ingest.block import Block
    from ingest.cells import Cells

__all__ = ["Levels", "cells_digest", "content_digest", "digest_of_digests", "levels_of", "rows_digest", "sums_digest"]


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """A categorical column in canonical form: the values present, sorted, and a code for every cell."""

    values: tuple[str, ...]
    codes: np.ndarray[Any, np.dtype[np.int32]]
    """int32 ``(n_cells,)``; -1 is missing."""


def levels_of(column: pa.Array) -> Levels:
    """Bring a dictionary column of strings into canonical form.

    Parameters
    ----------
    column
        ``DictionaryArray`` with int32 indices; its dictionary may be unsorted, repeat itself, and hold nulls and
        values that are not present.
    """
    codes = pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    present = np.unique(codes)
    present = present[present >= 0]
    names = column.dictionary.take(pa.array(present)).to_pylist()
    values = sorted({name for name in names if name is not None})
    rank = {value: at for at, value in enumerate(values)}
    recode = np.full(len(column.dictionary) + 1, -1, np.int32)  # the last slot takes code -1
    recode[present] = [rank.get(name, -1) for name in names]
    return Levels(tuple(values), recode[codes])


class _Stream:
    """A digest fed with named arrays."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def array(self, name: str, values: np.ndarray[Any, Any]) -> None:
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        self._head(name, little.dtype.str, len(little))
        self._hash.update(np.ascontiguousarray(little).view(np.uint8).data if len(little) else b"")

    def texts(self, name: str, values: Iterable[str]) -> None:
        blob = b"".join(len(raw).to_bytes(8, "little") + raw for raw in (value.encode() for value in values))
        self._head(name, "text", len(blob))
        self._hash.update(blob)

    def _head(self, name: str, kind: str, length: int) -> None:
        raw = name.encode()
        self._hash.update(len(raw).to_bytes(8, "little") + raw + f"{kind}\0{length}\0".encode())

    def column(self, name: str, column: pa.ChunkedArray) -> None:
        whole = column.combine_chunks()
        if isinstance(whole, pa.ChunkedArray):  # pyarrow returns one chunked array when there are no chunks at all
            whole = whole.chunk(0) if whole.num_chunks else pa.array([], column.type)
        if pa.types.is_dictionary(whole.type):
            levels = levels_of(whole)
            self.texts(name, levels.values)
            self.array(name, levels.codes)
        else:
            self.array(name, whole.to_numpy(zero_copy_only=False))

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def content_digest(block: Block) -> str:
    """Return 32 hex digits over counts, names, genes and obs of `block`; equal blocks, equal digests."""
    stream = _Stream()
    stream.array("indptr", block.counts.indptr)
    stream.array("indices", block.counts.indices)
    stream.array("data", block.counts.data)
    stream.texts("genes", (block.genes.digest,))
    stream.texts("obs_names", block.obs_names.to_pylist())
    for name in block.obs.column_names:
        stream.column(f"obs/{name}", block.obs[name])
    return stream.hexdigest()


def cells_digest(cells: Cells) -> str:
    """Return 32 hex digits over all columns of the cells, in plan order."""
    stream = _Stream()
    for name in cells.table.column_names:
        stream.column(name, cells.table[name])
    return stream.hexdigest()


def rows_digest(codes: np.ndarray[Any, np.dtype[np.int32]], coordinates: np.ndarray[Any, np.dtype[np.int64]]) -> str:
    """Return 32 hex digits over which cells these are: source number in the plan and coordinate, in order."""
    stream = _Stream()
    stream.array("sources", codes)
    stream.array("coordinates", coordinates)
    return stream.hexdigest()


def sums_digest(sums: np.ndarray[Any, Any], n_genes: np.ndarray[Any, Any]) -> str:
    """Return 32 hex digits over each cell's sum of counts and number of non-zeros, ``(n_cells,)`` both."""
    stream = _Stream()
    stream.array("sums", sums.astype(np.float64))
    stream.array("n_genes", n_genes.astype(np.int64))
    return stream.hexdigest()


def digest_of_digests(digests: Iterable[str]) -> str:
    """Return 32 hex digits over a sequence of digests, in order."""
    stream = _Stream()
    stream.texts("digests", digests)
    return stream.hexdigest()
