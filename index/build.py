"""The index commands as plain functions: options in, a file and a report out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from index.dedupe import Deduped
from index.draw import SampleDraw
from index.filtered import Filtered
from index.joined import Joined
from index.read import IndexFile
from index.sample import Sample, Sampling
from index.stream import Projected, silent
from index.write import write_index
from ingest.grammar import parse_filter
from ingest.scbasecount import PUBLIC_ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from index.stream import CellStream, Progress
    from index.write import IndexReport
    from ingest.source import Source

__all__ = [
    "CensusOptions",
    "H5adOptions",
    "ScBaseCountOptions",
    "SelectOptions",
    "index_census",
    "index_h5ad",
    "index_scbasecount",
    "select_cells",
]


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
class ScBaseCountOptions:
    """``index scbasecount``."""

    output: Path
    root: str = PUBLIC_ROOT
    """Folder of the releases: the public bucket's, or any copy."""
    release: str = "latest"
    feature: str = "GeneFull_Ex50pAS"
    organism: str = "Homo_sapiens"
    value_filter: str | None = None
    """Over columns of samples and of cells alike."""
    columns: tuple[str, ...] | None = None
    """Instead of the default ones; SRX_accession, cell_barcode, obs_count and czi_collection_id are always there."""
    exclude_czi: bool = False
    """Leave out CELLxGENE collections processed again."""
    trust_order: bool = False
    """Take the order of obs_metadata for that of the files."""
    sampling: SampleDraw | Sampling | None = None
    """Whole samples, or cells; None takes all."""


@dataclass(frozen=True, slots=True)
class SelectOptions:
    """``index select``."""

    index: Path
    output: Path
    """May be the index itself: it is replaced when all is written."""
    value_filter: str | None = None
    sampling: Sampling | None = None
    more: tuple[Path, ...] = ()
    """Indexes whose cells come after those of `index`."""
    dedupe: bool = False
    """Take out the cells of a scBaseCount whose collection the Census cells are of."""


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
        return _finish(cells, options.sampling, options.output, progress, _origin("census", options))


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
    return _finish(cells, options.sampling, options.output, progress, _origin("h5ad", options))


def index_scbasecount(options: ScBaseCountOptions, *, progress: Progress = silent) -> IndexReport:
    """Write the index of the cells of a scBaseCount that match.

    Raises
    ------
    ConfigError
        Unknown release, feature, organism or column; a bad filter; no scBaseCount there; an unwritable output.
    CredentialsError
        The bucket bills its readers, or wants to know who reads.
    EmptySelectionError
        Nothing matched.
    TransientError
        The network.
    """
    from index.catalog.scbasecount import ScBaseCountCatalog, Wanted  # gcsfs only where it is needed

    kept = None if options.value_filter is None else parse_filter(options.value_filter)
    catalog = ScBaseCountCatalog.open(
        root=options.root, release=options.release, feature=options.feature, organism=options.organism
    )
    by_cell = options.sampling if isinstance(options.sampling, Sampling) else None
    wanted = Wanted(
        kept,
        options.columns,
        options.sampling if isinstance(options.sampling, SampleDraw) else None,
        options.exclude_czi,
        _strata(by_cell),
        options.trust_order,
    )
    found = {"root": catalog.root, "release": catalog.release, "feature": catalog.feature}
    origin = _origin("scbasecount", options) | found | {"organism": catalog.organism}
    return _finish(catalog.cells(wanted), by_cell, options.output, progress, origin)


def select_cells(options: SelectOptions, *, progress: Progress = silent) -> IndexReport:
    """Write the cells of one or several indexes that match as another index.

    Raises
    ------
    ConfigError
        Not an index; unknown column; a bad filter; an unwritable output; nothing tells what stands twice.
    EmptySelectionError
        Nothing matched.
    """
    joined = Joined([IndexFile(path) for path in (options.index, *options.more)])
    cells: CellStream = joined
    if options.value_filter is not None:
        cells = Filtered(cells, parse_filter(options.value_filter), joined.where)
    if options.dedupe:
        cells = Deduped(cells, _collections_of)
    return _finish(
        cells, options.sampling, options.output, progress, _origin("select", options) | {"of": joined.origins}
    )


def _collections_of(source: Source) -> Mapping[str, str]:
    from index.catalog.census import collections_of  # tiledbsoma takes seconds to import

    return collections_of(source)


def _strata(sampling: Sampling | None) -> tuple[str, ...]:
    return () if sampling is None or sampling.stratify is None else (sampling.stratify,)


def _finish(
    cells: CellStream, sampling: Sampling | None, output: Path, progress: Progress, origin: Mapping[str, Any]
) -> IndexReport:
    drawn = cells if sampling is None else Sample(cells, sampling, progress=progress)
    return write_index(output, drawn, origin=origin, progress=progress)


def _origin(command: str, options: Any) -> dict[str, Any]:
    """Return the options by which an index was made, for its file: the same ones make it again."""
    said = {name: value for name, value in asdict(options).items() if name != "output" and value is not None}
    return {"command": f"index {command}", **said}
