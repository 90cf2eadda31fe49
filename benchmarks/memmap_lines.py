"""Ours as bionemo-scdl's README has it: the same lines, with the names of our modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from ingest.load.memmap import SingleCellMemMapDataset, collate_sparse_matrix_batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.loading_settings import LoadSettings

__all__ = ["open_loader"]


def open_loader(place: str, settings: LoadSettings) -> _Lines:
    """Open an archive."""
    return _Lines(place, settings)


class _Lines:
    def __init__(self, place: str, settings: LoadSettings) -> None:
        torch.manual_seed(settings.seed)
        self._loader: Any = DataLoader(
            SingleCellMemMapDataset(place),
            batch_size=settings.batch_cells,
            shuffle=True,
            collate_fn=collate_sparse_matrix_batch,
            num_workers=settings.workers,
            persistent_workers=settings.workers > 0,
        )

    def epoch(self, number: int) -> Iterator[Any]:  # noqa: ARG002  # torch's generator goes on by itself
        yield from self._loader
