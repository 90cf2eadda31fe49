"""Remove what no receipt names: marked first, removed at a later call, each object only at the version marked.

No lock shuts out a run that adopts a stray at the very moment of its removal, so three things must hold before
anything goes: it was marked longer ago than the grace period and is still the same version; no receipt names it now;
and no run is open (begun and not ended), unless the dataset is complete or the person insists. Clocks are those of
the machines that mark and remove: they may differ by less than the grace period. Records of runs and failures stay;
so does everything that this project did not name.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.documents import parse, readable
from ingest.errors import ConflictError, CorruptError, NotFoundError, PreconditionError
from ingest.layout import CHUNKS, GARBAGE, RECEIPTS, garbage_key, receipt_chunks
from ingest.ledger.ledger import put_same
from ingest.store.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ingest.opened import OpenPlan

__all__ = ["Candidate", "Collected", "Garbage", "collect_garbage", "find_garbage", "mark_garbage"]

DEFAULT_GRACE_S = 86_400.0

_PLAN_FILES = ("_ingest/index-", "_ingest/survey-", "_ingest/genes-")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One object that nothing names."""

    key: str
    version: str
    size: int
    """Bytes."""
    why: str
    """``no-receipt``, ``no-plan`` (a file of a plan that was never committed), ``no-chunk`` (a receipt of no planned
    chunk) or ``temporary`` (left in a folder by a killed process)."""
    marked: str | None = None
    """When this very version was first marked, UTC, ISO 8601."""
    due: bool = False
    """Marked longer ago than the grace period."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """What a collection would remove now or later."""

    candidates: tuple[Candidate, ...]
    open_runs: tuple[str, ...]
    """Begun and not ended: killed, or still at work."""
    complete: bool
    """Every planned chunk has a receipt: no run can need a stray any more."""
    grace_s: float

    @property
    def size(self) -> int:
        """Bytes of all candidates."""
        return sum(candidate.size for candidate in self.candidates)

    @property
    def due(self) -> tuple[Candidate, ...]:
        """Those that a collection removes now."""
        return tuple(candidate for candidate in self.candidates if candidate.due)

    @property
    def blocked(self) -> bool:
        """Whether only force removes anything."""
        return bool(self.open_runs) and not self.complete


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did."""

    removed: tuple[Candidate, ...]
    changed: tuple[str, ...]
    """Keys that were due and left: replaced or removed by somebody else meanwhile."""
    waiting: tuple[Candidate, ...]
    """Marked, but not long enough ago."""
    lost: tuple[int, ...]
    """Chunks committed while their object was removed, for `repair`: empty but for a race with a forced removal."""

    @property
    def size(self) -> int:
        """Bytes removed."""
        return sum(candidate.size for candidate in self.removed)


def find_garbage(opened: OpenPlan, *, grace_s: float = DEFAULT_GRACE_S, now: datetime | None = None) -> Garbage:
    """List what no receipt and no plan names, and since when it has been marked; nothing is written.

    Raises
    ------
    IngestError
        DEST cannot be listed.
    """
    now = now or datetime.now(UTC)
    marked = _markings(opened)
    found = []
    for candidate in sorted(_candidates(opened), key=lambda candidate: candidate.key):
        since = marked.get((candidate.key, candidate.version))
        due = since is not None and (now - since).total_seconds() >= grace_s
        found.append(replace(candidate, marked=since.isoformat() if since else None, due=due))
    return Garbage(
        tuple(found),
        tuple(sorted(opened.ledger.open_runs())),
        opened.ledger.done().issuperset(range(opened.plan.n_chunks)),
        grace_s,
    )


def mark_garbage(opened: OpenPlan, garbage: Garbage, *, now: datetime | None = None) -> str | None:
    """Record the candidates that are not marked yet; return the record's key, None when there were none.

    Their grace period begins.
    """
    fresh = [candidate for candidate in garbage.candidates if candidate.marked is None]
    if not fresh:
        return None
    now = now or datetime.now(UTC)
    key = garbage_key(f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}")
    entries = [{name: value for name, value in asdict(one).items() if name not in ("marked", "due")} for one in fresh]
    put_same(opened.store, key, readable({"marked": now.isoformat(), "candidates": entries}))
    return key


def collect_garbage(
    opened: OpenPlan, *, grace_s: float = DEFAULT_GRACE_S, force: bool = False, now: datetime | None = None
) -> Collected:
    """Remove the candidates that are due, each only at the version marked; mark the others.

    Parameters
    ----------
    grace_s
        Seconds between marking and removing; longer than any worker takes from an object to its receipt.
    force
        Remove although a run is open that may have been killed.

    Raises
    ------
    ConflictError
        A run is open (kind ``run-open``): nothing was removed or marked.
    """
    garbage = find_garbage(opened, grace_s=grace_s, now=now)
    if garbage.blocked and not force:
        raise ConflictError(
            f"{opened.store.url}: run {garbage.open_runs[-1]} has not ended; it may be at work, or was killed",
            kind="run-open",
            hint=f"finish it with `run {opened.store.url}`, or use --force when nothing runs there any more",
        )
    mark_garbage(opened, garbage, now=now)
    removed, changed = [], []
    for candidate in garbage.due:
        try:
            _remove(opened, candidate)
        except (PreconditionError, NotFoundError):
            changed.append(candidate.key)
        else:
            removed.append(candidate)
    _forget_markings(opened, garbage)
    waiting = tuple(candidate for candidate in garbage.candidates if not candidate.due)
    return Collected(tuple(removed), tuple(changed), waiting, _lost(opened, removed))


# -- what is there -------------------------------------------------------------------------------------------------


def _candidates(opened: OpenPlan) -> Iterator[Candidate]:
    plan, store = opened.plan, opened.store
    # Objects are listed before receipts: one that is committed in between counts as named.
    chunks = list(store.list(CHUNKS))
    named = {plan.key(chunk) for chunk in opened.ledger.done() if chunk < plan.n_chunks}
    yield from (Candidate(stat.key, stat.version, stat.size, "no-receipt") for stat in chunks if stat.key not in named)
    files = set(plan.files.values())
    for stat in chain.from_iterable(store.list(prefix) for prefix in _PLAN_FILES):
        if stat.key not in files:
            yield Candidate(stat.key, stat.version, stat.size, "no-plan")
    for stat in store.list(RECEIPTS):
        span = receipt_chunks(stat.key)
        if span is not None and (span.start >= plan.n_chunks or not len(span)):
            yield Candidate(stat.key, stat.version, stat.size, "no-chunk")
    yield from _temporaries(opened)


def _temporaries(opened: OpenPlan) -> Iterator[Candidate]:
    store = opened.store
    if not isinstance(store, LocalStore):
        return  # object stores show nothing half-written
    for path, _ in store.list_temporaries():
        try:
            stat = path.stat()
        except FileNotFoundError:  # its writer is alive and done
            continue
        key = path.relative_to(store.url).as_posix()
        yield Candidate(key, f"{stat.st_ino:x}-{stat.st_ctime_ns:x}", stat.st_size, "temporary")


def _markings(opened: OpenPlan) -> dict[tuple[str, str], datetime]:
    """Return (key, version) -> when it was first marked."""
    found: dict[tuple[str, str], datetime] = {}
    for _, document in _marking_records(opened):
        since = datetime.fromisoformat(str(document["marked"]))
        for entry in _entries(document):
            version = (str(entry["key"]), str(entry["version"]))
            found[version] = min(since, found.get(version, since))
    return found


def _marking_records(opened: OpenPlan) -> Iterator[tuple[str, Mapping[str, object]]]:
    for stat in opened.store.list(GARBAGE):
        try:
            document = parse(opened.store.get(stat.key), key=stat.key)
            if datetime.fromisoformat(str(document["marked"])).tzinfo is None:
                continue  # of no known instant
        except (CorruptError, NotFoundError, KeyError, ValueError):
            continue  # what cannot be read marks nothing: its candidates are marked afresh
        yield stat.key, document


def _entries(document: Mapping[str, object]) -> Sequence[Mapping[str, object]]:
    entries = document.get("candidates")
    found = entries if isinstance(entries, list) else []
    return [entry for entry in found if isinstance(entry, dict) and {"key", "version"} <= entry.keys()]


# -- removing ------------------------------------------------------------------------------------------------------


def _remove(opened: OpenPlan, candidate: Candidate) -> None:
    if candidate.why == "temporary":
        Path(opened.store.url, candidate.key).unlink(missing_ok=True)
    else:
        opened.store.delete(candidate.key, expected=candidate.version)


def _forget_markings(opened: OpenPlan, garbage: Garbage) -> None:
    """Remove the records that mark nothing any more."""
    waiting = {(candidate.key, candidate.version) for candidate in garbage.candidates if not candidate.due}
    for key, document in list(_marking_records(opened)):
        if not any((str(entry["key"]), str(entry["version"])) in waiting for entry in _entries(document)):
            try:
                opened.store.delete(key, expected=opened.store.stat(key).version)
            except (NotFoundError, PreconditionError):
                continue  # another collection was faster


def _lost(opened: OpenPlan, removed: Sequence[Candidate]) -> tuple[int, ...]:
    """Return the chunks whose receipt names an object that was removed just now."""
    gone = {candidate.key for candidate in removed}
    if not gone:
        return ()
    plan = opened.plan
    return tuple(chunk for chunk in sorted(opened.ledger.done()) if chunk < plan.n_chunks and plan.key(chunk) in gone)
