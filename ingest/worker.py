"""What one worker does, in whatever process a pool puts it. No Ray here."""

from __future__ import annotations

import logging
import os
import resource
import socket
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ingest.bandwidth import Line
from ingest.chunks import commit_chunk, fetch_dtype
from ingest.encode.open import open_codec
from ingest.errors import IngestError
from ingest.fetch.base import FetchLimits, FetchOptions
from ingest.fetch.heap import keep_freed_memory
from ingest.fetch.open import import_readers
from ingest.json_lines import about, log_event, start_json_lines
from ingest.open_sources import OpenSources
from ingest.opened import OpenPlan, open_plan
from ingest.pool import Progress, UnitOutcome, UnitTask, unforeseen
from ingest.store.open import open_store
from ingest.unit_maker import Tally, UnitMaker, failure_of
from ingest.unit_rows import rows_of_chunks
from ingest.warm import compile_kernels

if TYPE_CHECKING:
    from ingest.chunks import Commit
    from ingest.encode.base import Codec

__all__ = ["ChunkWorker", "ChunkWorkerFactory"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChunkWorkerFactory:
    """All that travels to a worker; credentials do not, they come from its environment."""

    dest: str
    endpoint_url: str | None
    run_id: str
    slab_bytes: int
    """Most that reading one slab may hold."""
    upload_bytes: int
    """Most that files on their way to the store may hold together."""
    threads: int
    """For TileDB and for compressing: the worker's CPUs, not the machine's."""
    scratch: str
    bytes_per_s: float | None = None
    """The worker's share of a network line; None: as much as comes."""
    window_bytes: int = 0
    """Most that rows may hold which wait for others of their window; of a plan in window order."""
    commit: Commit = commit_chunk
    """`commit_chunk` for a run; a repair replaces what is damaged."""
    held: frozenset[tuple[int, int]] = frozenset()
    """Chunk and source, where the chunk has the source's rows although amendments permit it to lack them."""
    json_lines: bool = False
    """Log JSON, as the driver does; into the worker's own stderr, which Ray keeps in its session's ``logs``."""

    def __call__(self) -> ChunkWorker:
        """Build the worker, in the process that will use it."""
        return ChunkWorker(self)


class ChunkWorker:
    """Makes the chunks of units, one unit at a time.

    Parameters
    ----------
    factory
        What it works for.
    opened
        A plan that is open here already, instead of that of the factory's DEST.
    """

    def __init__(self, factory: ChunkWorkerFactory, opened: OpenPlan | None = None) -> None:
        self._factory = factory
        self._stop = threading.Event()
        self._opened = opened
        self._sources: OpenSources | None = None
        self._codec: Codec | None = None
        self._maker: UnitMaker | None = None
        self._retries_before = 0
        self.line = Line(factory.bytes_per_s)
        """Of all that it reads and writes."""

    @property
    def opened(self) -> OpenPlan:
        """The plan that it works on, once it is open."""
        return self._open()[0]

    def ready(self) -> None:
        """Open DEST, read its plan, import what units need.

        Raises
        ------
        IngestError
            DEST or its plan cannot be read from here.
        """
        if self._factory.json_lines:
            start_json_lines(run=self._factory.run_id, host=socket.gethostname(), pid=os.getpid())
        keep_freed_memory()
        opened, sources, _ = self._open()
        # What takes seconds to import or to compile is done now: the first unit's clock and deadline are its own.
        import_readers({survey.layout for survey in opened.surveys})
        compile_kernels()
        sources.open_ahead()

    def _open(self) -> tuple[OpenPlan, OpenSources, Codec]:
        factory = self._factory
        if self._opened is None:
            opened = open_plan(open_store(factory.dest, endpoint_url=factory.endpoint_url, line=self.line))
            self._opened = replace(opened, amendments=opened.amendments.but(factory.held)) if factory.held else opened
        if self._sources is None or self._codec is None:
            identity = self._opened.plan.identity
            options = FetchOptions(fetch_dtype(identity.dtype), identity.allow_noninteger)
            # Reading and encoding go on at the same time: they share the CPUs, and a third of the slab's memory is the
            # one that is being encoded.
            threads = max(1, factory.threads // 2)
            limits = FetchLimits(factory.slab_bytes * 2 // 3, threads, Path(factory.scratch), self.line)
            self._sources = OpenSources(self._opened, options, limits)
            self._codec = open_codec(
                identity.format, identity.codec, identity.level, threads=threads, about=identity.about
            )
        return self._opened, self._sources, self._codec

    def run(self, task: UnitTask) -> UnitOutcome:
        """Make the chunks of `task`; expected trouble is reported, not raised."""
        with about(unit=task.unit_id, attempt=task.attempt):
            log_event(_log, "unit-began", f"{len(task.chunks):,} chunks from {task.chunks[0]}")
            outcome = self._run(task)
            _log_end(task, outcome)
            return outcome

    def _run(self, task: UnitTask) -> UnitOutcome:
        tally = Tally(task.unit_id)
        self._retries_before = self._retries()
        try:
            opened, sources, codec = self._open()
            opened.ledger.claim(self._factory.run_id, task.unit_id, task.chunks)
            self._maker = UnitMaker(
                opened,
                sources,
                codec,
                task,
                rows_of_chunks(opened, task.chunks),
                slab_bytes=self._factory.slab_bytes,
                upload_bytes=self._factory.upload_bytes,
                window_bytes=self._factory.window_bytes,
                stop=self._stop,
                commit=self._factory.commit,
            )
            tally = self._maker.tally
            self._maker.make()
        except IngestError as error:
            tally.failures.append(failure_of(error, _left(task, tally)))
        except Exception as error:  # noqa: BLE001 # reported like any other, with what the unit had done before it
            tally.failures.append(unforeseen(_left(task, tally), error))
            # What the exception came through may be half-dead.
            if self._sources is not None:
                self._sources.close()
        finally:
            self._maker = None
        return self._outcome(task, tally)

    def _outcome(self, task: UnitTask, tally: Tally) -> UnitOutcome:
        return UnitOutcome(
            unit_id=task.unit_id,
            done=tuple(sorted(tally.done)),
            failures=tuple(tally.failures),
            undone=_left(task, tally),
            adopted=tuple(sorted(tally.adopted)),
            n_cells=tally.n_cells,
            nnz=tally.nnz,
            bytes_read=tally.bytes_read,
            bytes_written=tally.bytes_written,
            seconds=tally.seconds,
            retries=self._retries() - self._retries_before,
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )

    def _retries(self) -> int:
        return (self._opened.store.retries if self._opened else 0) + (self._sources.retries if self._sources else 0)

    def progress(self) -> Progress | None:
        """Return what has been done of the unit in hand; callable from any thread."""
        maker = self._maker
        if maker is None:
            return None
        tally = maker.tally
        return Progress(
            tally.unit_id,
            tally.n_cells,
            tally.bytes_written,
            self._retries() - self._retries_before,
            n_chunks=len(tally.done),
            bytes_read=tally.bytes_read,
            rss_bytes=psutil.Process().memory_info().rss,
        )

    def stop_soon(self) -> None:
        """End after the chunk in hand; callable from any thread."""
        self._stop.set()

    def close(self) -> None:
        """Close sources, store and the threads that compress."""
        if self._sources is not None:
            self._sources.close()
        if self._codec is not None:
            self._codec.close()
        if self._opened is not None:
            self._opened.store.close()
        self._sources = self._opened = self._codec = None


def _log_end(task: UnitTask, outcome: UnitOutcome) -> None:
    for failure in outcome.failures:
        where = {"chunk": failure.chunks[0]} if len(failure.chunks) == 1 else {"n_chunks": len(failure.chunks)}
        facts = {"kind": failure.kind, "handling": failure.handling, "source": failure.source}
        log_event(_log, "chunk-failed", failure.message, level=logging.WARNING, **where, **facts)
    log_event(
        _log,
        "unit-ended",
        f"{len(outcome.done):,} of {len(task.chunks):,} chunks done",
        cells=outcome.n_cells,
        bytes_read=outcome.bytes_read,
        bytes_written=outcome.bytes_written,
        request_retries=outcome.retries,
        peak_rss_bytes=outcome.peak_rss_bytes,
        seconds_by_stage={stage: round(seconds, 3) for stage, seconds in outcome.seconds.items()},
    )


def _left(task: UnitTask, tally: Tally) -> tuple[int, ...]:
    ended = {*tally.done, *(chunk for failure in tally.failures for chunk in failure.chunks)}
    return tuple(chunk for chunk in task.chunks if chunk not in ended)
