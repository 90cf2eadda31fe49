"""``convert genes``: what the genes of a file are called."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import click

from ingest.cli.progress import notice
from ingest.cli.style import Command
from ingest.cli.words import count_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["genes"]

_SAID = 20
"""Names spelled out."""


@click.command(
    cls=Command,
    examples=(
        "python -m ingest convert genes screen.h5ad",
        "python -m ingest convert genes screen.h5ad --column feature_id --symbols --in-place",
    ),
)
@click.argument("source", metavar="H5AD")
@click.option("--column", metavar="COL", help="Of var; its index unless said.")
@click.option("--keep-version", is_flag=True, help="ENSG00000141510.18 stays as it is.")
@click.option("--keep-mt", is_flag=True, help="mt-Nd1 stays as it is.")
@click.option("--symbols", is_flag=True, help="Ensembl ids become symbols, as MyGene.info has them.")
@click.option("--species", default="human", show_default=True, metavar="NAME", help="Whose genes are looked up.")
@click.option(
    "--unmapped",
    type=click.Choice(["keep", "warn", "error"]),
    default="warn",
    show_default=True,
    help="About ids that MyGene.info does not know.",
)
@click.option("--all", "say_all", is_flag=True, help=f"Show all names that change, not the first {_SAID}.")
@click.option("--in-place", is_flag=True, help="Write them into H5AD; only shown unless said.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
def genes(source: str, **options: Any) -> int:
    """Make the names of genes uniform.

    Versions of ids go, mitochondrial genes begin with MT-. Shows what changes, and writes it with --in-place: that
    means in a copy that takes the file's place when it is finished; only the column differs.
    """
    from ingest.stream.labels.gene_names import standardise_gene_names

    before = _names(source, options["column"])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        found = standardise_gene_names(
            source,
            column=options["column"],
            strip_version=not options["keep_version"],
            normalise_mt_prefix=not options["keep_mt"],
            lookup_symbols=options["symbols"],
            species=options["species"],
            unmapped_action=options["unmapped"],
            inplace=options["in_place"],
        )
    for one in told:
        notice("Note", str(one.message))
    return _say(before, _names(source, options["column"]) if found is None else found, options)


def _names(source: str, column: str | None) -> pd.Series[Any]:
    import pandas as pd

    from ingest.stream.labels.annotations import annotated

    with annotated(source) as given:
        return pd.Series(given.var.index()) if column is None else given.var.column(column)


def _say(before: pd.Series[Any], after: pd.Series[Any], options: dict[str, Any]) -> int:
    changes = [
        (old, new) for old, new in zip(before, after, strict=True) if isinstance(old, str) and old != new
    ]  # what is missing stays missing
    twice = int(after.dropna().duplicated().sum())
    column = options["column"] or "var_names"
    if options["as_json"]:
        facts = {"column": column, "genes": len(before), "changed": len(changes), "not_unique": twice}
        names = [{"name": old, "becomes": new} for old, new in changes]
        click.echo(json.dumps(facts | {"written": options["in_place"] and bool(changes), "names": names}, indent=1))
        return 0
    click.echo(
        f"  column {column}   {count_text(len(before), 'gene')}   {count_text(len(changes), 'name')} to change"
        + (f"   {twice:,} not unique then" if twice else "")
    )
    _echo_changes(changes if options["say_all"] else changes[:_SAID], len(changes))
    if changes and not options["in_place"]:
        notice("Shown", "nothing was written; --in-place does")
    return 0


def _echo_changes(changes: list[tuple[str, str]], n_changes: int) -> None:
    if not changes:
        return
    width = max(4, *(len(old) for old, _ in changes))
    click.echo(f"\n  {'name':<{width}}  becomes")
    for old, new in changes:
        click.echo(f"  {old:<{width}}  {new}")
    if len(changes) < n_changes:
        click.echo(f"  … and {n_changes - len(changes):,} more (--all)")
