"""Read the counts of any cells of one or several datasets into one window, on several threads.

Planning says which blocks and which parts of them; here they are fetched, inflated and placed, block by block, each
while it is in the CPU's cache. Nothing is done under HDF5's lock, and no thread waits for another but at the end.
"""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.block import Counts
from ingest.errors import IngestError
from ingest.fetch.kernels import order_rows
from ingest.load.read.blocks import Parts, unsigned
from ingest.load.read.buffers import Buffers
from ingest.load.read.cache import ByteLru
from ingest.load.read.kernels import keep_columns, tighten
from ingest.load.read.planning import plan_window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.load.read.chunk import ChunkReader
    from ingest.load.read.planning import Job, WindowPlan

__all__ = ["CellReader", "GeneColumns", "ReadCells"]

Array = np.ndarray[Any, Any]
Int64 = np.ndarray[Any, np.dtype[np.int64]]

_JOB_BLOCKS = 8
"""Half a million entries: 1 ms of work, and one read where blocks follow each other."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadCells:
    """What was read."""

    counts: Counts
    """``(n_cells, n_wanted_genes)``, in the order asked for; the arrays are the caller's."""
    totals: np.ndarray[Any, np.dtype[np.float64]] | None
    """float64 ``(n_cells,)``: each cell's sum over all genes of its dataset, where only some are read."""


@dataclass(frozen=True, slots=True, eq=False)
class GeneColumns:
    """Which genes a window has."""

    n_genes: int
    maps: tuple[np.ndarray[Any, np.dtype[np.int32]] | None, ...]
    """For each dataset: column of the window or -1 of each of its genes; None: as they are."""

    @property
    def as_they_are(self) -> bool:
        """Whether every dataset has just these genes, in this order."""
        return all(gene_map is None for gene_map in self.maps)

    @property
    def ascending(self) -> bool:
        """Whether genes keep their order in every dataset."""
        return all(gene_map is None or bool((np.diff(gene_map[gene_map >= 0]) > 0).all()) for gene_map in self.maps)


class CellReader:
    """Reads windows; one at a time, from whatever thread.

    Parameters
    ----------
    datasets
        Readers of the chunks of each dataset.
    dtype
        Of the values of a window: holds those of every chunk.
    threads
        That inflate; with 1 the caller's own does.
    cache_bytes
        Inflated blocks kept.
    """

    def __init__(
        self, datasets: Sequence[ChunkReader], dtype: np.dtype[Any], *, threads: int, cache_bytes: int
    ) -> None:
        self._datasets = tuple(datasets)
        self._dtype = dtype
        self._first_chunk = np.cumsum([0, *(dataset.manifest.n_chunks for dataset in self._datasets)])
        cells = np.concatenate([np.diff(dataset.manifest.starts) for dataset in self._datasets])
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(cells)])
        self._buffers = Buffers()
        self._cache: ByteLru[tuple[Array, ...]] = ByteLru(cache_bytes)
        self._pool = ThreadPoolExecutor(threads, "cell-ingest-inflate") if threads > 1 else None

    @property
    def cache(self) -> ByteLru[tuple[Array, ...]]:
        """Inflated blocks by (chunk, block)."""
        return self._cache

    def read(self, rows: Int64, columns: GeneColumns) -> ReadCells:
        """Read cells in the order asked for; a cell may stand several times.

        Raises
        ------
        CorruptError
            A chunk is missing or damaged; it is named.
        """
        chunks = np.searchsorted(self._starts, rows, side="right") - 1
        plan = plan_window(rows, chunks, self._starts, self._entries, job_blocks=_JOB_BLOCKS)
        nnz = int(plan.indptr[-1])
        data, indices = self._buffers.lend(nnz, self._dtype), self._buffers.lend(nnz, np.dtype(np.int32))
        stop = plan.dst + (plan.end - plan.begin)
        if any(dataset.manifest.dense for dataset in self._datasets):
            stop = np.minimum(plan.indptr[plan.row + 1], np.where(self._is_dense(chunks)[plan.row], 1 << 62, stop))
        kept, sums = np.empty(len(plan.begin), np.int64), np.empty(len(plan.begin))
        bits = data.view(unsigned(data.dtype))
        window = _Filling(plan, stop, data, bits, indices, columns, kept, sums)
        self._run(window)
        if columns.as_they_are:
            return ReadCells(Counts(plan.indptr, indices, data, columns.n_genes), None)
        return self._tightened(window, len(rows))

    def close(self) -> None:
        """End the threads and let go of the files."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        for dataset in self._datasets:
            dataset.close()

    def _is_dense(self, chunks: Int64) -> Array:
        dense = np.array([dataset.manifest.dense for dataset in self._datasets])
        found: Array = dense[np.searchsorted(self._first_chunk, chunks, side="right") - 1]
        return found

    def _of(self, chunk: int) -> tuple[int, ChunkReader, int]:
        """Return number and reader of a chunk's dataset, and its place there."""
        number = int(np.searchsorted(self._first_chunk, chunk, side="right")) - 1
        return number, self._datasets[number], chunk - int(self._first_chunk[number])

    def _entries(self, chunk: int) -> Any:
        _, dataset, at = self._of(chunk)
        return dataset.entries(at)

    def _run(self, window: _Filling) -> None:
        jobs = window.plan.jobs
        if self._pool is None or len(jobs) < 2:
            for job in jobs:
                self._fill(window, job)
            return
        futures: list[Future[None]] = [self._pool.submit(self._fill, window, job) for job in jobs]
        _, waiting = wait(futures, return_when=FIRST_EXCEPTION)
        for future in waiting:
            future.cancel()
        wait(waiting)
        for future in futures:  # in order, so that of several damaged chunks the first is named
            if not future.cancelled():
                future.result()

    def _fill(self, window: _Filling, job: Job) -> None:
        number, dataset, at = self._of(job.at)
        kind = dataset.kind(at)
        blocks = job.blocks.tolist()
        held = {block: self._cache.get((job.at, block)) for block in blocks}
        missing = [block for block in blocks if held[block] is None]
        ranges = [kind.ranges(block) for block in missing]
        stored = iter(self._fetch(dataset, at, [span for spans in ranges for span in spans]) if ranges else [])
        fetched = {block: list(islice(stored, len(spans))) for block, spans in zip(missing, ranges, strict=True)}
        exact = np.dtype(dataset.manifest.dtypes[at])
        for place, block in enumerate(blocks):
            low, high = job.parts.start + int(job.cuts[place]), job.parts.start + int(job.cuts[place + 1])
            inflated = held[block]
            try:
                if inflated is None:
                    inflated = kind.inflate(fetched[block])
                    self._cache.put((job.at, block), inflated, sum(part.nbytes for part in inflated))
                wrong = window.place(kind, inflated, slice(low, high), exact)
            except IngestError:
                raise
            except Exception as error:  # whatever inflating damaged bytes raises, in four libraries
                raise dataset.damaged(at, str(error)) from error
            if wrong is not None:
                raise dataset.damaged(at, wrong)
            window.keep(slice(low, high), number)

    def _fetch(self, dataset: ChunkReader, at: int, spans: list[tuple[int, int]]) -> list[memoryview]:
        # What is kept inflated may be what was stored, as it is.
        return dataset.files.read(at, spans, lasting=self._cache.keeps_any)

    def _tightened(self, window: _Filling, n_rows: int) -> ReadCells:
        plan, columns = window.plan, window.columns
        lengths = np.bincount(plan.row, weights=window.kept, minlength=n_rows).astype(np.int64)
        totals = np.bincount(plan.row, weights=window.sums, minlength=n_rows).astype(np.float64, copy=False)
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        order = np.argsort(plan.dst, kind="stable")
        kept = window.kept[order]
        into = np.cumsum(kept) - kept
        nnz = int(indptr[-1])
        data, indices = self._buffers.lend(nnz, self._dtype), self._buffers.lend(nnz, np.dtype(np.int32))
        tighten(plan.dst[order], kept, into, window.data, window.indices, data, indices)
        if not columns.ascending:
            order_rows(indptr, indices, data, columns.n_genes)
        return ReadCells(Counts(indptr, indices, data, columns.n_genes), totals)


@dataclass(frozen=True, slots=True, eq=False)
class _Filling:
    """A window while it is filled."""

    plan: WindowPlan
    stop: Int64
    data: Array
    bits: Array
    """The same, unsigned: counts are moved as bits."""
    indices: Array
    columns: GeneColumns
    kept: Int64
    sums: Array

    def place(self, kind: Any, inflated: tuple[Array, ...], mine: slice, exact: np.dtype[Any]) -> str | None:
        """Place the parts of one block, whose values are of type `exact`."""
        plan = self.plan
        parts = Parts(plan.begin[mine], plan.end[mine], plan.dst[mine], self.stop[mine])
        same = exact == self.data.dtype or (exact.kind in "iu" and self.data.dtype.kind in "iu")
        if same:  # counts are not negative: wider bits say the same number
            found: str | None = kind.place(inflated, parts, self.bits, self.indices)
            return found
        bits = np.empty(int(parts.stop.max() - parts.dst.min()) if len(parts.dst) else 0, unsigned(exact))
        base = int(parts.dst.min()) if len(parts.dst) else 0
        moved = Parts(parts.begin, parts.end, parts.dst - base, parts.stop - base)
        found = kind.place(inflated, moved, bits, self.indices[base:])
        for low, high in zip(parts.dst.tolist(), parts.stop.tolist(), strict=True):
            self.data[low:high] = bits[low - base : high - base].view(exact)
        return found

    def keep(self, mine: slice, dataset: int) -> None:
        """Keep the wanted genes of the parts of one block."""
        if self.columns.as_they_are:
            return
        gene_map = self.columns.maps[dataset]
        if gene_map is None:
            gene_map = np.arange(self.columns.n_genes, dtype=np.int32)
        keep_columns(
            self.plan.dst[mine], self.stop[mine], gene_map, self.data, self.indices, self.kept[mine], self.sums[mine]
        )
