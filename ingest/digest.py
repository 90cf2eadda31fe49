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
    from collections.abc import Iterable, Mapping

    from ingest.block import Block
    from ingest.genes import Genes

__all__ = [
    "ArrayDigest",
    "ContentDigest",
    "Levels",
    "canonical_obs",
    "content_digest",
    "digest_of_digests",
    "levels_of",
    "rows_digest",
    "sums_digest",
]


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
    indices = pc.fill_null(column.indices, -1) if column.indices.null_count else column.indices
    codes = indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    if len(column.dictionary) > len(codes):
        present = np.unique(codes)
        present = present[present >= 0]
    else:
        present = np.flatnonzero(np.bincount(codes + 1, minlength=1)[1:])
    names = column.dictionary.take(pa.array(present)).to_pylist()
    values = sorted({name for name in names if name is not None})
    rank = {value: at for at, value in enumerate(values)}
    recode = np.full(len(column.dictionary) + 1, -1, np.int32)  # the last slot takes code -1
    recode[present] = [rank.get(name, -1) for name in names]
    return Levels(tuple(values), recode[codes])


def _canonical(column: pa.ChunkedArray) -> Levels | np.ndarray[Any, Any]:
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # pyarrow returns one chunked array when there are no chunks at all
        whole = whole.chunk(0) if whole.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(whole.type):
        return levels_of(whole)
    values: np.ndarray[Any, Any] = whole.to_numpy(zero_copy_only=False)
    return values


def canonical_obs(obs: pa.Table) -> dict[str, Levels | np.ndarray[Any, Any]]:
    """Return the columns as they are digested and stored: texts as `Levels`, anything else as an array ``(n_cells,)``.

    Missing numbers are NaN.
    """
    return {name: _canonical(obs[name]) for name in obs.column_names}


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

    def column(self, name: str, values: Levels | np.ndarray[Any, Any]) -> None:
        if isinstance(values, Levels):
            self.texts(name, values.values)
            self.array(name, values.codes)
        else:
            self.array(name, values)

    def part(self, name: str, part: ArrayDigest) -> None:
        self._head(name, part.kind, part.length)
        self._hash.update(part.digest())

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class ArrayDigest:
    """The digest of one array that comes in pieces; it does not tell how it was cut.

    Parameters
    ----------
    dtype
        Of the values.
    """

    __slots__ = ("_dtype", "_hash", "length")

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype.newbyteorder("<")
        self._hash = xxhash.xxh3_128()
        self.length = 0
        """Values so far."""

    @property
    def kind(self) -> str:
        """The type of the values, as numpy spells it."""
        return self._dtype.str

    def update(self, values: np.ndarray[Any, Any]) -> None:
        """Take the next values ``(n,)``, cast where they are of another type."""
        if len(values):
            self._hash.update(np.ascontiguousarray(values, self._dtype).view(np.uint8).data)
            self.length += len(values)

    def digest(self) -> bytes:
        """Return 16 bytes over the values so far."""
        return self._hash.digest()


class ContentDigest:
    """What a chunk *is*: a digest over named digests, so that its arrays may come in pieces and side by side.

    Parameters
    ----------
    dtype
        Of the counts' values.
    """

    __slots__ = ("data", "indices", "indptr")

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.indptr = ArrayDigest(np.dtype(np.int64))
        self.indices = ArrayDigest(np.dtype(np.int32))
        self.data = ArrayDigest(dtype)

    def hexdigest(self, genes: Genes, names: pa.StringArray, obs: Mapping[str, Levels | np.ndarray[Any, Any]]) -> str:
        """Return 32 hex digits over the counts so far, the genes' ids, the cells' names and their `canonical_obs`."""
        stream = _Stream()
        stream.part("indptr", self.indptr)
        stream.part("indices", self.indices)
        stream.part("data", self.data)
        stream.texts("genes", (genes.digest,))
        stream.texts("obs_names", names.to_pylist())
        for name, values in obs.items():
            stream.column(f"obs/{name}", values)
        return stream.hexdigest()


def content_digest(block: Block) -> str:
    """Return 32 hex digits over counts, names, genes and obs of `block`; equal blocks, equal digests."""
    digest = ContentDigest(block.counts.data.dtype)
    digest.indptr.update(block.counts.indptr)
    digest.indices.update(block.counts.indices)
    digest.data.update(block.counts.data)
    return digest.hexdigest(block.genes, block.obs_names, canonical_obs(block.obs))


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
