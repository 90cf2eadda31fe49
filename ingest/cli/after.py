"""``status``, ``verify``, ``repair``, ``gc``: what is done with a dataset between and after runs."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ingest.cli.log_lines import log_run, summarize
from ingest.cli.meter import Meter
from ingest.cli.pools import announce_pool, on_cluster, pool_for, resource_amounts, resource_option
from ingest.cli.progress import CountDisplay, RunDisplay, note, notice
from ingest.cli.style import ByteSize, Command
from ingest.cli.words import bytes_text, count_text, duration_text
from ingest.cpu import available_cpus
from ingest.errors import ConfigError
from ingest.settings import DEFAULT_MEMORY_BYTES, WorkSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ingest.collecting import Collected
    from ingest.findings import Finding, VerifyReport
    from ingest.opened import OpenPlan
    from ingest.repairing import RepairReport
    from ingest.status import Status

__all__ = ["gc", "repair", "report_verification", "run_verification", "status", "verify"]

_SAID = 20
"""Findings spelled out; --json has them all."""


def _dest_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout."),
        click.option("--endpoint-url", metavar="URL", help="Of an S3 or GCS look-alike."),
        click.argument("dest", metavar="DEST"),
    ):
        command = option(command)
    return command


@contextmanager
def _opened(dest: str, endpoint_url: str | None) -> Iterator[OpenPlan]:
    from ingest.opened import open_plan
    from ingest.store.open import open_store

    store = open_store(dest, endpoint_url=endpoint_url)
    try:
        yield open_plan(store)
    finally:
        store.close()


@click.command(
    cls=Command, examples=("python -m ingest verify ./lung", "python -m ingest verify s3://bucket/lung --deep --json")
)
@_dest_options
@click.option("--deep", is_flag=True, help="Decode every chunk; check cells, sums and genes.")
@click.option("--source", is_flag=True, help="Read every cell from its source again and compare.")
def verify(*, dest: str, endpoint_url: str | None, as_json: bool, deep: bool, source: bool) -> int:
    """Check what DEST holds: size and sha256 of every chunk, receipts and summaries.

    Exit code 0: complete and good; 3: incomplete, and what is there is good; 1: something is bad.
    """
    with _opened(dest, endpoint_url) as opened:
        report = run_verification(opened, deep=deep, source=source)
        facts = {**asdict(report), "bad": report.bad, "complete": report.complete, "exit_code": report.exit_code}
        summarize(dest=opened.store.url, **facts)
        if as_json:
            click.echo(json.dumps(facts, indent=1))
            return report.exit_code
        return report_verification(opened, report)


def run_verification(opened: OpenPlan, *, deep: bool, source: bool) -> VerifyReport:
    """Verify with a progress display."""
    from ingest.verifying import verify_dataset

    with CountDisplay("Verify", opened.plan.n_chunks, "chunks") as display:

        def on_chunk(_chunk: int, _findings: Sequence[Finding]) -> None:
            display.advance()

        return verify_dataset(opened, deep=deep, source=source, on_chunk=on_chunk)


def report_verification(opened: OpenPlan, report: VerifyReport) -> int:
    """Say what was found; return the exit code."""
    for finding in report.findings[:_SAID]:
        note(f"  {finding.kind}: {finding.message}")
    if len(report.findings) > _SAID:
        note(f"  and {len(report.findings) - _SAID:,} more; --json has them all")
    checked = ["size", "sha256"]
    if report.deep:
        checked += ["cells", "genes", "sums per cell"]
    if report.source:
        checked.append("every count against the source")
    verdict = "equal" if not report.findings else f"{count_text(len(report.bad), 'chunk')} bad"
    notice(
        "Verify",
        f"{report.checked_chunks:,} of {report.n_chunks:,} chunks, {bytes_text(report.checked_bytes)}: "
        f"{', '.join(checked)}: {verdict}",
    )
    if report.left_out_cells:
        note(f"{'':8} {count_text(report.left_out_cells, 'cell')} of the plan left out by `run --without-bad`")
    if report.missing:
        note(f"{'':8} {count_text(len(report.missing), 'chunk')} missing: `python -m ingest run {opened.store.url}`")
    elif report.missing_summaries and not report.findings:
        note(f"{'':8} summaries are missing: `python -m ingest run {opened.store.url}` writes them")
    if report.findings:
        note(f"{'':8} `python -m ingest repair {opened.store.url}` makes the bad ones again")
    return report.exit_code


@click.command(
    cls=Command, examples=("python -m ingest status ./lung", "python -m ingest status s3://bucket/lung --watch")
)
@_dest_options
@click.option(
    "--watch", is_flag=True, help="Look again and again, from anywhere, until it is complete or nobody works."
)
@click.option(
    "--every",
    type=click.FloatRange(0.1),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="With --watch: between two looks; each costs a few listings.",
)
@click.option(
    "--patience",
    type=click.FloatRange(0),
    default=900.0,
    show_default=True,
    metavar="SECONDS",
    help="With --watch: end after so long without a sign of life; a store cannot tell a killed run from a slow one.",
)
@click.pass_context
def status(
    ctx: click.Context,
    /,
    *,
    dest: str,
    endpoint_url: str | None,
    as_json: bool,
    watch: bool,
    every: float,
    patience: float,
) -> int:
    """Say how far DEST is: done, in hand, missing, quarantined and why. Exit code 0 when complete, else 3."""
    from ingest.status import dataset_status

    said = click.core.ParameterSource.COMMANDLINE
    for name in ("every", "patience"):
        if not watch and ctx.get_parameter_source(name) == said:
            raise ConfigError(f"--{name} means nothing without --watch", kind="bad-watch", hint="add --watch")
    if watch and (code := _watch(dest, endpoint_url, every, patience, as_json=as_json)) is not None:
        return code
    with _opened(dest, endpoint_url) as opened:
        found = dataset_status(opened)
    summarize(**{name: getattr(found, name) for name in _SUMMARY}, exit_code=0 if found.complete else 3)
    if as_json:
        click.echo(json.dumps({**asdict(found), "retry": found.retry, "proceed": found.proceed}, indent=1))
    else:
        _say_status(found)
    return 0 if found.complete else 3


_SUMMARY = ("url", "complete", "n_chunks", "n_done", "n_cells", "cells_done", "bytes_done")


def _watch(dest: str, endpoint_url: str | None, every_s: float, patience_s: float, *, as_json: bool) -> int | None:
    """Watch DEST; return None when there is something to say of it then, else the exit code."""
    from ingest.cli.watch import watch_dest
    from ingest.store.open import open_store

    store = open_store(dest, endpoint_url=endpoint_url)
    try:
        last = watch_dest(store, every_s=every_s, patience_s=patience_s)
    except KeyboardInterrupt:
        return 130  # nothing was begun, and nothing is to be said of it
    finally:
        store.close()
    if last.look is not None:
        return None
    if as_json:  # who reads stdout is told, too, that there is nothing
        facts = {"url": store.url, "verdict": last.verdict, "trouble": last.trouble, "complete": False}
        click.echo(json.dumps(facts | {"quiet_seconds": round(last.quiet_s)}, indent=1))
    return 3


_SCREEN = 8
"""Quarantined chunks and runs shown: status fits one screen."""


def _say_status(found: Status) -> None:
    share = 100 * found.cells_done / max(1, found.n_cells)
    click.echo(f"{found.url}: {'complete' if found.complete else 'incomplete'}")
    click.echo(
        f"  done         {count_text(found.n_done, 'chunk')} of {found.n_chunks:,}, "
        f"{found.cells_done:,} of {found.n_cells:,} cells ({share:.1f} %), {bytes_text(found.bytes_done)}"
    )
    for word, chunks, meaning in (
        ("in hand", found.in_hand, "being made, or left by a killed run"),
        ("missing", found.missing, "not begun, or given back"),
        ("lost", found.lost, "there is a receipt and no object"),
    ):
        if chunks:
            click.echo(f"  {word:<12} {count_text(len(chunks), 'chunk')} ({_spans(chunks)}): {meaning}")
    if found.cells_per_s:
        left = (found.n_cells - found.cells_done) / found.cells_per_s
        rest = f", {duration_text(left)} for what is left" if not found.complete and left else ""
        click.echo(f"  speed        {found.cells_per_s:,.0f} cells/s so far{rest}")
    _say_quarantined(found)
    for line in found.left_out[:_SCREEN]:
        click.echo(f"  left out     {line}")
    if len(found.left_out) > _SCREEN:
        click.echo(f"  left out     and {len(found.left_out) - _SCREEN:,} sources more; --json names them all")
    for run in found.runs[-_SCREEN:]:
        speed = f", {run.cells_per_s:,.0f} cells/s" if run.cells_per_s else ""
        who = f"{run.user}@{run.host}" if run.user or run.host else "unknown"
        click.echo(
            f"  {run.command:<12} {run.started or run.run}  {who}  version {run.version}: "
            f"{run.outcome or 'no end on record: at work, or killed'}{speed}"
        )
    if found.unreadable:
        click.echo(f"  damaged      {count_text(len(found.unreadable), 'record')} of runs; they decide nothing")
    for command in (found.proceed, found.retry):
        if command:
            click.echo(f"  next         python -m ingest {command}")


def _say_quarantined(found: Status) -> None:
    if not found.quarantined:
        return
    click.echo(f"  quarantined  {count_text(len(found.quarantined), 'chunk')}:")
    for entry in found.quarantined[:_SCREEN]:
        click.echo(f"    chunk {entry.chunk}: {entry.message} ({count_text(entry.attempts, 'attempt')})")
    if len(found.quarantined) > _SCREEN:
        click.echo(f"    and {len(found.quarantined) - _SCREEN:,} more; --json names them all")


def _spans(chunks: Sequence[int]) -> str:
    from ingest.status import spans

    found = [f"{first}" if first == last else f"{first}-{last}" for first, last in spans(chunks)]
    return ", ".join(found[:4]) + (", …" if len(found) > 4 else "")


@click.command(
    cls=Command, examples=("python -m ingest repair ./lung", "python -m ingest repair ./lung --chunk 7 --chunk 12")
)
@_dest_options
@click.option(
    "--chunk", "chunks", type=int, multiple=True, metavar="N", help="These; otherwise DEST is verified first."
)
@click.option("--deep", is_flag=True, help="Verify deeply first.")
@click.option("-d", "--workers", type=int, metavar="N")
@resource_option
@click.option("--memory", type=ByteSize(), default=DEFAULT_MEMORY_BYTES, show_default="1.5G", metavar="SIZE")
@click.option("--pool", type=click.Choice(["ray", "serial"]), default="ray", show_default=True)
def repair(
    *,
    dest: str,
    endpoint_url: str | None,
    as_json: bool,
    chunks: tuple[int, ...],
    deep: bool,
    workers: int | None,
    resource: tuple[str, ...],
    memory: int,
    pool: Any,
) -> int:
    """Make exactly the damaged and the quarantined chunks of DEST again, and lost summaries.

    What is replaced was examined and found wrong, and is replaced only while it is still that. A chunk made again
    must have the content that its receipt records.
    """
    from ingest.interrupt import Interrupt
    from ingest.repairing import chunks_to_repair, repair_dataset
    from ingest.run_events import Observed

    away = on_cluster(pool)
    settings = WorkSettings(
        workers=workers,
        resources=resource_amounts(resource, away=away),
        memory_bytes=memory,
        endpoint_url=endpoint_url,
        pool=pool,
        on_cluster=away,
    )
    with _opened(dest, endpoint_url) as opened:
        verified = None if chunks else run_verification(opened, deep=deep, source=False)
        bad = tuple(chunks) if verified is None else verified.bad
        for finding in verified.findings[:_SAID] if verified else ():
            note(f"  {finding.kind}: {finding.message}")
        wanted = chunks_to_repair(opened, bad)
        cells = sum(stop - start for start, stop in map(opened.plan.rows, wanted))
        if wanted:
            announce_pool(settings, workers or available_cpus())
        meter = Meter()
        with RunDisplay(cells, 0, idle=not wanted) as display, Interrupt() as interrupt:
            report = repair_dataset(
                opened,
                bad,
                settings,
                pool_for(settings, meter),
                Observed(display, [meter, *log_run()]),
                stop_requested=lambda: interrupt.requested,
            )
        facts = {**asdict(report), "exit_code": report.exit_code}
        summarize(dest=opened.store.url, **{name: value for name, value in facts.items() if name != "verified"})
        if as_json:
            click.echo(json.dumps(facts, indent=1))
        else:
            _say_repair(opened, report)
    return report.exit_code


def _say_repair(opened: OpenPlan, report: RepairReport) -> None:
    if not report.wanted:
        notice("Repair", "no chunk is damaged or quarantined")
    else:
        names = _spans(report.wanted)
        notice("Repair", f"{len(report.repaired):,} of {count_text(len(report.wanted), 'chunk')} made again ({names})")
    for chunk, failure in sorted(report.failures.items())[:_SAID]:
        note(f"  chunk {chunk}: {failure.message}")
    for line in (report.fatal.message if report.fatal else None, report.unfinished):
        if line:
            note(f"error: {line}")
    if report.finished is not None and not report.finished.complete:
        note(f"{'':8} chunks are missing still: `python -m ingest status {opened.store.url}` says which")


@click.command(cls=Command, examples=("python -m ingest gc ./lung", "python -m ingest gc ./lung --delete --grace 3600"))
@_dest_options
@click.option("--delete", is_flag=True, help="Remove what was marked longer ago than the grace period; mark the rest.")
@click.option("--grace", type=click.FloatRange(0), default=86_400.0, show_default=True, metavar="SECONDS")
@click.option("--force", is_flag=True, help="Although a run has not ended: you know that none is at work.")
def gc(*, dest: str, endpoint_url: str | None, as_json: bool, delete: bool, grace: float, force: bool) -> int:
    """List what no receipt names: leftovers of dead runs. With --delete, remove it after a grace period."""
    from ingest.collecting import collect_garbage, find_garbage

    with _opened(dest, endpoint_url) as opened:
        if delete:
            collected = collect_garbage(opened, grace_s=grace, force=force)
            if as_json:
                click.echo(json.dumps(asdict(collected), indent=1))
            else:
                _say_collected(collected)
            return 1 if collected.lost else 0
        garbage = find_garbage(opened, grace_s=grace)
    if as_json:
        click.echo(json.dumps(asdict(garbage), indent=1))
        return 0
    for candidate in garbage.candidates:
        since = f"marked {candidate.marked}" if candidate.marked else "not marked yet"
        click.echo(f"{candidate.key}  {bytes_text(candidate.size)}  {candidate.why}  {since}")
    notice("Garbage", f"{count_text(len(garbage.candidates), 'object')}, {bytes_text(garbage.size)}")
    if garbage.candidates:
        note(f"{'':8} `gc {dest} --delete` marks them, and removes those marked {duration_text(grace)} ago")
    return 0


def _say_collected(collected: Collected) -> None:
    notice("Removed", f"{count_text(len(collected.removed), 'object')}, {bytes_text(collected.size)}")
    if collected.waiting:
        note(f"{'':8} {count_text(len(collected.waiting), 'object')} marked; they go after the grace period")
    for key in collected.changed:
        note(f"{'':8} {key} was changed by somebody else and left")
    if collected.lost:
        note(f"error: chunks {_spans(collected.lost)} were committed meanwhile; `repair` makes them again")
