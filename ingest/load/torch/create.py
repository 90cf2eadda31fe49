"""One call from a dataset to a loader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ingest.load.choose import choose_cells, choose_sampler
from ingest.load.files import ReadSettings
from ingest.load.hvgs import chosen_hvgs
from ingest.load.torch.datasets import opened
from ingest.load.torch.loader import CellLoader, Ranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from ingest.load.stream import Transform
    from ingest.load.torch.datasets import Source

__all__ = ["create_dataloader", "create_hvg_dataloader"]


def create_dataloader(
    source: Source,
    batch_size: int = 512,
    *,
    shuffle: bool = True,
    seed: int = 0,
    block_cells: int | None = None,
    window_cells: int | None = None,
    drop_last: bool = False,
    rows: np.ndarray[Any, Any] | Sequence[int] | None = None,
    where: str | None = None,
    include_srx_accessions: Sequence[str] | None = None,
    balance: str | None = None,
    weights: Sequence[float] | np.ndarray[Any, Any] | None = None,
    epoch_cells: int | None = None,
    genes: Any = None,
    transform: Transform | None = None,
    form: str = "dense",
    obs: Sequence[str] = (),
    num_workers: int = 0,
    prefetch: int = 1,
    rank: int | None = None,
    world_size: int | None = None,
    pin_memory: bool = False,
    multiprocessing_context: str | None = None,
    chunk_cache_size: int | None = None,
    max_chunks_in_memory: int | None = None,
    **settings: Any,
) -> CellLoader:
    """Return a loader of batches ``(X, metadata)``.

    Parameters
    ----------
    source
        A dataset that `run` has written, several, or what `open_chunks` returned; or an archive that `memmap` has.
    batch_size
        Cells of a batch.
    shuffle, seed, block_cells, window_cells, drop_last, balance, weights, epoch_cells
        The order; see `ingest.load.choose.choose_sampler`.
    rows, where, include_srx_accessions
        Which cells; together they must all hold. `where` is the index grammar: ``tissue == 'lung'``.
    genes, transform, form, obs, num_workers, prefetch, pin_memory, multiprocessing_context
        See `ingest.load.torch.loader.CellLoader`.
    rank, world_size
        Of distributed training; None: as ``torch.distributed`` says when an epoch begins.
    chunk_cache_size, max_chunks_in_memory
        Inflated chunks kept, the smaller of the two; worth it when all of them fit, or cells come several times.
    settings
        Of `ingest.load.dataset.ReadSettings`: threads, cache_bytes, cache_dir, disk_cache_bytes, endpoint_url,
        allow_incomplete.

    Raises
    ------
    ConfigError
        What is asked for is not there, or cannot be.
    CorruptError
        A summary is damaged; chunks that are, are named when they are read.
    """
    cells = opened(source, **settings)
    cells = cells.keeping(chunk_cache_size, max_chunks_in_memory, once=True)
    sampler = choose_sampler(
        cells,
        batch_size,
        chosen=choose_cells(cells, rows=rows, where=where, include_srx_accessions=include_srx_accessions),
        shuffle=shuffle,
        seed=seed,
        block_cells=block_cells,
        window_cells=window_cells,
        drop_last=drop_last,
        balance=balance,
        weights=weights,
        epoch_cells=epoch_cells,
    )
    return CellLoader(
        cells,
        sampler,
        genes=genes,
        transform=transform,
        form=form,
        obs=obs,
        num_workers=num_workers,
        prefetch=prefetch,
        ranks=Ranks(rank, world_size),
        pin_memory=pin_memory,
        multiprocessing_context=multiprocessing_context,
    )


def create_hvg_dataloader(
    source: Source, batch_size: int = 512, *, n_hvgs: int | None = None, hvg_dir: str | None = None, **options: Any
) -> CellLoader:
    """Return a loader of the first `n_hvgs` highly variable genes (None: all), column j the j-th of hvg_info.json.

    Parameters
    ----------
    hvg_dir
        Where hvg_info.json is, if not in the (first) dataset.
    options
        As `create_dataloader` has them.

    Raises
    ------
    ConfigError
        ``python -m ingest hvg`` has not chosen them yet, or fewer; and as `create_dataloader`.
    """
    settings = {name: options.pop(name) for name in ReadSettings.__slots__ if name in options}
    cells = opened(source, **settings)
    return create_dataloader(cells, batch_size, genes=chosen_hvgs(cells, n_hvgs, source=hvg_dir), **options)
