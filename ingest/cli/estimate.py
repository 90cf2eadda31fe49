"""``estimate``: what a run would take, by trying a few parts of its plan."""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingest.cli.progress import CountDisplay, note, notice
from ingest.cli.run import bring, data_settings, open_dest, run, work_settings
from ingest.cli.style import Command
from ingest.cli.words import bytes_text, count_text, duration_text
from ingest.cpu import available_cpus
from ingest.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ingest.estimate import Estimate, Range, Requests
    from ingest.expected import SharedLine
    from ingest.opened import OpenPlan
    from ingest.planning import Draft
    from ingest.pool import Failure
    from ingest.preparing import Work
    from ingest.settings import WorkSettings
    from ingest.store.base import Store
    from ingest.trial import Trial

__all__ = ["estimate"]

_CHANGE_NOTHING = frozenset(
    {
        "dry_run",
        "without_bad",
        "max_failed_pct",
        "dashboard",
        "single_driver",
        "deadline",
        "cells_json",
        "raw_dest",
        "resource",
    }
)
"""Options of `run` that are taken, for a config file may have them, and not shown: they change no number."""

_LEAST_SAID = 0.01
"""Of any currency."""

_FEW_S = 360.0
"""Work below this is said in seconds."""

_FINISH_CELL_S = 5e-7
"""Of the driver, at the end: ``python -m benchmarks.resume``, 7.2 CPU-seconds for 16.2 million cells."""


@click.command(
    cls=Command,
    examples=(
        "python -m ingest estimate s3://bucket/lung --index lung.feather -c 25000 -d 64 --price-per-core-hour 0.04",
        "python -m ingest estimate --index lung.feather --bandwidth 100 --json",
    ),
)
@click.argument("dest", metavar="[DEST]", required=False)
@click.option(
    "--parts", type=click.IntRange(1), default=4, show_default=True, metavar="N", help="Parts of units to try."
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Another seed, other parts.")
@click.option("--price-per-core-hour", type=click.FloatRange(0), metavar="P", help="In your currency; so are all.")
@click.option("--price-per-gb-month", type=click.FloatRange(0), metavar="P", help="Of storage.")
@click.option("--price-per-1000-put", type=click.FloatRange(0), metavar="P", help="PUT, POST, LIST.")
@click.option("--price-per-1000-get", type=click.FloatRange(0), metavar="P", help="GET, HEAD.")
@click.option("--price-per-gb-read", type=click.FloatRange(0), metavar="P", help="Where the source's region is left.")
@click.pass_context
def estimate(ctx: click.Context, /, **options: Any) -> int:
    """Say what `run` with the same options would read, write and ask for, how long it would take and what it costs.

    It goes the way of `run --dry-run`, then really makes a few parts, here, in a scratch folder that goes again. DEST
    is not written to and need not exist; what it holds already is left out.
    """
    data, work = data_settings(options), work_settings(options, only_reckons=True)
    if options["dest"] is None and options["index_path"] is None:
        raise ConfigError("nothing to estimate", kind="no-index", hint="name a DEST that was begun, or give --index")
    with tempfile.TemporaryDirectory(prefix="estimate-") as folder:
        store = _dest(options["dest"], Path(folder), work)
        try:
            return bring(ctx, store, data, work, {**options, "look": _look})
        finally:
            store.close()


def _from_run() -> list[click.Parameter]:
    """Return the options of `run`: the same words, the same checks, the same defaults."""
    found: list[click.Parameter] = []
    for parameter in run.params:
        if isinstance(parameter, click.Option) and parameter.name not in {"config", "log_format"}:
            found.append(option := copy.copy(parameter))
            option.hidden = parameter.name in _CHANGE_NOTHING
    return found


estimate.params += [*_from_run(), *(parameter for parameter in run.params if parameter.name == "config")]


def _dest(url: str | None, folder: Path, work: WorkSettings) -> Store:
    """Open DEST, or something empty in its place: a bucket may be made later."""
    from ingest.store.local import LocalStore

    nowhere = LocalStore(folder / "nowhere")
    if url is None:
        return nowhere
    try:
        return open_dest(url, work)
    except ConfigError as error:
        if error.kind != "no-bucket":
            raise
        note(f"{url}: there is no such bucket yet")
        return nowhere


def _look(plan_of: Draft | OpenPlan, work: Work, settings: WorkSettings, options: dict[str, Any]) -> int:
    from ingest.cli.execute import describe_work, plan_facts
    from ingest.estimate import cost_of
    from ingest.expected import shared_line

    facts = plan_facts(plan_of, work, settings, dest=options["dest"])
    if not work.missing:
        notice("Estimate", "nothing is missing")
        trials: list[Trial] = []
    else:
        describe_work(facts)
        trials = _tried(plan_of, work, settings, options)
    if not trials:
        if options["as_json"]:
            nothing: dict[str, Any] = {"estimate": None, "if_workers_come": None, "trials": [], "cost": {}}
            click.echo(json.dumps(facts | nothing, indent=1))
        return 0
    line = shared_line(settings.bytes_per_s, plan_of.surveys, options["dest"])
    found = _estimated(plan_of, work, settings, trials, line)
    assumed = work.workers if facts["workers_follow_cluster"] else None
    costs = cost_of(found, _cores(work, settings), _prices(options))
    if options["as_json"]:
        costs_facts = {name: asdict(cost) for name, cost in costs.items()}
        tried = [asdict(trial) for trial in trials]
        shown = {"estimate": asdict(found), "if_workers_come": assumed, "trials": tried, "cost": costs_facts}
        click.echo(json.dumps(facts | shown, indent=1))
        return 0
    _show(facts, found, trials, work)
    _show_costs(costs)
    if assumed is not None:
        note(f"{'':8} how many workers a cluster has room for is not known here: say with -d how many to reckon with")
    note(f"{'':8} tried from here, written to a local disk: workers elsewhere may be nearer to the source, or farther")
    return 0


def _tried(plan_of: Draft | OpenPlan, work: Work, settings: WorkSettings, options: dict[str, Any]) -> list[Trial]:
    from ingest.trial import draw_parts, try_parts

    size = plan_of.plan.identity.cells_per_chunk
    parts = draw_parts(work.profile, work.units, size, options["parts"], options["seed"])

    n_cells = sum(stop - start for start, stop in (plan_of.plan.rows(chunk) for part in parts for chunk in part))
    notice("Try", f"{count_text(len(parts), 'part')} of {count_text(len(work.units), 'unit')}, {n_cells:,} cells")

    def failed(failure: Failure) -> None:
        note(f"{'':8} a part cannot be made, and is left out: {failure.message}")

    with CountDisplay("Try", n_cells, "cells") as display:
        return try_parts(plan_of, work, settings, parts, on_cells=display.reached, on_failure=failed)


def _estimated(
    plan_of: Draft | OpenPlan, work: Work, settings: WorkSettings, trials: Sequence[Trial], line: SharedLine | None
) -> Estimate:
    from ingest.estimate import OPEN_CENSUS, Requests, dest_requests, estimate
    from ingest.expected import START_SECONDS, expect
    from ingest.plan_index import batch_rows
    from ingest.units import stored_bytes

    plan, profile = plan_of.plan, work.profile

    def expected_of(groups: Sequence[Sequence[int]]) -> list[Any]:
        sizes = stored_bytes(profile, groups)
        return [expect(plan, profile, chunks, size) for chunks, size in zip(groups, sizes, strict=True)]

    units = expected_of([unit.chunks for unit in work.units])
    rows = batch_rows(plan.identity.cells_per_chunk)
    spans = [(plan.rows(unit.chunks[0])[0], plan.rows(unit.chunks[-1])[1]) for unit in work.units]
    far = sum(survey.layout == "soma" and survey.source.path is None for survey in plan_of.surveys)
    index_bytes = _index_bytes(plan_of)
    return estimate(
        expect(plan, profile, work.missing, work.read_bytes),
        expected_of([trial.chunks for trial in trials]),
        trials,
        unit_seconds=[unit.seconds for unit in units],
        workers=work.workers,
        start_s=START_SECONDS[settings.pool],
        finish_s=_FINISH_CELL_S * plan.n_cells,
        index_bytes=index_bytes,
        line=line,
        opening=Requests(get=OPEN_CENSUS["GET"] * work.workers * far, list=OPEN_CENSUS["LIST"] * work.workers * far),
        dest=dest_requests(
            n_chunks=len(work.missing),
            n_done=plan.n_chunks - len(work.missing),
            n_units=len(work.units),
            n_batches=sum((stop - 1) // rows - start // rows + 1 for start, stop in spans),
            workers=work.workers,
            index_bytes=index_bytes,
        ),
    )


def _index_bytes(plan_of: Draft | OpenPlan) -> int:
    from ingest.opened import OpenPlan

    if isinstance(plan_of, OpenPlan):
        return plan_of.store.stat(plan_of.plan.files["index"]).size
    return Path(plan_of.files["index"]).stat().st_size  # type: ignore[arg-type]  # on scratch, never bytes


def _cores(work: Work, settings: WorkSettings) -> int:
    return settings.cpus or max(1, available_cpus() // work.workers)


def _prices(options: dict[str, Any]) -> Any:
    from ingest.estimate import Prices

    return Prices(
        core_hour=options["price_per_core_hour"],
        gb_month=options["price_per_gb_month"],
        per_1000_put=options["price_per_1000_put"],
        per_1000_get=options["price_per_1000_get"],
        gb_read=options["price_per_gb_read"],
    )


# -- the screen ----------------------------------------------------------------------------------------------------


def _show(facts: Mapping[str, Any], found: Estimate, trials: Sequence[Trial], work: Work) -> None:
    cells = facts["missing_cells"]
    slowest, fastest = (f"{end(trial.n_cells / trial.seconds for trial in trials):,.0f}" for end in (min, max))
    chunks, sources = count_text(facts["missing_chunks"], "chunk"), count_text(facts["sources"], "source")
    parts, tried = count_text(len(trials), "part"), sum(trial.n_cells for trial in trials)
    hours, cpu = found.worker_seconds, found.cpu_seconds
    _line("cells", f"{cells:,} in {chunks} of {facts['cells_per_chunk']:,}; {tried:,} of them tried, in {parts}")
    _line("read", f"{_bytes(found.read_bytes)}, {bytes_text(found.read_bytes.middle / cells)} a cell, from {sources}")
    _line("write", f"{_bytes(found.write_bytes)}, {bytes_text(found.write_bytes.middle / cells)} a cell")
    _line("storage", f"{_bytes(found.storage_bytes)} with all that stands beside the chunks")
    _line(
        "requests", f"sources {_requests(found.source_requests)}; DEST, if a bucket, {_requests(found.dest_requests)}"
    )
    _line(
        "work",
        f"{_work(hours, 'worker')}, {_work(cpu, 'CPU')}: "
        f"{slowest if slowest == fastest else f'{slowest} to {fastest}'} cells/s a worker",
    )
    workers = count_text(work.workers, "worker")
    with_them = f"if {workers} come" if facts["workers_follow_cluster"] else f"with {workers}"
    _line("time", f"{_times(found.wall_seconds)} {with_them}, start and end included")
    memory = work.memory.projected
    _line("memory", f"{bytes_text(memory)} a worker, {bytes_text(memory * work.workers)} all of them, by projection")


def _line(word: str, text: str) -> None:
    click.echo(f"  {word:<10}{text}")


def _bytes(size: Range) -> str:
    return f"{bytes_text(size.middle)}{_between(bytes_text(size.low), bytes_text(size.high), bytes_text(size.middle))}"


def _work(seconds: Range, who: str) -> str:
    hour, word = (3600, "hours") if seconds.middle >= _FEW_S else (1, "seconds")
    low, middle, high = (f"{value / hour:,.3g}" for value in (seconds.low, seconds.middle, seconds.high))
    return f"{middle}{_between(low, high, middle)} {who}-{word}"


def _times(seconds: Range) -> str:
    low, middle, high = (duration_text(value) for value in (seconds.low, seconds.middle, seconds.high))
    return f"{middle}{_between(low, high, middle)}"


def _between(low: str, high: str, middle: str) -> str:
    return "" if low == high == middle else f" ({low} to {high})"


def _requests(requests: Requests) -> str:
    said = [f"{number:,} {name.upper()}" for name, number in asdict(requests).items() if number]
    return ", ".join(said) or "none"


def _show_costs(costs: Mapping[str, Range]) -> None:
    if not costs:
        _line("cost", "say --price-per-core-hour and the like: no list prices are built in, they would go stale")
        return
    _line("cost", ", ".join(f"{name} {_money(cost)}" for name, cost in costs.items()))


def _money(cost: Range) -> str:
    low, middle, high = (
        f"{value:,.2f}" if value >= _LEAST_SAID else f"under {_LEAST_SAID}"
        for value in (cost.low, cost.middle, cost.high)
    )
    return f"{middle}{_between(low, high, middle)}"
