"""``run``: bring the cells."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingest.bandwidth import Line
from ingest.cli.pools import on_cluster, resource_amounts, resource_option
from ingest.cli.progress import notice
from ingest.cli.style import CONFIG_RULES, ByteSize, Command, MegabytesPerSecond, config_option
from ingest.cli.words import count_text, short_source
from ingest.cpu import available_cpus
from ingest.encode.open import FORMATS
from ingest.errors import ConfigError
from ingest.gene_ids import gene_ids
from ingest.memory import MIB
from ingest.settings import DEFAULT_MEMORY_BYTES, DataSettings, WorkSettings
from ingest.vocabulary import GeneRule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.opened import OpenPlan
    from ingest.planning import Draft
    from ingest.preparing import Work
    from ingest.qc.parameters import QcRules
    from ingest.source import Source
    from ingest.store.base import Store

__all__ = ["bring", "data_settings", "open_dest", "run", "work_settings"]

_SHAPING = {
    "cells_per_chunk": "cells_per_chunk",
    "format": "format",
    "dtype": "dtype",
    "codec": "codec",
    "level": "level",
}
"""Options that a committed plan has settled -> their name in its identity."""

_ONLY_WITH_INDEX = (
    "max_cells",
    "gene_filter",
    "genes",
    "max_genes",
    "layer",
    "strip_version",
    "allow_noninteger",
    "normalize",
    "target_sum",
    "qc",
)


@click.command(
    cls=Command,
    examples=(
        "python -m ingest run ./lung --index lung.feather -c 5000 -d 4",
        "python -m ingest run s3://bucket/lung --index lung.feather --qc min_genes=200 --qc max_mito_pct=10 -d 16",
    ),
)
@click.argument("dest", metavar="DEST")
@click.option("--index", "index_path", metavar="FILE|URL", help="The cells; needed once.")
@click.option("-n", "--max-cells", type=int, metavar="N", help="Take the first N cells of the index.")
@click.option(
    "-c",
    "--cells-per-chunk",
    type=int,
    show_default=", ".join(f"{usual.cells_per_chunk} for {name}" for name, usual in FORMATS.items()),
    metavar="N",
)
@click.option(
    "-d",
    "--workers",
    type=int,
    metavar="N",
    help="Workers; all CPUs, or as many as memory holds. On a cluster the most; as many as it has room for.",
)
@click.option(
    "--cpus",
    type=click.IntRange(1),
    metavar="N",
    help="CPUs of one worker; its share of this machine, one on a cluster.",
)
@resource_option
@click.option("--gene-filter", metavar="ID,ID|@FILE|@URL", help="Exactly these genes, in this order.")
@click.option(
    "--genes",
    type=click.Choice(["union", "intersection"]),
    default="union",
    show_default=True,
    help="Across sources with different genes.",
)
@click.option("--max-genes", type=int, metavar="N", help="The first N genes.")
@click.option("--strip-version", is_flag=True, help="ENSG….18 is ENSG….")
@click.option("--layer", metavar="NAME", help="Matrix of h5ad files: X, raw/X or a layer; detected unless said.")
@click.option("--allow-noninteger", is_flag=True, help="Take fractional values as they are.")
@click.option("--census-version", metavar="DATE", help="Where an index without a source column lies.")
@click.option("--uri", metavar="URI", help="The same, for another copy of a Census.")
@click.option("--organism", default="homo_sapiens", show_default=True, help="The same.")
@click.option(
    "--qc",
    multiple=True,
    metavar="RULE=VALUE",
    help="Drop cells and genes: min_genes=200, max_mito_pct=10, mad=5, … as `qc` has them; repeatable. What the "
    "index cannot answer takes two steps.",
)
@click.option("--raw-dest", metavar="DIR|URL", help="Where the first of two steps goes; DEST-raw unless said.")
@click.option(
    "--format",
    type=click.Choice(list(FORMATS)),
    default="h5ad",
    show_default=True,
    help="Sparse, for anndata; or one dense matrix a file, for h5py.",
)
@click.option(
    "--dtype",
    type=click.Choice(sorted({dtype for usual in FORMATS.values() for dtype in usual.dtypes})),
    show_default=", ".join(f"{usual.dtypes[0]} for {name}" for name, usual in FORMATS.items()),
    help="Of the values. Where a count fits neither int16 nor uint16, its chunk is int32.",
)
@click.option("--codec", type=click.Choice(["deflate", "zstd", "lz4", "none"]), default="deflate", show_default=True)
@click.option(
    "--level",
    type=click.IntRange(0, 9),
    default=1,
    show_default=True,
    help="Of compression; 0 is fastest. 4 to 6 are one for deflate.",
)
@click.option(
    "--shuffle",
    type=click.Choice(["none", "window"]),
    default="none",
    show_default=True,
    help="Mix cells of all sources in the chunks; each part of a source is still read once.",
)
@click.option(
    "--shuffle-window",
    type=int,
    show_default="whole chunks of 32,768 cells or more",
    metavar="CELLS",
    help="Cells that are mixed with each other, a multiple of -c: the more, the better mixed and the more memory.",
)
@click.option(
    "--shuffle-seed", type=int, default=0, show_default=True, metavar="N", help="Another seed, another order."
)
@click.option(
    "--memory",
    type=ByteSize(),
    default=DEFAULT_MEMORY_BYTES,
    show_default="1.5G",
    metavar="SIZE",
    help="Most that one worker may hold.",
)
@click.option(
    "--scratch", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="For large CSC files and plans."
)
@click.option("--endpoint-url", metavar="URL", help="Of an S3 or GCS look-alike.")
@click.option(
    "--bandwidth",
    type=MegabytesPerSecond(),
    metavar="MB/s",
    help="Most that all workers together may read from and write to networks, the two added up, in equal shares; "
    "needs -d on a cluster.",
)
@click.option("--max-failed-pct", type=click.FloatRange(0, 100), metavar="P", help="Stop early beyond this share.")
@click.option(
    "--without-bad",
    is_flag=True,
    help="Leave out the cells of sources proven bad, for good, and finish without them.",
)
@click.option("--pool", type=click.Choice(["ray", "serial"]), default="ray", show_default=True)
@click.option("--dashboard", is_flag=True, help="Start Ray's dashboard with a local Ray.")
@click.option("--single-driver", is_flag=True, help="Accept a store that ignores preconditions.")
@click.option("--deadline", type=float, metavar="SECONDS", help="Most that one unit may take.")
@click.option("--normalize", is_flag=True, help="Store log1p of counts brought to one total a cell, not counts.")
@click.option(
    "--target-sum", type=float, metavar="N", help="With --normalize: that total, over the genes kept; 1e4 unless said."
)
@click.option("--cells-json", is_flag=True, help="Write metadata/cells.json, too: an object a cell.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@config_option
@click.pass_context
def run(ctx: click.Context, /, **options: Any) -> int:
    """Bring the cells of an index to DEST, a folder, s3:// or gs:// prefix, as compressed h5ad or dense h5 chunks.

    The same command again goes on where it stopped; `run DEST` alone does too.
    """
    data, work = data_settings(options), work_settings(options)
    store = open_dest(options["dest"], work)
    try:
        return bring(ctx, store, data, work, {**options, "look": _dry_run if options["dry_run"] else None})
    finally:
        store.close()


def _index_file(stack: ExitStack, name: str, work: WorkSettings) -> Path:
    """Return the index on this machine; one that is elsewhere lies in the scratch folder until the run ends."""
    from ingest.named_files import fetched, is_remote, local_path
    from ingest.scratch import Scratch

    if not is_remote(name):
        return local_path(name)
    scratch = Scratch(work.scratch)
    stack.callback(scratch.close)
    return fetched(name, scratch, endpoint_url=work.endpoint_url)


def bring(ctx: click.Context, store: Store, data: DataSettings, work: WorkSettings, options: dict[str, Any]) -> int:
    """Go the way of `run` to `store`; where ``options["look"]`` is something, to the plan, and call it with that."""
    if options["index_path"] is None:
        return _resume(ctx, store, work, options)
    with ExitStack() as stack:
        index = _index_file(stack, options["index_path"], work)
        rules = _rules(ctx, options)
        if rules is not None:
            return _run_judged(store, index, data, work, rules, options)
        return _from_index(store, index, data, work, options, limit=data.max_cells)


def _rules(ctx: click.Context, options: dict[str, Any]) -> QcRules | None:
    """Return the quality rules of the config file and of the command line, which beats it rule by rule."""
    from ingest.qc.parameters import QcRules

    where, rules = ctx.meta.get(CONFIG_RULES, ("", {}))
    found = QcRules.of(rules, where=where)
    said: dict[str, list[str]] = {}
    for text in options["qc"]:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--qc {text}: write RULE=VALUE, such as min_genes=200", kind="bad-qc")
        said.setdefault(name.strip(), []).append(value.strip())
    if said:
        found = found.updated({name: values if len(values) > 1 else values[0] for name, values in said.items()})
    return found if found.document() else None


def _run_judged(
    store: Store, index: Path, data: DataSettings, work: WorkSettings, rules: QcRules, options: dict[str, Any]
) -> int:
    from ingest.cli.judged import run_judged

    def bring_index(
        store: Store,
        index: Path,
        data: DataSettings,
        work: WorkSettings,
        *,
        limit: int | None,
        quality: Mapping[str, Any] | None,
        between: bool,
    ) -> int:
        return _from_index(store, index, data, work, options, limit=limit, quality=quality, between=between)

    return run_judged(
        store,
        index,
        rules,
        data,
        work,
        bring_index,
        default_source=_default_source(options),
        raw_dest=options["raw_dest"],
        dry_run=options["look"] is not None,
    )


def data_settings(options: dict[str, Any]) -> DataSettings:
    """Return what shapes the data; raises ``ConfigError`` for what cannot be."""
    wanted = None
    if options["gene_filter"] is not None:
        wanted = gene_ids(options["gene_filter"], option="--gene-filter", endpoint_url=options["endpoint_url"])
    usual, size = FORMATS[options["format"]], options["cells_per_chunk"]
    data = DataSettings(
        max_cells=options["max_cells"],
        cells_per_chunk=usual.cells_per_chunk if size is None else size,
        genes=GeneRule(wanted, options["genes"], options["max_genes"]),
        strip_version=options["strip_version"],
        layer=options["layer"],
        allow_noninteger=options["allow_noninteger"],
        format=options["format"],
        dtype=options["dtype"] or usual.dtype(allow_noninteger=options["allow_noninteger"] or options["normalize"]),
        codec=options["codec"],
        level=0 if options["codec"] == "none" else options["level"],
        normalize=_target_sum(options),
        shuffle=options["shuffle"],
        shuffle_window=options["shuffle_window"],
        shuffle_seed=options["shuffle_seed"],
    )
    if options["index_path"] is not None:
        data.order  # noqa: B018  # what it cannot be is said before anything is read
    return data


def _target_sum(options: dict[str, Any]) -> float | None:
    if options["normalize"]:
        return 1e4 if options["target_sum"] is None else options["target_sum"]
    if options["target_sum"] is not None:
        raise ConfigError("--target-sum means nothing without --normalize", kind="bad-target-sum")
    return None


def work_settings(options: dict[str, Any], *, only_reckons: bool = False) -> WorkSettings:
    """Return how the work is done; raises ``ConfigError`` for what cannot be.

    Parameters
    ----------
    only_reckons
        No worker is started: what a cluster must have, or this machine, is not asked for.
    """
    if options["workers"] is not None and options["workers"] < 1:
        raise ConfigError(f"-d {options['workers']}: at least one worker is needed", kind="bad-workers")
    # Of the nodes of a cluster nothing is known here.
    if options["memory"] < MIB:
        raise ConfigError(f"--memory {options['memory']}: that is bytes", kind="bad-memory", hint="write 1.5G or 800M")
    away = on_cluster(options["pool"])
    resources = resource_amounts(options["resource"], away=away or only_reckons)
    if options["cpus"] is not None and not (away or only_reckons) and options["cpus"] > available_cpus():
        raise ConfigError(f"--cpus {options['cpus']}: there are {available_cpus()} here", kind="bad-cpus")
    if options["bandwidth"] is not None and away and options["workers"] is None:
        raise ConfigError(
            f"--bandwidth {options['bandwidth']:g} on a cluster: of how many workers each gets its share is not known",
            kind="bad-bandwidth",
            hint="say with -d how many workers there are at most",
        )
    return WorkSettings(
        workers=options["workers"],
        cpus=options["cpus"] or (1 if away else None),
        resources=resources,
        on_cluster=away,
        memory_bytes=options["memory"],
        scratch=options["scratch"],
        endpoint_url=options["endpoint_url"],
        pool=options["pool"],
        dashboard=options["dashboard"],
        max_failed_pct=options["max_failed_pct"],
        single_driver=options["single_driver"],
        cells_json=options["cells_json"],
        deadline_s=options["deadline"],
        bytes_per_s=None if options["bandwidth"] is None else options["bandwidth"] * 1e6,
    )


def open_dest(dest: str, work: WorkSettings) -> Store:
    """Open DEST."""
    from ingest.store.open import open_store

    # What the driver itself reads and writes comes before and after the workers'.
    return open_store(dest, endpoint_url=work.endpoint_url, line=Line(work.bytes_per_s))


def _default_source(options: dict[str, Any]) -> Source | None:
    """Return the source of an index that has none of its own."""
    from ingest.source import Source, address_of

    if options["uri"] is not None:
        return Source("soma", address_of(options["uri"]), "", options["organism"])
    if options["census_version"] is None:
        return None
    from index.catalog.release import find_release

    date = find_release(options["census_version"]).date
    return Source("census", date, date, options["organism"])


def _from_index(
    store: Store,
    path: Path,
    data: DataSettings,
    work: WorkSettings,
    options: dict[str, Any],
    *,
    limit: int | None,
    quality: Mapping[str, Any] | None = None,
    between: bool = False,
) -> int:
    from ingest.cells import read_cells
    from ingest.cli.execute import describe_sources
    from ingest.committing import check_destination, commit_plan
    from ingest.preparing import divide_work, draft_dataset
    from ingest.survey.run import default_cache

    cells = read_cells(path, limit=limit, default_source=_default_source(options), scratch=work.scratch)
    sources = count_text(len(cells.sources), "source") if len(cells.sources) > 1 else short_source(cells.sources[0])
    notice("Index", f"{count_text(len(cells), 'cell')} of {sources}    {options['index_path']}")
    draft = draft_dataset(cells, data, work, cache=default_cache(), quality=quality)
    cells.close()
    describe_sources(draft.surveys, draft.genes)
    # The work is divided before anything is written: a chunk that cannot fit must not leave a plan behind.
    done = check_destination(store, draft)
    divided = divide_work(draft.profile, draft, done, work)
    if options["look"] is not None:
        return int(options["look"](draft, divided, work, options))
    opened = commit_plan(store, draft, single_driver=work.single_driver)
    draft.close()
    divided = divide_work(draft.profile, opened, opened.ledger.done(), work)
    return _go(opened, divided, work, options, between=between)


def _resume(ctx: click.Context, store: Store, work: WorkSettings, options: dict[str, Any]) -> int:
    from ingest.committing import refuse_careless
    from ingest.opened import open_plan
    from ingest.preparing import divide_work, profile_of_plan

    opened = open_plan(store)
    _refuse_other_settings(ctx, opened, options)
    divided = divide_work(profile_of_plan(opened, work), opened, opened.ledger.done(), work)
    if options["look"] is not None:
        return int(options["look"](opened, divided, work, options))
    if divided.units:
        refuse_careless(store, single_driver=work.single_driver)
    return _go(opened, divided, work, options)


def _refuse_other_settings(ctx: click.Context, opened: OpenPlan, options: dict[str, Any]) -> None:
    """Hold what was said on the command line against the plan of DEST, which is never changed."""
    said = {name for name in options if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE}
    for name in _ONLY_WITH_INDEX:
        if name in said:
            raise ConfigError(
                f"--{name.replace('_', '-')} shapes a new dataset, and {opened.store.url} holds one",
                kind="settled-by-plan",
                hint="give --index with it to compare, or leave it out to go on",
            )
    settled = {option: (name, getattr(opened.plan.identity, name)) for option, name in _SHAPING.items()}
    for option, (name, there) in {**settled, **_settled_order(opened)}.items():
        if option in said and options[option] != there:
            raise ConfigError(
                f"{opened.store.url} holds a plan with {name} {there}, not {options[option]}",
                kind="settled-by-plan",
                hint="leave the option out to go on, or use another destination",
            )


def _settled_order(opened: OpenPlan) -> dict[str, tuple[str, object]]:
    """Return option -> its name and what the plan's order has for it."""
    windows = opened.plan.windows
    if windows is None:
        return {"shuffle": ("order", "none"), "shuffle_window": ("shuffle window", "none")}
    return {
        "shuffle": ("order", "window"),
        "shuffle_window": ("shuffle window", windows.cells),
        "shuffle_seed": ("shuffle seed", windows.seed),
    }


def _dry_run(plan_of: Draft | OpenPlan, work: Work, settings: WorkSettings, options: dict[str, Any]) -> int:
    from ingest.cli.execute import describe_work, plan_facts
    from ingest.cli.words import bytes_text

    facts = plan_facts(plan_of, work, settings, dest=options["dest"])
    if options["as_json"]:
        click.echo(json.dumps(facts, indent=1))
        return 0
    describe_work(facts)
    notice("Memory", f"{bytes_text(facts['memory_per_worker_bytes'])} a worker, by projection")
    notice("Dry run", "nothing was read beyond the survey, nothing was written")
    return 0


def _go(opened: OpenPlan, work: Work, settings: WorkSettings, options: dict[str, Any], *, between: bool = False) -> int:
    from ingest.cli.execute import describe_work, execute, mixing_text, plan_facts, say_end, speed_line

    if work.missing:
        describe_work(plan_facts(opened, work, settings, dest=options["dest"]))
    else:
        notice("Resume", f"all {count_text(opened.plan.n_chunks, 'chunk')} are there")
    opened, report = execute(opened, work, settings, without_bad=options["without_bad"])
    facts = say_end(opened, report)
    if between:
        return report.exit_code
    if options["as_json"]:
        click.echo(json.dumps(facts, indent=1))
    elif report.finished is not None:
        click.echo(speed_line(facts))
        if "mixing" in facts:
            click.echo(f"  mixed: {mixing_text(facts['mixing'])}")
        click.echo(f"  {opened.store.url}" + ("" if report.finished.complete else "   incomplete"))
    return report.exit_code
