"""Where a dataset stands: listings and small records, no receipt and no chunk is read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.documents import parse
from ingest.errors import CorruptError, NotFoundError
from ingest.layout import CHUNKS, FAILURES, RUNS, SUCCESS_KEY, run_record
from ingest.ordered_map import map_ordered
from ingest.record_fields import check_fields, each, is_count, is_number, is_text, maybe
from ingest.store.base import exists

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from ingest.opened import OpenPlan
    from ingest.store.base import Store

__all__ = ["Quarantined", "RunStatus", "Status", "dataset_status", "failed_chunks", "spans"]

_READERS = 16
"""Threads for small records: they wait for the store, not for a core."""

_PASSING = ("transient", "corrupt")


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A chunk that was tried and does not exist, with the last cause on record."""

    chunk: int
    handling: str
    """Branch of the error tree: ``source`` and ``conflict`` come back, ``transient`` may pass."""
    kind: str
    message: str
    hint: str | None
    source: str | None
    attempts: int
    """Failures on record."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """One run: who, when, which version, and how it ended."""

    run: str
    command: str
    """``run`` or ``repair``."""
    user: str | None
    host: str | None
    version: str | None
    started: str | None
    outcome: str | None
    """``ended``, ``interrupted``, ``stopped``, ``failed``; None: killed, or still at work."""
    ended: str | None
    seconds: float | None
    cells: int | None
    retries: int | None

    @property
    def cells_per_s(self) -> float | None:
        """Cells a second, workers' start included; None where nothing was made."""
        return self.cells / self.seconds if self.cells and self.seconds else None


@dataclass(frozen=True, slots=True)
class Status:
    """What one screen shows; every planned chunk is in exactly one of `n_done`, `in_hand`, `quarantined`, `missing`."""

    url: str
    plan: str
    """Digest of the plan's identity."""
    created: str
    complete: bool
    """All chunks are there and the summaries are written."""
    n_chunks: int
    n_done: int
    n_cells: int
    cells_done: int
    bytes_done: int
    """Of the chunks done, as the store lists them."""
    in_hand: tuple[int, ...]
    """Claimed by a run that has not ended: being made, or left by a killed run."""
    quarantined: tuple[Quarantined, ...]
    missing: tuple[int, ...]
    """Not begun, or given back."""
    cells_per_s: float | None
    """Over all ended runs, workers' start included."""
    runs: tuple[RunStatus, ...]
    """Oldest first."""
    unreadable: tuple[str, ...]
    """Damaged records of runs and failures; they decide nothing."""
    lost: tuple[int, ...] = ()
    """Of those done, chunks whose object is not listed any more."""
    left_out: tuple[str, ...] = ()
    """What `run --without-bad` leaves out: source, cells and why, one line each."""

    @property
    def retry(self) -> str | None:
        """The command that makes the quarantined and the lost again."""
        return f"repair {self.url}" if self.quarantined or self.lost else None

    @property
    def proceed(self) -> str | None:
        """The command that makes what is missing and writes the summaries."""
        return f"run {self.url}" if self.missing or self.in_hand or not (self.complete or self.retry) else None


def dataset_status(opened: OpenPlan) -> Status:
    """Return where the dataset stands.

    Three listings (receipts, chunks, runs) and, for an unfinished dataset, the records of failures and of the claims
    of runs that have not ended.

    Raises
    ------
    IngestError
        DEST cannot be listed.
    """
    plan, store = opened.plan, opened.store
    records = _Records(store)
    done = {chunk for chunk in opened.ledger.done() if chunk < plan.n_chunks}
    sizes = {stat.key: stat.size for stat in store.list(CHUNKS)}
    runs, claimed = records.runs()
    unmade = [chunk for chunk in range(plan.n_chunks) if chunk not in done]
    failed = records.failed(unmade) if unmade else {}
    # What stopped the whole run (credentials, a full disk) says nothing against a chunk.
    failed = {chunk: record for chunk, record in failed.items() if record.handling != "config"}
    for chunk in claimed & failed.keys():
        if failed[chunk].handling in _PASSING:  # the run that claimed it tries again
            del failed[chunk]
    in_hand = [chunk for chunk in unmade if chunk in claimed and chunk not in failed]
    accounted = {*in_hand, *failed}
    lost = tuple(chunk for chunk in sorted(done) if plan.key(chunk) not in sizes)
    return Status(
        url=store.url,
        plan=plan.identity.digest,
        created=plan.provenance.created,
        complete=not unmade and not lost and exists(store, SUCCESS_KEY),
        n_chunks=plan.n_chunks,
        n_done=len(done),
        n_cells=plan.n_cells,
        cells_done=sum(stop - start for start, stop in map(plan.rows, done)) - _lacking(opened, done),
        bytes_done=sum(sizes.get(plan.key(chunk), 0) for chunk in done),
        in_hand=tuple(in_hand),
        quarantined=tuple(failed[chunk] for chunk in sorted(failed)),
        missing=tuple(chunk for chunk in unmade if chunk not in accounted),
        cells_per_s=_speed(runs),
        runs=tuple(runs),
        unreadable=tuple(records.unreadable),
        lost=lost,
        left_out=tuple(
            f"{opened.labels[entry.source]}: {entry.n_cells:,} cells ({entry.kind}): {entry.message}"
            for entry in opened.amendments.left_out
        ),
    )


def _lacking(opened: OpenPlan, done: Collection[int]) -> int:
    """Return the cells that finished chunks were made without."""
    return sum(cells for entry in opened.amendments.left_out for chunk, cells in entry.chunks if chunk in done)


def failed_chunks(opened: OpenPlan, chunks: Collection[int]) -> Mapping[int, Quarantined]:
    """Return, of `chunks` (which have no receipt), those with a failure on record, with its last cause."""
    return _Records(opened.store).failed(chunks)


def spans(chunks: Iterable[int]) -> list[tuple[int, int]]:
    """Return ascending numbers as inclusive ranges: 100,000 chunks fit a line."""
    found: list[tuple[int, int]] = []
    for chunk in chunks:
        if found and found[-1][1] == chunk - 1:
            found[-1] = (found[-1][0], chunk)
        else:
            found.append((chunk, chunk))
    return found


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("handling", "kind", "message", "hint", "source"), maybe(is_text)),
    **dict.fromkeys(("command", "user", "host", "version", "started", "outcome", "ended"), maybe(is_text)),
    **dict.fromkeys(("seconds", "cells", "retries"), maybe(is_number)),
    "chunks": lambda value: value is None or is_count(value) or each(is_count)(value),  # how many, or which
}
"""Of all kinds of records, where they have them."""


class _Records:
    """The small records under ``_ingest/``; a damaged one is named and passed over."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.unreadable: list[str] = []

    def failed(self, chunks: Collection[int]) -> dict[int, Quarantined]:
        wanted = frozenset(chunks)
        found: dict[int, Quarantined] = {}
        # Keys begin with the run's start and the unit's number, so the last in order is the latest cause.
        for _, record in self._read(stat.key for stat in self._store.list(FAILURES)):
            for chunk in wanted.intersection(_chunks(record)):
                found[chunk] = _quarantined(chunk, record, found[chunk].attempts + 1 if chunk in found else 1)
        return found

    def runs(self) -> tuple[list[RunStatus], set[int]]:
        """Return all runs, and the chunks that runs without an end have claimed."""
        claims: dict[str, list[str]] = {}
        heads: list[str] = []
        for stat in self._store.list(RUNS):
            found = run_record(stat.key)
            if found is None:
                continue  # nothing of ours
            run_id, name = found
            mine = claims.setdefault(run_id, [])
            if name in ("start.json", "end.json"):
                heads.append(stat.key)
            else:
                mine.append(stat.key)
        records = dict(self._read(heads))
        runs = [_run(run_id, records) for run_id in sorted(claims)]
        open_claims = [key for run in runs if run.outcome is None for key in claims[run.run]]
        return runs, {chunk for _, record in self._read(open_claims) for chunk in _chunks(record)}

    def _read(self, keys: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        with ThreadPoolExecutor(_READERS) as readers:
            for key, record in map_ordered(readers, self._parse, keys, ahead=4 * _READERS):
                if record is None:
                    self.unreadable.append(key)
                else:
                    yield key, record

    def _parse(self, key: str) -> tuple[str, dict[str, Any] | None]:
        try:
            record = parse(self._store.get(key), key=key)
            check_fields({**dict.fromkeys(_FIELDS), **record}, _FIELDS)
        except (CorruptError, NotFoundError, ValueError):
            return key, None
        return key, record


def _chunks(record: Mapping[str, Any]) -> Sequence[int]:
    found = record.get("chunks")
    return found if isinstance(found, list) else ()


def _quarantined(chunk: int, record: Mapping[str, Any], attempts: int) -> Quarantined:
    return Quarantined(
        chunk=chunk,
        handling=str(record.get("handling")),
        kind=str(record.get("kind")),
        message=str(record.get("message")),
        hint=record.get("hint"),
        source=record.get("source"),
        attempts=attempts,
    )


def _run(run_id: str, records: Mapping[str, Mapping[str, Any]]) -> RunStatus:
    start = records.get(f"{RUNS}{run_id}/start.json", {})
    end = records.get(f"{RUNS}{run_id}/end.json", {})
    return RunStatus(
        run=run_id,
        command=start.get("command") or "run",
        user=start.get("user"),
        host=start.get("host"),
        version=start.get("version"),
        started=start.get("started"),
        outcome=end.get("outcome"),
        ended=end.get("ended"),
        seconds=end.get("seconds"),
        cells=end.get("cells"),
        retries=end.get("retries"),
    )


def _speed(runs: Sequence[RunStatus]) -> float | None:
    timed = [(run.cells, run.seconds) for run in runs if run.cells and run.seconds]
    seconds = sum(seconds for _, seconds in timed)
    return sum(cells for cells, _ in timed) / seconds if seconds else None
