"""An archive as loaders have cells: any order, any genes, transforms; see `ingest.load.cells.Cells`."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.block import Counts
from ingest.cpu import available_cpus
from ingest.errors import ConfigError
from ingest.fetch.kernels import order_rows
from ingest.load.cells import cell_numbers, cells_of_accessions
from ingest.load.genes import columns_onto, joint_genes, wanted_genes
from ingest.load.memmap.archive_obs import ArchiveObs
from ingest.load.memmap.kernels import is_ascending
from ingest.load.memmap.names import FileNames, Mode
from ingest.load.memmap.opening import open_archive
from ingest.load.memmap.revise import is_being_revised
from ingest.load.memmap.rows import MappedRows
from ingest.load.memmap.vocabularies import genes_of
from ingest.load.read.kernels import keep_columns, tighten
from ingest.load.read.reader import ReadCells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.genes import Genes
    from ingest.load.memmap.opening import OpenArchive
    from ingest.load.read.reader import GeneColumns

__all__ = ["MappedCells", "is_archive"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]

_WINDOW_CELLS = 1024
_CELL_NAMES = ("cell_id", "obs_feature_id", "soma_joinid", "barcode")
"""What names of cells are called, the first that is there."""


def is_archive(place: str | os.PathLike[str]) -> bool:
    """Return whether a place is an archive that has been finished, even if a change of it has not."""
    folder = Path(place)
    finished = (folder / FileNames.METADATA.value).is_file() or is_being_revised(folder)
    return finished and all((folder / name.value).is_file() for name in (FileNames.DATA, FileNames.ROWPTR))


class MappedCells:
    """The cells of one archive; to other processes it travels as its path.

    Parameters
    ----------
    path
        Of the archive.
    align
        Of cells with different genes: ``union``, or ``intersection``.
    """

    def __init__(self, path: str | os.PathLike[str], align: str = "union") -> None:
        self._path, self._align = os.fspath(path), align
        self._threads = available_cpus()

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedCells, (self._path, self._align)

    def __repr__(self) -> str:
        return f"<MappedCells {self.n_cells:,} cells x {len(self.genes):,} genes of {self._path}>"

    def __len__(self) -> int:
        return self.n_cells

    @cached_property
    def _archive(self) -> OpenArchive:
        return open_archive(self._path, Mode.READ)

    @cached_property
    def _rows(self) -> MappedRows:
        return MappedRows(self._archive.data, self._archive.col_index, self._archive.row_index)

    @property
    def place(self) -> str:
        """Where the archive is."""
        return self._path

    @property
    def endpoint_url(self) -> None:
        """None: an archive is on a disk."""

    @property
    def n_cells(self) -> int:
        """How many there are."""
        return self._archive.spec.n_rows

    @property
    def block_cells(self) -> int:
        """One: any cell is as near as the next."""
        return 1

    @property
    def window_cells(self) -> int:
        """Cells that are read at once: enough for several threads, and for a disk to have many in hand."""
        return _WINDOW_CELLS

    @cached_property
    def _vocabularies(self) -> tuple[Genes, ...]:
        found = genes_of(self._archive.var)
        if not found:
            raise ConfigError(f"{self._path} does not say what its columns are", kind="no-genes")
        return found

    @cached_property
    def genes(self) -> Genes:
        """Of all cells, aligned."""
        return joint_genes(self._vocabularies, self._align)

    @cached_property
    def identity(self) -> tuple[str, ...]:
        """A digest of sizes, types, where rows begin, and features' rows: not of the values."""
        spec, row_index = self._archive.spec, self._archive.row_index
        step = max(1, len(row_index) >> 16)
        said = repr((spec, self._archive.var.number_of_rows(), self.genes.digest)).encode()
        return (hashlib.sha256(said + row_index[::step].astype("<u8").tobytes()).hexdigest()[:32],)

    @cached_property
    def obs(self) -> ArchiveObs:
        """Columns of obs, and ``source``: what the cells are of."""
        return ArchiveObs(self._archive.obs, self.n_cells, self._path)

    @property
    def experiment_column(self) -> str:
        """The obs column that says which experiment a cell is of."""
        return self.obs.experiment_column

    def numbers(self, rows: Int64 | Sequence[int]) -> Int64:
        """Return cell numbers, int64 ``(n,)``; of a mask over all cells, those that it marks."""
        return cell_numbers(rows, self.n_cells)

    def categories(self, column: str) -> tuple[str, ...] | None:
        """Return the distinct texts of an obs column, sorted; None of numbers."""
        return self.obs.categories(column)

    def where(self, text: str) -> Int64:
        """Return the cells that match a filter such as ``tissue == 'lung'``, int64, ascending."""
        return self.obs.where(text)

    def of_accessions(self, accessions: Sequence[str]) -> Int64:
        """Return the cells of some ``SRX_accession``, int64, ascending."""
        return cells_of_accessions(self.obs, accessions)

    def cell_ids(self, rows: Int64 | Sequence[int]) -> list[str]:
        """Return the names of some cells; where obs has no column of them, their numbers."""
        wanted = self.numbers(rows)
        column = next((name for name in _CELL_NAMES if name in self.obs), None)
        if column is None:
            return [str(number) for number in wanted.tolist()]
        found = self.obs.take(column, wanted)
        values = found.values.tolist()
        if found.categories is None:
            return [str(value) for value in values]
        return [found.categories[code] if code >= 0 else "" for code in values]

    def gene_columns(self, genes: Any = None) -> tuple[Genes, GeneColumns]:
        """Return the genes asked for (ids or columns, None: all), and where each vocabulary's stand among them."""
        wanted = wanted_genes(self.genes, genes)
        return wanted, columns_onto(self._vocabularies, wanted)

    def read(self, rows: Int64, columns: GeneColumns) -> ReadCells:
        """Read counts in the order asked for, those of 16 bits or fewer as float32; columns ascend, stored so or not.

        Raises
        ------
        CorruptError
            The archive is damaged there.
        """
        width = max(len(genes) for genes in self._vocabularies)
        batch = self._rows.take(rows, width, threads=self._threads)
        counts = Counts(batch.indptr, batch.columns, _widened(batch.values), width)
        if not is_ascending(batch.indptr, batch.columns):
            order_rows(counts.indptr, counts.indices, counts.data, width)
        if columns.as_they_are:
            return ReadCells(counts, None)
        return _of_genes(
            counts, np.searchsorted(self._archive.var._cumulative_sum_index[1:], rows, side="right"), columns
        )

    def keeping(self, *chunks: int | None, once: bool = False) -> MappedCells:
        """Return itself: what is kept in memory of mapped files is the system's affair.

        Raises
        ------
        ConfigError
            A number of chunks is given (kind ``bad-option``).
        """
        del once
        if any(number is not None for number in chunks):
            raise ConfigError(f"{self._path} is mapped into memory: it has no chunks to keep", kind="bad-option")
        return self

    def use_threads(self, threads: int) -> None:
        """Take rows on so many threads from now on."""
        self.close()
        self._threads = threads

    def close(self) -> None:
        """Let go of the files; the next read maps them again."""
        for name in ("_archive", "_rows"):
            self.__dict__.pop(name, None)


def _widened(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return what transforms work in, where it holds the values exactly."""
    return values.astype(np.float32) if values.itemsize <= np.dtype(np.uint16).itemsize else values


def _of_genes(counts: Counts, blocks: Int64, columns: GeneColumns) -> ReadCells:
    """Keep the genes wanted, of each cell by the genes of its block; in place, then closely."""
    begin, end = counts.indptr[:-1], counts.indptr[1:]
    kept, sums = np.empty(len(begin), np.int64), np.empty(len(begin))
    for block in np.unique(blocks).tolist():
        mine = np.flatnonzero(blocks == block)
        gene_map = columns.maps[block]
        if gene_map is None:
            gene_map = np.arange(columns.n_genes, dtype=np.int32)
        of_kept, of_sums = np.empty(len(mine), np.int64), np.empty(len(mine))
        keep_columns(begin[mine], end[mine], gene_map, counts.data, counts.indices, of_kept, of_sums)
        kept[mine], sums[mine] = of_kept, of_sums
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    data, indices = np.empty(indptr[-1], counts.data.dtype), np.empty(indptr[-1], np.int32)
    tighten(begin, kept, indptr[:-1], counts.data, counts.indices, data, indices)
    if not columns.ascending:
        order_rows(indptr, indices, data, columns.n_genes)
    return ReadCells(Counts(indptr, indices, data, columns.n_genes), sums)
