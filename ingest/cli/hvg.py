"""``hvg``: the highly variable genes of a dataset."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from ingest.cli.pools import on_cluster, resource_amounts, resource_option
from ingest.cli.progress import note, notice
from ingest.cli.style import ByteSize, Command
from ingest.cli.words import bytes_text, count_text
from ingest.settings import DEFAULT_MEMORY_BYTES, WorkSettings

if TYPE_CHECKING:
    from ingest.hvg.find import Found, HvgData
    from ingest.hvg.parameters import HvgParameters
    from ingest.store.base import Store

__all__ = ["hvg"]

_FLAVOURS = ("dispersion", "seurat", "cell_ranger", "seurat_v3")
_SHOWN = 10


class _Target(click.ParamType[Any]):
    """``median`` or a number."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, ``median`` as it is."""
        if value == "median" or isinstance(value, float):
            return value
        try:
            return float(value)
        except ValueError:
            self.fail(f"'{value}' is neither a number nor median", param, ctx)


@click.command(
    cls=Command,
    examples=(
        "python -m ingest hvg ./lung --n-hvgs 3000",
        "python -m ingest hvg s3://bucket/lung --flavour seurat_v3 --batch-key dataset_id --output-dir ./lung-hvg",
    ),
)
@click.argument("dest", metavar="DEST")
@click.option("--flavour", "--flavor", type=click.Choice(_FLAVOURS), default="dispersion", show_default=True)
@click.option("--n-hvgs", type=click.IntRange(1), default=2000, show_default=True, metavar="N", help="Genes to choose.")
@click.option(
    "--min-cells-pct",
    type=float,
    metavar="P",
    help="dispersion: leave out genes seen in fewer cells, in per cent; 0.1 unless said.",
)
@click.option(
    "--target-sum",
    type=_Target(),
    metavar="N|median",
    help="seurat, cell_ranger: what each cell's total becomes. median (of the cells) unless said, as scanpy has it; "
    "a number, such as 1e4, spares the pass that finds it.",
)
@click.option("--batch-key", metavar="COLUMN", help="Choose in each batch of cells, then over all batches.")
@click.option("--output-dir", metavar="DIR|URL", help="Where the results go; DEST unless said.")
@click.option("--force", is_flag=True, help="Replace results that are there.")
@click.option("--allow-incomplete", is_flag=True, help="Take the chunks that are there.")
@click.option("-d", "--workers", type=int, metavar="N", help="Workers; all CPUs unless said.")
@resource_option
@click.option(
    "--memory",
    type=ByteSize(),
    default=DEFAULT_MEMORY_BYTES,
    show_default="1.5G",
    metavar="SIZE",
    help="Most that the sums of all batches may take.",
)
@click.option("--pool", type=click.Choice(["ray", "serial"]), default="ray", show_default=True)
@click.option("--endpoint-url", metavar="URL", help="Of an S3 or GCS look-alike.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
def hvg(**options: Any) -> int:
    """Find the highly variable genes of DEST; write hvg_info.json and hvg_analysis.png.

    dispersion ranks genes by variance over mean of their counts. seurat and cell_ranger (of normalised values) and
    seurat_v3 (of counts) choose the genes that scanpy chooses. Chunks are read once; twice for seurat_v3 and where the
    median total must be found first. The same data and options again answer at once from what is there.
    """
    from ingest.hvg.document import hvg_identity
    from ingest.hvg.find import read_data
    from ingest.hvg.output import look_for_record
    from ingest.hvg.parameters import HvgParameters
    from ingest.hvg.plot import can_plot
    from ingest.opened import open_plan
    from ingest.store.open import open_store

    target = options["target_sum"]
    parameters = HvgParameters.of(
        options["flavour"],
        n_hvgs=options["n_hvgs"],
        min_cells_pct=options["min_cells_pct"],
        target_sum=None if target == "median" else target,
        batch_key=options["batch_key"],
    )
    with ExitStack() as stack:
        store = open_store(options["dest"], endpoint_url=options["endpoint_url"])
        stack.callback(store.close)
        output = store
        if options["output_dir"] is not None:
            output = open_store(options["output_dir"], endpoint_url=options["endpoint_url"])
            stack.callback(output.close)
        data = read_data(open_plan(store), allow_incomplete=options["allow_incomplete"])
        identity = hvg_identity(data, parameters)
        kept = look_for_record(output, identity, force=options["force"], wants_plot=can_plot())
        document = kept.document
        if document is None:
            document = _find_and_write(data, parameters, identity, output, kept, _settings(options))
        else:
            notice("Kept", f"found before for the same data and options: {output.url}/hvg_info.json")
    _say(output, document, as_json=options["as_json"], cached=kept.document is not None)
    return 0


def _settings(options: dict[str, Any]) -> WorkSettings:
    away = on_cluster(options["pool"])
    return WorkSettings(
        workers=options["workers"],
        cpus=1,
        resources=resource_amounts(options["resource"], away=away),
        memory_bytes=options["memory"],
        endpoint_url=options["endpoint_url"],
        pool=options["pool"],
        on_cluster=away,
    )


def _find_and_write(
    data: HvgData, parameters: HvgParameters, identity: dict[str, Any], output: Store, kept: Any, settings: WorkSettings
) -> dict[str, Any]:
    from ingest.documents import sha256_hex
    from ingest.hvg.document import hvg_document
    from ingest.hvg.output import write_hvgs
    from ingest.hvg.plot import can_plot, draw_hvgs

    found = _find(data, parameters, settings)
    genes = data.opened.genes
    plot = draw_hvgs(found, genes, flavour=parameters.flavour) if can_plot() else None
    if plot is None:
        note(f"{'':8} matplotlib is not installed: hvg_analysis.png is left out (pip install matplotlib)")
    document = hvg_document(identity, found, genes, None if plot is None else sha256_hex(plot))
    write_hvgs(output, kept, document, plot)
    facts: dict[str, Any] = json.loads(document)
    return facts


def _find(data: HvgData, parameters: HvgParameters, settings: WorkSettings) -> Found:
    from ingest.cli.passes import open_passes
    from ingest.folding import planned_workers
    from ingest.hvg.find import check_request, find_hvgs

    request = check_request(data, parameters, memory_bytes=settings.memory_bytes)
    size = bytes_text(sum(chunk.size for chunk in data.chunks))
    twice = ", read twice" if request.n_passes > 1 else ""
    notice(
        "Genes",
        f"{parameters.flavour} over {count_text(data.n_cells, 'cell')} x {len(data.opened.genes):,} genes in "
        f"{count_text(len(data.chunks), 'chunk')} of {size}{twice}",
    )
    workers = planned_workers(data.chunks, settings, request.state_bytes)
    with open_passes(settings, workers, data.n_cells) as passes:
        return find_hvgs(request, settings, passes.open_pool, passes.show, stop_requested=passes.stop_requested)


def _say(output: Store, document: dict[str, Any], *, as_json: bool, cached: bool) -> None:
    if as_json:
        facts = {**document, "url": output.url, "cached": cached}
        click.echo(json.dumps(facts, indent=1))
        return
    n_cells, n_genes = document["dataset"]["n_cells"], document["dataset"]["n_genes"]
    names = document["hvg_symbols"]
    click.echo(f"  {len(names):,} of {n_genes:,} genes by {document['flavour']}, from {n_cells:,} cells")
    if not names:
        return
    width = max(4, *map(len, names[:_SHOWN]))
    ids = max(2, *map(len, document["hvg_names"][:_SHOWN]))
    score = document["score"]
    click.echo(f"  rank  {'gene':<{width}}  {'id':<{ids}}  {score:>16}  {'mean':>10}  % of cells")
    columns = (document[f"hvg_{name}"][:_SHOWN] for name in ("symbols", "names", "scores", "means", "pct_cells"))
    for at, (symbol, gene, value, mean, pct) in enumerate(zip(*columns, strict=True), 1):
        said = "-" if value is None else f"{value:,.4g}"
        click.echo(f"  {at:>4}  {symbol:<{width}}  {gene:<{ids}}  {said:>16}  {mean:>10,.4g}  {pct:>10.3g}")
    if len(names) > _SHOWN:
        last = document["hvg_scores"][-1]
        click.echo(f"  {len(names):>4}  {names[-1]:<{width}}  {'' if last is None else f'{last:,.4g}'}")
    plot = "  hvg_analysis.png" if document.get("plot_sha256") else ""
    click.echo(f"  {output.url}/hvg_info.json{plot}")
