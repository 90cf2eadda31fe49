"""One chunk from counts in memory to a receipt: validate, encode, put if absent, commit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.chunk_rows import rows_to_make
from ingest.digest import content_digest, rows_digest, sums_digest
from ingest.documents import sha256_hex
from ingest.encode.decode import decode_chunk
from ingest.errors import AlreadyExistsError, ConflictError, CorruptError, SourceError
from ingest.ledger.receipts import ChunkReceipt, Receipt
from ingest.normalize import normalize_counts
from ingest.promise import broken_promises
from ingest.validate import check_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ingest.block import Counts
    from ingest.encode.base import Codec, Encoded
    from ingest.opened import OpenPlan
    from ingest.unit_rows import UnitRows

__all__ = ["ChunkMaker", "Commit", "Committed", "MadeChunk", "commit_chunk", "fetch_dtype", "whole_sources"]

_CACHED_ENTRIES = 1 << 16
"""Non-zeros validated, digested and compressed before the next ones: half a megabyte."""


@dataclass(frozen=True, slots=True, eq=False)
class MadeChunk:
    """A chunk file in memory with what its receipt will say."""

    encoded: Encoded
    entry: ChunkReceipt


@dataclass(frozen=True, slots=True)
class Committed:
    """How the commit went."""

    entry: ChunkReceipt
    bytes_written: int
    """0 when the chunk was there already."""
    adopted: bool
    """Another attempt or another driver had made it; its content was compared."""


class Commit(Protocol):
    """What is done with a chunk that has been made; travels to workers, so a function of an installed module."""

    def __call__(self, opened: OpenPlan, made: MadeChunk, *, attempt: str) -> Committed:
        """Make `made` exist under DEST; raise ``IngestError`` where it cannot."""
        ...


_NARROW = ("uint16", "int16")
"""Types that a chunk leaves when a count does not fit."""


def fetch_dtype(dtype: str) -> str:
    """Return the type to fetch counts in: a narrow one is decided per chunk, when its largest count is known."""
    return "int32" if dtype in _NARROW else dtype


class ChunkMaker:
    """One chunk in the making: its cells are validated and encoded as they come, so that it never holds them all.

    Parameters
    ----------
    chunk
        Its number.
    rows
        At least its own plan rows.
    whole
        bool ``(n_sources,)``: see `whole_sources`.
    """

    def __init__(
        self, opened: OpenPlan, codec: Codec, chunk: int, rows: UnitRows, whole: np.ndarray[Any, np.dtype[np.bool_]]
    ) -> None:
        self.chunk = chunk
        self._opened, self._whole = opened, whole
        self._rows = rows_to_make(opened, rows, chunk)
        self._encoder = codec.begin(opened.genes, opened.plan.identity.dtype)
        self._names: list[pa.StringArray] = []
        self._sums: list[np.ndarray[Any, Any]] = []
        """Of what is stored."""
        self._totals: list[np.ndarray[Any, Any]] = []
        """Of counts, where these are not what is stored."""
        self._n_genes: list[np.ndarray[Any, np.dtype[np.int32]]] = []
        self._total = 0
        self._integer = True
        self._maximum: float = 0
        self._n_cells = self._nnz = 0

    @property
    def is_whole(self) -> bool:
        """Whether all its cells have come."""
        return self._n_cells == len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the file, as far as it is made."""
        return self._encoder.nbytes

    def add(self, counts: Counts, names: pa.StringArray) -> None:
        """Take the next cells, ``(n_cells, n_genes)`` and ``(n_cells,)``; nothing of `counts` is kept.

        Raises
        ------
        SourceError
            The counts are no counts.
        """
        identity = self._opened.plan.identity
        where, allow = f"chunk {self.chunk}", identity.allow_noninteger
        for first, last in _cut_rows(counts.indptr):
            part = counts.rows(first, last)
            found = check_rows(part, source=where, allow_noninteger=allow, first_row=self._n_cells)
            if identity.normalize is not None:
                self._totals.append(found.sums)
                part = normalize_counts(part, found.sums, identity.normalize)
                found = check_rows(part, source=where, allow_noninteger=True, first_row=self._n_cells)
            self._encoder.add(part)
            self._sums.append(found.sums)
            self._n_genes.append(found.nnz)
            self._integer &= found.integer
            self._total += int(found.total) if found.integer else 0
            self._maximum = max(self._maximum, found.maximum)
            self._n_cells += part.n_cells
            self._nnz += part.nnz
        self._names.append(names)

    def finish(self, notes: Iterable[str] = ()) -> MadeChunk:
        """Return the file and its receipt; the maker is spent.

        Parameters
        ----------
        notes
            Facts for the receipt.

        Raises
        ------
        SourceError
            The counts are not those that the index promises.
        """
        identity, obs = self._opened.plan.identity, self._rows.obs
        codes, coordinates = self._rows.codes, self._rows.coordinates
        names = pa.concat_arrays([pa.array([], pa.string()), *self._names])
        sums = np.concatenate([np.empty(0), *self._sums])
        n_genes = np.concatenate([np.empty(0, np.int32), *self._n_genes])
        _check_names(names, f"chunk {self.chunk}")
        totals = np.concatenate([np.empty(0), *self._totals]) if identity.normalize is not None else sums
        _check_promise(self._opened, obs, codes, coordinates, totals, n_genes, self._whole, self.chunk)
        encoded = self._encoder.finish(obs, names)
        if identity.dtype in _NARROW and encoded.dtype != identity.dtype:
            notes = (*notes, f"widened-to-{encoded.dtype}")
        numbers, first, lengths = np.unique(codes, return_index=True, return_counts=True)
        entry = ChunkReceipt(
            chunk=self.chunk,
            key=self._opened.plan.key(self.chunk),
            size=len(encoded.data),
            sha256=sha256_hex(encoded.data),
            rows=rows_digest(codes, coordinates),
            content=encoded.content,
            n_cells=len(self._rows),
            nnz=self._nnz,
            # Fractions add up to the same float only in one and the same way, however the cells came.
            sum=self._total if self._integer else math.fsum(sums),
            maximum=self._maximum if self._integer else float(self._maximum),
            dtype=encoded.dtype,
            sources=tuple((int(numbers[at]), int(lengths[at])) for at in np.argsort(first)),
            cell_sums=sums_digest(sums, n_genes),
            dropped=self._rows.dropped,
            notes=tuple(sorted(notes)),
            offsets=encoded.offsets,
        )
        return MadeChunk(encoded, entry)


def _cut_rows(indptr: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows whose counts fit the CPU's cache, where every step finds them that the one before left."""
    first, n_rows = 0, len(indptr) - 1
    while first < n_rows:
        last = int(np.searchsorted(indptr, indptr[first] + _CACHED_ENTRIES, side="right")) - 1
        last = min(max(last, first + 1), n_rows)
        yield first, last
        first = last


def whole_sources(opened: OpenPlan) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return for each source whether its cells' own sums can be held against what was read, bool ``(n_sources,)``.

    They can where the source has such sums, a Census, and all its genes are kept.
    """
    return np.array([s.layout == "soma" and all(gene in opened.genes for gene in s.genes.ids) for s in opened.surveys])


def _check_names(names: pa.StringArray, where: str) -> None:
    if pc.any(pc.match_substring(names, "\0")).as_py():
        raise SourceError(f"{where}: a cell's name holds a NUL character, which HDF5 cannot", kind="bad-cell-name")


def _check_promise(
    opened: OpenPlan,
    obs: pa.Table,
    codes: np.ndarray[Any, np.dtype[np.int32]],
    coordinates: np.ndarray[Any, np.dtype[np.int64]],
    sums: np.ndarray[Any, Any],
    n_genes: np.ndarray[Any, Any],
    whole: np.ndarray[Any, np.dtype[np.bool_]],
    chunk: int,
) -> None:
    """Compare with what the Census itself says of each cell, where all its genes are kept."""
    if not whole.any():
        return
    found = {"nnz": n_genes, "raw_sum": sums}
    for broken in broken_promises(obs, found, whole[codes], fractional=opened.plan.identity.allow_noninteger):
        at = int(broken.wrong[0])
        source = opened.plan.identity.sources[codes[at]]
        raise SourceError(
            f"{source}: cell {coordinates[at]} has {broken.name} {broken.found[at]:.15g} in X and "
            f"{broken.promised[at]:.15g} in obs ({len(broken.wrong):,} such cells in chunk {chunk})",
            kind="source-disagrees",
            hint="index again; if it stays, the source contradicts itself",
            source=source,
            chunk=chunk,
        )


def commit_chunk(opened: OpenPlan, made: MadeChunk, *, attempt: str) -> Committed:
    """Put the object if it is absent, then the receipt: that is the moment the chunk exists.

    An object that is there already, without a receipt or with one, is read back, decoded and adopted when its
    content is right: a success whose reply was lost looks the same as another driver's.

    Raises
    ------
    ConflictError
        Something else is there.
    """
    written, entry = len(made.encoded.data), made.entry
    try:
        opened.store.put_new(entry.key, made.encoded.data)
    except AlreadyExistsError:
        entry, written = _adopt(opened, entry), 0
    receipt = Receipt(opened.plan.identity.digest, attempt, (entry,))
    standing = opened.ledger.commit(receipt)
    return Committed(standing.chunks[0], written, adopted=written == 0 or standing is not receipt)


def _adopt(opened: OpenPlan, entry: ChunkReceipt) -> ChunkReceipt:
    """Return the receipt entry for the object that is there, its content being what was made here."""
    data = opened.store.get(entry.key)
    found = sha256_hex(data)
    if found == entry.sha256:
        return entry
    try:
        same = content_digest(decode_chunk(data, key=entry.key)) == entry.content
    except CorruptError as error:
        raise _conflict(opened, entry, f"an object that cannot be decoded ({error})") from error
    if not same:
        raise _conflict(opened, entry, "an object with other content")
    # The offsets belong to our own bytes; a reader of theirs has to look them up in the file.
    return replace(entry, sha256=found, size=len(data), offsets=())


def _conflict(opened: OpenPlan, entry: ChunkReceipt, what: str) -> ConflictError:
    return ConflictError(
        f"{opened.store.url}/{entry.key} holds {what}, and no receipt",
        kind="other-content",
        hint=f"`repair {opened.store.url}` makes it again",
        chunk=entry.chunk,
        key=entry.key,
    )
