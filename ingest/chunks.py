"""One chunk from counts in memory to a receipt: validate, encode, put if absent, commit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.block import Block, Counts
from ingest.digest import content_digest, rows_digest, sums_digest
from ingest.documents import sha256_hex
from ingest.encode.decode import decode_chunk
from ingest.errors import AlreadyExistsError, ConflictError, CorruptError, SourceError
from ingest.ledger.receipts import ChunkReceipt, Receipt
from ingest.validate import check_counts, row_sums

if TYPE_CHECKING:
    from ingest.encode.base import Codec, Encoded
    from ingest.opened import OpenPlan

__all__ = ["Commit", "Committed", "MadeChunk", "commit_chunk", "fetch_dtype", "make_chunk"]

_UINT16_MAX = int(np.iinfo(np.uint16).max)


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


def fetch_dtype(dtype: str) -> str:
    """Return the type to fetch counts in: uint16 is decided per chunk, when its largest count is known."""
    return "int32" if dtype == "uint16" else dtype


def make_chunk(
    opened: OpenPlan,
    codec: Codec,
    chunk: int,
    counts: Counts,
    obs: pa.Table,
    names: pa.StringArray,
    codes: np.ndarray[Any, np.dtype[np.int32]],
    coordinates: np.ndarray[Any, np.dtype[np.int64]],
    *,
    notes: tuple[str, ...],
) -> MadeChunk:
    """Validate and encode the cells of one chunk.

    Parameters
    ----------
    counts, obs, names
        Of the chunk's cells, in plan order.
    codes, coordinates
        Which cells these are: source number and joinid or row.
    notes
        Facts for the receipt.

    Raises
    ------
    SourceError
        The counts are no counts, or not those that the index promises.
    """
    identity = opened.plan.identity
    where = f"chunk {chunk}"
    summary = check_counts(counts, source=where, allow_noninteger=identity.allow_noninteger)
    sums, n_genes = row_sums(counts)
    _check_names(names, where)
    _check_promise(opened, obs, codes, coordinates, sums, n_genes, chunk)
    if identity.dtype == "uint16":
        if summary.maximum <= _UINT16_MAX:
            counts = replace(counts, data=counts.data.astype(np.uint16))
        else:
            notes = (*notes, "widened-to-int32")
    block = Block(counts, obs, names, opened.genes)
    encoded = codec.encode(block)
    numbers, first, lengths = np.unique(codes, return_index=True, return_counts=True)
    by_appearance = np.argsort(first)
    entry = ChunkReceipt(
        chunk=chunk,
        key=opened.plan.key(chunk),
        size=len(encoded.data),
        sha256=sha256_hex(encoded.data),
        rows=rows_digest(codes, coordinates),
        content=content_digest(block),
        n_cells=counts.n_cells,
        nnz=counts.nnz,
        sum=summary.total,
        maximum=summary.maximum,
        dtype=counts.data.dtype.name,
        sources=tuple((int(numbers[at]), int(lengths[at])) for at in by_appearance),
        cell_sums=sums_digest(sums, n_genes),
        notes=notes,
        offsets=encoded.offsets,
    )
    return MadeChunk(encoded, entry)


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
    chunk: int,
) -> None:
    """Compare with what the Census itself says of each cell, where all its genes are kept."""
    whole = np.array(
        [s.layout == "soma" and all(gene in opened.genes for gene in s.genes.ids) for s in opened.surveys]
    )[codes]
    for name, found in (("nnz", n_genes), ("raw_sum", sums)):
        if name not in obs.column_names:
            continue
        kind = obs[name].type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            continue  # a column of the user's own, by the same name
        promised = obs[name].to_numpy()
        # Fractions do not add up to the same float in every order; whole numbers do.
        same = np.isclose(promised, found) if opened.plan.identity.allow_noninteger else promised == found
        wrong = np.flatnonzero(whole & ~np.isnan(promised) & ~same)
        if len(wrong):
            at = int(wrong[0])
            source = opened.plan.identity.sources[codes[at]]
            raise SourceError(
                f"{source}: cell {coordinates[at]} has {name} {found[at]:.15g} in X and {promised[at]:.15g} in obs"
                f" ({len(wrong):,} such cells in chunk {chunk})",
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
