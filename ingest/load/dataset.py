"""One or several finished datasets, opened for reading cells in any order: what training and analysis start from."""

from __future__ import annotations

import copy
import os
import threading
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.errors import ConfigError, CorruptError
from ingest.layout import CELLS_KEY, PRESENCE_KEY
from ingest.load.cells import cell_numbers, cells_of_accessions
from ingest.load.files import OpenFiles, ReadSettings, is_remote
from ingest.load.genes import columns_onto, joint_genes, wanted_genes
from ingest.load.local_copy import cache_folder, local_copy
from ingest.load.manifest import Manifest, read_manifest
from ingest.load.obs import Obs
from ingest.load.order.samplers import BLOCK_CELLS, WINDOW_CELLS
from ingest.load.presence import measured_genes
from ingest.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata

    from ingest.block import Counts
    from ingest.genes import Genes
    from ingest.load.names import CellNames
    from ingest.load.obs import Column
    from ingest.load.read.reader import CellReader, GeneColumns, ReadCells

__all__ = ["ChunkedCells", "open_chunks"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

_SAMPLE_COLUMNS = ("dataset_id", "SRX_accession", "source")
"""What an experiment is, in a Census, in scBaseCount, and anywhere."""


def open_chunks(
    dest: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    align: str = "union",
    settings: ReadSettings | None = None,
    **options: Any,
) -> ChunkedCells:
    """Open a finished dataset, or several as one: cells of the first, then of the second, ….

    Parameters
    ----------
    dest
        Folders, ``s3://`` or ``gs://`` prefixes that `run` has written.
    align
        Of several with different genes: ``union``, or ``intersection``.
    settings, options
        `ReadSettings`, or single ones of them by name.

    Raises
    ------
    ConfigError
        There is no dataset, no such setting, or its chunks are not all there (``IncompleteError``).
    CorruptError
        A summary is damaged.
    """
    places = [dest] if isinstance(dest, (str, os.PathLike)) else list(dest)
    if not places:
        raise ConfigError("no dataset is named", kind="no-dataset")
    unknown = sorted(options.keys() - set(ReadSettings.__slots__))
    if unknown:
        raise ConfigError(
            f"{unknown[0]} is no setting of reading; there is {', '.join(ReadSettings.__slots__)}", kind="bad-option"
        )
    given = settings or ReadSettings(**options)
    return ChunkedCells(tuple(os.fspath(place) for place in places), align, given)


class ChunkedCells:
    """Cells by their global number: look-ups, obs, counts. Travels to other processes as its address alone.

    Parameters
    ----------
    urls, align, settings
        As `open_chunks` has them.
    """

    def __init__(self, urls: tuple[str, ...], align: str, settings: ReadSettings) -> None:
        self._urls, self._align, self.settings = urls, align, settings
        self._folder = cache_folder(settings.cache_dir)
        self._process = os.getpid()
        self._opened: OpenFiles | None = None
        self._lock = threading.Lock()
        stores = [open_store(url, endpoint_url=settings.endpoint_url) for url in urls]
        self.manifests: tuple[Manifest, ...] = tuple(
            read_manifest(store, allow_incomplete=settings.allow_incomplete) for store in stores
        )
        for store in stores:
            store.close()
        self._starts = np.concatenate(
            [[0], np.cumsum([manifest.n_cells for manifest in self.manifests], dtype=np.int64)]
        )
        self.genes: Genes = joint_genes([manifest.genes for manifest in self.manifests], align)

    def __reduce__(self) -> tuple[Any, ...]:
        return ChunkedCells, (self._urls, self._align, self.settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ChunkedCells {self.n_cells:,} cells x {self.n_genes:,} genes of {', '.join(self._urls)}>"

    def __len__(self) -> int:
        return self.n_cells

    @property
    def place(self) -> str:
        """URL of the first dataset."""
        return self.manifests[0].url

    @property
    def endpoint_url(self) -> str | None:
        """Of an S3 or GCS look-alike."""
        return self.settings.endpoint_url

    @property
    def n_cells(self) -> int:
        """Cells of all datasets."""
        return int(self._starts[-1])

    @property
    def block_cells(self) -> int:
        """Neighbours that are best read together: a block of HDF5 has some 27."""
        return BLOCK_CELLS

    @property
    def window_cells(self) -> int:
        """Cells that are best read at once: the larger, the better mixed."""
        return WINDOW_CELLS

    @property
    def n_genes(self) -> int:
        """Genes of all datasets, aligned."""
        return len(self.genes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type that holds every count exactly."""
        return np.result_type(*(manifest.dtype for manifest in self.manifests))

    @property
    def identity(self) -> tuple[str, ...]:
        """What the cells are: the digest of each dataset's plan, with the chunks that are there."""
        return tuple(manifest.identity for manifest in self.manifests)

    @cached_property
    def obs(self) -> Obs:
        """Obs of all cells, mapped into memory."""
        found = Obs([self._local(url, CELLS_KEY) for url in self._urls], [m.url for m in self.manifests])
        for n_cells, manifest in zip(found.n_cells, self.manifests, strict=True):
            if n_cells != manifest.n_cells:
                raise CorruptError(
                    f"{manifest.url}/{CELLS_KEY} is of {n_cells:,} cells, the chunks of {manifest.n_cells:,}",
                    kind="bad-summary",
                    hint=f"`python -m ingest run {manifest.url}` writes it again",
                    key=CELLS_KEY,
                )
        return found

    @cached_property
    def experiment_column(self) -> str:
        """The obs column that says which experiment a cell is of."""
        found = next((column for column in _SAMPLE_COLUMNS if column in self.obs), None)
        if found is None or self.obs.categories(found) is None:
            raise CorruptError(
                f"{self.place}/{CELLS_KEY} does not say which source its cells are of",
                kind="bad-summary",
                hint=f"`python -m ingest run {self.place}` writes it again",
                key=CELLS_KEY,
            )
        return found

    def locate(self, row: int) -> tuple[int, int, int]:
        """Return dataset, chunk number and row within the chunk of a cell.

        Raises
        ------
        ConfigError
            There is no such cell.
        """
        [number] = self.numbers([row]).tolist()
        dataset = int(np.searchsorted(self._starts, number, side="right")) - 1
        manifest, local = self.manifests[dataset], number - int(self._starts[dataset])
        at = int(manifest.chunk_of(np.array([local]))[0])
        return dataset, manifest.numbers[at], local - int(manifest.starts[at])

    def where(self, text: str) -> Int64:
        """Return the cells that match a filter such as ``tissue == 'lung' and nnz > 500``, int64, ascending."""
        return self.obs.where(text)

    def of_accessions(self, accessions: Sequence[str]) -> Int64:
        """Return the cells of some ``SRX_accession``, int64, ascending.

        Raises
        ------
        ConfigError
            There is no such column, or an accession has no cells.
        """
        return cells_of_accessions(self.obs, accessions)

    def categories(self, column: str) -> tuple[str, ...] | None:
        """Return the distinct texts of an obs column, sorted; None of numbers."""
        return self.obs.categories(column)

    def column(self, name: str, rows: Int64 | Sequence[int]) -> Column:
        """Return an obs column of some cells."""
        return self.obs.take(name, self.numbers(rows))

    def cell_ids(self, rows: Int64 | Sequence[int]) -> list[str]:
        """Return the names of some cells: ``obs_names`` of the chunks.

        Of several datasets each name has the number of its own before it: ``0/…``, ``1/…``.

        Raises
        ------
        CorruptError
            A chunk that has to be asked is missing or damaged.
        """
        wanted = self.numbers(rows)
        if len(self.manifests) == 1:
            return self._names[0].take(wanted)
        names = np.empty(len(wanted), object)
        owner = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in np.unique(owner).tolist():
            mine = owner == number
            own = self._names[number].take(wanted[mine] - self._starts[number])
            names[mine] = [f"{number}/{name}" for name in own]
        found: list[str] = names.tolist()
        return found

    def names(self) -> pa.ChunkedArray:
        """Return the names of all cells as Arrow texts: what `cell_ids` returns, without an object of Python each.

        Raises
        ------
        CorruptError
            A chunk that has to be asked is missing or damaged.
        """
        pieces: list[pa.Array] = []
        for number, names in enumerate(self._names):
            prefix = f"{number}/" if len(self._names) > 1 else ""
            pieces += [pc.binary_join_element_wise(prefix, one, "") if prefix else one for one in names.every()]
        return pa.chunked_array(pieces, pa.string())

    def find(self, cell_ids: Sequence[str]) -> Int64:
        """Return the global numbers of cells by name, int64 ``(n,)``, in the order asked for.

        Raises
        ------
        ConfigError
            A cell is not there (kind ``unknown-cell``).
        """
        places: dict[str, int] = {}
        for number, names in enumerate(self._names):
            prefix = f"{number}/" if len(self._names) > 1 else ""
            mine = [name.removeprefix(prefix) for name in cell_ids if name.startswith(prefix)]
            start = int(self._starts[number])
            places |= {prefix + name: start + row for name, row in names.find(mine).items()} if mine else {}
        absent = next((name for name in cell_ids if name not in places), None)
        if absent is not None:
            raise ConfigError(f"no cell {absent!r} in {', '.join(self._urls)}", kind="unknown-cell")
        return np.array([places[name] for name in cell_ids], np.int64)

    def gene_columns(self, genes: Any = None) -> tuple[Genes, GeneColumns]:
        """Return the genes asked for (ids or columns, None: all), and where each dataset's stand among them."""
        wanted = wanted_genes(self.genes, genes)
        return wanted, columns_onto([manifest.genes for manifest in self.manifests], wanted)

    def read(self, rows: Int64, columns: GeneColumns) -> ReadCells:
        """Read counts, and totals where not all genes are asked for; the window's own interface.

        Raises
        ------
        CorruptError
            A chunk is missing or damaged; it is named.
        """
        return self._reader.read(rows, columns)

    def counts(self, rows: Int64 | Sequence[int], *, genes: Any = None) -> Counts:
        """Return the counts of some cells as CSR ``(n_cells, n_genes)``, in the order asked for.

        Raises
        ------
        ConfigError
            There is no such cell or gene.
        CorruptError
            A chunk is missing or damaged; it is named.
        """
        return self.read(self.numbers(rows), self.gene_columns(genes)[1]).counts

    def measured(self, rows: Int64 | Sequence[int] | None = None) -> Bools:
        """Return for each cell, or each experiment when None, which genes were measured: bool ``(n, n_genes)``.

        Zero of a gene that was not measured is not a count; of a cell without experiment none is known to be measured.
        Experiments are in the order of ``categories(experiment_column)``.

        Raises
        ------
        CorruptError
            ``metadata/presence.npz`` does not name an experiment.
        """
        if rows is None:
            return self._presence
        wanted = self.numbers(rows)
        codes = self.obs.take(self.experiment_column, wanted).values
        owner = np.searchsorted(self._starts, wanted, side="right") - 1
        # An experiment may have cells in several datasets, of which each has some of its genes.
        known = codes >= 0
        found: Bools = np.zeros((len(wanted), len(self.genes)), bool)
        found[known] = self._presence[codes[known]] & self._own_genes[owner[known]]
        return found

    def to_anndata(self, rows: Int64 | Sequence[int], *, genes: Any = None) -> anndata.AnnData:
        """Return some cells as AnnData: CSR counts, obs, var."""
        import anndata
        import pandas as pd
        import scipy.sparse as sp

        wanted = self.numbers(rows)
        names, columns = self.gene_columns(genes)
        counts = self.read(wanted, columns).counts
        shape = (counts.n_cells, counts.n_genes)
        # Copies: an AnnData lives on, and the buffers are lent again as soon as nobody refers to them.
        matrix = sp.csr_matrix((counts.data.copy(), counts.indices.copy(), counts.indptr), shape=shape)
        obs = self.obs.table(wanted).to_pandas()
        obs.index = pd.Index(self.cell_ids(wanted))
        var = pd.DataFrame({"feature_name": names.names, "feature_length": names.lengths}, index=list(names.ids))
        return anndata.AnnData(X=matrix, obs=obs, var=var)

    def use_threads(self, threads: int) -> None:
        """Inflate on so many threads from now on; of a bucket, where they mostly wait, on more."""
        self.close()
        self.settings = replace(self.settings, threads=None if any(map(is_remote, self._urls)) else threads)

    def with_cache(self, cache_bytes: int) -> ChunkedCells:
        """Return the same cells with files and a cache of their own, of so many bytes; these here stay as they are."""
        twin = copy.copy(self)
        twin.settings = replace(self.settings, cache_bytes=cache_bytes)
        twin._opened, twin._lock = None, threading.Lock()
        return twin

    def keeping(self, *chunks: int | None, once: bool = False) -> ChunkedCells:
        """Return the same cells, of which so many inflated chunks are kept; see `ingest.load.cells.Cells`.

        Raises
        ------
        ConfigError
            A number is negative (kind ``bad-option``).
        """
        given = [number for number in chunks if number is not None]
        if given:
            return self.with_cache(self._bytes_of_chunks(min(given)))
        # A block that comes once an epoch is gone before it comes again.
        return self.with_cache(0) if once and self.settings.cache_bytes is None and not self.fit_cache else self

    def _bytes_of_chunks(self, number: int) -> int:
        if number < 0:
            raise ConfigError(f"{number} chunks cannot be kept", kind="bad-option")
        width = 4 + self.dtype.itemsize
        if any(manifest.dense for manifest in self.manifests):
            most = max(int(np.diff(m.starts).max(initial=0)) * len(m.genes) * m.dtype.itemsize for m in self.manifests)
        else:
            most = max(int(manifest.nnz.max(initial=0)) * width for manifest in self.manifests)
        return number * max(most, 1)

    def close(self) -> None:
        """End threads and let go of files; the next read opens them again."""
        if self._process != os.getpid():
            return
        with self._lock:
            found, self._opened = self._opened, None
        if found is not None:
            found.close()

    @property
    def _reader(self) -> CellReader:
        return self._open().reader

    def _open(self) -> OpenFiles:
        if self._process != os.getpid():  # forked: threads and sockets stayed behind, and whoever held the lock
            self._opened, self._lock, self._process = None, threading.Lock(), os.getpid()
        with self._lock:
            if self._opened is None:
                self._opened = OpenFiles(self.manifests, self.settings, self.dtype)
            return self._opened

    @property
    def fit_cache(self) -> bool:
        """Whether all cells can be kept inflated."""
        return sum(manifest.inflated_bytes for manifest in self.manifests) <= self.settings.most_cache_bytes

    @property
    def _names(self) -> tuple[CellNames, ...]:
        return self._open().names(self.obs)

    @cached_property
    def _own_genes(self) -> Bools:
        """Which genes each dataset has, bool ``(n_datasets, n_genes)``."""
        return np.array([np.isin(self.genes.ids, manifest.genes.ids) for manifest in self.manifests])

    @cached_property
    def _presence(self) -> Bools:
        experiments = self.categories(self.experiment_column) or ()
        files = [self._local(url, PRESENCE_KEY) for url in self._urls]
        return measured_genes(files, self.manifests, self.genes, experiments)

    def _local(self, url: str, key: str) -> Any:
        store = open_store(url, endpoint_url=self.settings.endpoint_url)
        try:
            return local_copy(store, key, self._folder)
        finally:
            store.close()

    def numbers(self, rows: Int64 | Sequence[int]) -> Int64:
        """Return cell numbers, int64 ``(n_cells,)``; of a mask over all cells, those that it marks.

        Raises
        ------
        ConfigError
            There is no such cell (kind ``row-out-of-range``), or these are no whole numbers (``bad-row``).
        """
        return cell_numbers(rows, self.n_cells)
