"""``index``: which cells."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingest.cli.progress import note, notice
from ingest.cli.style import Command, Group
from ingest.cli.words import bytes_text
from ingest.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from index.draw import SampleDraw
    from index.sample import Sampling
    from index.write import IndexReport

__all__ = ["index"]


@click.group(
    cls=Group,
    examples=(
        "python -m ingest index census --value-filter \"tissue == 'lung'\" -o lung.feather",
        "python -m ingest index h5ad 'data/*.h5ad' -o mine.feather",
    ),
)
def index() -> None:
    """Say which cells: query a catalogue into a feather table, one row a cell.

    The table is an ordinary one: filter it with `index select` or with pandas and write it back.
    """


def _output(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-o",
        "--output",
        type=click.Path(dir_okay=False, path_type=Path),
        default=Path("index.feather"),
        show_default=True,
        metavar="FILE",
        help="The index to write.",
    )(command)


_last_option = click.option(
    "--last-sample",
    type=click.Choice(["cut", "whole"]),
    default="cut",
    show_default=True,
    help="With --by sample: the one that passes N gives what is missing, or all.",
)


def _sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--seed", type=int, default=0, show_default=True, help="The same seed draws the same cells."),
        click.option(
            "--stratify",
            metavar="COLUMN[:equal|:proportional]",
            help="Share the sample among the column's values; proportional unless said.",
        ),
        click.option(
            "--by",
            type=click.Choice(["cell", "band", "sample"]),
            default="cell",
            show_default=True,
            help="band draws runs of 2048 neighbours, which are far cheaper to read; sample whole samples or datasets.",
        ),
        _last_option,
        click.option("--cells", type=int, metavar="N", help="Draw N cells at random."),
    ):
        command = option(command)
    return command


def _sampling(cells: int | None, by: Any, stratify: str | None, seed: int, last: Any) -> Sampling | None:
    if cells is None:
        if stratify is not None or by != "cell":
            raise ConfigError("--by and --stratify say how to draw: --cells N says how many", kind="bad-sampling")
        return None
    from index.sample import Sampling

    return Sampling.of(cells, seed=seed, by=by, stratify=stratify, last=last)


def _columns(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return tuple(name.strip() for name in text.split(",") if name.strip())


def report_index(report: IndexReport) -> None:
    """Say what was written."""
    of = f" of {report.total:,}" if report.total != report.cells else ""
    notice("Index", f"{report.cells:,}{of} cells    {report.path}  {bytes_text(report.bytes)}")
    for line in report.notes:
        note(f"{'':8} {line}")


_FILTER_HELP = "Cells to keep: comparisons, in [...], and, or, not."


@index.command(
    "census",
    cls=Command,
    examples=(
        "python -m ingest index census --value-filter \"tissue == 'lung' and disease == 'normal'\" -o lung.feather",
        "python -m ingest index census --uri ./census --organism mus_musculus --cells 10000 --by band -o mouse.feather",
    ),
)
@click.option("--census-version", default="stable", show_default=True, help="A release's date, or stable or latest.")
@click.option("--uri", metavar="URI", help="Another copy of a Census: a folder or s3:// prefix.")
@click.option("--organism", default="homo_sapiens", show_default=True)
@click.option("--value-filter", metavar="FILTER", help=_FILTER_HELP)
@click.option("--columns", metavar="NAME,NAME", help="obs columns, instead of the default ones.")
@click.option("--all-cells", is_flag=True, help="Keep the copies of cells that stand in several datasets.")
@_sampling_options
@_output
def census(
    *,
    census_version: str,
    uri: str | None,
    organism: str,
    value_filter: str | None,
    columns: str | None,
    all_cells: bool,
    cells: int | None,
    by: str,
    last_sample: str,
    stratify: str | None,
    seed: int,
    output: Path,
) -> None:
    """Index cells of the CELLxGENE Census.

    Primary cells only, unless --all-cells: a cell that several datasets hold is counted once.
    """
    from index.build import CensusOptions, index_census
    from ingest.cpu import require_avx2

    require_avx2()
    options = CensusOptions(
        output=output,
        version=census_version,
        uri=uri,
        organism=organism,
        value_filter=value_filter,
        columns=_columns(columns),
        all_cells=all_cells,
        sampling=_sampling(cells, by, stratify, seed, last_sample),
    )
    report_index(index_census(options))


@index.command(
    "h5ad",
    cls=Command,
    examples=(
        "python -m ingest index h5ad 'data/*.h5ad' -o mine.feather",
        "python -m ingest index h5ad s3://bucket/a.h5ad https://example.org/b.h5ad --columns cell_type -o two.feather",
    ),
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@click.option("--value-filter", metavar="FILTER", help=_FILTER_HELP)
@click.option("--columns", metavar="NAME,NAME", help="obs columns, instead of all.")
@_sampling_options
@_output
def h5ad(
    *,
    paths: tuple[str, ...],
    value_filter: str | None,
    columns: str | None,
    cells: int | None,
    by: str,
    last_sample: str,
    stratify: str | None,
    seed: int,
    output: Path,
) -> None:
    """Index cells of h5ad files: paths, globs, s3://, gs:// and https:// URLs."""
    from index.build import H5adOptions, index_h5ad

    options = H5adOptions(
        output=output,
        paths=paths,
        value_filter=value_filter,
        columns=_columns(columns),
        sampling=_sampling(cells, by, stratify, seed, last_sample),
    )
    report_index(index_h5ad(options))


class _Cells(click.ParamType):  # type: ignore[type-arg]  # generic in some releases of click only
    """A number, or ``all``."""

    name = "cells"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number, 0 for all."""
        if value == "all":
            return 0
        try:
            number = int(str(value).replace("_", "").replace(",", ""))
        except ValueError:
            self.fail(f"{value!r} is no number of cells, nor 'all'", param, ctx)
        if number < 1:
            self.fail(f"{value} draws nothing; say how many cells are wanted, or 'all'", param, ctx)
        return number


@index.command(
    "scbasecount",
    cls=Command,
    examples=(
        "python -m ingest index scbasecount --value-filter \"tissue == 'lung' and umi_count > 999\" -o lung.feather",
        "python -m ingest index scbasecount --organism Mus_musculus --cells 50000 --stratify tissue -o mouse.feather",
    ),
)
@click.option("--release", default="latest", show_default=True, help="Its date.")
@click.option("--feature", default="GeneFull_Ex50pAS", show_default=True, help="What STARsolo counted.")
@click.option("--organism", default="Homo_sapiens", show_default=True)
@click.option(
    "--value-filter", metavar="FILTER", help="Over samples (tissue, disease, …) and cells (gene_count, …) alike."
)
@click.option("--columns", metavar="NAME,NAME", help="Instead of all columns of cells and the usual ones of samples.")
@click.option("--exclude-czi", is_flag=True, help="Leave out CELLxGENE collections processed again: a Census has them.")
@click.option(
    "--cells", type=_Cells(), default="1000000", show_default=True, metavar="N|all", help="Draw N cells at random."
)
@click.option(
    "--by",
    type=click.Choice(["sample", "cell"]),
    default="sample",
    show_default=True,
    help="Whole samples until there are N cells, or cells of all samples: then every file is read.",
)
@_last_option
@click.option(
    "--stratify",
    metavar="COLUMN[:equal|:proportional]",
    help="Share the draw among the column's values; proportional unless said.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed draws the same cells.")
@click.option("--root", metavar="URL", help="A mirror, an emulator or a folder; the public bucket unless said.")
@click.option("--billing-project", metavar="PROJECT", help="Of Google Cloud; pays where a bucket bills its readers.")
@click.option("--trust-order", is_flag=True, help="Look into no file: cells lie in them as obs_metadata lists them.")
@_output
def scbasecount(
    *,
    release: str,
    feature: str,
    organism: str,
    value_filter: str | None,
    columns: str | None,
    exclude_czi: bool,
    cells: int,
    by: str,
    last_sample: str,
    stratify: str | None,
    seed: int,
    root: str | None,
    billing_project: str | None,
    trust_order: bool,
    output: Path,
) -> None:
    """Index cells of Arc's scBaseCount: random samples until there are a million cells, unless said otherwise.

    The bucket is read anonymously. Where it bills its readers, CELL_INGEST_BILLING_PROJECT tells `run`, too, who pays.
    """
    from index.build import ScBaseCountOptions, index_scbasecount
    from ingest.scbasecount import PUBLIC_ROOT

    if billing_project is not None:
        os.environ["CELL_INGEST_BILLING_PROJECT"] = billing_project
    options = ScBaseCountOptions(
        output=output,
        root=root or PUBLIC_ROOT,
        release=release,
        feature=feature,
        organism=organism,
        value_filter=value_filter,
        columns=_columns(columns),
        exclude_czi=exclude_czi,
        trust_order=trust_order,
        sampling=_sample_draw(cells, by, stratify, seed, last_sample),
    )
    report_index(index_scbasecount(options))


def _sample_draw(cells: int, by: Any, stratify: str | None, seed: int, last: Any) -> SampleDraw | Sampling | None:
    if not cells:
        if stratify is not None:
            raise ConfigError("--stratify says how to draw: --cells N says how many", kind="bad-sampling")
        return None
    if by == "cell":
        return _sampling(cells, by, stratify, seed, last)
    from index.draw import SampleDraw
    from index.sample import split_strata

    column, shares = split_strata(stratify)
    return SampleDraw(cells, seed, last, column, shares)


_existing_index = click.argument("file", type=click.Path(path_type=Path), metavar="FILE")


@index.command(
    "select",
    cls=Command,
    examples=(
        "python -m ingest index select lung.feather --value-filter \"cell_type == 'T cell'\" -o t.feather",
        "python -m ingest index select census.feather scbasecount.feather --dedupe -o both.feather",
    ),
)
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="FILE…")
@click.option("--dedupe", is_flag=True, help="Leave out cells of a scBaseCount whose CELLxGENE collection is there.")
@click.option("--value-filter", metavar="FILTER", help=_FILTER_HELP)
@_sampling_options
@_output
def select(
    *,
    files: tuple[Path, ...],
    dedupe: bool,
    value_filter: str | None,
    cells: int | None,
    by: str,
    last_sample: str,
    stratify: str | None,
    seed: int,
    output: Path,
) -> None:
    """Make an index from one or several, with the same filters and samples.

    Several are joined: a column that one lacks is empty there.
    """
    from index.build import SelectOptions, select_cells

    options = SelectOptions(
        index=files[0],
        output=output,
        more=files[1:],
        dedupe=dedupe,
        value_filter=value_filter,
        sampling=_sampling(cells, by, stratify, seed, last_sample),
    )
    report_index(select_cells(options))


@index.command(
    "show",
    cls=Command,
    examples=(
        "python -m ingest index show lung.feather",
        "python -m ingest index show lung.feather --columns cell_type,assay --top 30",
    ),
)
@_existing_index
@click.option("--columns", metavar="NAME,NAME", help="Only these.")
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Values shown of each column.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, on stdout.")
def show(*, file: Path, columns: str | None, top: int, as_json: bool) -> None:
    """Count the cells of an index by the values of its columns."""
    from index.show import describe

    description = describe(file, _columns(columns), top=top)
    if as_json:
        click.echo(json.dumps(description.as_dict(), indent=1))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, justify in (("column", "left"), ("value", "left"), ("cells", "right"), ("share", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]  # rich's own Literal
    for row in description.rows():
        table.add_row(*(Text(cell) for cell in row))
    click.echo(f"{description.path}: {description.cells:,} cells, {bytes_text(description.bytes)}")
    if description.origin:
        click.echo(f"made by {_spelled(description.origin)}")
    Console().print(table)


def _spelled(origin: dict[str, Any]) -> str:
    """Return how an index was made, in a line; --json has all of it."""
    settled = {name: value for name, value in origin.items() if name not in ("command", "of") and value}
    said = ", ".join(f"{name} {value}" for name, value in settled.items() if not isinstance(value, dict | list))
    draw = origin.get("sampling")
    drawn = f"; {draw['cells']:,} cells drawn, seed {draw['seed']}" if isinstance(draw, dict) else ""
    return f"`{origin.get('command', 'index')}`: {said}{drawn}"
