"""scDataset on one h5ad file opened backed, in an AnnCollection, with its block shuffling; as its documentation has it.

A buffer's rows are fetched as they are, as annbatch's authors measured it, and made dense, where they are to be, by the
batch: its own ``adata_to_mindex`` makes the whole buffer dense, which takes gigabytes and longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import torch
from anndata.experimental import AnnCollection
from scdataset import BlockShuffling, scDataset
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.loading_settings import LoadSettings

__all__ = ["open_loader"]


def open_loader(place: str, settings: LoadSettings) -> _ScDataset:
    """Open an h5ad file."""
    return _ScDataset(place, settings)


class _ScDataset:
    def __init__(self, place: str, settings: LoadSettings) -> None:
        dataset = scDataset(
            AnnCollection([anndata.read_h5ad(place, backed="r")]),
            BlockShuffling(block_size=settings.block_cells),
            batch_size=settings.batch_cells,
            fetch_factor=settings.fetch_batches,
            seed=settings.seed,
            fetch_callback=_fetch,
            batch_transform=_dense if settings.form == "dense" else None,
        )
        parallel: dict[str, Any] = {"prefetch_factor": settings.fetch_batches + 1, "persistent_workers": True}
        self._loader: Any = DataLoader(
            dataset, batch_size=None, num_workers=settings.workers, **(parallel if settings.workers else {})
        )

    def epoch(self, number: int) -> Iterator[Any]:  # noqa: ARG002  # it counts its epochs by itself
        yield from self._loader


def _fetch(collection: Any, rows: Any) -> Any:
    return collection[rows].X


def _dense(batch: Any) -> Any:
    return torch.from_numpy(batch.toarray())
