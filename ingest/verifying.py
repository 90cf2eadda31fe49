"""Is a dataset what it says it is? Everything under DEST is held against the plan; findings are data."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from ingest.cells_json import keeps_cells_json
from ingest.chunk_check import check_object, has_sha256
from ingest.cpu import available_cpus
from ingest.deep import DeepCheck
from ingest.errors import CorruptError, NotFoundError
from ingest.fetch.base import FetchLimits
from ingest.findings import Finding, VerifyReport
from ingest.finish import check_chunk, check_plan
from ingest.layout import CELLS_JSON_KEY, CHUNKS, RECEIPTS, SUCCESS_KEY, receipt_chunks
from ingest.ledger.receipts import Receipt, parse_receipt
from ingest.opened import amended
from ingest.ordered_map import map_ordered
from ingest.plan_rows import plan_rows
from ingest.preparing import scratch_of
from ingest.rereading import compare_with_sources
from ingest.settings import WorkSettings
from ingest.store.base import exists
from ingest.summaries import OffsetTable
from ingest.summary_check import SUMMARY_KEYS, summary_findings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ingest.ledger.receipts import ChunkReceipt
    from ingest.opened import OpenPlan
    from ingest.store.base import ObjectStat
    from ingest.unit_rows import UnitRows

__all__ = ["Finding", "OnChunk", "VerifyReport", "verify_dataset"]

_READERS = 16
"""Threads for receipts: they wait for the store, not for a core."""


class OnChunk(Protocol):
    """Whoever shows the verifying to a person."""

    def __call__(self, chunk: int, findings: Sequence[Finding], /) -> None:
        """Take one checked chunk; with ``source`` each good chunk comes a second time, when it was compared."""
        ...


@dataclass(frozen=True, slots=True)
class _Job:
    """One chunk that a receipt names, on its way to a thread."""

    chunk: int
    found: tuple[Finding, ...] = ()
    """What its receipt alone has shown."""
    entry: ChunkReceipt | None = None
    """None when the receipt says nothing that can be believed."""
    stat: ObjectStat | None = None
    rows: UnitRows | None = None


def verify_dataset(
    opened: OpenPlan,
    *,
    deep: bool = False,
    source: bool = False,
    threads: int | None = None,
    work: WorkSettings | None = None,
    on_chunk: OnChunk = lambda _chunk, _findings: None,
) -> VerifyReport:
    """Check what exists under DEST and say what is missing; nothing is written.

    Always: the plan's files, every receipt against the plan, every chunk's presence, size and sha256, the summaries
    of a finished dataset. Chunks are read once, in pieces, so memory does not grow with them.

    Parameters
    ----------
    deep
        Decode each chunk whose bytes are right and check genes, row ids, names, obs, content and the sums and
        non-zeros of every cell: against the index where the source states them, else against the receipt.
    source
        Read all cells from their sources again and compare to the last count; implies `deep`.
    threads
        Chunks in hand at once; each is whole in memory when `deep` (two by default: HDF5 decodes one at a time).
    work
        Memory and scratch for reading sources.
    on_chunk
        Called in this thread, in order of chunks.

    Raises
    ------
    IngestError
        DEST cannot be read at all, or sources cannot: no credentials, no network.
    """
    work = work or WorkSettings()
    threads = threads or min(2 if deep or source else 8, available_cpus())
    verifier = _Verifier(opened, deep=deep or source)
    verifier.plan_files()
    verifier.chunks(threads, on_chunk)
    if source:
        limits = FetchLimits(work.memory_bytes // 4, available_cpus(), scratch_of(work))
        verifier.sources(limits, on_chunk)
    verifier.summaries(work.scratch)
    return verifier.report(deep=deep or source, source=source)


class _Verifier:
    def __init__(self, opened: OpenPlan, *, deep: bool) -> None:
        self._opened, self._store, self._plan = opened, opened.store, opened.plan
        self._deep = DeepCheck(opened) if deep else None
        self._finished = exists(opened.store, SUCCESS_KEY)
        self._found: list[Finding] = []
        self._index_is_sound = True
        self._named: dict[int, str] = {}
        """Chunk -> content digest that the first receipt for it records; empty when unreadable."""
        self._good: dict[int, str] = {}
        self._entries: dict[int, ChunkReceipt] = {}
        """Good ones, without their offsets; kept for the summaries of a finished dataset alone."""
        self._offsets = OffsetTable()
        self._lacking: list[ChunkReceipt] = []
        """Of chunks without some of their planned rows."""
        self._cells = self._bytes = 0
        self._counted: set[int] = set()
        """Chunks: one may have two receipts."""
        self._strays: tuple[str, ...] = ()
        self._rows = plan_rows(opened)

    # -- the plan's files ------------------------------------------------------------------------------------------

    def plan_files(self) -> None:
        for role, key in self._plan.files.items():
            try:
                right = has_sha256(self._store, key, self._plan.sha256[role])
                said = "is not the file that plan.json names: sha256 differs"
            except (NotFoundError, CorruptError) as error:
                right, said = False, f"cannot be read ({error})"
            if not right:
                self._index_is_sound &= role != "index"
                self._found.append(Finding("plan-file", f"{key} {said}", key=key))

    # -- receipts and chunks ---------------------------------------------------------------------------------------

    def chunks(self, threads: int, on_chunk: OnChunk) -> None:
        # Receipts are listed first: whatever they name must then be among the objects.
        keys = [stat.key for stat in self._store.list(RECEIPTS)]
        objects = {stat.key: stat for stat in self._store.list(CHUNKS)}
        # And amendments last, for another driver may have made them meanwhile: these permit whatever receipts lack.
        self._opened = amended(self._opened)
        self._deep = DeepCheck(self._opened) if self._deep is not None else None
        with ThreadPoolExecutor(_READERS) as readers, ThreadPoolExecutor(threads) as checkers:
            receipts = map_ordered(readers, self._read_receipt, keys, ahead=4 * _READERS)
            jobs = chain.from_iterable(self._jobs(key, receipt, objects) for key, receipt in receipts)
            for job, found in map_ordered(checkers, self._check, jobs, ahead=2 * threads):
                self._take(job, found)
                on_chunk(job.chunk, found)
        named = {self._plan.key(chunk) for chunk in self._named}
        self._strays = tuple(sorted(objects.keys() - named))

    def _read_receipt(self, key: str) -> tuple[str, Receipt | Finding]:
        try:
            receipt = parse_receipt(self._store.get(key), key=key)
            check_plan(self._opened, receipt)
        except (CorruptError, NotFoundError) as error:
            return key, Finding("receipt-damaged", error.message, key=key)
        return key, receipt

    def _jobs(self, key: str, receipt: Receipt | Finding, objects: dict[str, ObjectStat]) -> Iterator[_Job]:
        span = receipt_chunks(key)
        if span is None or span.stop > self._plan.n_chunks or not len(span):
            self._found.append(Finding("receipt-unplanned", f"{key} is a receipt of no planned chunk", key=key))
            return
        if isinstance(receipt, Finding):
            for chunk in span:
                yield self._job(chunk, (Finding(receipt.kind, receipt.message, chunk, key),), None)
            return
        for at, entry in zip(span, receipt.chunks, strict=False):
            found = self._against_plan(at, entry, key)
            yield self._job(at, tuple(found), None if found else entry, objects.get(entry.key))
        for chunk in span[len(receipt.chunks) :]:
            said = f"{key} says nothing of chunk {chunk}"
            yield self._job(chunk, (Finding("receipt-disagrees", said, chunk, key),), None)

    def _job(
        self, chunk: int, found: tuple[Finding, ...], entry: ChunkReceipt | None, stat: ObjectStat | None = None
    ) -> _Job:
        self._named.setdefault(chunk, entry.content if entry else "")
        rows = self._rows(chunk) if entry is not None and self._index_is_sound and self._deep else None
        return _Job(chunk, found, entry, stat, rows)

    def _against_plan(self, chunk: int, entry: ChunkReceipt, key: str) -> list[Finding]:
        if entry.chunk != chunk:
            return [Finding("receipt-disagrees", f"{key} records chunk {entry.chunk}, not {chunk}", chunk, key)]
        if self._named.get(chunk, entry.content) not in ("", entry.content):
            return [Finding("receipts-disagree", f"two receipts of chunk {chunk} disagree", chunk, key)]
        if not self._index_is_sound:
            return []
        try:
            check_chunk(self._opened, self._rows(chunk), entry)
        except CorruptError as error:
            return [Finding(error.kind, error.message, chunk, key)]
        return []

    def _check(self, job: _Job) -> tuple[_Job, tuple[Finding, ...]]:
        """Check one object; runs in a thread and touches nothing but the store."""
        if job.entry is None:
            return job, job.found
        return job, (*job.found, *check_object(self._store, job.entry, job.stat, self._deep, job.rows))

    def _take(self, job: _Job, found: tuple[Finding, ...]) -> None:
        self._found += found
        if job.entry is None:
            return
        if job.chunk not in self._counted:
            self._counted.add(job.chunk)
            self._cells += job.entry.n_cells
            self._bytes += job.entry.size
            if job.entry.dropped:
                self._lacking.append(replace(job.entry, offsets=()))
        if not found:
            self._good[job.chunk] = job.entry.content
            if self._finished and job.chunk not in self._entries:
                self._entries[job.chunk] = replace(job.entry, offsets=())
                self._offsets.add(job.entry)

    # -- sources and summaries -------------------------------------------------------------------------------------

    def sources(self, limits: FetchLimits, on_chunk: OnChunk) -> None:
        if not self._index_is_sound:
            return
        # A chunk that holds what it may lack is compared as it is.
        opened = replace(self._opened, amendments=self._opened.amendments.used_by(self._lacking))
        for chunk, found in compare_with_sources(opened, self._good, limits):
            self._found += found
            on_chunk(chunk, found)

    def summaries(self, scratch: Path | None) -> None:
        if not self._finished:
            return
        for chunk in self._missing():
            said = f"chunk {chunk} has no receipt, and {SUCCESS_KEY} says that the dataset is complete"
            self._found.append(Finding("receipt-missing", said, chunk))
        for key in self._missing_summaries():
            self._found.append(Finding("summary-missing", f"{key} is gone", key=key))
        if len(self._entries) == self._plan.n_chunks and self._index_is_sound:
            entries = [self._entries[chunk] for chunk in sorted(self._entries)]
            self._found += summary_findings(self._opened, entries, self._offsets, scratch=scratch)

    def _missing(self) -> tuple[int, ...]:
        return tuple(chunk for chunk in range(self._plan.n_chunks) if chunk not in self._named)

    def _missing_summaries(self) -> tuple[str, ...]:
        keys = (*SUMMARY_KEYS, CELLS_JSON_KEY) if keeps_cells_json(self._opened) else SUMMARY_KEYS
        return tuple(key for key in keys if not exists(self._store, key))

    def report(self, *, deep: bool, source: bool) -> VerifyReport:
        return VerifyReport(
            n_chunks=self._plan.n_chunks,
            n_cells=self._plan.n_cells,
            checked_chunks=len(self._named),
            checked_cells=self._cells,
            checked_bytes=self._bytes,
            findings=tuple(self._found),
            missing=self._missing(),
            missing_summaries=self._missing_summaries(),
            strays=self._strays,
            deep=deep,
            source=source,
            left_out_cells=sum(sum(entry.dropped.values()) for entry in self._lacking),
        )
