"""What a batch looks like as tensors: dense, CSR of constant width, or ragged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ingest.errors import ConfigError
from ingest.load.read.buffers import Buffers
from ingest.load.read.kernels import scatter_rows
from ingest.load.torch.csr import csr_tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.block import Counts

__all__ = ["FORMS", "Form", "maker_of"]

Array = np.ndarray[Any, Any]
Form = Literal["dense", "csr", "ragged"]
FORMS: tuple[Form, ...] = ("dense", "csr", "ragged")


class _Dense:
    def __init__(self, *, tokens: bool) -> None:
        self._dtype = np.dtype(np.int64 if tokens else np.float32)
        self._buffers = Buffers(4)

    def __call__(self, counts: Counts) -> torch.Tensor:
        shape = (counts.n_cells, counts.n_genes)
        out = self._buffers.lend(shape[0] * shape[1], self._dtype).reshape(shape)
        out.fill(0)
        if scatter_rows(counts.indptr, counts.indices, counts.data, out) >= counts.n_genes:
            raise ConfigError(
                "this transform's numbers are no columns of a matrix", kind="bad-form", hint="use form='ragged'"
            )
        return torch.from_numpy(out)


class _Csr:
    def __init__(self, *, tokens: bool) -> None:
        self._dtype = np.dtype(np.int64 if tokens else np.float32)

    def __call__(self, counts: Counts) -> torch.Tensor:
        # 32 bits as scipy has them, and as every build of torch can multiply by.
        parts = (counts.indptr.astype(np.int32), counts.indices, counts.data.astype(self._dtype, copy=False))
        return csr_tensor(*parts, (counts.n_cells, counts.n_genes))


class _Ragged:
    def __init__(self, *, tokens: bool) -> None:
        self._dtype = np.dtype(np.int64 if tokens else np.float32)

    def __call__(self, counts: Counts) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return (
            torch.from_numpy(counts.data.astype(self._dtype, copy=False)),
            torch.from_numpy(counts.indices.astype(np.int64)),
            torch.from_numpy(np.diff(counts.indptr)),
        )


def maker_of(form: str, *, tokens: bool) -> Callable[[Counts], Any]:
    """Return what makes tensors of a batch's counts.

    ::

        dense    (n_cells, n_genes)                          float32, or int64 of tokens
        csr      sparse CSR tensor (n_cells, n_genes)        the same; int32 indices
        ragged   (values, indices, lengths)                  (nnz,), int64 (nnz,), int64 (n_cells,)

    Parameters
    ----------
    tokens
        Whether values are whole numbers that stand for something: a transform made them.

    Raises
    ------
    ConfigError
        There is no such form.
    """
    makers: dict[str, Callable[..., Callable[[Counts], Any]]] = {"dense": _Dense, "csr": _Csr, "ragged": _Ragged}
    if form not in makers:
        raise ConfigError(f"form={form!r}: a batch is {', '.join(FORMS)}", kind="bad-form")
    return makers[form](tokens=tokens)
