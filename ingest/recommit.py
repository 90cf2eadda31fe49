"""The commit of a repair: what is damaged is replaced, conditionally on the version that was examined; nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ingest.chunks import Committed
from ingest.digest import content_digest
from ingest.documents import sha256_hex
from ingest.encode.decode import decode_chunk
from ingest.errors import AlreadyExistsError, ConflictError, CorruptError, NotFoundError, PreconditionError
from ingest.finish import check_plan
from ingest.layout import receipt_key
from ingest.ledger.receipts import Receipt, parse_receipt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.chunks import MadeChunk
    from ingest.ledger.receipts import ChunkReceipt
    from ingest.opened import OpenPlan

__all__ = ["Recommit"]

_TRIES = 5
"""Examinations of a receipt of several chunks, whose other chunks may be under repair as well."""


@dataclass(frozen=True, slots=True)
class _Standing:
    """The receipt that is there, as examined."""

    key: str
    version: str | None
    """None: there is none."""
    receipt: Receipt | None
    """None: there is none, or it is damaged, or of another plan."""
    entry: ChunkReceipt | None
    """What it says of the chunk."""


@dataclass(frozen=True, slots=True)
class Recommit:
    """A `Commit` for chunks that exist already, or should.

    The made chunk is the truth only as far as nobody contradicts it: an object with the same content stays, whatever
    its bytes; a receipt for the same cells that records other content is a conflict. Two repairs at once cannot
    undo each other: whoever replaces second meets another version than it examined.
    """

    spans: Mapping[int, str] = field(default_factory=dict)
    """Chunk -> key of its receipt, for receipts that cover several chunks."""

    def __call__(self, opened: OpenPlan, made: MadeChunk, *, attempt: str) -> Committed:
        """Make object and receipt right.

        Raises
        ------
        ConflictError
            The receipt that stands records other content than the source has now (``other-content``).
        PreconditionError
            Somebody else replaced object or receipt since they were examined.
        """
        key = self.spans.get(made.entry.chunk, receipt_key(made.entry.chunk, made.entry.chunk))
        standing = _examine_receipt(opened, key, made.entry)
        entry, written = _settle_object(opened, made, _testimony(standing, made.entry))
        _settle_receipt(opened, standing, entry, attempt)
        # Never "adopted": that would tell the driver to leave out whatever has a receipt.
        return Committed(entry, written, adopted=False)


def _testimony(standing: _Standing, made: ChunkReceipt) -> ChunkReceipt | None:
    """Return what stands of these very cells; what a receipt says of others does not count."""
    entry = standing.entry
    return entry if entry is not None and (entry.key, entry.rows) == (made.key, made.rows) else None


# -- the object ----------------------------------------------------------------------------------------------------


def _settle_object(opened: OpenPlan, made: MadeChunk, testimony: ChunkReceipt | None) -> tuple[ChunkReceipt, int]:
    """Return what the receipt must say of the object that is there in the end, and the bytes written."""
    store, entry = opened.store, made.entry
    try:
        version = store.stat(entry.key).version
        right = _right(opened, entry, testimony)
    except NotFoundError:
        _refuse_contradiction(opened, entry, testimony)
        return _put_absent(opened, made), len(made.encoded.data)
    if right is not None:
        return right, 0
    _refuse_contradiction(opened, entry, testimony)
    try:
        store.replace(entry.key, made.encoded.data, expected=version)
    except PreconditionError:
        # A success whose reply was lost looks like somebody else's replacement, but for the bytes.
        if sha256_hex(store.get(entry.key)) != entry.sha256:
            raise
    return entry, len(made.encoded.data)


def _right(opened: OpenPlan, entry: ChunkReceipt, testimony: ChunkReceipt | None) -> ChunkReceipt | None:
    """Return the receipt entry for the object that is there when its content is right, else None.

    Bytes against which a receipt testifies are not decoded: HDF5 libraries do not survive every damaged file.
    """
    try:
        data = opened.store.get(entry.key)
        found = sha256_hex(data)
        if found == entry.sha256:
            return entry
        if testimony is not None and testimony.sha256 != found:
            return None
        if content_digest(decode_chunk(data, key=entry.key)) != entry.content:
            return None
    except CorruptError:
        return None
    offsets = testimony.offsets if testimony is not None else ()
    return replace(entry, sha256=found, size=len(data), offsets=offsets)


def _put_absent(opened: OpenPlan, made: MadeChunk) -> ChunkReceipt:
    try:
        opened.store.put_new(made.entry.key, made.encoded.data)
    except AlreadyExistsError:
        if sha256_hex(opened.store.get(made.entry.key)) != made.entry.sha256:
            raise
    return made.entry


def _refuse_contradiction(opened: OpenPlan, entry: ChunkReceipt, testimony: ChunkReceipt | None) -> None:
    if testimony is not None and testimony.content != entry.content:
        raise ConflictError(
            f"{entry.key}: its receipt records other content than its sources hold now",
            kind="other-content",
            hint=f"nothing was replaced; if the sources changed, ingest elsewhere than {opened.store.url}",
            chunk=entry.chunk,
            key=entry.key,
        )


# -- the receipt ---------------------------------------------------------------------------------------------------


def _examine_receipt(opened: OpenPlan, key: str, made: ChunkReceipt) -> _Standing:
    try:
        version = opened.store.stat(key).version
        data = opened.store.get(key)
    except NotFoundError:
        return _Standing(key, None, None, None)
    except CorruptError:
        return _Standing(key, version, None, None)
    try:
        receipt = parse_receipt(data, key=key)
        check_plan(opened, receipt)
    except CorruptError:
        return _Standing(key, version, None, None)
    entry = next((entry for entry in receipt.chunks if entry.chunk == made.chunk), None)
    return _Standing(key, version, receipt if entry is not None else None, entry)


def _settle_receipt(opened: OpenPlan, standing: _Standing, entry: ChunkReceipt, attempt: str) -> None:
    for _ in range(_TRIES):
        if standing.entry is not None and _says_the_same(standing.entry, entry):
            return
        receipt = _successor(opened, standing, entry, attempt)
        if standing.version is None or receipt.key != standing.key:
            # A damaged receipt of several chunks is rebuilt when all of them have receipts of their own.
            opened.ledger.commit(receipt)
            return
        try:
            opened.store.replace(standing.key, receipt.seal(), expected=standing.version)
        except PreconditionError:
            again = _examine_receipt(opened, standing.key, entry)
            same = again.entry is not None and _says_the_same(again.entry, entry)
            if not same and again.entry != standing.entry:
                raise
            standing = again
        else:
            return
    raise PreconditionError(f"{standing.key} changes all the time", key=standing.key, chunk=entry.chunk)


def _successor(opened: OpenPlan, standing: _Standing, entry: ChunkReceipt, attempt: str) -> Receipt:
    entries: tuple[ChunkReceipt, ...] = (entry,)
    if standing.receipt is not None:
        entries = tuple(entry if one.chunk == entry.chunk else one for one in standing.receipt.chunks)
    return Receipt(opened.plan.identity.digest, attempt, entries)


def _says_the_same(standing: ChunkReceipt, entry: ChunkReceipt) -> bool:
    """Compare all but notes and offsets: what was met on the way depends on what else was read with the chunk."""
    return replace(standing, notes=entry.notes, offsets=entry.offsets) == entry
