"""Open a source by its name: the one place that knows which class reads what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ingest.errors import NoMatrixError, SourceChangedError
from ingest.load.memmap.convert.base import RowSource
from ingest.load.memmap.convert.plan import CutSource, SourceFacts, even_rows, join_cuts
from ingest.source import Source

if TYPE_CHECKING:
    import pyarrow as pa

    from ingest.load.memmap.convert.chunks import ChunkRows
    from ingest.load.memmap.convert.h5ad import H5adRows
    from ingest.load.memmap.convert.sources import SourceName

__all__ = ["DescribedRows", "ReadOptions", "Surveyed", "open_facts", "survey_source"]

Array = np.ndarray[Any, Any]


class DescribedRows(RowSource, Protocol):
    """A source of rows that also says what rows and columns are."""

    def var_features(self) -> pa.Table | dict[str, Array]:
        """Return the features of the columns."""
        ...

    def obs_features(self) -> pa.Table | dict[str, Array]:
        """Return the features of the rows."""
        ...

    def neighbors(self, key: str) -> tuple[Array, Array, Array] | None:
        """Return indptr, indices and values of ``obsp[key]``; None where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How sources are opened."""

    use_x: bool = False
    """X of h5ad files, not raw.X."""
    allow_incomplete: bool = False
    endpoint_url: str | None = None
    """Of an S3 or GCS look-alike, for chunks."""
    threads: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Surveyed:
    """What a look at a source has found."""

    source: CutSource
    smallest_dtype: str | None = None
    """The smallest unsigned type that holds every value, where that is known."""
    pair_keys: tuple[str, ...] = ()
    """What obsp of an h5ad file holds."""


def survey_source(name: SourceName, options: ReadOptions) -> Surveyed:
    """Look at a source: of CSR matrices and chunks without reading counts.

    Raises
    ------
    ConfigError, SourceError, CorruptError
        It cannot be opened, or is no source.
    """
    if name.kind == "chunks":
        return _survey_chunks(name, options)
    rows = _open_named(name, options)
    try:
        cuts = even_rows(rows.n_rows, rows.n_entries) if rows.is_cuttable else np.array([0, rows.n_rows])
        facts = SourceFacts("h5ad", name.address, rows.version, name.label, rows.n_rows, rows.n_columns, rows.n_entries)
        return Surveyed(CutSource(facts, cuts, rows.entries_before(cuts)), pair_keys=rows.pair_keys)
    finally:
        rows.close()


def _open_named(name: SourceName, options: ReadOptions) -> H5adRows:
    try:
        return _open_h5ad(Source.parse(name.address), name.label, options)
    except NoMatrixError as error:  # whose words are bionemo-scdl's, and name no file
        hint = "without --use-X-not-raw, raw.X is taken" if options.use_x else "--use-X-not-raw takes X"
        said = f"Error in processing file {name.label}: {error.message}"
        raise NoMatrixError(said, hint=hint, source=error.source) from error


def _survey_chunks(name: SourceName, options: ReadOptions) -> Surveyed:
    rows = _open_chunks(name.address, name.label, options)
    try:
        manifest = rows.manifest
        facts = SourceFacts(
            "chunks", name.address, manifest.identity, name.label, rows.n_rows, rows.n_columns, rows.n_entries
        )
        return Surveyed(CutSource(facts, *join_cuts(*rows.pieces)), rows.smallest_dtype)
    finally:
        rows.close()


def open_facts(facts: SourceFacts, options: ReadOptions) -> DescribedRows:
    """Open the source that a plan names.

    Raises
    ------
    SourceChangedError
        It is not what it was when the plan was made.
    ConfigError, SourceError, CorruptError
        It cannot be opened.
    """
    if facts.kind == "h5ad":
        return _open_h5ad(Source("h5ad", facts.address, facts.version), facts.label, options)
    rows = _open_chunks(facts.address, facts.label, options)
    found = (rows.manifest.identity, rows.n_rows, rows.n_columns, rows.n_entries)
    if found != (facts.version, facts.n_rows, facts.n_columns, facts.n_entries):
        rows.close()
        raise SourceChangedError(
            f"{facts.label} holds other chunks than when the conversion began",
            hint="remove what has been made of it so far, and begin again",
            source=facts.address,
        )
    return rows


def _open_chunks(url: str, label: str, options: ReadOptions) -> ChunkRows:
    from ingest.load.memmap.convert.chunks import ChunkRows

    return ChunkRows(
        url,
        label=label,
        endpoint_url=options.endpoint_url,
        allow_incomplete=options.allow_incomplete,
        threads=options.threads,
    )


def _open_h5ad(source: Source, label: str, options: ReadOptions) -> H5adRows:
    from ingest.load.memmap.convert.h5ad import H5adRows

    return H5adRows(source, label=label, use_X_not_raw=options.use_x, threads=options.threads)
