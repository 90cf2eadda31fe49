"""What a dataset leaves out although its plan has it: rows of sources that are proven bad.

The plan never changes. An amendment is a create-only record beside it that permits chunks to lack the rows of a
source; it obliges nobody, so a chunk that another driver made whole stays right. A receipt says which sources its
chunk has and how many cells were dropped by which rule, and is held against plan and amendments together. Amendments
are numbered, and only ever added: together they permit what each of them does.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ingest.documents import seal, unseal
from ingest.errors import CorruptError
from ingest.record_fields import check_fields, each, is_count, is_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from ingest.ledger.receipts import ChunkReceipt

__all__ = ["Amendment", "Amendments", "LeftOut", "parse_amendment"]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows of one source in some chunks."""

    source: int
    """Its number in the plan."""
    kind: str
    """The rule it broke."""
    message: str
    chunks: tuple[tuple[int, int], ...]
    """(chunk, rows of the source in it), ascending."""

    @property
    def n_cells(self) -> int:
        """Rows in all of these chunks."""
        return sum(cells for _, cells in self.chunks)


@dataclass(frozen=True, slots=True)
class Amendment:
    """What one run left out."""

    plan: str
    """Digest of the plan's identity."""
    run: str
    """The run that proved it."""
    left_out: tuple[LeftOut, ...]

    def seal(self) -> bytes:
        """Return the record's bytes, with a digest of their own."""
        return seal(asdict(self))


def parse_amendment(data: bytes, *, key: str) -> Amendment:
    """Read an amendment back.

    Raises
    ------
    CorruptError
        Damaged, edited, of a newer format, or no amendment.
    """
    document = unseal(data, key=key)
    try:
        check_fields(document, {"plan": is_text, "run": is_text, "left_out": each(lambda _: True)})
        return Amendment(document["plan"], document["run"], tuple(_left_out(entry) for entry in document["left_out"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"{key} is no amendment ({error!r})", key=key) from error


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "source": is_count,
    "kind": is_text,
    "message": is_text,
    "chunks": each(each(is_count, 2)),
}


def _left_out(entry: dict[str, Any]) -> LeftOut:
    check_fields(entry, _FIELDS)
    chunks = tuple((int(chunk), int(cells)) for chunk, cells in entry["chunks"])
    return LeftOut(int(entry["source"]), str(entry["kind"]), str(entry["message"]), chunks)


class Amendments:
    """All amendments of a plan."""

    def __init__(self, amendments: Iterable[Amendment] = ()) -> None:
        self._rules: defaultdict[int, dict[int, str]] = defaultdict(dict)
        entries = (self._first(entry) for amendment in amendments for entry in amendment.left_out)
        self.left_out = tuple(entry for entry in entries if entry.chunks)
        """In the order of their making; what drivers permitted that knew nothing of each other stands here once."""

    def _first(self, entry: LeftOut) -> LeftOut:
        """Take what an entry is the first to permit, and return that of it."""
        first = []
        for pair in entry.chunks:
            rules = self._rules[pair[0]]
            if entry.source not in rules:
                rules[entry.source] = entry.kind
                first.append(pair)
        return replace(entry, chunks=tuple(first))

    def __bool__(self) -> bool:
        return bool(self.left_out)

    def rules(self, chunk: int) -> dict[int, str]:
        """Return source -> rule that it broke, of the sources whose rows `chunk` may lack."""
        return self._rules.get(chunk, {})

    def used_by(self, chunks: Iterable[ChunkReceipt]) -> Amendments:
        """Return what `chunks` lack indeed: of drivers that race, one may permit what another had made meanwhile."""
        had = {entry.chunk: {number for number, _ in entry.sources} for entry in chunks if entry.dropped}
        lacked = {(chunk, source) for chunk, its in had.items() for source in self.rules(chunk).keys() - its}
        used = (
            replace(entry, chunks=tuple(pair for pair in entry.chunks if pair[1] and (pair[0], entry.source) in lacked))
            for entry in self.left_out
        )
        return Amendments([Amendment("", "", tuple(used))])

    def but(self, held: Collection[tuple[int, int]]) -> Amendments:
        """Return the same, but that no chunk may lack what it holds: pairs of chunk and source."""
        left = (
            replace(entry, chunks=tuple(pair for pair in entry.chunks if (pair[0], entry.source) not in held))
            for entry in self.left_out
        )
        return Amendments([Amendment("", "", tuple(left))])

    def without(self, source: int) -> frozenset[int]:
        """Return the chunks that may lack the rows of `source`."""
        return frozenset(chunk for chunk, rules in self._rules.items() if source in rules)
