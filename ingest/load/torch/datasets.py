"""Datasets as torch knows them: by cell (map-style), and as a stream of shuffled batches (iterable)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ingest.errors import ConfigError
from ingest.load.choose import choose_cells, choose_sampler
from ingest.load.dataset import open_chunks
from ingest.load.files import ReadSettings
from ingest.load.hvgs import chosen_hvgs
from ingest.load.memmap.cells import MappedCells, is_archive
from ingest.load.metadata import MetadataReader
from ingest.load.stream import read_window, stream_batches
from ingest.load.torch.forms import maker_of
from ingest.load.torch.loader import Ranks, as_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ingest.load.cells import Cells
    from ingest.load.stream import Transform

    Place = str | os.PathLike[str]
    Source = Place | Sequence[Place] | Cells

__all__ = ["ChunkDataset", "HVGDataset", "ScRNADataset", "ShuffledCells", "opened"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]


def opened(source: Source, **settings: Any) -> Cells:
    """Return `source` when it is open already, else open it: chunks, or an archive that is mapped into memory.

    Raises
    ------
    ConfigError
        Settings are given for what is open already, or for an archive.
    """
    if isinstance(source, str | os.PathLike) and is_archive(source):
        source = MappedCells(source)
    if isinstance(source, str | os.PathLike) or not hasattr(source, "gene_columns"):
        return open_chunks(source, **settings)
    if settings:
        raise ConfigError(f"{min(settings)} is for open_chunks, which has been called", kind="bad-option")
    return source  # type: ignore[return-value]  # it has gene_columns: no list of places


class ChunkDataset(Dataset[Any]):
    """Cells by number, map-style: ``dataset[i]`` is ``(X, metadata)`` of one cell.

    X is float32 ``(n_genes,)``, or int64 of tokens. What a `DataLoader` asks for a batch of is read together. A cell
    read at random costs the blocks it lies in, some 27 cells' worth; `create_dataloader` reads in order and is far
    faster.

    Parameters
    ----------
    source
        A dataset, several, or what `open_chunks` returned.
    genes, transform, obs
        As `ingest.load.torch.loader.CellLoader` has them.
    rows, where, include_srx_accessions
        Which cells; together they must all hold.
    chunk_cache_size, max_chunks_in_memory
        Inflated chunks kept, at most: the smaller of the two counts. `cache_bytes` says it in bytes.
    settings
        Of `ingest.load.dataset.ReadSettings`.
    """

    def __init__(
        self,
        source: Source,
        *,
        genes: Any = None,
        transform: Transform | None = None,
        obs: Sequence[str] = (),
        rows: Int64 | Sequence[int] | None = None,
        where: str | None = None,
        include_srx_accessions: Sequence[str] | None = None,
        chunk_cache_size: int | None = None,
        max_chunks_in_memory: int | None = None,
        **settings: Any,
    ) -> None:
        self.cells = opened(source, **settings)
        self.cells = self.cells.keeping(chunk_cache_size, max_chunks_in_memory)
        self.genes, self._columns = self.cells.gene_columns(genes)
        self._transform = transform
        self._metadata = MetadataReader(self.cells, tuple(obs))
        self._rows = choose_cells(self.cells, rows=rows, where=where, include_srx_accessions=include_srx_accessions)
        self._makers = {tokens: maker_of("dense", tokens=tokens) for tokens in (False, True)}

    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]:
        """What codes in the metadata stand for, by column."""
        return self._metadata.categories

    def __len__(self) -> int:
        return self.cells.n_cells if self._rows is None else len(self._rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, Any]]:
        [item] = self.__getitems__([index])
        return item

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[torch.Tensor, dict[str, Any]]]:
        """Return several cells, read together."""
        rows = self._numbers(indices)
        read = self.cells.read(rows, self._columns)
        counts = read.counts if self._transform is None else self._transform(read.counts, read.totals)
        tokens = self._transform is not None and counts.data.dtype == np.int32
        dense = self._makers[tokens](counts)
        metadata = self._metadata.of(rows)
        return [(dense[at], {name: _plain(values[at]) for name, values in metadata.items()}) for at in range(len(rows))]

    def _numbers(self, indices: Sequence[int]) -> Int64:
        wanted = np.asarray(indices, np.int64)
        n = len(self)
        if ((wanted < -n) | (wanted >= n)).any():
            raise IndexError(f"cell {int(wanted[(wanted < -n) | (wanted >= n)][0])} of {n}")
        wanted = np.where(wanted < 0, wanted + n, wanted)
        return wanted if self._rows is None else self._rows[wanted]


class ScRNADataset(ChunkDataset):
    """All genes of all cells, by number: ``ScRNADataset("data/scRNA")``."""


class HVGDataset(ChunkDataset):
    """Highly variable genes of all cells, by number: ``HVGDataset("data/scRNA", n_hvgs=2000)``.

    Column j is the j-th gene of hvg_info.json, which ``python -m ingest hvg`` writes.

    Parameters
    ----------
    n_hvgs
        The first so many of those; None: all that were chosen.
    hvg_dir
        Where hvg_info.json is, if not in the dataset.
    """

    def __init__(
        self, source: Source, n_hvgs: int | None = None, *, hvg_dir: str | None = None, **options: Any
    ) -> None:
        names = {field: options.pop(field) for field in ReadSettings.__slots__ if field in options}
        cells = opened(source, **names)
        super().__init__(cells, genes=chosen_hvgs(cells, n_hvgs, source=hvg_dir), **options)


class ShuffledCells(IterableDataset[Any]):
    """Batches of cells in random order, as a stream: each worker of a `DataLoader` takes whole windows.

    ``DataLoader(ShuffledCells(dest, batch_size=512), batch_size=None, num_workers=4)`` delivers every cell once an
    epoch; which batch comes when depends on the number of workers there, while `create_dataloader` keeps one order
    and can resume. Call `set_epoch` before each epoch.

    Parameters
    ----------
    source, genes, transform, form, obs
        As `ingest.load.torch.loader.CellLoader` has them.
    batch_size, seed, block_cells, window_cells, drop_last
        As `ingest.load.choose.choose_sampler` has them.
    rows, where, include_srx_accessions
        Which cells.
    rank, world_size
        Of distributed training; None: as ``torch.distributed`` says.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int = 512,
        *,
        genes: Any = None,
        transform: Transform | None = None,
        form: str = "dense",
        obs: Sequence[str] = (),
        rows: Int64 | Sequence[int] | None = None,
        where: str | None = None,
        include_srx_accessions: Sequence[str] | None = None,
        seed: int = 0,
        block_cells: int | None = None,
        window_cells: int | None = None,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        **settings: Any,
    ) -> None:
        self.cells = opened(source, **settings)
        chosen = choose_cells(self.cells, rows=rows, where=where, include_srx_accessions=include_srx_accessions)
        self._sampler = choose_sampler(
            self.cells,
            batch_size,
            chosen=chosen,
            seed=seed,
            block_cells=block_cells,
            window_cells=window_cells,
            drop_last=drop_last,
        )
        self.genes, self._columns = self.cells.gene_columns(genes)
        self._transform = transform
        self._makers = {tokens: maker_of(form, tokens=tokens) for tokens in (False, True)}
        self._metadata = MetadataReader(self.cells, tuple(obs))
        self._ranks = Ranks(rank, world_size)
        # Shared, so that workers that outlive an epoch see the next one's number.
        self._epoch = torch.zeros(1, dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]:
        """What codes in the metadata stand for, by column."""
        return self._metadata.categories

    def set_epoch(self, epoch: int) -> None:
        """Deliver the order of `epoch` from the next pass on."""
        self._epoch[0] = epoch

    def __len__(self) -> int:
        rank, world_size = self._ranks.now()
        return self._sampler.epoch(0, rank=rank, world_size=world_size).n_batches

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        rank, world_size = self._ranks.now()
        order = self._sampler.epoch(int(self._epoch[0]), rank=rank, world_size=world_size)
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info is not None else (0, 1)
        if info is not None:
            self.cells.use_threads(1)
        windows = (
            read_window(self.cells, order, number, self._columns, self._transform)
            for number in range(first, order.n_windows, step)
        )
        for batch in stream_batches(windows):
            tokens = self._transform is not None and batch.counts.data.dtype == np.int32
            metadata = self._metadata.of(batch.rows)
            yield (
                self._makers[tokens](batch.counts),
                {name: as_tensor(values) for name, values in metadata.items()},
            )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
