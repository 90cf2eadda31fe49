"""The way of `run`, told to a person step by step; `demo` goes the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ingest.cli.log_lines import log_run, summarize
from ingest.cli.meter import Meter
from ingest.cli.pools import announce_pool, pool_for
from ingest.cli.progress import RunDisplay, note, notice
from ingest.cli.words import bytes_text, count_text, duration_text
from ingest.expected import START_SECONDS, expect, shared_line
from ingest.interrupt import Interrupt
from ingest.run_events import Observed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.amendments import LeftOut
    from ingest.expected import Expected, SharedLine
    from ingest.genes import Genes
    from ingest.opened import OpenPlan
    from ingest.planning import Draft
    from ingest.preparing import Work
    from ingest.running import RunReport
    from ingest.settings import WorkSettings
    from ingest.survey.model import SourceSurvey

__all__ = [
    "Facts",
    "describe_sources",
    "describe_work",
    "execute",
    "mixing_text",
    "plan_facts",
    "say_end",
    "speed_line",
]

_SAID = 5
"""Names spelled out in a line."""

_MOST_CAUSES = 20
"""Causes of quarantined chunks spelled out at the end."""

Facts = dict[str, Any]


def plan_facts(plan_of: Draft | OpenPlan, work: Work, settings: WorkSettings, *, dest: str | None = None) -> Facts:
    """Return what a dry run shows, as data.

    Parameters
    ----------
    dest
        URL of DEST; None, not known yet, is taken for a bucket.
    """
    plan = plan_of.plan
    line = shared_line(settings.bytes_per_s, plan_of.surveys, dest)
    expected = expect(plan, work.profile, work.missing, work.read_bytes)
    return {
        "cells": plan.n_cells,
        "chunks": plan.n_chunks,
        "cells_per_chunk": plan.identity.cells_per_chunk,
        "genes": plan.identity.n_genes,
        "sources": len(plan.identity.sources),
        "missing_cells": expected.n_cells,
        "missing_chunks": len(work.missing),
        "units": len(work.units),
        "workers": work.workers,
        "workers_follow_cluster": settings.on_cluster and settings.workers is None,
        "read_bytes": round(work.read_bytes),
        "read_bytes_per_cell": round(work.read_bytes / max(1, expected.n_cells)),
        "read_ratio": round(work.read_bytes / work.least_bytes, 3) if work.least_bytes else 1.0,
        "write_bytes": expected.write_bytes,
        "memory_per_worker_bytes": work.memory.projected,
        "seconds": round(_seconds(expected, work.workers, settings, line), 1),
        **_mixing(plan_of),
    }


def _seconds(expected: Expected, workers: int, settings: WorkSettings, line: SharedLine | None) -> float:
    seconds = START_SECONDS[settings.pool] + expected.seconds / max(1, workers)
    if line is None:
        return seconds
    return max(seconds, line.n_bytes(expected.read_bytes, expected.write_bytes) / line.bytes_per_s)


def _mixing(plan_of: Draft | OpenPlan) -> Facts:
    """Return what is known of how mixed the chunks are; nothing in source order."""
    windows, mixing = plan_of.plan.windows, plan_of.plan.provenance.mixing
    if windows is None or mixing is None:
        return {}
    return {"mixing": {"window_cells": windows.cells, "seed": windows.seed, **mixing}}


def mixing_text(mixing: Facts) -> str:
    """Return how mixed chunks are, in a line: entropies in bits, 0 where all cells of a chunk are of one origin."""
    before, after = mixing["before"], mixing["after"]
    return (
        f"{after['mean_bits']:.2f} bits of {mixing['origin']} a chunk, {after['min_bits']:.2f} in the least mixed; "
        f"in source order {before['mean_bits']:.2f} and {before['min_bits']:.2f}; all cells together have "
        f"{mixing['whole_bits']:.2f}"
    )


def describe_sources(surveys: Sequence[SourceSurvey], genes: Genes) -> None:
    """Say what several sources have in common, and where their counts are: a union is silent about strangers."""
    vocabularies = {survey.genes.digest: survey.genes for survey in surveys if survey.fault is None}
    if len(vocabularies) > 1:
        common = set.intersection(*(set(vocabulary.ids) for vocabulary in vocabularies.values()))
        notice(
            "Genes", f"{len(genes):,} from {count_text(len(surveys), 'source')}, {len(common):,} of them in every one"
        )
    bad = [survey for survey in surveys if survey.fault is not None]
    if bad:
        some = ", ".join(f"{survey.source.label} ({survey.fault.kind})" for survey in bad[:_SAID] if survey.fault)
        more = f" and {len(bad) - _SAID:,} more" if len(bad) > _SAID else ""
        notice("Samples", f"{len(bad):,} of {len(surveys):,} cannot be used: {some}{more}")
        note(f"{'':8} the chunks with their cells are held back; --without-bad leaves these cells out")
    files = [survey for survey in surveys if survey.layout != "soma" and survey.fault is None]
    places: dict[str, list[str]] = {}
    for survey in files:
        places.setdefault(survey.matrix, []).append(survey.source.label)
    for matrix, labels in sorted(places.items(), key=lambda place: -len(place[1])):
        named = ", ".join(labels[:_SAID]) + (", …" if len(labels) > _SAID else "")
        notice("Counts", f"{matrix} of {named}")


def describe_work(facts: Facts) -> None:
    """Say what will be done, in a line or two."""
    made = facts["chunks"] - facts["missing_chunks"]
    if made:
        notice("Resume", f"{made:,} of {facts['chunks']:,} chunks are there")
    most = "up to " if facts["workers_follow_cluster"] else ""
    what = (
        f"{facts['missing_cells']:,} cells x {facts['genes']:,} genes -> "
        f"{count_text(facts['missing_chunks'], 'chunk')} of {facts['cells_per_chunk']:,}, "
        f"{count_text(facts['units'], 'unit')} for {most}{count_text(facts['workers'], 'worker')}"
    )
    reading = (
        f"{bytes_text(facts['read_bytes'])} to read ({bytes_text(facts['read_bytes_per_cell'])} a cell, "
        f"{facts['read_ratio']:.2f} times the least)"
    )
    writing = f"about {bytes_text(facts['write_bytes'])} to write, about {duration_text(facts['seconds'])}"
    notice("Plan", what, **facts)
    note(f"{'':8} {reading}, {writing}")
    if "mixing" in facts:
        notice("Shuffle", f"in windows of {facts['mixing']['window_cells']:,} cells, seed {facts['mixing']['seed']}")
        note(f"{'':8} {mixing_text(facts['mixing'])}")


def execute(
    opened: OpenPlan, work: Work, settings: WorkSettings, *, without_bad: bool = False
) -> tuple[OpenPlan, RunReport]:
    """Run the plan with a progress display and orderly interruption; return it with what it leaves out."""
    from ingest.without_bad import run_without_bad

    def run_once(opened: OpenPlan, work: Work) -> RunReport:
        return _execute(opened, work, settings)

    if without_bad:
        return run_without_bad(opened, work, settings, run_once, _say_left_out)
    return opened, run_once(opened, work)


def _say_left_out(opened: OpenPlan, left_out: Sequence[LeftOut]) -> None:
    cells = sum(entry.n_cells for entry in left_out)
    notice("Left out", f"{count_text(cells, 'cell')} of {count_text(len(left_out), 'source')} proven bad:")
    for entry in left_out[:_SAID]:
        label = opened.labels[entry.source]
        note(f"{'':8} {count_text(entry.n_cells, 'cell')} of {label} ({entry.kind}): {entry.message}")
    if len(left_out) > _SAID:
        note(f"{'':8} and {len(left_out) - _SAID:,} more; processing_config.json names them all")


def _execute(opened: OpenPlan, work: Work, settings: WorkSettings) -> RunReport:
    from ingest.running import run_plan

    plan = opened.plan
    if work.units:
        announce_pool(settings, work.workers)
    before = plan.n_cells - sum(stop - start for start, stop in map(plan.rows, work.missing))
    meter = Meter()
    with RunDisplay(plan.n_cells, before, idle=not work.units) as display, Interrupt() as interrupt:
        observer = Observed(display, [meter, *log_run()])
        pool = pool_for(settings, meter)
        return run_plan(opened, work, settings, pool, observer, stop_requested=lambda: interrupt.requested)


def report_facts(opened: OpenPlan, report: RunReport) -> Facts:
    """Return how the run ended, as data."""
    driven, finished = report.driven, report.finished
    totals = driven.totals if driven else None
    facts: Facts = {
        "dest": opened.store.url,
        "run": report.run_id,
        "exit_code": report.exit_code,
        "complete": bool(finished and finished.complete),
        "seconds": round(report.seconds, 3),
        "cells_this_run": totals.n_cells if totals else 0,
        "chunks_this_run": totals.n_chunks if totals else 0,
        "retries": totals.retries if totals else 0,
        "seconds_by_stage": totals.seconds if totals else {},
        "peak_rss_bytes": totals.peak_rss_bytes if totals else 0,
        "quarantined": _failures(driven.quarantined if driven else {}),
        "gave_up": _failures(driven.gave_up if driven else {}),
    }
    if finished is not None:
        facts |= {
            "cells": finished.n_cells,
            "chunks": finished.n_chunks,
            "nnz": finished.nnz,
            "bytes": finished.bytes,
            "digest": finished.digest,
        }
    facts |= _mixing(opened)
    if left_out := finished.left_out if finished is not None else opened.amendments.left_out:
        facts["left_out"] = [
            {"source": opened.plan.identity.sources[entry.source], "kind": entry.kind, "cells": entry.n_cells}
            for entry in left_out
        ]
    return facts


def _failures(failures: Any) -> list[Facts]:
    return [
        {"chunk": chunk, "kind": failure.kind, "message": failure.message, "source": failure.source}
        for chunk, failure in sorted(failures.items())
    ]


def speed_line(facts: Facts) -> str:
    """Return what the first seed printed at its end, in a line."""
    seconds, cells = facts["seconds"], facts["cells_this_run"]
    speed = ""
    if cells and seconds:
        hours = seconds / 3600 / cells * 1e6
        made = "" if cells == facts["cells"] else f" for {cells:,} of them in this run"
        speed = (
            f"   minutes {seconds / 60:.2f}{made}   cells/s {cells / seconds:,.0f}   hours per 1 M cells {hours:.3f}"
        )
    each = facts["bytes"] / max(1, facts["chunks"])
    per_cell = facts["bytes"] / max(1, facts["cells"])
    return (
        f"  cells {facts['cells']:,}   files {facts['chunks']:,}{speed}   "
        f"average file {bytes_text(each)} ({bytes_text(per_cell)} a cell)"
    )


def say_end(opened: OpenPlan, report: RunReport) -> Facts:
    """Say how the run ended; return the same as data."""
    facts = report_facts(opened, report)
    summarize(**facts)
    url = opened.store.url
    _say_failures(facts["quarantined"], "quarantined", f"python -m ingest repair {url}")
    if _held_back_by_sources(report):
        note(f"  `python -m ingest run {url} --without-bad` finishes without the cells of what is bad")
    if report.finished is not None and report.finished.complete and "left_out" in facts:
        cells = sum(entry["cells"] for entry in facts["left_out"])
        n_sources = len({entry["source"] for entry in facts["left_out"]})
        note(f"complete without {count_text(cells, 'cell')} of {count_text(n_sources, 'source')} proven bad")
    _say_failures(facts["gave_up"], "not made, for trouble that may pass", f"python -m ingest run {url}")
    driven = report.driven
    if driven is not None and driven.fatal is not None:
        note(f"error: {driven.fatal.message}")
        if driven.fatal.hint:
            note(f"       {driven.fatal.hint}")
    if report.exit_code == 130 or (driven is not None and (driven.fatal or driven.stopped_early)):
        done = len(opened.ledger.done())
        note(f"stopped: {done:,} of {opened.plan.n_chunks:,} chunks done; run the same command to go on")
    return facts


def _say_failures(failures: Sequence[Facts], word: str, command: str) -> None:
    if not failures:
        return
    note(f"{count_text(len(failures), 'chunk')} {word}:")
    chunks: dict[str, list[int]] = {}
    for failure in failures:
        chunks.setdefault(failure["message"], []).append(failure["chunk"])
    for message, its in list(chunks.items())[:_MOST_CAUSES]:
        note(f"  {_spans(its)}: {message}")
    if len(chunks) > _MOST_CAUSES:
        note(f"  and {len(chunks) - _MOST_CAUSES:,} causes more; `status` names all chunks")
    note(f"  `{command}` tries them again")


def _spans(chunks: Sequence[int]) -> str:
    from ingest.status import spans

    found = [f"{first}" if first == last else f"{first} to {last}" for first, last in spans(chunks)]
    word = "chunk" if len(chunks) == 1 else "chunks"
    return f"{word} {', '.join(found[:_SAID])}{', …' if len(found) > _SAID else ''}"


def _held_back_by_sources(report: RunReport) -> bool:
    """Say whether a source's own data hold a chunk back."""
    driven = report.driven
    return driven is not None and any(failure.handling == "source" for failure in driven.quarantined.values())
