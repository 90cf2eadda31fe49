"""Making one unit: its slabs are read one after the other, its chunks written as soon as they are whole."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ingest.assembly import Assembly
from ingest.chunks import fetch_dtype, make_chunk
from ingest.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    IngestError,
    NotFoundError,
    SourceError,
    TransientError,
)
from ingest.naming import cell_names
from ingest.pool import Failure

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator
    from typing import Literal

    import pyarrow as pa

    from ingest.block import Counts
    from ingest.chunks import Commit
    from ingest.encode.base import Codec
    from ingest.fetch.base import Fetched
    from ingest.open_sources import OpenSources
    from ingest.opened import OpenPlan
    from ingest.pool import UnitTask
    from ingest.unit_rows import UnitRows

__all__ = ["Tally", "UnitMaker", "failure_of"]


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

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of the body to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class UnitMaker:
    """The chunks of one task, from the plan's rows to receipts.

    Parameters
    ----------
    rows
        At least the plan rows of the task's chunks.
    slab_bytes
        Most that reading one slab may hold.
    stop
        Set from another thread: end after the chunk in hand.
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
        stop: threading.Event,
        commit: Commit,
    ) -> None:
        self._opened, self._sources, self._codec, self._task, self._rows = opened, sources, codec, task, rows
        self._slab_bytes, self._stop, self._commit = slab_bytes, stop, commit
        self._boundaries = {chunk: opened.plan.rows(chunk) for chunk in task.chunks}
        self._assembly = Assembly(
            self._boundaries, lambda chunk: int(rows.expected_nnz(*self._boundaries[chunk]).sum())
        )
        self._only_soma = sum(survey.layout == "soma" for survey in opened.surveys) == 1
        self._notes: dict[int, set[str]] = {}
        self._down: dict[int, TransientError] = {}
        self._dest_is_down = False
        self.tally = Tally(task.unit_id)

    def make(self) -> None:
        """Make all chunks; what cannot be made is in the tally's failures.

        Raises
        ------
        ConfigError
            Nothing further can be made by anyone: credentials, a full disk, a missing bucket.
        """
        value_bytes = np.dtype(fetch_dtype(self._opened.plan.identity.dtype)).itemsize
        for start, stop in self._rows.slabs(self._slab_bytes, value_bytes):
            self._read(start, stop)

    def _read(self, start: int, stop: int) -> None:
        for low, high, chunks in self._wanted(start, stop):
            if self._ends_early():
                return
            try:
                fetched = self._fetch(low, high)
            except SourceError as error:
                if len(chunks) == 1:
                    self._fail(error, chunks)
                    continue
                # One bad cell must not hold back its neighbours' chunks: each chunk's rows are read alone.
                for chunk in chunks:
                    bounds = self._boundaries[chunk]
                    self._read(max(low, bounds[0]), min(high, bounds[1]))
            except (TransientError, CorruptError, NotFoundError) as error:
                self._fail(error, chunks)
            else:
                self._deliver(low, high, fetched)

    def _ends_early(self) -> bool:
        return self._stop.is_set() or self._dest_is_down

    def _fetch(self, start: int, stop: int) -> Fetched:
        number = self._rows.source(start)
        if number in self._down:  # it was tried for minutes; its other rows need not wait as long again
            raise self._down[number]
        try:
            with self.tally.timed("fetch"):
                return self._sources.read(number, self._rows.coordinates(start, stop))
        except TransientError as error:
            self._down[number] = error
            raise

    def _wanted(self, start: int, stop: int) -> Iterator[tuple[int, int, list[int]]]:
        """Yield the parts of a slab that chunks still want: all of it, unless one has failed meanwhile."""
        part: tuple[int, int, list[int]] | None = None
        for chunk in self._assembly.touching(start, stop):
            low, high = max(start, self._boundaries[chunk][0]), min(stop, self._boundaries[chunk][1])
            if part is not None and part[1] == low:
                part = (part[0], high, [*part[2], chunk])
                continue
            if part is not None:
                yield part
            part = (low, high, [chunk])
        if part is not None:
            yield part

    def _deliver(self, start: int, stop: int, fetched: Fetched) -> None:
        number = self._rows.source(start)
        self.tally.bytes_read += fetched.bytes_read
        if fetched.was_unsorted:
            for chunk in self._assembly.touching(start, stop):
                self._notes.setdefault(chunk, set()).add("unsorted-indices")
        names = cell_names(
            self._opened.surveys[number],
            self._opened.labels[number],
            self._rows.coordinates(start, stop),
            fetched.names,
            only_soma=self._only_soma,
        )
        for chunk, counts, chunk_names in self._assembly.add(start, fetched.counts, names):
            if self._ends_early():
                return
            try:
                self._write(chunk, counts, chunk_names)
            except ConfigError:
                raise
            except TransientError as error:
                # DEST cannot be written to now: the other chunks would each wait as long to find out.
                self._fail(error, [chunk])
                self._dest_is_down = True
            except IngestError as error:
                self._fail(error, [chunk])

    def _write(self, chunk: int, counts: Counts, names: pa.StringArray) -> None:
        low, high = self._boundaries[chunk]
        with self.tally.timed("encode"):
            made = make_chunk(
                self._opened,
                self._codec,
                chunk,
                counts,
                self._rows.obs(low, high),
                names,
                self._rows.codes(low, high),
                self._rows.coordinates(low, high),
                notes=tuple(sorted(self._notes.get(chunk, ()))),
            )
        with self.tally.timed("store"):
            committed = self._commit(self._opened, made, attempt=self._task.attempt)
        self.tally.done.append(chunk)
        if committed.adopted:
            self.tally.adopted.append(chunk)
        self.tally.n_cells += counts.n_cells
        self.tally.nnz += counts.nnz
        self.tally.bytes_written += committed.bytes_written

    def _fail(self, error: IngestError, chunks: Iterable[int]) -> None:
        failed = list(chunks)
        self.tally.failures.append(failure_of(error, failed))
        for chunk in failed:
            self._assembly.drop(chunk)


_HANDLING: tuple[tuple[type[IngestError], Literal["config", "source", "transient", "corrupt", "conflict"]], ...] = (
    (ConfigError, "config"),
    (SourceError, "source"),
    (TransientError, "transient"),
    (CorruptError, "corrupt"),
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
