"""The rows of a dataset that `run` wrote, local or in a bucket, straight from its chunks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.errors import IncompleteError
from ingest.layout import CHUNK_OFFSETS_KEY
from ingest.load.dataset import open_chunks
from ingest.load.local_copy import cache_folder, local_copy
from ingest.load.memmap.convert.base import Written, worse_of
from ingest.load.memmap.convert.casting import cast_values
from ingest.load.memmap.convert.held import HeldChunks
from ingest.load.memmap.dtypes import smallest_uint_dtype
from ingest.load.read.chunk import ChunkReader
from ingest.load.read.layout import ChunkLayouts
from ingest.load.read.reader import CellReader, GeneColumns
from ingest.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ingest.block import Counts
    from ingest.load.manifest import Manifest
    from ingest.load.memmap.archive import ArrayFiles
    from ingest.load.memmap.convert.base import LossyCast, Place

__all__ = ["ChunkRows"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]

_MOST = (1 << 64) - 1
_WINDOW_ENTRIES = 1 << 21
"""Decoded at once: 16 MB of values and gene numbers."""


class ChunkRows:
    """The cells of one dataset as rows; see `ingest.load.memmap.convert.base.RowSource`.

    Parameters
    ----------
    url
        The dataset.
    label
        What the rows are said to be of; its address unless said.
    endpoint_url
        Of an S3 or GCS look-alike.
    allow_incomplete
        Take what there is of a dataset whose chunks are not all there.
    threads
        That inflate.

    Raises
    ------
    ConfigError
        There is no such dataset, or its chunks are not all there (``IncompleteError``).
    CorruptError
        A summary is damaged.
    """

    def __init__(
        self,
        url: str,
        *,
        label: str | None = None,
        endpoint_url: str | None = None,
        allow_incomplete: bool = False,
        threads: int = 1,
    ) -> None:
        self._label = url if label is None else label
        try:
            self._cells = open_chunks(url, endpoint_url=endpoint_url, allow_incomplete=allow_incomplete, threads=1)
        except IncompleteError as error:
            hint = f"`python -m ingest run {url}` goes on; --allow-incomplete takes what there is"
            raise IncompleteError(error.message, hint=hint) from error
        self._threads, self._endpoint_url = threads, endpoint_url
        self._entries = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.manifest.nnz)])
        self._held: HeldChunks | None = None
        self._reader: CellReader | None = None

    @property
    def manifest(self) -> Manifest:
        """The chunks that are there."""
        return self._cells.manifests[0]

    @property
    def label(self) -> str:
        """What the rows are said to be of."""
        return self._label

    @property
    def n_rows(self) -> int:
        """Cells."""
        return self._cells.n_cells

    @property
    def n_columns(self) -> int:
        """Genes."""
        return self._cells.n_genes

    @property
    def n_entries(self) -> int:
        """Counts that are not zero."""
        return int(self._entries[-1])

    @property
    def pieces(self) -> tuple[Int64, Int64]:
        """Where chunks begin: rows and entries, int64 ``(n_chunks + 1,)`` each. What is read of a chunk costs all."""
        return self.manifest.starts, self._entries

    @property
    def smallest_dtype(self) -> str | None:
        """The smallest unsigned type that holds every count; None where they may be fractions, or none does."""
        most = int(self.manifest.maximum)
        return smallest_uint_dtype(most) if self.manifest.whole and 0 <= most <= _MOST else None

    def entries_before(self, rows: Int64) -> Int64:
        """Return how many counts stand before each of some cells, which ascend; chunks in whose midst one is are read.

        Raises
        ------
        CorruptError
            Such a chunk is missing or damaged; it is named.
        """
        starts = self.manifest.starts
        at = np.searchsorted(starts, rows, side="right") - 1
        found: Int64 = self._entries[at].copy()
        within = rows - starts[at]
        inside = np.unique(at[within > 0]).tolist()
        for chunk in self._open()[0].each(inside) if inside else ():
            mine = at == chunk
            found[mine] += self._chunks.entries(chunk).indptr[within[mine]]
        return found

    def write(
        self, place: Place, into: ArrayFiles, *, tolerance: float = 1e-8, reached: Callable[[int], None] | None = None
    ) -> Written:
        """Write the counts of some cells; see `RowSource`.

        Raises
        ------
        CorruptError
            A chunk is missing or damaged; it is named.
        """
        first, stop = place.first_row, place.first_row + place.n_rows
        row, entry = place.row_at, place.entry_at
        lossy: LossyCast | None = None
        for counts in self._windows(first, stop):
            lossy = worse_of(lossy, self._write_window(counts, place, row, entry, into, tolerance))
            row, entry = row + counts.n_cells, entry + counts.nnz
            if reached is not None:
                reached(row - place.row_at)
        return Written(place.n_rows, entry - place.entry_at, lossy)

    def var_features(self) -> pa.Table:
        """Return the genes: ``feature_id``, ``feature_name``, ``feature_length``, a row each."""
        genes = self._cells.genes
        columns = {"feature_id": genes.ids, "feature_name": genes.names, "feature_length": genes.lengths}
        return pa.table({name: pa.array(values) for name, values in columns.items()})

    def obs_features(self) -> pa.Table:
        """Return obs of all cells, with their names as ``cell_id`` unless a column is called so.

        Raises
        ------
        CorruptError
            obs, or a chunk that has to be asked for names, is missing or damaged.
        """
        obs = self._cells.obs.table()
        if "cell_id" in obs.column_names:
            return obs
        return obs.append_column("cell_id", self._cells.names())

    def neighbors(self, key: str) -> None:  # noqa: ARG002 # as of other sources
        """Return None: chunks have no neighbours."""
        return

    def close(self) -> None:
        """Let go of files."""
        if self._reader is not None:
            self._reader.close()
        self._held = self._reader = None
        self._cells.close()

    def _windows(self, first: int, stop: int) -> Iterator[Counts]:
        """Yield the counts of cells ``[first, stop)``, some at a time, in order; the arrays are lent until the next."""
        if first == stop:
            return
        held, reader = self._open()
        starts = self.manifest.starts
        low, high = self.manifest.chunk_of(np.array([first, stop - 1])).tolist()
        columns = GeneColumns(self.n_columns, (None,))
        for at in held.each([at for at in range(low, high + 1) if starts[at + 1] > starts[at]]):
            begin, end = max(first, int(starts[at])), min(stop, int(starts[at + 1]))
            indptr = self._chunks.entries(at).indptr
            while begin < end:
                done = begin - int(starts[at])
                reach = int(np.searchsorted(indptr, indptr[done] + _WINDOW_ENTRIES, side="right")) - 1
                after = min(end, int(starts[at]) + max(reach, done + 1))
                yield reader.read(np.arange(begin, after), columns).counts
                begin = after

    def _write_window(
        self, counts: Counts, place: Place, row: int, entry: int, into: ArrayFiles, tolerance: float
    ) -> LossyCast | None:
        values, worst, lossy = cast_values(counts.data, np.dtype(into.spec.data), tolerance)
        into.write_values(entry, values)
        into.write_columns(entry, counts.indices)
        into.write_row_ends(row, counts.indptr[1:] + entry)
        if lossy is None:
            return None
        within = int(np.searchsorted(counts.indptr, worst, side="right")) - 1
        return replace(lossy, row=place.first_row + row - place.row_at + within)

    def _open(self) -> tuple[HeldChunks, CellReader]:
        if self._held is None or self._reader is None:
            manifest = self.manifest
            store = open_store(manifest.url, endpoint_url=self._endpoint_url)
            offsets = local_copy(store, CHUNK_OFFSETS_KEY, cache_folder(None))
            self._held = HeldChunks(manifest, store)
            self._chunks = ChunkReader(manifest, ChunkLayouts(manifest, offsets, self._held), self._held)
            self._reader = CellReader((self._chunks,), manifest.dtype, threads=self._threads, cache_bytes=0)
        return self._held, self._reader
