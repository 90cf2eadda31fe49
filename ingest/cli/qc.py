"""``qc``: which cells and genes of a dataset stay, and what a second run takes."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from ingest.cli.pools import on_cluster, resource_amounts, resource_option
from ingest.cli.progress import note, notice
from ingest.cli.style import Command
from ingest.cli.words import bytes_text, count_text
from ingest.settings import WorkSettings

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.hvg.find import HvgData
    from ingest.qc.find import QcFound, QcRequest
    from ingest.qc.output import Kept
    from ingest.qc.parameters import QcRules
    from ingest.store.base import Store

__all__ = ["judge_dataset", "qc", "say_drops"]

_RULES = (
    "min_genes",
    "max_genes",
    "min_counts",
    "max_counts",
    "max_mito_pct",
    "mad",
    "mad_mito",
    "mito_genes",
    "subset_to_control_cells",
    "control_column",
    "control_values",
    "leave_out_column",
    "leave_out",
    "min_cells",
    "min_cells_pct",
)


@click.command(
    cls=Command,
    examples=(
        "python -m ingest qc ./lung --min-genes 200 --max-mito-pct 10 --min-cells 3",
        "python -m ingest qc s3://bucket/lung --mad 5 --mad-mito 3 --leave-out @doublets.txt --output-dir ./lung-qc",
    ),
)
@click.argument("dest", metavar="DEST")
@click.option("--min-genes", type=int, metavar="N", help="Genes seen in a cell, at least.")
@click.option("--max-genes", type=int, metavar="N", help="At most.")
@click.option("--min-counts", type=float, metavar="N", help="Total counts of a cell, at least.")
@click.option("--max-counts", type=float, metavar="N", help="At most.")
@click.option(
    "--max-mito-pct", type=float, metavar="P", help="Mitochondrial share of the counts, in per cent, at most."
)
@click.option(
    "--mad",
    type=float,
    metavar="N",
    help="Median absolute deviations from the median, at most, of log1p counts, log1p genes and mitochondrial share.",
)
@click.option("--mad-mito", type=float, metavar="N", help="The same for the mitochondrial share alone.")
@click.option("--mito-genes", metavar="ID,ID|@FILE", help="Ids or symbols; those beginning MT- or mt- unless said.")
@click.option("--subset-to-control-cells", is_flag=True, help="Keep control cells alone; columns as --control-column.")
@click.option(
    "--control-column",
    metavar="COLUMN",
    help="Where obs says it; found by its usual names (perturbation, gene_target, …) unless said.",
)
@click.option("--control-values", metavar="A,B", help="What it says; the usual words (control, non-targeting, …).")
@click.option(
    "--leave-out-column",
    multiple=True,
    metavar="COLUMN[=VALUE]",
    help="Leave out the cells marked so in obs; repeatable.",
)
@click.option("--leave-out", metavar="@FILE", help="Leave out these cells, named as obs_names of the chunks are.")
@click.option("--min-cells", type=int, metavar="N", help="Keep genes that are seen in so many of the cells that stay.")
@click.option("--min-cells-pct", type=float, metavar="P", help="The same in per cent of them.")
@click.option("--output-dir", metavar="DIR|URL", help="Where the results go; DEST unless said.")
@click.option("--force", is_flag=True, help="Replace results that are there.")
@click.option("--allow-incomplete", is_flag=True, help="Take the chunks that are there.")
@click.option("-d", "--workers", type=int, metavar="N", help="Workers; all CPUs unless said.")
@resource_option
@click.option("--scratch", type=click.Path(file_okay=False), metavar="DIR", help="For 24 bytes a cell.")
@click.option("--pool", type=click.Choice(["ray", "serial"]), default="ray", show_default=True)
@click.option("--endpoint-url", metavar="URL", help="Of an S3 or GCS look-alike.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
def qc(**options: Any) -> int:
    """Judge the cells and genes of DEST; write qc.json, qc.png and what a second run takes.

    DEST itself stays as it is: qc_index.feather holds the cells that stay, for `run --index`; qc_genes.txt the genes,
    for `run --gene-filter @`; qc_cells.feather and qc_genes.feather every metric, by scanpy's names. Without a rule
    all stay and are measured. Chunks are read once; twice where both cells and genes go. The same data and rules again
    answer at once from what is there.
    """
    from ingest.hvg.find import read_data
    from ingest.opened import open_plan
    from ingest.qc.parameters import QcRules
    from ingest.store.open import open_store

    rules = QcRules.of(
        {name: options[name] or None if name == "subset_to_control_cells" else options[name] for name in _RULES}
    )
    with ExitStack() as stack:
        store = open_store(options["dest"], endpoint_url=options["endpoint_url"])
        stack.callback(store.close)
        output = store
        if options["output_dir"] is not None:
            output = open_store(options["output_dir"], endpoint_url=options["endpoint_url"])
            stack.callback(output.close)
        data = read_data(open_plan(store), allow_incomplete=options["allow_incomplete"])
        document, cached = judge_dataset(data, rules, output, _settings(options), force=options["force"])
    _say(output, document, as_json=options["as_json"], cached=cached)
    return 0


def _settings(options: dict[str, Any]) -> WorkSettings:
    from pathlib import Path

    away = on_cluster(options["pool"])
    return WorkSettings(
        workers=options["workers"],
        cpus=1,
        resources=resource_amounts(options["resource"], away=away),
        scratch=None if options["scratch"] is None else Path(options["scratch"]),
        endpoint_url=options["endpoint_url"],
        pool=options["pool"],
        on_cluster=away,
    )


def judge_dataset(
    data: HvgData, rules: QcRules, output: Store, settings: WorkSettings, *, force: bool = False
) -> tuple[dict[str, Any], bool]:
    """Return qc.json and whether it was there already; where not, measure, judge and write all that belongs to it.

    Raises
    ------
    IngestError
        As `ingest.qc.find`, `ingest.qc.output`.
    """
    from ingest.qc.document import qc_identity
    from ingest.qc.find import check_request
    from ingest.qc.output import look_for_record
    from ingest.scratch import Scratch

    identity = qc_identity(data, rules)
    kept = look_for_record(output, identity, force=force)
    if kept.document is not None:
        notice("Kept", f"found before for the same data and rules: {output.url}/qc.json")
        return kept.document, True
    request = check_request(data, rules)
    scratch = Scratch(settings.scratch)
    try:
        with scratch.guarded():
            found = _find(request, scratch.path, settings)
            return _write(request, found, identity, output, kept, scratch.path), False
    finally:
        scratch.close()


def _find(request: QcRequest, scratch: Path, settings: WorkSettings) -> QcFound:
    from ingest.cli.passes import open_passes
    from ingest.folding import planned_workers
    from ingest.qc.find import find_qc

    data, mito = request.data, int(request.mito.sum())
    size = bytes_text(sum(chunk.size for chunk in data.chunks))
    notice(
        "Quality",
        f"{count_text(data.n_cells, 'cell')} x {len(data.opened.genes):,} genes, {mito:,} of them mitochondrial, in "
        f"{count_text(len(data.chunks), 'chunk')} of {size}",
    )
    for annotation in request.annotations:
        note(f"{'':8} leaving out where {annotation}")
    workers = planned_workers(data.chunks, settings, request.state_bytes)
    with open_passes(settings, workers, data.n_cells) as passes:
        return find_qc(request, scratch, settings, passes.open_pool, passes.show, stop_requested=passes.stop_requested)


def _write(
    request: QcRequest, found: QcFound, identity: dict[str, Any], output: Store, kept: Kept, scratch: Path
) -> dict[str, Any]:
    from ingest.layout import QC_PLOT_KEY
    from ingest.qc.document import qc_document
    from ingest.qc.files import write_files
    from ingest.qc.output import write_qc
    from ingest.qc.plot import can_plot, draw_qc
    from ingest.store.body import file_sha256

    genes = request.data.opened.genes
    files = write_files(request, found, scratch)
    document = json.loads(qc_document(identity, request, found, genes, {}))
    if can_plot():
        files[QC_PLOT_KEY] = scratch / QC_PLOT_KEY
        files[QC_PLOT_KEY].write_bytes(draw_qc(request, found, document))
    else:
        note(f"{'':8} matplotlib is not installed: qc.png is left out (pip install matplotlib)")
    sha256 = {key: file_sha256(path) for key, path in files.items()}
    encoded = qc_document(identity, request, found, genes, sha256)
    write_qc(output, kept, encoded, files)
    facts: dict[str, Any] = json.loads(encoded)
    return facts


def _say(output: Store, document: dict[str, Any], *, as_json: bool, cached: bool) -> None:
    if as_json:
        click.echo(json.dumps({**document, "url": output.url, "cached": cached}, indent=1))
        return
    say_drops(document)
    cells, genes = document["cells"], document["genes"]
    for name, spread in document["metrics"].items():
        middle = [spread[group]["median"] for group in ("all", "kept")]
        said = ["-" if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}" for value in middle]
        click.echo(f"  {name:<18} median {said[0]}, of those that stay {said[1]}")
    plot = "  qc.png" if "qc.png" in document["sha256"] else ""
    click.echo(f"  {output.url}/qc.json{plot}")
    if not cells["kept"]:
        note("no cell stays: the rules leave nothing for a second run")
    elif cells["dropped"] or genes["dropped"]:
        index = f"{output.url}/qc_index.feather"
        only = f" --gene-filter @{output.url}/qc_genes.txt" if genes["dropped"] else ""
        fetch = "fetch both files, then " if only else "fetch it, then "
        note(f"next     {fetch if '://' in index else ''}python -m ingest run DEST2 --index {index}{only}")


def say_drops(document: dict[str, Any]) -> None:
    """Write what stays and what each rule drops to stdout."""
    cells, genes = document["cells"], document["genes"]
    click.echo(f"  {cells['kept']:,} of {cells['n']:,} cells stay, {genes['kept']:,} of {genes['n']:,} genes")
    if not document["dropped_by_rule"]:
        return
    width = max(4, *map(len, document["dropped_by_rule"]))
    click.echo(f"  {'rule':<{width}}  {'breaking it':>12}  {'first':>12}  {'it alone':>12}  bounds")
    for rule, drops in document["dropped_by_rule"].items():
        numbers = "  ".join(f"{drops[name]:>12,}" for name in ("breaking", "first", "alone"))
        click.echo(f"  {rule:<{width}}  {numbers}  {_bounds(document, rule)}".rstrip())


def _bounds(document: dict[str, Any], rule: str) -> str:
    if rule in document["adaptive"]:
        ends = [document["adaptive"][rule][name] for name in ("low", "high")]
        return " to ".join("-" if end is None else f"{end:,.4g}" if end < 1000 else f"{end:,.0f}" for end in ends)
    value = document["rules"].get(rule)
    return f"{value:,.12g}" if isinstance(value, int | float) and not isinstance(value, bool) else ""
