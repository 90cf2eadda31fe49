"""``convert sort``, ``standardize`` and ``labels``: what the cells of a screen are called, and their order."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from ingest.cli.convert import LinesDisplay, refuse_taken, say_made
from ingest.cli.progress import notice
from ingest.cli.style import Command
from ingest.cli.words import count_text
from ingest.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd

__all__ = ["labels", "sort", "standardize"]

_SAID = 20
"""Labels spelled out."""
_MISSING = "(none)"


@click.command(
    cls=Command,
    examples=(
        "python -m ingest convert sort screen.h5ad",
        "python -m ingest convert sort screen.h5ad --column guide_identity --control NTC -o sorted.h5ad",
    ),
)
@click.argument("source", metavar="H5AD")
@click.option("-o", "--output", metavar="PATH", help="What to write; H5AD's name with _sorted unless said.")
@click.option("--column", default="perturbation", show_default=True, metavar="COL", help="Of obs.")
@click.option("--control", metavar="LABEL", help="Of control cells; the label that says control unless said.")
@click.option("--chunk-size", type=click.IntRange(1), metavar="N", help="Rows handled together, at most.")
@click.option("--force", is_flag=True, help="Do it again though it has been done; with -o, over whatever is there.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
def sort(source: str, **options: Any) -> int:
    """Sort cells by perturbation.

    Control first, the others alphabetically, so that the cells of each are one read. A dense X stays dense, a
    sparse one becomes CSR, all else is carried along. uns["sorting_metadata"] says where the cells of each label
    lie.
    """
    from ingest.stream.sorting import sort_by_perturbation

    began = time.monotonic()
    refuse_taken(source, options)
    with LinesDisplay("sort") as display:
        made, written = _made(
            sort_by_perturbation,
            source,
            options["column"],
            options["control"],
            output_path=options["output"],
            chunk_size=options["chunk_size"],
            force=options["force"],
            reached=display.reached,
        )
    return say_made(made, began, as_json=options["as_json"], written=written)


@click.command(
    cls=Command,
    examples=(
        "python -m ingest convert standardize screen.h5ad --column guide_identity --output-dir out",
        "python -m ingest convert standardize screen.h5ad --column target --control AAVS1 --genes feature_name "
        "--output-dir out",
    ),
)
@click.argument("source", metavar="H5AD")
@click.option("--column", required=True, metavar="COL", help="Of obs: the perturbations.")
@click.option("--control", metavar="LABEL", help="Of control cells; the label that says control unless said.")
@click.option("--genes", metavar="COL", help="Of var: the gene symbols; var_names unless said.")
@click.option("--output-dir", required=True, metavar="FOLDER", help="The file is FOLDER/.cache/standardized_….h5ad.")
@click.option("--force", is_flag=True, help="Do it again though it has been done.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
def standardize(source: str, **options: Any) -> int:
    """Give a copy standard columns and labels.

    obs has a column `perturbation` then, control cells are labelled `control`, and gene symbols are var_names. What
    was there stays, under its name or as original_…; X is copied, not read.
    """
    from ingest.stream.standardize import standardize_dataset

    began = time.monotonic()
    made, written = _made(
        standardize_dataset,
        source,
        options["column"],
        options["control"],
        options["genes"],
        options["output_dir"],
        force=options["force"],
    )
    return say_made(made, began, as_json=options["as_json"], written=written)


@click.command(
    cls=Command,
    examples=(
        "python -m ingest convert labels screen.h5ad",
        "python -m ingest convert labels screen.h5ad --column guide --strip-regex '_[0-9]+' --in-place",
    ),
)
@click.argument("source", metavar="H5AD")
@click.option("--column", metavar="COL", help="Of obs; the one that looks most like perturbations unless said.")
@click.option("--strip-prefix", multiple=True, metavar="TEXT", help="Take it off; several times for several.")
@click.option("--strip-suffix", multiple=True, metavar="TEXT", help="Take it off, then.")
@click.option("--strip-regex", metavar="REGEX", help="Take it off once where it matches at the end, then.")
@click.option("--alias", multiple=True, metavar="LABEL", help="Of control in any case, instead of the usual ones.")
@click.option("--control", default="NTC", show_default=True, metavar="LABEL", help="What control cells become.")
@click.option("--all", "say_all", is_flag=True, help=f"Show all labels, not the {_SAID} of most cells.")
@click.option("--in-place", is_flag=True, help="Write them into H5AD; only shown unless said.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
def labels(source: str, **options: Any) -> int:
    """Make the labels of cells uniform.

    Shows what cells are called and what the rules make of it, and writes it with --in-place: that means in a copy
    that takes the file's place when it is finished; only the column differs.
    """
    from ingest.stream.labels.normalise import normalise_perturbation_labels

    column = options["column"] or _detected(source)
    rules = {
        "strip_prefixes": options["strip_prefix"],
        "strip_suffixes": options["strip_suffix"],
        "strip_suffix_regex": options["strip_regex"],
        "control_aliases": options["alias"] or None,
        "canonical_control": options["control"],
    }
    before, after = _labels(source, column), normalise_perturbation_labels(source, column, inplace=False, **rules)
    if options["in_place"]:
        normalise_perturbation_labels(source, column, **rules)
    return _say_labels(column, before, after, options)


def _made(call: Callable[..., Path], source: str, *arguments: Any, **options: Any) -> tuple[Path, bool]:
    """Make a file, saying so if it has been there already; return where, and whether it was written now."""
    began_ns = time.time_ns()
    made = call(source, *arguments, **options)
    written = made.stat().st_ctime_ns >= began_ns
    if not written:
        notice("Kept", "made before of the same file and settings; --force makes it again")
    return made, written


def _detected(source: str) -> str:
    from ingest.stream.labels.detect import detect_perturbation_column

    column = detect_perturbation_column(source)
    if column is None:
        raise ConfigError(f"{source}: no column of obs looks like perturbations", kind="no-column", hint="--column COL")
    return column


def _labels(source: str, column: str) -> pd.Series[Any]:
    from ingest.stream.labels.annotations import annotated

    with annotated(source) as given:
        return given.obs.column(column)


def _say_labels(column: str, before: pd.Series[Any], after: pd.Series[Any] | None, options: dict[str, Any]) -> int:
    import pandas as pd

    if after is None:
        raise TypeError("labels are returned unless in place")
    table = pd.DataFrame({"label": before.astype(object).to_numpy(), "becomes": after.astype(object).to_numpy()})
    n_labels, n_then = (table[name].nunique() for name in table)
    counts = table.value_counts(sort=False, dropna=False).rename("cells").reset_index()
    counts = counts.astype(object).where(counts.notna(), None)  # cells without a label
    counts["other"] = counts["becomes"] != options["control"]
    counts = counts.sort_values(["other", "cells", "label"], ascending=[True, False, True]).drop(columns="other")
    n_control = int((after == options["control"]).sum())
    if options["as_json"]:
        facts = {"column": column, "cells": len(table), "control": options["control"], "control_cells": n_control}
        click.echo(json.dumps(facts | {"written": options["in_place"], "labels": counts.to_dict("records")}, indent=1))
        return 0
    click.echo(
        f"  column {column}   {count_text(len(table), 'cell')}   {count_text(n_labels, 'label')}, "
        f"{n_then:,} then   {options['control']} {count_text(n_control, 'cell')}"
    )
    _echo_table(counts if options["say_all"] else counts.head(_SAID), len(counts))
    if not options["in_place"] and not counts["label"].equals(counts["becomes"]):
        notice("Shown", "nothing was written; --in-place does")
    return 0


def _echo_table(counts: pd.DataFrame, n_labels: int) -> None:
    counts = counts.fillna({"label": _MISSING, "becomes": _MISSING})
    width = max([5, *(len(label) for label in counts["label"])])
    click.echo(f"\n  {'label':<{width}}  {'cells':>9}  becomes")
    for label, becomes, cells in counts.itertuples(index=False):
        click.echo(f"  {label:<{width}}  {cells:>9,}  {becomes if becomes != label else ''}".rstrip())
    if len(counts) < n_labels:
        click.echo(f"  … and {n_labels - len(counts):,} more (--all)")
