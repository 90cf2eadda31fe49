"""Make exactly the damaged and the quarantined chunks again, by the same code as a run, and finish the dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ingest.chunk_check import check_index
from ingest.documents import parse
from ingest.errors import ConfigError, CorruptError, NotFoundError
from ingest.finish import finish
from ingest.layout import CHUNK_INDEX_KEY, RECEIPTS, receipt_chunks, receipt_key
from ingest.ledger.receipts import Receipt, parse_receipt
from ingest.opened import amended
from ingest.preparing import divide_work, profile_of_plan
from ingest.recommit import Recommit
from ingest.running import run_units
from ingest.status import failed_chunks
from ingest.verifying import verify_dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from ingest.driver import Observer
    from ingest.findings import VerifyReport
    from ingest.finish import Finished
    from ingest.opened import OpenPlan
    from ingest.pool import Failure
    from ingest.running import OpenPool, UnitsRun
    from ingest.settings import WorkSettings
    from ingest.verifying import OnChunk

__all__ = ["RepairReport", "chunks_to_repair", "repair_dataset"]


@dataclass(frozen=True, slots=True)
class RepairReport:
    """How a repair ended."""

    run_id: str | None
    """None when no chunk had to be made."""
    verified: VerifyReport | None
    """What was found first; None when the caller said which chunks are bad."""
    wanted: tuple[int, ...]
    """The chunks to be made again."""
    repaired: tuple[int, ...]
    """Of these, those that are right now."""
    failures: Mapping[int, Failure] = field(default_factory=dict)
    """Chunk -> why it could not be made."""
    fatal: Failure | None = None
    """Why the repair had to stop."""
    interrupted: bool = False
    finished: Finished | None = None
    """None when the summaries could not be written; `unfinished` says why."""
    unfinished: str | None = None
    bytes_written: int = 0
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 all good and complete, 1 something is still bad, 2 the environment is wrong, 3 incomplete, 130."""
        if self.interrupted:
            return 130
        if self.fatal is not None:
            return self.fatal.exit_code
        if self.unfinished is not None or any(failure.handling == "conflict" for failure in self.failures.values()):
            return 1
        return 0 if self.finished is not None and self.finished.complete and not self.failures else 3


def chunks_to_repair(opened: OpenPlan, bad: Collection[int]) -> tuple[int, ...]:
    """Return, ascending, the chunks that a repair makes: `bad`, and those that failed and have no receipt.

    Raises
    ------
    ConfigError
        One of `bad` is not in the plan.
    """
    plan = opened.plan
    beyond = [chunk for chunk in bad if not 0 <= chunk < plan.n_chunks]
    if beyond:
        raise ConfigError(f"chunk {beyond[0]} is not in the plan of {plan.n_chunks:,} chunks", kind="bad-chunk")
    done = opened.ledger.done()
    unmade = [chunk for chunk in range(plan.n_chunks) if chunk not in done]
    return tuple(sorted({*bad, *(failed_chunks(opened, unmade) if unmade else ())}))


def repair_dataset(
    opened: OpenPlan,
    bad: Collection[int] | None,
    work: WorkSettings,
    open_pool: OpenPool,
    observer: Observer,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
    on_chunk: OnChunk = lambda _chunk, _findings: None,
) -> RepairReport:
    """Make damaged and quarantined chunks again; write summaries that are lost or differ.

    Nothing is deleted, and nothing is replaced but what was examined and found wrong: see `Recommit`.

    Parameters
    ----------
    bad
        Chunks with findings, from `VerifyReport.bad`; None verifies first (sizes and sha256).
    on_chunk
        Of that verifying.

    Raises
    ------
    CorruptError
        The plan's index is damaged (kind ``plan-damaged``): no chunk can be made from it.
    ConfigError
        A chunk is not in the plan, or does not fit into a worker.
    """
    check_index(opened)
    verified = None
    if bad is None:
        verified = verify_dataset(opened, on_chunk=on_chunk)
        bad = verified.bad
    wanted = chunks_to_repair(opened, bad)
    ran = _make(opened, wanted, work, open_pool, observer, stop_requested) if wanted else None
    driven = ran.driven if ran else None
    stopped = driven is not None and (driven.interrupted or driven.fatal is not None)
    finished, unfinished = (None, "the repair was stopped") if stopped else _finish(opened, work)
    return RepairReport(
        run_id=ran.run_id if ran else None,
        verified=verified,
        wanted=wanted,
        repaired=tuple(sorted(driven.done)) if driven else (),
        failures={**driven.gave_up, **driven.quarantined} if driven else {},
        fatal=driven.fatal if driven else None,
        interrupted=driven.interrupted if driven else False,
        finished=finished,
        unfinished=unfinished,
        bytes_written=driven.totals.bytes_written if driven else 0,
        seconds=ran.seconds if ran else 0.0,
    )


def _make(
    opened: OpenPlan,
    wanted: Collection[int],
    work: WorkSettings,
    open_pool: OpenPool,
    observer: Observer,
    stop_requested: Callable[[], bool],
) -> UnitsRun:
    kept = set(range(opened.plan.n_chunks)).difference(wanted)
    divided = divide_work(profile_of_plan(opened, work), opened, kept, work)
    spans = _spans(opened)
    commit = Recommit({chunk: spans[chunk] for chunk in wanted if chunk in spans})
    opened = amended(opened)  # as workers will find it
    ran = run_units(
        opened,
        divided,
        work,
        open_pool,
        observer,
        stop_requested=stop_requested,
        commit=commit,
        held=_held(opened, wanted, spans),
        command="repair",
    )
    _rebuild_spans(opened, set(commit.spans.values()))
    return ran


def _held(opened: OpenPlan, wanted: Collection[int], spans: Mapping[int, str]) -> frozenset[tuple[int, int]]:
    """Return chunk and source for what chunks have by their receipts, whatever amendments permit them to lack.

    Whoever amended may have been late: another driver had made the chunk whole, and whole it is made again.
    """
    if not opened.amendments:
        return frozenset()
    receipts = {chunk: _receipt_at(opened, spans.get(chunk, receipt_key(chunk, chunk))) for chunk in wanted}
    by_receipt = [entry for receipt in receipts.values() if receipt is not None for entry in receipt.chunks]
    found = {(entry.chunk, number) for entry in by_receipt for number, _ in entry.sources}
    if unsaid := {chunk for chunk, receipt in receipts.items() if receipt is None}:
        found |= _summarised(opened, unsaid)
    return frozenset(found)


def _summarised(opened: OpenPlan, chunks: Collection[int]) -> set[tuple[int, int]]:
    """Return the same of chunks whose receipts are damaged or lost, as far as a summary says it."""
    number = {source: at for at, source in enumerate(opened.plan.identity.sources)}
    try:
        entries = parse(opened.store.get(CHUNK_INDEX_KEY), key=CHUNK_INDEX_KEY)["chunks"]
        return {(one["chunk"], number[name]) for one in entries if one["chunk"] in chunks for name in one["sources"]}
    except (CorruptError, LookupError, TypeError):  # then amendments have the last word
        return set()


def _finish(opened: OpenPlan, work: WorkSettings) -> tuple[Finished | None, str | None]:
    try:
        return finish(opened, scratch=work.scratch), None
    except CorruptError as error:
        return None, error.message


# -- receipts of several chunks ------------------------------------------------------------------------------------


def _spans(opened: OpenPlan) -> dict[int, str]:
    """Return chunk -> key of its receipt, for receipts that cover several chunks."""
    found: dict[int, str] = {}
    for stat in opened.store.list(RECEIPTS):
        span = receipt_chunks(stat.key)
        if span is not None and len(span) > 1:
            found.update(dict.fromkeys(span, stat.key))
    return found


def _rebuild_spans(opened: OpenPlan, keys: Collection[str]) -> None:
    """Replace each damaged receipt of several chunks once all of them have receipts of their own."""
    for key in sorted(keys):
        version = opened.store.stat(key).version
        try:
            parse_receipt(opened.store.get(key), key=key)
        except CorruptError:
            own = [_receipt_at(opened, receipt_key(chunk, chunk)) for chunk in receipt_chunks(key) or ()]
            entries = [receipt.chunks[0] for receipt in own if receipt is not None]
            if len(entries) == len(own) and own[0] is not None:
                whole = Receipt(own[0].plan, own[0].attempt, tuple(entries))
                opened.store.replace(key, whole.seal(), expected=version)


def _receipt_at(opened: OpenPlan, key: str) -> Receipt | None:
    try:
        return parse_receipt(opened.store.get(key), key=key)
    except (NotFoundError, CorruptError):
        return None
