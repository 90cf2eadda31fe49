"""Making one unit: reading, encoding and writing at the same time, each in bounded memory.

A thread reads slabs ahead (`ingest.unit_reader`), this one validates, digests and compresses what it read, and others
write finished chunks (`ingest.uploads`). Only this one keeps the tally, so that nothing of it needs a lock.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ingest.ahead import Ahead
from ingest.chunks import ChunkMaker, fetch_dtype, whole_sources
from ingest.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    ExhaustedError,
    IngestError,
    NotFoundError,
    SourceError,
    TransientError,
)
from ingest.json_lines import log_event
from ingest.memory import slab_entries
from ingest.naming import cell_names
from ingest.pool import Failure
from ingest.sample_check import check_cells
from ingest.second_look import Doubts
from ingest.unit_reader import Trouble, UnitReader
from ingest.uploads import Uploads
from ingest.wanted import Wanted
from ingest.window_reader import WholeWindow, WindowReader
from ingest.window_store import Room

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator, Sequence

    from ingest.chunks import Commit, Committed
    from ingest.encode.base import Codec
    from ingest.open_sources import OpenSources
    from ingest.opened import OpenPlan
    from ingest.pool import Handling, UnitTask
    from ingest.unit_reader import Piece
    from ingest.unit_rows import UnitRows
    from ingest.uploads import Landed
    from ingest.window_store import HeldRows

__all__ = ["Tally", "UnitMaker", "failure_of"]

_log = logging.getLogger(__name__)

_OF_THE_PROCESS = (ConfigError, ExhaustedError)
"""What ends the unit: the next chunk would meet it again."""

_UPLOADS = 8
"""Commits at a time: each is two or more requests that wait for the store, one after the other."""


@dataclass(slots=True)
class Tally:
    """What has happened in the unit so far; written by the worker's thread, read by another."""

    unit_id: int
    done: list[int] = field(default_factory=list)
    adopted: list[int] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    n_cells: int = 0
    nnz: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def spent(self, stage: str, seconds: float) -> None:
        """Add wall time to `stage`."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of the body to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent(stage, time.perf_counter() - start)


class UnitMaker:
    """The chunks of one task, from the plan's rows to receipts.

    Parameters
    ----------
    rows
        At least the plan rows of the task's chunks.
    slab_bytes
        Most that reading one slab may hold.
    upload_bytes
        Most that finished chunks under way to the store may hold together, but for a single larger one.
    window_bytes
        Of a plan in window order: most that rows may hold which wait for the others of their window, or for the
        encoding of those before them; one window is held whatever it takes.
    stop
        Set from another thread: make no further chunk; those that are finished are still written.
    commit
        What is done with a chunk that has been made.
    """

    def __init__(
        self,
        opened: OpenPlan,
        sources: OpenSources,
        codec: Codec,
        task: UnitTask,
        rows: UnitRows,
        *,
        slab_bytes: int,
        upload_bytes: int,
        stop: threading.Event,
        commit: Commit,
        window_bytes: int = 0,
    ) -> None:
        self._opened, self._codec, self._rows, self._stop = opened, codec, rows, stop
        self._sources, self._chunks = sources, task.chunks
        self._slab_bytes, self._window_bytes = slab_bytes, window_bytes
        self._doubts = Doubts({str(survey.source) for survey in opened.surveys if survey.fault is not None})
        self._commit = partial(commit, opened, attempt=task.attempt)
        self._upload_bytes = upload_bytes
        self._only_soma = sum(survey.layout == "soma" for survey in opened.surveys) == 1
        self._whole = whole_sources(opened)
        self._makers: dict[int, ChunkMaker] = {}
        self._notes: dict[int, set[str]] = {}
        self._fatal: Exception | None = None
        self._dest_is_down = False
        self.tally = Tally(task.unit_id)

    def make(self) -> None:
        """Make all chunks; what cannot be made is in the tally's failures.

        A chunk fails by a source's fault only when it does so again, made once more at the end of all sources opened
        anew; where another source is at fault then, once more. One that waits for that when the unit ends is neither
        done nor failed.

        Raises
        ------
        ConfigError
            Nothing further can be made by anyone: credentials, a full disk, a missing bucket.
        ExhaustedError
            Nothing further can be made by this process.
        """
        self._make(self._chunks)
        while (doubted := self._doubts.take()) and not self._ends_early():
            log_event(_log, "second-look", f"{len(doubted):,} chunks are made once more: their source may be at fault")
            self._sources.close()  # a file, blocks of it, a transposition: what is damaged may be any of these
            self._make(doubted)

    def _make(self, chunks: Sequence[int]) -> None:
        self._begin(chunks)
        uploads = Uploads(self._commit, threads=_UPLOADS, most_bytes=self._upload_bytes)
        pieces: Ahead[Piece | WholeWindow | Trouble] = Ahead(self._reader.pieces())
        try:
            self._finish_empty(uploads)
            for piece in pieces:
                if self._ends_early():
                    break
                if isinstance(piece, Trouble):
                    if isinstance(piece.error, _OF_THE_PROCESS):
                        raise piece.error  # what is finished is still written
                    self._fail(piece.error, piece.chunks)
                elif isinstance(piece, WholeWindow):
                    self._deliver_window(piece, uploads)
                else:
                    self._deliver(piece, uploads)
                del piece  # a slab; the next one is there already
        finally:
            # Whatever went wrong, chunks that are finished are still written: they cost a read.
            self._room.close()
            pieces.close()
            self._settle(uploads.drain(), uploads)
            uploads.close()
            self.tally.spent("fetch", self._reader.seconds)
        if self._fatal is not None:
            raise self._fatal

    def _begin(self, chunks: Sequence[int]) -> None:
        """Open a reader for `chunks`, of which nothing is known to have failed."""
        opened, rows = self._opened, self._rows
        self._failed: set[int] = set()
        self._wanted = Wanted({chunk: opened.plan.rows(chunk) for chunk in chunks})
        value_bytes = np.dtype(fetch_dtype(opened.plan.identity.dtype)).itemsize
        self._room = Room(self._window_bytes)
        self._reader: UnitReader | WindowReader
        if (windows := opened.plan.windows) is None:
            slabs = rows.slabs(self._slab_bytes, value_bytes)
            self._reader = UnitReader(self._sources, rows, self._wanted, slabs, self._stop, opened.amendments)
        else:
            self._reader = WindowReader(
                opened,
                self._sources,
                rows,
                self._wanted,
                window_cells=windows.cells,
                slab_entries=slab_entries(self._slab_bytes, value_bytes),
                room=self._room,
                stop=self._stop,
            )

    def _ends_early(self) -> bool:
        return self._stop.is_set() or self._dest_is_down or self._fatal is not None

    def _deliver(self, piece: Piece, uploads: Uploads) -> None:
        number = self._rows.source(piece.start)
        self.tally.bytes_read += piece.fetched.bytes_read
        names = cell_names(
            self._opened.surveys[number],
            self._opened.labels[number],
            self._rows.coordinates(piece.start, piece.stop),
            piece.fetched.names,
            only_soma=self._only_soma,
        )
        for chunk in self._wanted.touching(piece.start, piece.stop):
            if piece.fetched.was_unsorted:
                self._notes.setdefault(chunk, set()).add("unsorted-indices")
            low, high = self._wanted.rows(chunk)
            first, last = max(low, piece.start) - piece.start, min(high, piece.stop) - piece.start
            try:
                check_cells(
                    self._opened.surveys[number],
                    self._rows.obs(piece.start + first, piece.start + last),
                    None if piece.fetched.names is None else piece.fetched.names.slice(first, last - first),
                )
                with self.tally.timed("encode"):
                    maker = self._maker(chunk)
                    maker.add(piece.fetched.counts.rows(first, last), names.slice(first, last - first))
                if maker.is_whole:
                    self._finish(maker, uploads)
            except _OF_THE_PROCESS:
                raise
            except IngestError as error:
                self._fail(error, [chunk])
            if self._ends_early():
                return

    def _deliver_window(self, window: WholeWindow, uploads: Uploads) -> None:
        self.tally.bytes_read += window.bytes_read
        while window.chunks and not self._ends_early():
            chunk = next(iter(window.chunks))
            held = window.chunks.pop(chunk)
            if self._wanted.wants(chunk):
                self._make_of(chunk, held, uploads)
            self._room.give(held.nbytes)
        self._room.hand_back()

    def _make_of(self, chunk: int, held: HeldRows, uploads: Uploads) -> None:
        if held.was_unsorted:
            self._notes.setdefault(chunk, set()).add("unsorted-indices")
        try:
            with self.tally.timed("encode"):
                maker = self._maker(chunk)
                for counts, names in held.parts():
                    maker.add(counts, names)
            self._finish(maker, uploads)
        except _OF_THE_PROCESS:
            raise
        except IngestError as error:
            self._fail(error, [chunk])

    def _finish_empty(self, uploads: Uploads) -> None:
        """Make the chunks of which amendments leave nothing: no piece will come for them."""
        for chunk in self._wanted.chunks if self._opened.amendments else ():
            if len(self._opened.amendments.rules(chunk)) and (maker := self._maker(chunk)).is_whole:
                self._finish(maker, uploads)

    def _maker(self, chunk: int) -> ChunkMaker:
        if chunk not in self._makers:
            self._makers[chunk] = ChunkMaker(self._opened, self._codec, chunk, self._rows, self._whole)
        return self._makers[chunk]

    def _finish(self, maker: ChunkMaker, uploads: Uploads) -> None:
        del self._makers[maker.chunk]
        with self.tally.timed("wait-store"):
            self._settle(uploads.wait_for_room(maker.nbytes), uploads)
        if self._dest_is_down or self._fatal is not None:
            return
        with self.tally.timed("encode"):
            made = maker.finish(self._notes.pop(maker.chunk, ()))
        uploads.submit(made)

    def _settle(self, ended: Iterable[Landed], uploads: Uploads) -> None:
        for landed in ended:
            self.tally.spent("store", landed.seconds)
            if landed.error is not None:
                self._judge(landed.chunk, landed.error, uploads)
            elif landed.committed is not None:
                self.tally.done.append(landed.chunk)
                if landed.committed.adopted:
                    self.tally.adopted.append(landed.chunk)
                self.tally.n_cells += landed.n_cells
                self.tally.nnz += landed.nnz
                self.tally.bytes_written += landed.committed.bytes_written
                _log_commit(landed, landed.committed)

    def _judge(self, chunk: int, error: Exception, uploads: Uploads) -> None:
        if isinstance(error, _OF_THE_PROCESS) or not isinstance(error, IngestError):
            self._fatal = self._fatal or error
        else:
            self._fail(error, [chunk])
            # DEST cannot be written to now: the other chunks would each wait as long to find out.
            self._dest_is_down = self._dest_is_down or isinstance(error, TransientError)
        if self._dest_is_down or self._fatal is not None:
            uploads.call_off()

    def _fail(self, error: IngestError, chunks: Iterable[int]) -> None:
        # Reading may fail a chunk that encoding has failed meanwhile: the first cause counts.
        failed = [chunk for chunk in chunks if chunk not in self._failed]
        if not failed:
            return
        self._failed.update(failed)
        self.tally.failures += [failure_of(why, its) for why, its in self._doubts.judge(error, failed)]
        for chunk in failed:
            self._wanted.drop(chunk)
            self._makers.pop(chunk, None)
            self._notes.pop(chunk, None)


def _log_commit(landed: Landed, committed: Committed) -> None:
    log_event(
        _log,
        "chunk-committed",
        f"{landed.n_cells:,} cells",
        chunk=landed.chunk,
        cells=landed.n_cells,
        bytes=committed.bytes_written,
        adopted=committed.adopted,
        seconds=round(landed.seconds, 3),
    )


_HANDLING: tuple[tuple[type[IngestError], Handling], ...] = (
    (ConfigError, "config"),
    (SourceError, "source"),
    (TransientError, "transient"),
    (CorruptError, "corrupt"),
    (ExhaustedError, "exhausted"),
    (NotFoundError, "corrupt"),
    (ConflictError, "conflict"),
)


def failure_of(error: IngestError, chunks: Iterable[int]) -> Failure:
    """Return `error` as the plain data that travels."""
    return Failure(
        chunks=tuple(chunks),
        handling=next((name for branch, name in _HANDLING if isinstance(error, branch)), "internal"),
        kind=error.kind,
        message=error.message,
        hint=error.hint,
        source=error.source,
        retry_after_s=error.retry_after_s if isinstance(error, TransientError) else None,
    )
