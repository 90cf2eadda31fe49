"""``status``, ``verify``, ``repair``, ``gc``: what is done with a dataset between and after runs."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ingest.cli.progress import CountDisplay, note, notice
from ingest.cli.style import Command
from ingest.cli.words import bytes_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ingest.findings import Finding, VerifyReport
    from ingest.opened import OpenPlan

__all__ = ["report_verification", "run_verification", "verify"]

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
        if as_json:
            facts = {**asdict(report), "bad": report.bad, "complete": report.complete, "exit_code": report.exit_code}
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
    verdict = "equal" if not report.findings else f"{len(report.bad):,} chunks bad"
    notice(
        "Verify",
        f"{report.checked_chunks:,} of {report.n_chunks:,} chunks, {bytes_text(report.checked_bytes)}: "
        f"{', '.join(checked)}: {verdict}",
    )
    if report.missing:
        note(f"{'':8} {len(report.missing):,} chunks are missing: `python -m ingest run {opened.store.url}` makes them")
    elif report.missing_summaries and not report.findings:
        note(f"{'':8} summaries are missing: `python -m ingest run {opened.store.url}` writes them")
    if report.findings:
        note(f"{'':8} `python -m ingest repair {opened.store.url}` makes the bad ones again")
    return report.exit_code
