"""What a DataLoader is given for a batch: rows one by one, as any ``collate_fn`` wants them, and all together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from ingest.load.memmap.rows import RowBatch
    from ingest.load.read.buffers import Buffers

__all__ = ["RowList"]


class RowList(list[torch.Tensor]):
    """A list of tensors ``(2, nnz)``, each of a row's values and columns, as ``dataset[i]`` has it.

    They are views of one tensor: torch takes them out of the list itself, so that they have to be there.

    Parameters
    ----------
    rows
        The same rows as CSR, for those who look for it.
    buffers
        That lend the tensor its memory.
    """

    def __init__(self, rows: RowBatch, buffers: Buffers) -> None:
        nnz = len(rows.values)
        together = buffers.lend(2 * nnz, rows.stacked).reshape(2, nnz)
        together[0], together[1] = rows.values, rows.columns
        lengths = np.diff(rows.indptr).tolist()
        views = torch.from_numpy(together).split(lengths, dim=1) if lengths else ()  # type: ignore[no-untyped-call]
        super().__init__(views)
        self.rows = rows

    def __reduce__(self) -> tuple[type[list[torch.Tensor]], tuple[list[torch.Tensor]]]:
        return list, (list(self),)
