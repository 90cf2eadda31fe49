"""What a run will take, from its plan and a few parts of it that were tried. Pure: numbers in, numbers out.

Every total is what the plan expects, times what the tried parts came to over what the plan expected of them. The range
is that of the parts: what it would be if all were like the cheapest of them, or like the dearest.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ingest.expected import Expected, SharedLine
    from ingest.trial import Trial

__all__ = ["Estimate", "Prices", "Range", "Requests", "cost_of", "dest_requests", "estimate", "makespan_s"]

_LIST_PAGE = 1000
"""Keys in one answer, of S3 and of GCS."""

_INDEX_PIECE = 16 << 20
"""`ingest.plan_index` reads a whole index in such pieces."""

_RUN = {"PUT": 18, "GET": 15, "LIST": 8}
"""Of a run to a fresh DEST, whatever its size: the plan and its files, the run's records, ten summaries; reading the
plan back. HEAD counts as GET, as stores bill it. `tests/ingest/cli/test_estimate.py` counts them at a server."""

_LISTINGS = 4
"""Of all receipts: before, at the start, and twice at the end."""

_WORKER = {"GET": 6, "LIST": 2}
"""To open the plan: its four small files, and of its index the end and the dictionaries."""

_UNIT = {"PUT": 1, "GET": 2}
"""The claim; and of the index two for every batch of rows."""

_CHUNK = {"PUT": 2, "GET": 1}
"""The file and its receipt, which the end reads."""

OPEN_CENSUS = {"GET": 40, "LIST": 35}
"""What a worker asks a Census in a bucket for before it reads a cell: nearly all of it TileDB, going through groups."""


@dataclass(frozen=True, slots=True)
class Range:
    """A number as it most likely is, and between what it lies if all is like one of the parts tried."""

    low: float
    middle: float
    high: float

    def times(self, factor: float) -> Range:
        """Return all three times `factor`."""
        return Range(self.low * factor, self.middle * factor, self.high * factor)

    def plus(self, more: float) -> Range:
        """Return all three with `more` added."""
        return Range(self.low + more, self.middle + more, self.high + more)

    def and_more(self, other: Range) -> Range:
        """Return the sums, end by end."""
        return Range(self.low + other.low, self.middle + other.middle, self.high + other.high)

    def or_more(self, other: Range) -> Range:
        """Return the larger, end by end."""
        return Range(max(self.low, other.low), max(self.middle, other.middle), max(self.high, other.high))


@dataclass(frozen=True, slots=True)
class Requests:
    """By kind, as they are billed."""

    put: int = 0
    get: int = 0
    list: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the missing chunks will take."""

    read_bytes: Range
    write_bytes: Range
    """Of chunks."""
    storage_bytes: Range
    """Of all that DEST then holds of these chunks: they, the plan's index, annotations of the cells, records."""
    worker_seconds: Range
    cpu_seconds: Range
    wall_seconds: Range
    source_requests: Requests
    dest_requests: Requests


@dataclass(frozen=True, slots=True)
class Prices:
    """What is paid, in whatever currency; None: not asked about."""

    core_hour: float | None = None
    gb_month: float | None = None
    """Of storage."""
    per_1000_put: float | None = None
    """Listing is billed as writing is."""
    per_1000_get: float | None = None
    gb_read: float | None = None
    """Leaving the source's region."""


def estimate(
    expected: Expected,
    parts: Sequence[Expected],
    trials: Sequence[Trial],
    *,
    unit_seconds: Sequence[float],
    workers: int,
    start_s: float,
    finish_s: float,
    index_bytes: int,
    line: SharedLine | None,
    opening: Requests,
    dest: Requests,
) -> Estimate:
    """Scale what `trials` came to up to all that is missing.

    Parameters
    ----------
    expected, parts
        What the plan expects of all that is missing, and of each part that was tried.
    unit_seconds
        What the plan expects of each unit, in the order in which they start.
    start_s, finish_s
        Until the first worker works, and after the last.
    index_bytes
        Of the plan's index, which is stored once.
    line
        What all that is read and written passes, if it has a limit.
    opening
        Of sources, by all workers together, before the first cell.
    dest
        See `dest_requests`.
    """
    seconds = _ratio([trial.seconds for trial in trials], [part.seconds for part in parts])
    cpu = _ratio([trial.cpu_seconds for trial in trials], [part.seconds for part in parts])
    written = _ratio([trial.bytes_written for trial in trials], [part.write_bytes for part in parts])
    told = [(trial.bytes_read, part.read_bytes) for trial, part in zip(trials, parts, strict=True) if trial.bytes_read]
    read = _ratio(*zip(*told, strict=True)).times(expected.read_bytes) if told else _exactly(expected.read_bytes)
    beside = sum(trial.beside_bytes for trial in trials) / max(1, sum(trial.n_cells for trial in trials))
    requests = sum(trial.requests for trial in trials) / max(1.0, sum(part.read_bytes for part in parts))
    write = written.times(expected.write_bytes)
    wall = seconds.times(makespan_s(unit_seconds, workers)).plus(start_s + finish_s)
    worker_seconds = seconds.times(expected.seconds)
    if line is not None:
        passing = read.times(line.carries_reads).and_more(write.times(line.carries_writes)).times(1 / line.bytes_per_s)
        wall = wall.or_more(passing.plus(start_s + finish_s))
        worker_seconds = worker_seconds.or_more(passing.times(workers))  # who waits for the line is at work
    return Estimate(
        read_bytes=read,
        write_bytes=write,
        storage_bytes=write.plus(index_bytes + beside * expected.n_cells),
        worker_seconds=worker_seconds,
        cpu_seconds=cpu.times(expected.seconds),
        wall_seconds=wall,
        source_requests=Requests(get=round(requests * expected.read_bytes) + opening.get, list=opening.list),
        dest_requests=dest,
    )


def _ratio(found: Sequence[float], planned: Sequence[float]) -> Range:
    each = [one / max(other, 1e-9) for one, other in zip(found, planned, strict=True)]
    return Range(min(each), sum(found) / max(sum(planned), 1e-9), max(each))


def _exactly(value: float) -> Range:
    return Range(value, value, value)


def makespan_s(unit_seconds: Sequence[float], workers: int) -> float:
    """Return when the last unit ends: each goes, in order, to the first worker that is free."""
    free = [0.0] * workers
    for seconds in unit_seconds:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def dest_requests(
    *, n_chunks: int, n_done: int, n_units: int, n_batches: int, workers: int, index_bytes: int
) -> Requests:
    """Return what a run asks of a bucket to make `n_chunks` in units whose rows are in `n_batches` of the index.

    Of files up to 1 GiB; larger ones go up in parts.

    Parameters
    ----------
    n_done
        Chunks that are there already; their receipts are listed and read, too.
    """
    pages = -(-(n_done + n_chunks // 2) // _LIST_PAGE)
    pieces = -(-index_bytes // _INDEX_PIECE)
    return Requests(
        put=_RUN["PUT"] + _UNIT["PUT"] * n_units + _CHUNK["PUT"] * n_chunks,
        get=_RUN["GET"]
        + _WORKER["GET"] * workers
        + _UNIT["GET"] * n_batches
        + _CHUNK["GET"] * (n_done + n_chunks)
        + 2 * (pieces - 1),
        list=_RUN["LIST"] + _WORKER["LIST"] * workers + _LISTINGS * max(0, pages - 1),
    )


def cost_of(found: Estimate, cores: int, prices: Prices) -> Mapping[str, Range]:
    """Return what each thing that has a price comes to, and their sum without the monthly storage.

    Parameters
    ----------
    cores
        Of one worker.
    """
    source, dest = found.source_requests, found.dest_requests
    puts, gets = dest.put + dest.list + source.list, dest.get + source.get
    amounts: list[tuple[str, float | None, Range]] = [
        ("compute", prices.core_hour, found.worker_seconds.times(cores / 3600)),
        ("writing requests", prices.per_1000_put, _exactly(puts / 1000)),
        ("reading requests", prices.per_1000_get, _exactly(gets / 1000)),
        ("bytes read", prices.gb_read, found.read_bytes.times(1e-9)),
    ]
    costs = {name: amount.times(price) for name, price, amount in amounts if price is not None}
    if costs:
        costs["the run"] = Range(
            *(sum(getattr(one, end) for one in costs.values()) for end in ("low", "middle", "high"))
        )
    if prices.gb_month is not None:
        costs["storage a month"] = found.storage_bytes.times(prices.gb_month * 1e-9)
    return costs
