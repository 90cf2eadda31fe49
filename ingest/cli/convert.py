"""``convert``: one h5ad file into another, in memory that does not grow with it."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingest.cli.progress import CountDisplay, notice
from ingest.cli.style import Command, Group
from ingest.cli.words import bytes_text, duration_text
from ingest.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    import numpy as np

    from ingest.fetch.h5ad_open import OpenH5ad
    from ingest.fetch.h5ad_table import Table

_ROWS = 1 << 16
_SAID = 5
"""Genes spelled out."""

__all__ = ["LinesDisplay", "convert", "output_options", "refuse_taken", "say_made"]


@click.group(
    cls=Group,
    examples=(
        "python -m ingest convert csc cells.h5ad -o by_gene.h5ad",
        "python -m ingest convert normalize cells.h5ad --target-sum 1e4",
    ),
)
def convert() -> None:
    """Make one h5ad file of another: X by rows or columns, normalised, or some cells and genes.

    Files of any size go through bounded memory: blocks are read, worked on and written at the same time. All else in
    them is carried along. Nothing has its final name before all of it is on the disk.
    """


force_option = click.option("--force", is_flag=True, help="Write over what is at -o, though it was not made of H5AD.")


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every command has that writes a file named by what was done."""
    options = (
        click.option("-o", "--output", metavar="PATH", help="What to write; see --output-dir."),
        click.option(
            "--output-dir", metavar="FOLDER", help="Where ingest_<what>.h5ad goes; beside the input unless said."
        ),
        click.option("--data-name", metavar="NAME", help="In that name: ingest_NAME_<what>.h5ad."),
        force_option,
        click.option("--chunk-size", type=click.IntRange(1), metavar="N", help="Rows handled together, at most."),
        click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@convert.command(
    cls=Command,
    examples=(
        "python -m ingest convert csc cells.h5ad -o by_gene.h5ad",
        "python -m ingest convert csc s3://bucket/cells.h5ad --output-dir out --chunk-size 1024",
    ),
)
@click.argument("source", metavar="H5AD")
@output_options
def csc(source: str, **options: Any) -> int:
    """Lay X by columns (CSC), for work gene by gene. The type of values stays."""
    from ingest.stream.convert import convert_to_csc

    return _converted(convert_to_csc, "csc", source, options)


@convert.command(
    cls=Command,
    examples=(
        "python -m ingest convert csr dense.h5ad --output-dir out",
        "python -m ingest convert csr by_gene.h5ad -o by_cell.h5ad --json",
    ),
)
@click.argument("source", metavar="H5AD")
@output_options
def csr(source: str, **options: Any) -> int:
    """Lay X by rows (CSR), for work cell by cell. Of a dense X what is not zero is taken."""
    from ingest.stream.convert import convert_to_csr

    return _converted(convert_to_csr, "csr", source, options)


@convert.command(
    cls=Command,
    examples=(
        "python -m ingest convert normalize cells.h5ad",
        "python -m ingest convert normalize cells.h5ad --no-log1p --target-sum 1e6 -o cpm.h5ad",
    ),
)
@click.argument("source", metavar="H5AD")
@click.option("--normalize/--no-normalize", default=True, help="Bring cells to one total; done unless said.")
@click.option("--log1p/--no-log1p", default=True, help="Take log(1 + value); done unless said.")
@click.option(
    "--target-sum",
    type=click.FloatRange(0, min_open=True),
    default=1e4,
    show_default=True,
    metavar="X",
    help="What every cell's total becomes.",
)
@output_options
def normalize(source: str, **options: Any) -> int:
    """Normalise and log X as scanpy's normalize_total and log1p do; CSR, float32."""
    from ingest.stream.normalize import normalize_total_log1p

    if not (options["normalize"] or options["log1p"]):
        raise click.UsageError("--no-normalize and --no-log1p leave nothing to do")
    how = {name: options[name] for name in ("normalize", "log1p", "target_sum")}
    suffix = "_".join(word for word, asked in (("normalized", how["normalize"]), ("log1p", how["log1p"])) if asked)
    return _converted(normalize_total_log1p, suffix, source, options, **how)


@convert.command(
    cls=Command,
    examples=(
        "python -m ingest convert subset cells.h5ad -o t_cells.h5ad --where \"cell_type == 'T cell'\"",
        "python -m ingest convert subset cells.h5ad -o few.h5ad --genes @genes.txt",
    ),
)
@click.argument("source", metavar="H5AD")
@click.option("-o", "--output", required=True, metavar="PATH", help="What to write.")
@click.option("--where", metavar="FILTER", help="Cells that stay, by columns of obs.")
@click.option("--genes", metavar="ID,ID|@FILE", help="Genes that stay, by names of var; in the order of the file.")
@force_option
@click.option("--chunk-size", type=click.IntRange(1), metavar="N", help="Rows handled together, at most.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
def subset(source: str, **options: Any) -> int:
    """Keep some cells and genes: X, layers, obsm, obsp, varm and varp are cut, raw by cells alone."""
    from ingest.stream.matrix.work import Work
    from ingest.stream.storage import open_data
    from ingest.stream.subset import write_subset_of

    if options["where"] is None and options["genes"] is None:
        raise click.UsageError("--where or --genes says what stays")
    refuse_taken(source, options)
    with open_data(source) as file:
        cells, genes = _masks(file, options["where"], options["genes"])
        notice("Subset", f"{cells.sum():,} of {len(cells):,} cells, {genes.sum():,} of {len(genes):,} genes")
        began = time.monotonic()
        with LinesDisplay("Subset") as display:
            work = Work(most_lines=options["chunk_size"], reached=display.reached)
            write_subset_of(file, options["output"], cell_mask=cells, gene_mask=genes, work=work)
    return say_made(Path(options["output"]), began, as_json=options["as_json"])


def _converted(call: Callable[..., Any], suffix: str, source: str, options: dict[str, Any], **how: Any) -> int:
    from ingest.stream.files import resolve_output_path

    began = time.monotonic()
    refuse_taken(source, options)
    with LinesDisplay(suffix) as display:
        made = call(
            source,
            output_path=options["output"],
            output_dir=options["output_dir"],
            data_name=options["data_name"],
            chunk_size=options["chunk_size"],
            verbose=True,
            reached=display.reached,
            **how,
        )
    written = made.filename != _absolute(source)
    named = resolve_output_path(source, suffix=suffix, output_dir=options["output_dir"], data_name=options["data_name"])
    path = (options["output"] or named) if written else source
    return say_made(path, began, as_json=options["as_json"], written=written)


def _absolute(source: str) -> str:
    from ingest.stream.storage import address_of_data

    address = address_of_data(source)
    return address if "://" in address else str(Path(address).absolute())


def refuse_taken(source: str, options: dict[str, Any]) -> None:
    """Raise AlreadyExistsError where -o names what was not made of `source`, unless that is meant."""
    from ingest.stream.output import refuse_others, refuse_same
    from ingest.stream.storage import open_data

    output = None if options["output"] is None else Path(options["output"])
    if output is None or options["force"] or not output.is_file():
        return
    with open_data(source) as file:
        refuse_same(file, output)
        refuse_others(output, file, "remove it, write elsewhere, or over it with --force")


def _masks(file: OpenH5ad, where: str | None, genes: str | None) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return which cells and which genes stay, bool ``(n_obs,)`` and ``(n_vars,)``."""
    import numpy as np

    from ingest.fetch.h5ad_table import open_table
    from ingest.gene_ids import gene_ids

    wanted = None if genes is None else gene_ids(genes, option="--genes")
    obs, var = open_table(file, "obs"), open_table(file, "var")
    cells = np.ones(obs.n_rows, bool) if where is None else _matching(file, obs, where)
    if wanted is None:
        return cells, np.ones(var.n_rows, bool)
    names = np.asarray(var.index.read(0, var.n_rows).to_pylist(), object)
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        few = ", ".join(unknown[:_SAID]) + (f" and {len(unknown) - _SAID:,} more" if unknown[_SAID:] else "")
        raise ConfigError(f"{file.name}: no gene {few}", kind="unknown-gene", hint="genes are named by var's index")
    return cells, np.isin(names, list(wanted))


def _matching(file: OpenH5ad, obs: Table, where: str) -> np.ndarray[Any, Any]:
    import numpy as np
    import pyarrow as pa

    from ingest.grammar.filters import parse_filter

    chosen = parse_filter(where)
    schema = pa.schema([(name, column.type) for name, column in obs.columns.items()])
    bound = chosen.bind(schema, f"obs of {file.name}")
    parts = [np.zeros(0, bool)]
    for start in range(0, obs.n_rows, _ROWS):
        stop = min(start + _ROWS, obs.n_rows)
        table = pa.table({name: obs.columns[name].read(start, stop) for name in chosen.columns})
        parts.append(np.asarray(bound.mask(table)))
    return np.concatenate(parts)


class LinesDisplay:
    """How far a matrix is read, a context: a bar on a terminal, a line every ten seconds in a log."""

    def __init__(self, word: str) -> None:
        self._word = word.capitalize()[:8]
        self._shown = ExitStack()
        self._path = ""
        self._bar: CountDisplay | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.close()

    def reached(self, path: str, done: int, total: int) -> None:
        """Move the bar, or begin that of another matrix."""
        if path != self._path or self._bar is None:
            self._shown.close()
            self._path, self._bar = path, self._shown.enter_context(CountDisplay(self._word, total, f"lines of {path}"))
        self._bar.reached(done)


def say_made(path: Path | str, began: float, *, as_json: bool, written: bool = True) -> int:
    """Say what there is now; return the exit code."""
    seconds = time.monotonic() - began
    size = Path(path).stat().st_size if "://" not in str(path) else None
    if as_json:
        click.echo(
            json.dumps({"path": str(path), "written": written, "bytes": size, "seconds": round(seconds, 3)}, indent=1)
        )
    else:
        click.echo(f"  {path}   {'' if size is None else bytes_text(size) + '   '}{duration_text(seconds)}")
    return 0
