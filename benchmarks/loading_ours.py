"""Ours, from a folder or a bucket: CSR or dense, with as many threads as it takes by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ingest.load import create_dataloader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.loading_settings import LoadSettings

__all__ = ["open_loader"]


def open_loader(place: str, settings: LoadSettings) -> _Ours:
    """Open a dataset."""
    return _Ours(place, settings)


class _Ours:
    def __init__(self, place: str, settings: LoadSettings) -> None:
        self._loader: Any = create_dataloader(
            place,
            settings.batch_cells,
            block_cells=settings.block_cells,
            window_cells=settings.buffer_cells,
            form=settings.form,
            obs=["cell_type"],
            num_workers=settings.workers,
            seed=settings.seed,
        )

    def epoch(self, number: int) -> Iterator[Any]:
        self._loader.set_epoch(number)
        for matrix, _ in self._loader:
            yield matrix
