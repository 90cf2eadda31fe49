"""Compare finished chunks with their sources, to the last count: made again in memory, never written."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ingest.chunks import Committed, fetch_dtype
from ingest.deep import first_difference
from ingest.encode.decode import decode_chunk
from ingest.encode.open import open_codec
from ingest.errors import CorruptError, IngestError
from ingest.fetch.base import FetchOptions
from ingest.findings import Finding
from ingest.open_sources import OpenSources
from ingest.pool import UnitTask
from ingest.unit_maker import UnitMaker
from ingest.unit_rows import rows_of_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ingest.chunks import MadeChunk
    from ingest.fetch.base import FetchLimits
    from ingest.opened import OpenPlan
    from ingest.pool import Failure

__all__ = ["DIFFERS", "compare_with_sources"]

DIFFERS = "source-differs"

_ROWS = 1 << 17
"""Cells of the chunks that are read as one unit; bands at its ends are read twice."""


class _Comparison:
    """A commit that compares with what stands instead of writing."""

    def __init__(self, contents: Mapping[int, str]) -> None:
        self._contents = contents

    def commit(self, opened: OpenPlan, made: MadeChunk, *, attempt: str) -> Committed:  # noqa: ARG002 # a `Commit`
        if made.entry.content != self._contents[made.entry.chunk]:
            raise CorruptError(_difference(opened, made), kind=DIFFERS, chunk=made.entry.chunk)
        return Committed(made.entry, 0, adopted=False)


def _difference(opened: OpenPlan, made: MadeChunk) -> str:
    key = made.entry.key
    source = decode_chunk(made.encoded.data, key=key)
    try:
        chunk = decode_chunk(opened.store.get(key), key=key)
    except IngestError as error:  # that it differs is known: the store's trouble must not stand for it
        return f"{key} differs from its sources; in what cannot be said ({error})"
    if chunk.counts.n_cells != source.counts.n_cells or chunk.genes != source.genes:
        return f"{key} does not have the cells and genes of its sources"
    found = first_difference(chunk.counts, source.counts)
    if found is not None:
        cell, gene, here, there = found
        name = source.obs_names[cell].as_py()
        return f"{key} holds {here:g} for gene {source.genes.ids[gene]} of cell {name}, the source {there:g}"
    if chunk.obs_names != source.obs_names:
        return f"{key} has other cell names than its sources"
    return f"{key} differs from its sources in the type of its values or in obs"


def compare_with_sources(
    opened: OpenPlan, contents: Mapping[int, str], limits: FetchLimits
) -> Iterator[tuple[int, list[Finding]]]:
    """Read the cells of chunks from their sources again; yield each chunk with what was found.

    Parameters
    ----------
    contents
        Chunk -> content digest, of chunks that were decoded and found to have it.
    limits
        Memory, threads and scratch for reading.

    Raises
    ------
    ConfigError
        Sources cannot be read at all: credentials, memory, a full scratch disk.
    """
    identity = opened.plan.identity
    options = FetchOptions(fetch_dtype(identity.dtype), identity.allow_noninteger)
    sources = OpenSources(opened, options, limits)
    codec = open_codec(identity.format, identity.codec, identity.level, threads=limits.threads, about=identity.about)
    comparison = _Comparison(contents)
    try:
        for number, chunks in enumerate(_units(opened, sorted(contents))):
            maker = UnitMaker(
                opened,
                sources,
                codec,
                UnitTask(number, tuple(chunks), "verify"),
                rows_of_chunks(opened, chunks),
                slab_bytes=limits.memory_bytes,
                upload_bytes=0,
                stop=threading.Event(),
                commit=comparison.commit,
            )
            maker.make()
            yield from _by_chunk(chunks, maker.tally.failures)
    finally:
        sources.close()
        codec.close()


def _units(opened: OpenPlan, chunks: Sequence[int]) -> Iterator[list[int]]:
    """Yield runs of chunks that span at most `_ROWS` cells of the plan, or one chunk or what there is of one window."""
    windows, unit = opened.plan.windows, list[int]()
    together = 1 if windows is None else windows.cells // opened.plan.identity.cells_per_chunk
    for chunk in chunks:
        is_apart = bool(unit) and chunk // together != unit[-1] // together
        if is_apart and opened.plan.rows(chunk)[1] - opened.plan.rows(unit[0])[0] > _ROWS:
            yield unit
            unit = []
        unit.append(chunk)
    if unit:
        yield unit


def _by_chunk(chunks: Sequence[int], failures: Sequence[Failure]) -> Iterator[tuple[int, list[Finding]]]:
    found: dict[int, list[Finding]] = {chunk: [] for chunk in chunks}
    for failure in failures:
        if failure.kind == DIFFERS:
            for chunk in failure.chunks:
                found[chunk].append(Finding(failure.kind, failure.message, chunk))
            continue
        # The source could not be read, which says nothing about the chunk: making it again would not mend that.
        first = failure.chunks[0]
        said = f"{failure.message} (so {len(failure.chunks):,} chunks from {first} on were not compared)"
        found[first].append(Finding(failure.kind, said))
    yield from found.items()
