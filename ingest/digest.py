"""Content digests: what a block or a list of cells *is*, whatever file, codec or library holds it.

128-bit XXH3 (https://xxhash.com) over canonical arrays: fast enough to run over every byte, and no defence against
an attacker, which sha256 over file bytes is. Every array is preceded by its name, type and length, so that no two
different contents spell the same stream.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
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
    "text_bytes",
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
    dictionary = column.dictionary
    if len(dictionary) > _MOST_RANKED:
        present = np.unique(codes[codes >= 0])
        codes = np.where(codes < 0, -1, np.searchsorted(present, codes)).astype(np.int32)
        dictionary = dictionary.take(pa.array(present))
    texts, rank = _ranked(dictionary)
    codes = rank[codes]
    present = np.flatnonzero(np.bincount(codes + 1, minlength=1)[1:])
    recode = np.full(len(texts) + 1, -1, np.int32)  # the last slot takes code -1
    recode[present] = np.arange(len(present))
    return Levels(tuple(texts[at] for at in present.tolist()), recode[codes])


_Ranked = tuple[tuple[str, ...], np.ndarray[Any, np.dtype[np.int32]]]

_MOST_RANKED = 4096
"""Values of a dictionary that are ranked whole, and remembered: a chunk's neighbours have the same one."""
_MOST_RANKED_BYTES = 1 << 20
"""Of its memory, which is hashed to know it again."""
_RANKED: OrderedDict[tuple[Any, ...], _Ranked] = OrderedDict()
_MOST_REMEMBERED = 64


def _ranked(dictionary: pa.Array) -> _Ranked:
    """Return its distinct values, sorted, and for each of it its place among them, int32 ``(n + 1,)``; -1: missing."""
    if len(dictionary) > _MOST_RANKED or sum(part.size for part in dictionary.buffers() if part) > _MOST_RANKED_BYTES:
        return _rank(dictionary)
    # By content, for an address tells nothing once the memory is given back.
    raw = (None if part is None else xxhash.xxh3_128_digest(part) for part in dictionary.buffers())
    key = (str(dictionary.type), dictionary.offset, len(dictionary), *raw)
    found = _RANKED.get(key)
    if found is None:
        found = _RANKED[key] = _rank(dictionary)
        with suppress(KeyError):  # another thread may empty it meanwhile
            while len(_RANKED) > _MOST_REMEMBERED:
                _RANKED.popitem(last=False)
    return found


def _rank(dictionary: pa.Array) -> _Ranked:
    names = dictionary.to_pylist()
    texts = sorted({name for name in names if name is not None})
    at = {text: number for number, text in enumerate(texts)}
    return tuple(texts), np.array([*(-1 if name is None else at[name] for name in names), -1], np.int32)


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


def text_bytes(texts: Iterable[str] | pa.StringArray) -> tuple[np.ndarray[Any, np.dtype[np.int64]], bytes]:
    """Return the length in bytes of each of `texts`, none of them missing, int64 ``(n,)``, and all bytes joined."""
    if isinstance(texts, pa.Array) and pa.types.is_string(texts.type):
        if not len(texts):
            return np.empty(0, np.int64), b""
        _, ends, values = texts.buffers()
        offsets = np.frombuffer(ends, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
        return np.diff(offsets), values[int(offsets[0]) : int(offsets[-1])].to_pybytes() if values else b""
    raw = [text.encode() for text in (texts.to_pylist() if isinstance(texts, pa.Array) else texts)]
    return np.fromiter(map(len, raw), np.int64, len(raw)), b"".join(raw)


class _Stream:
    """A digest fed with named arrays."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def array(self, name: str, values: np.ndarray[Any, Any]) -> None:
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        self._head(name, little.dtype.str, len(little))
        self._hash.update(np.ascontiguousarray(little).view(np.uint8).data if len(little) else b"")

    def texts(self, name: str, values: Iterable[str] | pa.StringArray) -> None:
        lengths, joined = text_bytes(values)
        self.array(name, lengths)
        self._head(name, "text", len(joined))
        self._hash.update(joined)

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
        stream.texts("obs_names", names)
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
