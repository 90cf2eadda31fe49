"""The loader: batches of cells as tensors, in an order that the number of workers does not change.

Without workers a thread of this process reads the next windows while the training loop has this one. With workers each
reads whole windows, in turn, and what travels is a window as CSR: it is cut into batches, and made dense, on this side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ingest.block import Counts
from ingest.cpu import available_cpus
from ingest.errors import ConfigError, IngestError
from ingest.load.metadata import MetadataReader
from ingest.load.stream import CellBatch, WindowCells, read_window, stream_batches, stream_windows
from ingest.load.torch.forms import maker_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ingest.genes import Genes
    from ingest.load.cells import Cells
    from ingest.load.order.epoch import EpochOrder
    from ingest.load.order.samplers import Sampler
    from ingest.load.read.reader import GeneColumns
    from ingest.load.stream import Transform

__all__ = ["CellLoader", "Ranks", "as_tensor", "ranks_of"]

_STATE_VERSION = 1


class Ranks:
    """Which process of a distributed training this is; asked when an epoch begins, unless it is given."""

    def __init__(self, rank: int | None = None, world_size: int | None = None) -> None:
        if (rank is None) != (world_size is None):
            raise ConfigError("rank and world_size are given together, or neither", kind="bad-rank")
        self._given = None if rank is None or world_size is None else (rank, world_size)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker that is spawned is not part of torch.distributed: it is of the rank that started it. Where that is
        # not in use yet, this travels to a process that will be a rank.
        return Ranks, self._given or (ranks_of() if _distributed() else (None, None))

    def now(self) -> tuple[int, int]:
        """Return rank and world size."""
        return self._given or ranks_of()


def ranks_of() -> tuple[int, int]:
    """Return rank and world size of ``torch.distributed``, (0, 1) where it is not in use."""
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if _distributed() else (0, 1)


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


class CellLoader:
    """Batches ``(X, metadata)`` of an epoch, then of the next; it knows where it is and goes on from there.

    Each pass over it is the next epoch, also after a pass that was left early; `set_epoch` says otherwise.

    Parameters
    ----------
    cells, sampler
        What, in which order.
    genes
        Ids or columns, in the order wanted; None: all.
    transform
        What is done with counts; see `ingest.load.stream.Transform`.
    form
        ``dense``, ``csr`` or ``ragged``; see `ingest.load.torch.forms.maker_of`.
    obs
        Columns that come with a batch, beside ``cell_id`` and ``experiment_id``.
    num_workers
        Processes that read; 0: threads of this one.
    prefetch
        Windows read ahead, of each worker.
    ranks
        Which part of an epoch is this process's.
    pin_memory
        Put batches where a GPU fetches them fastest.
    multiprocessing_context
        How workers start; None: torch's own way.

    Raises
    ------
    ConfigError
        There is no such form, column or gene, or the numbers cannot be.
    """

    def __init__(
        self,
        cells: Cells,
        sampler: Sampler,
        *,
        genes: Any = None,
        transform: Transform | None = None,
        form: str = "dense",
        obs: Sequence[str] = (),
        num_workers: int = 0,
        prefetch: int = 1,
        ranks: Ranks | None = None,
        pin_memory: bool = False,
        multiprocessing_context: str | None = None,
    ) -> None:
        if num_workers < 0 or prefetch < 0 or (num_workers and not prefetch):
            raise ConfigError(f"num_workers={num_workers} with prefetch={prefetch} cannot be", kind="bad-loader")
        self.cells, self._sampler = cells, sampler  # Lightning looks into what is called sampler
        self.genes: Genes
        self.genes, self._columns = cells.gene_columns(genes)
        self._transform = transform
        self._form = form
        self._makers = {tokens: maker_of(form, tokens=tokens) for tokens in (False, True)}
        self._metadata = MetadataReader(cells, tuple(obs))
        self._workers, self._prefetch = num_workers, prefetch
        self._ranks = ranks or Ranks()
        self._pin_memory = pin_memory and torch.cuda.is_available()
        self._context = multiprocessing_context
        self._asked: list[tuple[int, int, int, int]] = []
        self._processes: DataLoader[Any] | None = None
        self._epoch = self._batch = self._start = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_processes": None}  # another process starts its own

    @property
    def batch_size(self) -> int:
        """Cells of a batch; the last of an epoch has fewer."""
        return self._sampler.batching.batch_cells

    @property
    def epoch(self) -> int:
        """The epoch that the next pass delivers, or goes on with."""
        return self._epoch

    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]:
        """What codes in the metadata stand for, by column."""
        return self._metadata.categories

    def set_epoch(self, epoch: int) -> None:
        """Begin the next pass at the start of `epoch`, or where a state of this very epoch says."""
        if epoch != self._epoch or not self._start:  # a place that was loaded is kept, one that was left is not
            self._start = self._batch = 0
        self._epoch = epoch

    def __len__(self) -> int:
        return self._order().n_batches

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        if self._batch and not self._start:  # the pass before was left early: nobody wants its beginning again
            self._epoch += 1
        order, at = self._order(), self._start
        self._batch, self._start = at, 0
        first = order.window_of(at)
        numbers = range(first, order.n_windows)
        windows = self._by_workers(order, numbers) if self._workers else self._by_threads(order, numbers)
        skipped = at - first * order.batching.window_batches
        for batch in stream_batches(windows, first_batch=skipped):
            at += 1
            self._batch = at
            yield self._tensors(batch)
        self._epoch, self._batch = order.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader is: the batch after the last one that was taken."""
        return {
            "version": _STATE_VERSION,
            "epoch": self._epoch,
            "batch": self._start or self._batch,
            "order": self._identity(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there: the next pass begins with the batch that the state names.

        The number of workers may be another; cells, sampler and ranks may not.

        Raises
        ------
        ConfigError
            The state is of another order of cells (kind ``other-order``), or no state.
        """
        epoch, batch, there = _places(state)
        here = self._identity()
        differing = [name for name in here if there.get(name) != here[name]]
        if differing:
            name = differing[0]
            raise ConfigError(
                f"the state is of another order of cells: {name} {there.get(name)} there, {here[name]} here",
                kind="other-order",
                hint="make the loader as the one that the state is of; only num_workers, threads, prefetch may differ",
            )
        if batch > len(self):
            raise ConfigError(f"batch {batch:,} of {len(self):,}: this is no state of a loader", kind="bad-state")
        self._epoch = epoch
        self._batch = self._start = batch

    def close(self) -> None:
        """End worker processes and threads, and let go of files; another pass starts them again."""
        self._processes = None
        self.cells.close()

    def _identity(self) -> dict[str, Any]:
        # Not the rank: each is at the same batch, and what the first one saved is loaded by all.
        _, world_size = self._ranks.now()
        return {"datasets": list(self.cells.identity), **self._sampler.identity(), "world_size": world_size}

    def _order(self) -> EpochOrder:
        rank, world_size = self._ranks.now()
        return self._sampler.epoch(self._epoch, rank=rank, world_size=world_size)

    def _by_threads(self, order: EpochOrder, numbers: range) -> Iterator[WindowCells]:
        return stream_windows(self.cells, order, self._columns, self._transform, numbers=numbers, ahead=self._prefetch)

    def _by_workers(self, order: EpochOrder, numbers: range) -> Iterator[WindowCells]:
        if self._processes is None:
            self._processes = DataLoader(
                _Windows(self.cells, self._sampler, self._columns, self._transform),
                batch_size=None,
                sampler=self._asked,
                num_workers=self._workers,
                prefetch_factor=self._prefetch,
                collate_fn=_as_tensors,
                multiprocessing_context=self._context,
                worker_init_fn=_begin_work,
                persistent_workers=True,
            )
        self._asked[:] = [(order.epoch, order.rank, order.world_size, number) for number in numbers]
        for found in self._processes:
            if isinstance(found, IngestError):
                try:
                    raise found
                finally:
                    del found  # else frame and error hold each other, and workers that only gc lets go of take seconds
            number, rows, ends, n_genes, indptr, indices, data = found
            counts = Counts(indptr.numpy(), indices.numpy(), data.numpy(), n_genes)
            yield WindowCells(number, rows.numpy(), tuple(ends), counts)

    def _tensors(self, batch: CellBatch) -> tuple[Any, dict[str, Any]]:
        tokens = self._transform is not None and batch.counts.data.dtype == np.int32
        found = self._makers[tokens](batch.counts)
        metadata = {name: as_tensor(values) for name, values in self._metadata.of(batch.rows).items()}
        return (_pinned(found), _pinned(metadata)) if self._pin_memory else (found, metadata)


def _places(state: Mapping[str, Any]) -> tuple[int, int, Mapping[str, Any]]:
    """Return epoch, batch and order that a state names."""
    if state.get("version") == _STATE_VERSION:
        epoch, batch, order = state.get("epoch"), state.get("batch"), state.get("order")
        if isinstance(epoch, int) and isinstance(batch, int) and min(epoch, batch) >= 0 and isinstance(order, dict):
            return epoch, batch, order
    raise ConfigError("this is no state of a loader, or one of another version", kind="bad-state")


class _Windows(Dataset[Any]):
    """Windows by epoch and number: what a worker reads, epoch after epoch."""

    def __init__(self, cells: Cells, sampler: Sampler, columns: GeneColumns, transform: Transform | None) -> None:
        self.cells, self._sampler, self._columns, self._transform = cells, sampler, columns, transform
        self._order: EpochOrder | None = None

    def __getitem__(self, asked: tuple[int, int, int, int]) -> WindowCells | IngestError:
        """Return a window, or why it cannot be read: torch would raise it as its traceback, without hint and place."""
        epoch, rank, world_size, number = asked
        order = self._order
        if order is None or (order.epoch, order.rank, order.world_size) != (epoch, rank, world_size):
            order = self._order = self._sampler.epoch(epoch, rank=rank, world_size=world_size)
        try:
            return read_window(self.cells, order, number, self._columns, self._transform)
        except IngestError as error:
            return error


def _begin_work(_number: int) -> None:
    """Let each of several workers inflate by itself."""
    info = get_worker_info()
    if info is not None:
        windows: Any = info.dataset
        windows.cells.use_threads(max(1, available_cpus() // info.num_workers))


def _as_tensors(window: Any) -> Any:
    """Return what travels through shared memory instead of a pipe; an error as it is."""
    if isinstance(window, IngestError):
        return window
    counts = window.counts
    arrays = (counts.indptr, counts.indices, counts.data)
    tensors = (torch.from_numpy(array) for array in arrays)
    return (window.number, torch.from_numpy(window.rows), window.ends, counts.n_genes, *tensors)


def as_tensor(values: Any) -> Any:
    """Return numbers as a tensor, everything else (names, dates) as it is."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(values))
    return values


def _pinned(found: Any) -> Any:
    if isinstance(found, torch.Tensor) and found.layout == torch.sparse_csr:
        crow, columns, values = (
            part.pin_memory() for part in (found.crow_indices(), found.col_indices(), found.values())
        )
        return torch.sparse_csr_tensor(crow, columns, values, size=found.shape, check_invariants=False)
    if isinstance(found, torch.Tensor):
        return found.pin_memory()
    if isinstance(found, tuple):
        return tuple(_pinned(part) for part in found)
    return {name: _pinned(value) for name, value in found.items()} if isinstance(found, dict) else found
