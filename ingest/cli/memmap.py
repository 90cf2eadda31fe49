"""``memmap``: a memory-mapped archive of datasets and h5ad files."""

from __future__ import annotations

import json
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from ingest.cli.pools import on_cluster, resource_amounts, resource_option
from ingest.cli.progress import CountDisplay, note, notice
from ingest.cli.style import Command
from ingest.cli.words import bytes_text, count_text, duration_text
from ingest.settings import WorkSettings

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ingest.load.memmap.convert.opening import ReadOptions
    from ingest.load.memmap.convert.plan import ConversionPlan
    from ingest.load.memmap.convert.run import Converted
    from ingest.pool import Failure

__all__ = ["ConvertDisplay", "memmap", "note_losses", "say_archive", "say_plan"]

_DTYPES = ("auto", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
_SAID = 5
"""Sources spelled out."""


@click.command(
    cls=Command,
    examples=(
        "python -m ingest memmap ./lung -o lung.scdl --data-dtype auto",
        "python -m ingest memmap plate1.h5ad plate2.h5ad ./more -o plates.scdl --use-X-not-raw --pool threads",
    ),
)
@click.argument("sources", metavar="DEST|H5AD...", nargs=-1, required=True)
@click.option("-o", "--output", required=True, metavar="PATH", help="The archive to make.")
@click.option(
    "--data-dtype",
    type=click.Choice(_DTYPES),
    default="float32",
    show_default=True,
    help="Of stored values. auto: the smallest unsigned type that holds the counts of DEST.",
)
@click.option("--use-X-not-raw", "use_x", is_flag=True, help="Take X of h5ad files; raw.X unless said.")
@click.option("--neighbors", "neighbor_key", metavar="KEY", help="Store obsp[KEY] of h5ad files, too.")
@click.option("--allow-lossy", is_flag=True, help="Store what --data-dtype makes of values that it does not hold.")
@click.option(
    "--data-dtype-tolerance",
    "tolerance",
    type=click.FloatRange(0),
    default=1e-8,
    show_default=True,
    metavar="X",
    help="How far a stored value may be from the source's and still count as held.",
)
@click.option("--allow-incomplete", is_flag=True, help="Take the chunks that are there.")
@click.option("-d", "--workers", type=int, metavar="N", help="Workers; all CPUs unless said.")
@click.option("--cpus", type=click.IntRange(1), metavar="N", help="CPUs of one worker; its share of this machine.")
@resource_option
@click.option(
    "--pool",
    type=click.Choice(["ray", "threads", "processes", "serial"]),
    default="ray",
    show_default=True,
    help="threads and processes are of this machine and start at once.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@click.option("--endpoint-url", metavar="URL", help="Of an S3 or GCS look-alike.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
def memmap(**options: Any) -> int:
    """Make one memory-mapped archive, as bionemo-scdl reads and writes them, of datasets and h5ad files.

    DEST is a dataset that `run` wrote, on a disk or in a bucket; H5AD a file, a pattern, or a folder whose files are
    taken at any depth. All cells stand in the archive in the order of the sources, stored entries as they are. Nothing
    is called PATH before all of it is on the disk; the same command again goes on where it was stopped.
    """
    from ingest.load.memmap.convert.run import check_path, find_finished
    from ingest.load.memmap.convert.survey import draft_plan

    check_path(options["output"])
    resources = resource_amounts(options["resource"], away=on_cluster(options["pool"]))
    read = _read_options(options)
    with CountDisplay("Sources", len(options["sources"]), "sources") as looking:
        plan = draft_plan(
            options["sources"],
            read,
            data_dtype=options["data_dtype"],
            tolerance=options["tolerance"],
            neighbor_key=options["neighbor_key"],
            looked_at=lambda done, _all: looking.reached(done),
        )
    say_plan(plan, options["output"])
    if options["dry_run"]:
        return _dry_run(plan, options)
    made = find_finished(options["output"], plan) or _convert(plan, read, options, resources)
    return _say_end(made, options)


def _read_options(options: dict[str, Any]) -> ReadOptions:
    from ingest.cpu import available_cpus
    from ingest.load.memmap.convert.opening import ReadOptions
    from ingest.load.memmap.convert.run import planned_workers

    workers = 1 if options["pool"] == "serial" else planned_workers(1 << 30, options["workers"])
    away = on_cluster(options["pool"])  # of whose nodes nothing is known here
    threads = options["cpus"] or (1 if away else max(1, available_cpus() // workers))
    return ReadOptions(options["use_x"], options["allow_incomplete"], options["endpoint_url"], threads)


def _convert(
    plan: ConversionPlan, read: ReadOptions, options: dict[str, Any], resources: dict[str, float]
) -> Converted:
    from ingest.cli.pools import pool_for
    from ingest.interrupt import Interrupt
    from ingest.load.memmap.convert.api import local_pool
    from ingest.load.memmap.convert.run import run_conversion

    settings = WorkSettings(workers=options["workers"], cpus=read.threads, resources=resources, pool="ray")
    kind = options["pool"]
    with (
        warnings.catch_warnings(record=True) as said,
        ConvertDisplay(plan, settings if kind == "ray" else None) as display,
        Interrupt() as interrupt,
    ):
        warnings.simplefilter("always", UserWarning)
        made = run_conversion(
            plan,
            options["output"],
            read,
            pool_for(settings) if kind == "ray" else local_pool(kind),
            display,
            workers=1 if kind == "serial" else options["workers"],
            allow_lossy=options["allow_lossy"],
            stop_requested=lambda: interrupt.requested,
        )
    for text in dict.fromkeys(str(warning.message) for warning in said if warning.category is UserWarning):
        note(f"note: {text}")
    return made


def say_plan(plan: ConversionPlan, path: str) -> None:
    """Say what is converted, into what."""
    facts = [source.facts for source in plan.sources]
    named = ", ".join(one.label for one in facts[:_SAID]) + (
        f" and {len(facts) - _SAID:,} more" if facts[_SAID:] else ""
    )
    spec, widths = plan.spec, sorted({one.n_columns for one in facts})
    genes = f"{widths[0]:,}" if len(widths) == 1 else f"{widths[0]:,} to {widths[-1]:,}"
    notice("Sources", f"{spec.n_rows:,} cells x {genes} genes, {spec.n_entries:,} entries, of {named}")
    types = f"values {spec.data}, columns {spec.columns}, row pointers {spec.rows}"
    notice("Plan", f"{count_text(len(plan.parts), 'part')}, {bytes_text(spec.n_bytes)}: {types}    {path}")


class ConvertDisplay:
    """A conversion as its observer, a context: one bar on a terminal, a line every ten seconds in a log."""

    def __init__(self, plan: ConversionPlan, ray: WorkSettings | None = None) -> None:
        self._n_rows, self._ray = plan.spec.n_rows, ray
        self._shown = ExitStack()
        self._bar: CountDisplay | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.close()

    def began(self, plan: ConversionPlan, n_done: int, n_workers: int) -> None:
        """Say how much is there, and what is started."""
        from ingest.cli.pools import announce_pool

        if n_done:
            notice("Resume", f"{n_done:,} of {count_text(len(plan.parts), 'part')} are there")
        if n_workers and self._ray is not None:
            announce_pool(self._ray, n_workers)
        if n_workers:
            self._bar = self._shown.enter_context(CountDisplay("Convert", self._n_rows, "cells"))

    def reached(self, n_rows: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.reached(n_rows)

    def troubled(self, failure: Failure, retried: int) -> None:
        """Say what is done again; what ends the work is said by its error."""
        if retried:
            what = f"{len(failure.chunks)} parts" if len(failure.chunks) > 1 else f"part {failure.chunks[0]}"
            note(f"{what} trying again: {failure.message}")

    def draining(self, n_units: int) -> None:
        """Say that it ends after the parts in hand."""
        if n_units:
            note("finishing the parts in hand (again to stop now)")

    def finishing(self) -> None:
        """Say what is written last."""
        self._shown.close()
        notice("Features", "of genes and cells, header")


def _dry_run(plan: ConversionPlan, options: dict[str, Any]) -> int:
    if options["as_json"]:
        click.echo(json.dumps(_facts(plan, options["output"]), indent=1))
    notice("Dry run", "no counts were read, nothing was written")
    return 0


def _facts(plan: ConversionPlan, path: str) -> dict[str, Any]:
    spec = plan.spec
    return {
        "path": path,
        "plan": plan.digest,
        "sources": [
            {
                "kind": one.facts.kind,
                "address": one.facts.address,
                "cells": one.facts.n_rows,
                "genes": one.facts.n_columns,
            }
            for one in plan.sources
        ],
        "cells": spec.n_rows,
        "genes": max(one.facts.n_columns for one in plan.sources),
        "entries": spec.n_entries,
        "bytes": spec.n_bytes,
        "dtypes": {name.value: dtype for name, (dtype, _) in spec.arrays.items()},
        "parts": len(plan.parts),
    }


def _say_end(made: Converted, options: dict[str, Any]) -> int:
    note_losses(made)
    if not options["as_json"]:
        return say_archive(made)
    facts = _facts(made.plan, str(made.path)) | {
        "finished": made.finished,
        "was_there": made.was_there,
        "parts_done": made.n_done,
        "cells_this_run": made.rows,
        "seconds": round(made.seconds, 3),
        "lossy": [_loss_facts(made, number) for number in sorted(made.lossy)],
        "next": _next_line(made),
    }
    _say_stopped(made)
    click.echo(json.dumps(facts, indent=1))
    return made.exit_code


def _loss_facts(made: Converted, number: int) -> dict[str, Any]:
    lossy = made.lossy[number]
    label = made.plan.sources[number].facts.label
    return {"source": label, "row": lossy.row, "value": lossy.value, "difference": lossy.difference}


def note_losses(made: Converted) -> None:
    """Warn of values that the archive's type does not hold, in the words of bionemo-scdl."""
    from ingest.load.memmap.convert.base import loss_text

    for number, lossy in sorted(made.lossy.items()):
        label = made.plan.sources[number].facts.label
        note(f"warning: {label}: {loss_text(lossy)} (row {lossy.row:,}, which holds {lossy.value})")


def say_archive(made: Converted) -> int:
    """Say what there is now; return the exit code."""
    if made.was_there:
        notice("Kept", "made before of the same sources and settings")
    _say_stopped(made)
    if made.finished:
        click.echo(_end_line(made))
        click.echo(f"  {made.path}")
        click.echo(f"  next: {_next_line(made)}")
    return made.exit_code


def _say_stopped(made: Converted) -> None:
    if not made.finished:
        note(f"stopped: {made.n_done:,} of {len(made.plan.parts):,} parts done; run the same command to go on")


def _end_line(made: Converted) -> str:
    facts, speed = _facts(made.plan, str(made.path)), ""
    if made.rows and made.seconds:
        speed = f"   {duration_text(made.seconds)}   cells/s {made.rows / made.seconds:,.0f}"
    return (
        f"  cells {facts['cells']:,}   genes {facts['genes']:,}   entries {facts['entries']:,}   "
        f"{bytes_text(facts['bytes'])}{speed}"
    )


def _next_line(made: Converted) -> str:
    from ingest.load.memmap.neighbors import has_neighbor_files

    key = made.plan.neighbor_key
    has = key is not None and has_neighbor_files(made.path)
    neighbors = f", load_neighbors=True, neighbor_key={key!r}" if has else ""
    call = f"SingleCellMemMapDataset({str(made.path)!r}{neighbors})"
    return f"from ingest.load.memmap import SingleCellMemMapDataset; cells = {call}"
