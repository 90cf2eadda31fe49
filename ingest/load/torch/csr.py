"""Sparse CSR tensors of what has been checked already, without torch's word on each process' first one."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

__all__ = ["csr_tensor"]

Array = np.ndarray[Any, Any]


def csr_tensor(indptr: Array, columns: Array, values: Array, shape: tuple[int, int]) -> torch.Tensor:
    """Return a sparse CSR tensor that shares the arrays' memory; indices are of one type, int32 or int64."""
    crow, cols, of = (torch.from_numpy(part) for part in (indptr, columns, values))
    return torch.sparse_csr_tensor(crow, cols, of, size=shape, check_invariants=False)


with warnings.catch_warnings():  # of each process' first one, and of no other, torch says that CSR is in beta
    warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
    csr_tensor(np.zeros(1, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32), (0, 0))
