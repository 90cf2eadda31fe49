"""What bringing cells must cost: every stage by itself, one after the other, in one process with one thread.

CPU-seconds of a process of its own: reading rows as the fetcher does it (decompressing and placing, which are one),
checking, encoding with the content digest, and the SHA-256 of the file's bytes. Not among them: writing the file.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.census import Selection
    from benchmarks.values import Row
    from ingest.block import Counts
    from ingest.encode.base import Codec
    from ingest.fetch.base import Fetcher
    from ingest.genes import Genes

__all__ = ["measure_stages"]

_SLAB_CELLS = 2_048
"""Read and kept at a time, so that no stage is slowed down by pages it is the first to touch."""


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the CPU time of the body, of all threads, to `stage`."""
        start = time.process_time()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.process_time() - start


def measure_stages(selection: Selection, cells_per_chunk: int, cache: Path) -> Row:
    """Return ``cpu_seconds`` by stage for the cells selected, which are all of the Census, and their number."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_stages, selection, cells_per_chunk, cache).result()


def _stages(selection: Selection, cells_per_chunk: int, cache: Path) -> Row:
    from benchmarks.census import survey_of
    from ingest.encode.open import open_codec
    from ingest.fetch.base import FetchLimits, FetchOptions
    from ingest.fetch.open import open_fetcher

    survey = survey_of(selection, cache)
    cells = len(selection.joinids)
    clock = _Clock()
    with (
        closing(open_codec("h5ad", "deflate", 1)) as codec,
        closing(open_fetcher(survey, survey.genes, FetchOptions(), FetchLimits(256 << 20, 1, cache))) as fetcher,
    ):
        files = _Files(selection, survey.genes, codec, cells_per_chunk)
        files.write(fetcher, min(cells, 100), _Clock())  # compiles, imports, opens
        files.write(fetcher, cells, clock)
    return {"cells": cells, "cpu_seconds": {stage: round(value, 3) for stage, value in clock.seconds.items()}}


class _Files:
    """Fetch, check and encode, one after the other."""

    def __init__(self, selection: Selection, genes: Genes, codec: Codec, cells_per_chunk: int) -> None:
        self._joinids, self._obs, self._names = selection.joinids, selection.obs(), selection.names()
        self._genes, self._codec, self._size = genes, codec, cells_per_chunk
        self._clock = _Clock()
        self._encoder = codec.begin(genes, "float32")
        self._first = self._next = 0

    def write(self, fetcher: Fetcher, cells: int, clock: _Clock) -> None:
        """Make the files of the first so many cells."""
        self._clock, self._first, self._next = clock, 0, 0
        for start in range(0, cells, _SLAB_CELLS):
            with clock.timed("read"):
                counts = fetcher.read(self._joinids[start : min(start + _SLAB_CELLS, cells)]).counts
            self._take(counts)
        self._end()

    def _take(self, counts: Counts) -> None:
        from ingest.validate import check_rows

        with self._clock.timed("validate"):
            check_rows(counts, source="benchmark")
        at = 0
        while at < counts.n_cells:
            stop = min(counts.n_cells, at + self._first + self._size - self._next)
            with self._clock.timed("encode"):
                self._encoder.add(counts.rows(at, stop))
            self._next, at = self._next + stop - at, stop
            if self._next == self._first + self._size:
                self._end()

    def _end(self) -> None:
        """Finish the file, if it has any cell."""
        n_cells = self._next - self._first
        if not n_cells:
            return
        with self._clock.timed("encode"):
            encoded = self._encoder.finish(
                self._obs.slice(self._first, n_cells), self._names.slice(self._first, n_cells)
            )
        with self._clock.timed("digest"):
            hashlib.sha256(encoded.data).hexdigest()
        self._encoder = self._codec.begin(self._genes, "float32")
        self._first = self._next
