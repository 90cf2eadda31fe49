"""Receipts: the small records that make chunks exist."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from ingest.documents import seal, unseal
from ingest.encode.base import Offsets
from ingest.encode.value_type import VALUE_TYPES
from ingest.errors import CorruptError
from ingest.layout import receipt_key
from ingest.record_fields import check_fields, each, is_count, is_number, is_sha256, is_text, keyed, one_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ChunkReceipt", "Receipt", "parse_receipt"]


@dataclass(frozen=True, slots=True)
class ChunkReceipt:
    """One chunk as it was written and verified."""

    chunk: int
    key: str
    size: int
    """Bytes of the object."""
    sha256: str
    """Of the object's bytes."""
    rows: str
    """Row-id digest: which cells, in order (`ingest.digest.rows_digest`)."""
    content: str
    """Content digest (`ingest.digest.content_digest`): what agreement is about."""
    n_cells: int
    nnz: int
    sum: float
    """Sum of all counts; a whole number unless fractional values were allowed."""
    maximum: float
    dtype: str
    sources: tuple[tuple[int, int], ...]
    """(number of the source in the plan, cells of it), in order of appearance."""
    cell_sums: str
    """Digest of per-cell sums and non-zeros, for sources that do not know theirs."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rule -> cells left out by it."""
    notes: tuple[str, ...] = ()
    """Facts worth keeping, such as ``unsorted-indices``: found in the source and mended in memory."""
    offsets: tuple[Offsets, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """The commit of consecutive chunks by one attempt."""

    plan: str
    """Digest of the plan's identity."""
    attempt: str
    chunks: tuple[ChunkReceipt, ...]

    @property
    def key(self) -> str:
        """The store key: the chunks' numbers, so that what is done is one listing."""
        return receipt_key(self.chunks[0].chunk, self.chunks[-1].chunk)

    def seal(self) -> bytes:
        """Return the record's bytes, with a digest of their own."""
        return seal(asdict(self))

    def agrees_with(self, other: Receipt) -> bool:
        """Say whether both commit the same content for the same cells of the same plan."""
        return self.plan == other.plan and [(c.chunk, c.rows, c.content) for c in self.chunks] == [
            (c.chunk, c.rows, c.content) for c in other.chunks
        ]


def parse_receipt(data: bytes, *, key: str) -> Receipt:
    """Read a receipt back.

    Raises
    ------
    CorruptError
        Damaged, edited, of a newer format, or not under its own key.
    """
    document = unseal(data, key=key)
    try:
        check_fields(document, {"plan": is_text, "attempt": is_text, "chunks": _is_filled_list})
        receipt = Receipt(document["plan"], document["attempt"], tuple(_chunk(entry) for entry in document["chunks"]))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CorruptError(f"{key} is no receipt ({error!r})", key=key) from error
    if receipt.key != key:
        raise CorruptError(f"{key} holds the receipt of {receipt.key}", key=key)
    return receipt


def _is_filled_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0


_MOST_AXES = 32
"""Of an HDF5 dataset."""

_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("chunk", "size", "n_cells", "nnz"), is_count),
    **dict.fromkeys(("key", "rows", "content", "cell_sums"), is_text),
    "sha256": is_sha256,
    **dict.fromkeys(("sum", "maximum"), is_number),
    "dtype": one_of(*VALUE_TYPES),
    "sources": each(each(is_count, 2)),
    "dropped": keyed(is_count),
    "notes": each(is_text),
    "offsets": each(lambda value: isinstance(value, dict)),
}
_OFFSET_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "dataset": is_text,
    "chunk_shape": lambda value: each(is_count)(value) and len(value) <= _MOST_AXES and is_count(prod(value)),
    **dict.fromkeys(("offsets", "sizes"), each(is_count)),
}


def _chunk(entry: dict[str, Any]) -> ChunkReceipt:
    check_fields(entry, _FIELDS)
    for offsets in entry["offsets"]:
        check_fields(offsets, _OFFSET_FIELDS)
        if len(offsets["offsets"]) != len(offsets["sizes"]):
            raise ValueError(
                f"{offsets['dataset']} has {len(offsets['offsets'])} offsets, {len(offsets['sizes'])} sizes"
            )
    entry["sources"] = tuple((int(number), int(cells)) for number, cells in entry["sources"])
    entry["notes"] = tuple(entry["notes"])
    entry["offsets"] = tuple(
        Offsets(o["dataset"], tuple(o["chunk_shape"]), tuple(o["offsets"]), tuple(o["sizes"])) for o in entry["offsets"]
    )
    return ChunkReceipt(**entry)
