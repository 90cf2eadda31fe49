"""The seam between whatever holds cells and what loads them: chunks on a store, an archive mapped into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ingest.errors import ConfigError
from ingest.grammar import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.genes import Genes
    from ingest.load.obs import Column
    from ingest.load.read.reader import GeneColumns, ReadCells

__all__ = ["Cells", "ObsColumns", "cell_numbers", "cells_of_accessions"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]


class ObsColumns(Protocol):
    """obs of all cells, by column."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns."""
        ...

    def __contains__(self, column: object) -> bool:
        """Return whether there is such a column."""
        ...

    def take(self, column: str, rows: Int64) -> Column:
        """Return a column of some cells, in the order asked for; raises ConfigError where there is none."""
        ...

    def categories(self, column: str) -> tuple[str, ...] | None:
        """Return the distinct texts of a column, sorted; None of numbers."""
        ...

    def having(self, column: str, texts: Sequence[str]) -> Int64:
        """Return the cells whose `column` is one of `texts`, int64, ascending."""
        ...

    def where(self, text: str) -> Int64:
        """Return the cells that match a filter of the index grammar, int64, ascending."""
        ...


class Cells(Protocol):
    """Cells by their number; picklable, small: to another process travels where they are."""

    @property
    def place(self) -> str:
        """Where they are; of several datasets the first."""
        ...

    @property
    def endpoint_url(self) -> str | None:
        """Of an S3 or GCS look-alike."""
        ...

    @property
    def n_cells(self) -> int:
        """How many there are."""
        ...

    @property
    def block_cells(self) -> int:
        """Neighbours that are best read together."""
        ...

    @property
    def window_cells(self) -> int:
        """Cells that are best read at once."""
        ...

    @property
    def genes(self) -> Genes:
        """Of all of them, aligned."""
        ...

    @property
    def identity(self) -> tuple[str, ...]:
        """What the cells are: equal where a position in an epoch means the same cells."""
        ...

    @property
    def obs(self) -> ObsColumns:
        """Their obs."""
        ...

    @property
    def experiment_column(self) -> str:
        """The obs column that says which experiment a cell is of."""
        ...

    def numbers(self, rows: Int64 | Sequence[int]) -> Int64:
        """Return cell numbers, int64 ``(n,)``; of a mask over all cells, those that it marks."""
        ...

    def cell_ids(self, rows: Int64 | Sequence[int]) -> list[str]:
        """Return the names of some cells."""
        ...

    def categories(self, column: str) -> tuple[str, ...] | None:
        """Return the distinct texts of an obs column, sorted; None of numbers."""
        ...

    def where(self, text: str) -> Int64:
        """Return the cells that match a filter, int64, ascending."""
        ...

    def of_accessions(self, accessions: Sequence[str]) -> Int64:
        """Return the cells of some ``SRX_accession``, int64, ascending."""
        ...

    def gene_columns(self, genes: Any = None) -> tuple[Genes, GeneColumns]:
        """Return the genes asked for, and where each vocabulary's stand among them."""
        ...

    def read(self, rows: Int64, columns: GeneColumns) -> ReadCells:
        """Read counts in the order asked for; raises CorruptError where they are damaged."""
        ...

    def keeping(self, *chunks: int | None, once: bool = False) -> Cells:
        """Return the same cells, of which the fewest of so many chunks are kept when they have been read.

        Parameters
        ----------
        once
            Each cell is read once in a while: where no number is given, keep only what keeps all.

        Raises
        ------
        ConfigError
            A number cannot be, or these are no chunks.
        """
        ...

    def use_threads(self, threads: int) -> None:
        """Read on so many threads from now on."""
        ...

    def close(self) -> None:
        """End threads and let go of files; the next read opens them again."""
        ...


def cell_numbers(rows: Int64 | Sequence[int], n_cells: int) -> Int64:
    """Return cell numbers, int64 ``(n,)``; of a mask over all cells, those that it marks.

    Raises
    ------
    ConfigError
        There is no such cell (kind ``row-out-of-range``), or these are no whole numbers (``bad-row``).
    """
    wanted = np.atleast_1d(np.asarray(rows))
    if wanted.dtype == np.bool_:
        if wanted.shape != (n_cells,):
            raise ConfigError(f"a mask of {wanted.size:,} for {n_cells:,} cells", kind="bad-row")
        wanted = np.flatnonzero(wanted)
    if len(wanted) and wanted.dtype.kind not in "iu":
        raise ConfigError(f"cells are asked for by number, not by {wanted.dtype}", kind="bad-row")
    wanted = wanted.astype(np.int64, copy=False)
    wrong = wanted[(wanted < 0) | (wanted >= n_cells)]
    if len(wrong):
        raise ConfigError(
            f"there is no cell {int(wrong[0]):,}: they are numbered from 0 to {n_cells - 1:,}",
            kind="row-out-of-range",
        )
    return wanted


def cells_of_accessions(obs: ObsColumns, accessions: Sequence[str]) -> Int64:
    """Return the cells of some ``SRX_accession``, int64, ascending.

    Raises
    ------
    ConfigError
        There is no such column, or an accession has no cells.
    """
    known = obs.categories("SRX_accession") or ()
    found = obs.having("SRX_accession", list(set(accessions).intersection(known)))
    # `run --without-bad` leaves names of which no cell is left.
    has = {known[code] for code in np.unique(obs.take("SRX_accession", found).values).tolist()}
    absent = next((text for text in accessions if text not in has), None)
    if absent is not None:
        said = f"no cells of SRX_accession {absent!r}{did_you_mean(absent, set(known) - {absent})}"
        raise ConfigError(said, kind="unknown-accession")
    return found
