"""Check objects against what names them: a chunk against its receipt, the plan's index against plan.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingest.documents import sha256_hex
from ingest.errors import CorruptError, NotFoundError
from ingest.findings import Finding
from ingest.store.body import object_sha256

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.deep import DeepCheck
    from ingest.ledger.receipts import ChunkReceipt
    from ingest.opened import OpenPlan
    from ingest.store.base import ObjectStat, Store
    from ingest.unit_rows import UnitRows

__all__ = ["check_index", "check_object", "has_sha256", "read_object"]

_TRIES = 2
"""Readings before bytes count as damaged: ranges carry no checksum, so the transfer may be at fault."""


def check_object(
    store: Store, entry: ChunkReceipt, stat: ObjectStat | None, deep: DeepCheck | None, rows: UnitRows | None
) -> Sequence[Finding]:
    """Return the rules that the object of `entry` breaks.

    Only bytes that have the receipt's sha256 are decoded: HDF5 libraries do not survive every damaged file.

    Parameters
    ----------
    stat
        What a listing says of the object; None when it was not in it.
    deep, rows
        Decode it and hold it against these plan rows; not when either is None.
    """

    def finding(kind: str, said: str) -> list[Finding]:
        return [Finding(kind, f"{entry.key} {said}", entry.chunk, entry.key)]

    if stat is None:
        return finding("chunk-missing", "is gone; its receipt is there")
    if stat.size != entry.size:
        return finding("chunk-size", f"has {stat.size:,} bytes, its receipt says {entry.size:,}")
    try:
        if deep is not None and rows is not None:
            data = _matching_bytes(store, entry)
            if data is not None:
                return deep.findings(entry, data, rows)
        elif has_sha256(store, entry.key, entry.sha256, entry.size):
            return ()
    except NotFoundError:
        return finding("chunk-missing", "is gone; its receipt is there")
    except CorruptError as error:
        return finding("chunk-sha256", f"cannot be read whole ({error})")
    return finding("chunk-sha256", "is damaged: it has another sha256 than its receipt says")


def has_sha256(store: Store, key: str, sha256: str, size: int | None = None) -> bool:
    """Say whether an object, of `size` bytes if that is known, has this sha256; read twice before the answer is no.

    Raises
    ------
    NotFoundError
        There is no such object.
    CorruptError
        It is shorter than `size`.
    """
    return any(
        object_sha256(store, key, store.stat(key).size if size is None else size) == sha256 for _ in range(_TRIES)
    )


def _matching_bytes(store: Store, entry: ChunkReceipt) -> bytes | None:
    return _read_matching(store, entry.key, entry.sha256)


def _read_matching(store: Store, key: str, sha256: str) -> bytes | None:
    for _ in range(_TRIES):
        data = store.get(key)
        if sha256_hex(data) == sha256:
            return data
    return None


def read_object(store: Store, key: str, sha256: str, *, chunk: int) -> bytes:
    """Return the bytes of a chunk, which have the sha256 of its receipt.

    Raises
    ------
    CorruptError
        It is gone (kind ``chunk-missing``) or damaged (kind ``chunk-sha256``).
    """
    try:
        data = _read_matching(store, key, sha256)
        said = "is damaged: it has another sha256 than its receipt says"
    except NotFoundError:
        data, said = None, "is gone; its receipt is there"
    if data is None:
        kind = "chunk-missing" if said.startswith("is gone") else "chunk-sha256"
        hint = f"`python -m ingest repair {store.url}` makes it again"
        raise CorruptError(f"{store.url}/{key} {said}", kind=kind, hint=hint, key=key, chunk=chunk)
    return data


def check_index(opened: OpenPlan) -> None:
    """Check the one file of the plan that opening does not read as a whole; workers read it by ranges.

    Damage in it would make chunks of other cells, with receipts that agree with the damage.

    Raises
    ------
    CorruptError
        It is not the file that plan.json names (kind ``plan-damaged``).
    """
    store, key = opened.store, opened.plan.files["index"]
    if not has_sha256(store, key, opened.plan.sha256["index"]):
        raise CorruptError(
            f"{store.url}/{key} is not what plan.json names; no chunk can be made from it",
            kind="plan-damaged",
            hint="chunks that verify finds good stay good; ingest the others into another destination",
            key=key,
        )
