"""From rows to one sparse tensor: the collate functions of a torch DataLoader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.load.memmap.row_list import RowList
from ingest.load.memmap.rows import RowBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

__all__ = ["collate_neighbor_sparse_matrix_batch", "collate_sparse_matrix_batch"]


def collate_sparse_matrix_batch(
    batch: RowBatch | Sequence[torch.Tensor], *, width: int | None = None, shrink: bool = False
) -> torch.Tensor:
    """Return rows as one sparse CSR tensor ``(n_rows, n_columns)`` with int32 indices.

    Parameters
    ----------
    batch
        What a dataset gives a DataLoader, or single rows: tensors ``(2, nnz)`` of values and columns.
    width
        Columns of the tensor; None: as many as the dataset has. Single rows do not say: theirs is the largest column
        seen and one more, unless it is given.
    shrink
        Make it the largest column seen and one more, as bionemo-scdl does: each batch is then of another width.
    """
    rows = batch.rows if isinstance(batch, RowList) else batch
    known = isinstance(rows, RowBatch)
    rows = rows if isinstance(rows, RowBatch) else _joined(rows)
    if width is None and (shrink or not known):
        width = int(rows.columns.max(initial=-1)) + 1
    return rows.to_csr(width)


def _joined(rows: Sequence[torch.Tensor]) -> RowBatch:
    lengths = np.array([0, *(row.shape[1] for row in rows)], np.int64)
    values = np.concatenate([row[0].numpy() for row in rows])
    columns = np.concatenate([row[1].numpy() for row in rows]).astype(np.int32)
    return RowBatch(np.cumsum(lengths), columns, values, 0, values.dtype)


def collate_neighbor_sparse_matrix_batch(
    batch: Sequence[dict[str, Any]], *, width: int | None = None
) -> dict[str, torch.Tensor | list[int] | int]:
    """Return what ``get_row_with_neighbor`` gave for several cells as two float32 CSR tensors and the cells' numbers.

    ::

        current_cells, next_cells                  CSR (n, width), or as wide as the largest column seen asks for
        current_cell_indices, next_cell_indices    lists of int
        batch_size                                 n
    """
    found: dict[str, Any] = {}
    for which in ("current", "next"):
        rows = [item[f"{which}_cell"] for item in batch]
        lengths = np.cumsum([0, *(len(values) for values, _ in rows)], dtype=np.int64)
        values = np.concatenate([values for values, _ in rows]).astype(np.float32)
        columns = np.concatenate([columns for _, columns in rows]).astype(np.int32)
        wide = int(columns.max(initial=-1)) + 1 if width is None else width
        found[f"{which}_cells"] = RowBatch(lengths, columns, values, wide, values.dtype).to_csr()
        found[f"{which}_cell_indices"] = [item[f"{which}_cell_index"] for item in batch]
    return {**found, "batch_size": len(batch)}
