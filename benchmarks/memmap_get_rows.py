"""Ours by `get_rows`: whole batches of numbers in an order of one's own, without a DataLoader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.load.memmap import SingleCellMemMapDataset

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.loading_settings import LoadSettings

__all__ = ["open_loader"]


def open_loader(place: str, settings: LoadSettings) -> _Rows:
    """Open an archive."""
    return _Rows(place, settings)


class _Rows:
    def __init__(self, place: str, settings: LoadSettings) -> None:
        self._dataset = SingleCellMemMapDataset(place)
        self._settings = settings

    def epoch(self, number: int) -> Iterator[Any]:
        order = np.random.default_rng((self._settings.seed, number)).permutation(len(self._dataset))
        for start in range(0, len(order), self._settings.batch_cells):
            yield self._dataset.get_rows(order[start : start + self._settings.batch_cells]).to_csr()
