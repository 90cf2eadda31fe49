"""bionemo-scdl: memory-mapped arrays, one row at a time, collated into CSR; as its README sets it up.

``python -m benchmarks.loading_scdl H5AD FOLDER`` converts. Its order is a DataLoader's ``shuffle=True``, each cell by
itself: blocks and buffers it has none. Dense as annbatch's: faster than torch's ``to_dense``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset
from bionemo.scdl.util.torch_dataloader_utils import collate_sparse_matrix_batch
from torch.utils.data import DataLoader

from benchmarks.loading_matrix import as_csr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.loading_settings import LoadSettings

__all__ = ["open_loader"]


def open_loader(place: str, settings: LoadSettings) -> _Scdl:
    """Open a folder of memory-mapped arrays."""
    return _Scdl(place, settings)


class _Scdl:
    def __init__(self, place: str, settings: LoadSettings) -> None:
        torch.manual_seed(settings.seed)
        self._dense = settings.form == "dense"
        self._loader: Any = DataLoader(
            SingleCellMemMapDataset(place),
            batch_size=settings.batch_cells,
            shuffle=True,
            collate_fn=collate_sparse_matrix_batch,
            num_workers=settings.workers,
            persistent_workers=settings.workers > 0,
        )

    def epoch(self, number: int) -> Iterator[Any]:  # noqa: ARG002  # torch's generator goes on by itself
        for batch in self._loader:
            yield torch.from_numpy(as_csr(batch).toarray()) if self._dense else batch


def main(h5ad: str, folder: str) -> None:
    """Convert one file: X as it is, float32."""
    SingleCellMemMapDataset(folder, h5ad, use_X_not_raw=True).save()


if __name__ == "__main__":
    main(*sys.argv[1:])
