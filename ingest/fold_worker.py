"""What a worker of a fold does: fetch a unit's chunks one ahead, prove their bytes, hand them to the fold."""

from __future__ import annotations

import resource
import threading
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from ingest.ahead import Ahead
from ingest.chunk_check import read_object
from ingest.encode.decode import decode_counts
from ingest.errors import CorruptError, IngestError
from ingest.fetch.heap import keep_freed_memory
from ingest.opened import OpenPlan, open_plan
from ingest.pool import Progress, UnitOutcome, unforeseen
from ingest.store.open import open_store
from ingest.unit_maker import failure_of
from ingest.unit_rows import rows_of_chunks
from ingest.validate import check_rows

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from ingest.block import Counts
    from ingest.folding import ChunkFold
    from ingest.ledger.receipts import ChunkReceipt
    from ingest.pool import Failure, UnitTask
    from ingest.validate import RowsSummary

__all__ = ["PIECE_ENTRIES", "ChunkFacts", "FoldFactory", "FoldWorker", "Piece", "ReadChunk"]

S = TypeVar("S")

PIECE_ENTRIES = 1 << 21
"""Stored entries decoded at once: 16 MB, whatever ``-c``."""


@dataclass(frozen=True, slots=True, eq=False)
class ChunkFacts:
    """What receipts say of every chunk, in 48 bytes each: it travels to every worker."""

    chunks: np.ndarray[Any, np.dtype[np.int64]]
    """int64 ``(n_chunks,)``, ascending."""
    sha256: np.ndarray[Any, np.dtype[np.uint8]]
    """uint8 ``(n_chunks, 32)``."""
    n_cells: np.ndarray[Any, np.dtype[np.int64]]
    """int64 ``(n_chunks,)``."""
    sources: Mapping[int, tuple[int, ...]]
    """Chunk -> sources it has cells of, of the chunks that lack cells which the plan gives them."""

    @classmethod
    def of(cls, entries: Sequence[ChunkReceipt]) -> ChunkFacts:
        """Take them from receipts, which are in order."""
        digests = np.frombuffer(b"".join(bytes.fromhex(entry.sha256) for entry in entries), np.uint8)
        chunks, n_cells = np.array([(entry.chunk, entry.n_cells) for entry in entries], np.int64).reshape(-1, 2).T
        lacking = {entry.chunk: tuple(number for number, _ in entry.sources) for entry in entries if entry.dropped}
        return cls(chunks, digests.reshape(-1, 32), n_cells, lacking)

    def of_chunk(self, chunk: int) -> str:
        """Return the sha256 of one chunk as 64 hex digits."""
        return bytes(self.sha256[self._at(chunk)]).hex()

    def cells_of(self, chunk: int) -> int:
        """Return the number of cells of one chunk."""
        return int(self.n_cells[self._at(chunk)])

    def _at(self, chunk: int) -> int:
        return int(np.searchsorted(self.chunks, chunk))


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Consecutive cells of a chunk, checked."""

    first: int
    """The first cell's number within the chunk."""
    counts: Counts
    summary: RowsSummary
    """What the check found, totals of the cells among it."""

    @property
    def cells(self) -> slice:
        """The cells' places within the chunk."""
        return slice(self.first, self.first + self.counts.n_cells)


@dataclass(frozen=True, eq=False)  # no slots: the plan's rows are read when somebody asks for them
class ReadChunk:
    """A chunk whose bytes have the sha256 of its receipt."""

    opened: OpenPlan
    number: int
    data: bytes
    n_cells: int
    """Cells that its receipt gives it."""
    sources: tuple[int, ...] | None = None
    """Those it has cells of, where it lacks cells of others; None: it has all that the plan gives it."""

    @cached_property
    def obs(self) -> pa.Table:
        """The plan's rows of its cells, all columns of the index."""
        rows = rows_of_chunks(self.opened, (self.number,))
        start, stop = self.opened.plan.rows(self.number)
        whole = rows.obs(start, stop)
        if self.sources is None:
            return whole
        return whole.filter(pa.array(np.isin(rows.codes(start, stop), self.sources)))

    def pieces(self, *, allow_noninteger: bool = False) -> Iterator[Piece]:
        """Decode and check the counts, some rows at a time.

        Raises
        ------
        CorruptError
            No readable chunk, or of another shape than the plan's.
        HostileFileError, NotCountsError
            As `ingest.validate.check_rows`.
        """
        key, first = self.opened.plan.key(self.number), 0
        for counts in decode_counts(self.data, key=key, most_entries=PIECE_ENTRIES):
            if counts.n_genes != len(self.opened.genes):
                said = f"{key} has {counts.n_genes:,} genes, the dataset {len(self.opened.genes):,}"
                raise CorruptError(said, kind="n-genes", key=key, chunk=self.number)
            summary = check_rows(counts, source=key, allow_noninteger=allow_noninteger, first_row=first)
            yield Piece(first, counts, summary)
            first += counts.n_cells
        if first != self.n_cells:
            said = f"{key} has {first:,} cells, its receipt says {self.n_cells:,}"
            raise CorruptError(said, kind="n-cells", key=key, chunk=self.number)


@dataclass(frozen=True, slots=True, eq=False)
class FoldFactory(Generic[S]):
    """All that travels to a worker; credentials do not, they come from its environment."""

    dest: str
    endpoint_url: str | None
    fold: ChunkFold[S]
    facts: ChunkFacts
    threads: int = 1

    def __call__(self) -> FoldWorker[S]:
        """Build the worker, in the process that will use it."""
        return FoldWorker(self)


class FoldWorker(Generic[S]):
    """Folds the chunks of units, one unit at a time; writes nothing."""

    def __init__(self, factory: FoldFactory[S]) -> None:
        self._factory = factory
        self._stop = threading.Event()
        self._opened: OpenPlan | None = None
        self._progress: Progress | None = None

    def ready(self) -> None:
        """Open DEST, read its plan, compile what the fold runs.

        Raises
        ------
        IngestError
            DEST or its plan cannot be read from here.
        """
        keep_freed_memory()
        self._factory.fold.begin(self._open())

    def _open(self) -> OpenPlan:
        if self._opened is None:
            factory = self._factory
            self._opened = open_plan(open_store(factory.dest, endpoint_url=factory.endpoint_url))
        return self._opened

    def run(self, task: UnitTask) -> UnitOutcome:
        """Fold the chunks of `task` into one result; expected trouble is reported, not raised."""
        opened, retries = self._open(), self._open().store.retries
        state = self._factory.fold.begin(opened)
        done: list[int] = []
        failures: list[Failure] = []
        n_cells = bytes_read = 0
        self._progress = Progress(task.unit_id, 0, 0, 0)
        with closing(Ahead(self._fetched(opened, task.chunks))) as fetched:
            for chunk, data in fetched:
                if not isinstance(data, bytes):
                    failures.append(data)
                    continue
                facts = self._factory.facts
                read = ReadChunk(opened, chunk, data, facts.cells_of(chunk), facts.sources.get(chunk))
                if failure := self._add(state, read):
                    # What was added of it cannot be taken out again: the unit's other chunks are folded anew.
                    failures, done, n_cells = [failure], [], 0
                    break
                done.append(chunk)
                n_cells, bytes_read = n_cells + read.n_cells, bytes_read + len(data)
                self._progress = Progress(task.unit_id, n_cells, 0, opened.store.retries - retries)
        self._progress = None
        failed = {chunk for failure in failures for chunk in failure.chunks}
        return UnitOutcome(
            unit_id=task.unit_id,
            done=tuple(done),
            failures=tuple(failures),
            undone=tuple(chunk for chunk in task.chunks if chunk not in failed and chunk not in done),
            n_cells=n_cells,
            bytes_read=bytes_read,
            retries=opened.store.retries - retries,
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            result=state if done else None,
        )

    def _fetched(self, opened: OpenPlan, chunks: Sequence[int]) -> Generator[tuple[int, bytes | Failure], None, None]:
        """Yield each chunk with its bytes, or with what is in the way of them."""
        for chunk in chunks:
            if self._stop.is_set():
                return
            try:
                sha256 = self._factory.facts.of_chunk(chunk)
                data = read_object(opened.store, opened.plan.key(chunk), sha256, chunk=chunk)
            except IngestError as error:
                yield chunk, failure_of(error, (chunk,))
            else:
                yield chunk, data

    def _add(self, state: S, chunk: ReadChunk) -> Failure | None:
        try:
            self._factory.fold.add(state, chunk)
        except IngestError as error:
            return failure_of(error, (chunk.number,))
        except Exception as error:  # noqa: BLE001 # reported like any other, with the chunk that did it
            return unforeseen((chunk.number,), error)
        return None

    def progress(self) -> Progress | None:
        """Return how far the unit in hand is; callable from any thread."""
        return self._progress

    def stop_soon(self) -> None:
        """End after the chunk in hand; callable from any thread."""
        self._stop.set()

    def close(self) -> None:
        """Close the store."""
        if self._opened is not None:
            self._opened.store.close()
        self._opened = None
