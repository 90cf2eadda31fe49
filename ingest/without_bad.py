"""Finishing a dataset without what is proven bad in its sources, and saying so.

A run makes all it can first. What it then could not make because a source is at fault (never for trouble that may
pass) is proof: the rows of that source are left out of these chunks by an amendment, and the chunks are made without
them. A failure that blames a source has been met twice, the source opened anew for the second time: by the worker
(`ingest.unit_maker.UnitMaker.make`), or by the survey (`ingest.survey.run`) where the plan has the fault. Rounds end
because each adds to what is left out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ingest.amendments import Amendment, LeftOut
from ingest.driver import Totals
from ingest.errors import ConfigError, IngestError
from ingest.opened import open_plan
from ingest.plan_rows import plan_batches
from ingest.preparing import divide_work, profile_of_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ingest.opened import OpenPlan
    from ingest.pool import Failure
    from ingest.preparing import Work
    from ingest.running import RunReport
    from ingest.settings import WorkSettings

__all__ = ["Culprit", "RunOnce", "find_culprits", "leave_out", "run_without_bad"]

_GONE = frozenset({"no-such-file", "source-gone"})
_WHOLE = _GONE | {
    "source-changed",
    "truncated",
    "not-hdf5",
    "not-h5ad",
    "obs-count",
    "other-genes",
}
"""Faults of a whole file: what holds for one of its rows holds for all. ``unreadable`` is none: it may be one block."""
_ASKED = 3


@dataclass(frozen=True, slots=True)
class Culprit:
    """A source at fault."""

    source: int
    kind: str
    message: str
    chunks: frozenset[int] | None
    """The chunks it holds back; None: all that have rows of it."""


class RunOnce(Protocol):
    """Makes all missing chunks of an open plan; the composition root knows how."""

    def __call__(self, opened: OpenPlan, work: Work, /) -> RunReport:
        """Return how the run ended."""
        ...


def run_without_bad(
    opened: OpenPlan,
    work: Work,
    settings: WorkSettings,
    run_once: RunOnce,
    on_left_out: Callable[[OpenPlan, Sequence[LeftOut]], None] = lambda _opened, _left_out: None,
) -> tuple[OpenPlan, RunReport]:
    """Run; leave out what is proven bad, and run again, until nothing is held back by a source.

    Parameters
    ----------
    on_left_out
        Called with what each amendment adds.

    Returns
    -------
    tuple
        The plan with all its amendments, and how the last run ended, with what all of them did.

    Raises
    ------
    ConfigError
        ``sources-gone``: nothing tells lost files from a lost disk or bucket.
    IngestError
        As `ingest.running.run_plan`.
    """
    report = run_once(opened, work)
    reports = [report]
    while report.exit_code and not _was_stopped(report) and (culprits := find_culprits(opened, report)):
        left_out = leave_out(opened, report.run_id, culprits)
        if not left_out:
            break
        on_left_out(opened, left_out)
        opened = open_plan(opened.store)
        work = divide_work(profile_of_plan(opened, settings), opened, opened.ledger.done(), settings)
        report = run_once(opened, work)
        reports.append(report)
    return opened, _summed(reports)


def _was_stopped(report: RunReport) -> bool:
    driven = report.driven
    return driven is None or driven.interrupted or driven.stopped_early or driven.fatal is not None


def find_culprits(opened: OpenPlan, report: RunReport) -> list[Culprit]:
    """Return the sources that held chunks back in this very run, by number."""
    driven = report.driven
    quarantined: Mapping[int, Failure] = {} if driven is None else driven.quarantined
    number = {source: at for at, source in enumerate(opened.plan.identity.sources)}
    found: dict[int, Culprit] = {}
    for chunk, failure in sorted(quarantined.items()):
        at = number.get(failure.source or "")
        if failure.handling != "source" or at is None:
            continue
        if failure.kind in _WHOLE or opened.surveys[at].fault is not None:
            found[at] = Culprit(at, failure.kind, failure.message, None)
        elif at not in found:
            found[at] = Culprit(at, failure.kind, failure.message, frozenset({chunk}))
        elif (before := found[at].chunks) is not None:
            found[at] = replace(found[at], chunks=before | {chunk})
    if found:  # the others that the survey found at fault would each cost a round of their own
        for at, survey in enumerate(opened.surveys):
            if survey.fault is not None and at not in found:
                found[at] = Culprit(at, survey.fault.kind, survey.fault.message, None)
    return [found[at] for at in sorted(found)]


def leave_out(opened: OpenPlan, run_id: str, culprits: Sequence[Culprit]) -> tuple[LeftOut, ...]:
    """Record that the missing chunks may lack the rows of `culprits`; return what that adds.

    Raises
    ------
    ConfigError
        ``sources-gone``: every file that could be asked for is gone, so it is not the files that are bad.
    """
    _refuse_lost_disk(opened, culprits)
    counts = _rows_in_missing_chunks(opened, {culprit.source for culprit in culprits})
    left_out = []
    for culprit in culprits:
        chunks = tuple(
            (chunk, cells)
            for chunk, cells in sorted(counts.get(culprit.source, {}).items())
            if (culprit.chunks is None or chunk in culprit.chunks)
            and culprit.source not in opened.amendments.rules(chunk)
        )
        if chunks:
            left_out.append(LeftOut(culprit.source, culprit.kind, culprit.message, chunks))
    if left_out:
        opened.ledger.amend(Amendment(opened.plan.identity.digest, run_id, tuple(left_out)))
    return tuple(left_out)


def _rows_in_missing_chunks(opened: OpenPlan, sources: set[int]) -> dict[int, Counter[int]]:
    """Return source -> chunk -> rows, of chunks without a receipt."""
    done, size = opened.ledger.done(), opened.plan.identity.cells_per_chunk
    found: dict[int, Counter[int]] = {source: Counter() for source in sources}
    for batch in plan_batches(opened, ("source", "soma_joinid", "row")):
        mine = np.flatnonzero(np.isin(batch.codes, list(sources)))
        pairs = np.stack([batch.codes[mine].astype(np.int64), (batch.first + mine) // size])
        distinct, cells = np.unique(pairs, axis=1, return_counts=True)
        for (source, chunk), n_cells in zip(distinct.T.tolist(), cells.tolist(), strict=True):
            if chunk not in done:
                found[source][chunk] += n_cells
    return found


def _refuse_lost_disk(opened: OpenPlan, culprits: Sequence[Culprit]) -> None:
    """Refuse to leave files out for being gone unless another file of their folder is there."""
    gone = {culprit.source for culprit in culprits if culprit.kind in _GONE}
    folders = {_folder(opened, number) for number in gone}
    for folder in sorted(folders):
        beside = [
            number
            for number in range(len(opened.surveys))
            if number not in gone and opened.surveys[number].fault is None and _folder(opened, number) == folder
        ]
        if not any(_answers(opened, number) for number in beside[:_ASKED]):
            raise ConfigError(
                f"no file of {folder} can be read: nothing tells lost files from a lost disk or bucket",
                kind="sources-gone",
                hint="mount it, or check the address and the credentials; nothing was left out",
            )


def _folder(opened: OpenPlan, number: int) -> str:
    return opened.surveys[number].source.address.rpartition("/")[0]


def _answers(opened: OpenPlan, number: int) -> bool:
    from ingest.fetch.h5ad_open import file_version

    try:
        return bool(file_version(opened.surveys[number].source.address))
    except IngestError:
        return False


def _summed(reports: Sequence[RunReport]) -> RunReport:
    """Return the last report with what all rounds did."""
    last = reports[-1]
    if len(reports) == 1:
        return last
    totals = Totals()
    for report in reports:
        if report.driven is not None:
            totals.join(report.driven.totals)
    driven = last.driven or reports[0].driven
    if driven is not None:
        settled = last.driven is not None
        driven = replace(
            driven,
            totals=totals,
            quarantined=driven.quarantined if settled else {},
            gave_up=driven.gave_up if settled else {},
        )
    return replace(last, driven=driven, seconds=sum(report.seconds for report in reports))
