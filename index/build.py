"""The index commands as plain functions: options in, a file and a report out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from index.filtered import Filtered
from index.read import IndexFile
from index.sample import Sample, Sampling
from index.stream import Projected, silent
from index.write import write_index
from ingest.grammar import parse_filter

if TYPE_CHECKING:
    from pathlib import Path

    from index.stream import CellStream, Progress
    from index.write import IndexReport

__all__ = ["CensusOptions", "H5adOptions", "SelectOptions", "index_census", "index_h5ad", "select_cells"]


@dataclass(frozen=True, slots=True)
class CensusOptions:
    """``index census``."""

    output: Path
    version: str = "stable"
    """A date or an alias of the public Census; `uri` wins."""
    uri: str | None = None
    """Any other copy: a folder or an ``s3://`` prefix."""
    organism: str = "homo_sapiens"
    value_filter: str | None = None
    columns: tuple[str, ...] | None = None
    """Instead of the default obs columns; dataset_id, nnz and raw_sum are always there."""
    all_cells: bool = False
    """Keep cells that other datasets have too."""
    sampling: Sampling | None = None


@dataclass(frozen=True, slots=True)
class H5adOptions:
    """``index h5ad``."""

    output: Path
    paths: tuple[str, ...]
    """Paths, URLs and globs."""
    value_filter: str | None = None
    columns: tuple[str, ...] | None = None
    """Instead of all obs columns."""
    sampling: Sampling | None = None


@dataclass(frozen=True, slots=True)
class SelectOptions:
    """``index select``."""

    index: Path
    output: Path
    """May be the index itself: it is replaced when all is written."""
    value_filter: str | None = None
    sampling: Sampling | None = None


def index_census(options: CensusOptions, *, progress: Progress = silent) -> IndexReport:
    """Write the index of the Census cells that match.

    Raises
    ------
    ConfigError
        Unknown version, organism or column; a bad filter; no Census there; an unwritable output.
    EmptySelectionError
        Nothing matched.
    TransientError
        The network.
    """
    from index.catalog.census import CensusCatalog  # tiledbsoma takes seconds to import

    kept = None if options.value_filter is None else parse_filter(options.value_filter)
    with CensusCatalog.open(version=options.version, uri=options.uri, organism=options.organism) as catalog:
        cells = catalog.cells(
            kept, columns=options.columns, extra=_strata(options.sampling), all_cells=options.all_cells
        )
        return _finish(cells, options.sampling, options.output, progress)


def index_h5ad(options: H5adOptions, *, progress: Progress = silent) -> IndexReport:
    """Write the index of the cells of h5ad files that match.

    Raises
    ------
    ConfigError
        No such file; unknown column; a bad filter; an unwritable output.
    SourceError
        A file is no h5ad, or is not fit to be opened.
    EmptySelectionError
        Nothing matched.
    TransientError
        The network.
    """
    from index.catalog.h5ad import H5adCells, find_files  # h5py only where it is needed

    kept = None if options.value_filter is None else parse_filter(options.value_filter)
    files = H5adCells(find_files(options.paths), options.columns, progress=progress)
    cells: CellStream = files if kept is None else Filtered(files, kept, files.where)
    if options.columns is not None:
        wanted = ("source", "soma_joinid", "row", *options.columns, *_strata(options.sampling))
        cells = Projected(cells, wanted, files.where)
    return _finish(cells, options.sampling, options.output, progress)


def select_cells(options: SelectOptions, *, progress: Progress = silent) -> IndexReport:
    """Write the cells of an index that match as another index.

    Raises
    ------
    ConfigError
        Not an index; unknown column; a bad filter; an unwritable output.
    EmptySelectionError
        Nothing matched.
    """
    cells: CellStream = IndexFile(options.index)
    if options.value_filter is not None:
        cells = Filtered(cells, parse_filter(options.value_filter), str(options.index))
    return _finish(cells, options.sampling, options.output, progress)


def _strata(sampling: Sampling | None) -> tuple[str, ...]:
    return () if sampling is None or sampling.stratify is None else (sampling.stratify,)


def _finish(cells: CellStream, sampling: Sampling | None, output: Path, progress: Progress) -> IndexReport:
    drawn = cells if sampling is None else Sample(cells, sampling, progress=progress)
    return write_index(output, drawn, progress=progress)
