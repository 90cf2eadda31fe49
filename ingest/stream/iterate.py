"""X in slices of rows or of columns, one after the other, however it is stored."""

from __future__ import annotations

import operator
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ingest.stream.handle import AnnData
from ingest.stream.matrix.dense import DenseRows, dense_columns
from ingest.stream.matrix.put import rebatched, sparse_type, to_scipy
from ingest.stream.matrix.source import describe_x, lines_of
from ingest.stream.matrix.work import Work
from ingest.stream.storage import address_of_data, open_data

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.fetch.h5ad_matrix import MatrixRef
    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["iter_matrix_chunks"]

Array = np.ndarray[Any, Any]


def iter_matrix_chunks(
    adata: Any,
    *,
    axis: Literal[0, 1] = 0,
    chunk_size: int = 1024,
    convert_to_dense: bool = True,
    scratch_dir: str | os.PathLike[str] | None = None,
) -> Iterator[tuple[slice, Any]]:
    """Yield slices of X and where they stand, each stored block read once, the next while one is worked on.

    The other way than X is stored (columns of CSR, rows of CSC), and columns of a dense X that is not in chunks, or in
    wider ones than a slice, its entries go through an unnamed file that is as large as they are.

    Parameters
    ----------
    adata
        Path or URL, backed AnnData, our handle, or an AnnData in memory.
    axis
        0: rows, ``(n, n_vars)``; 1: columns, ``(n_obs, n)``.
    chunk_size
        Rows or columns of a slice; the last may have fewer.
    convert_to_dense
        Give arrays; otherwise what is stored sparse comes as ``csr_matrix`` of rows or ``csc_matrix`` of columns.
    scratch_dir
        Where that file is; None: beside the file that is read, or in the system's folder for temporary files, of which
        some systems keep the content in memory, where nothing may be written there or the file is remote.

    Returns
    -------
    Iterator
        ``(slice, block)``, of the type that is stored.

    Raises
    ------
    ValueError
        Another axis; a `chunk_size` below 1.
    ConfigError
        ``bad-path``, ``disk-full``: of `scratch_dir`.
    IngestError, TypeError
        As of `ingest.stream.convert_to_csc`, when the first slice is taken.
    """
    if axis not in (0, 1):
        raise ValueError(f"axis {axis!r}: 0 is rows, 1 is columns")
    if operator.index(chunk_size) < 1:
        raise ValueError(f"chunk_size {chunk_size}: 1 or more")
    if _is_in_memory(adata):
        return _of_memory(adata.X, axis, chunk_size, dense=convert_to_dense)
    address_of_data(adata)
    return _of_file(adata, axis, chunk_size, scratch_dir, dense=convert_to_dense)


def _is_in_memory(adata: Any) -> bool:
    if isinstance(adata, AnnData):  # ours has anndata's attributes too, and opens all of the file to give them
        return False
    return type(adata).__name__ == "AnnData" and hasattr(adata, "isbacked") and not adata.isbacked


def _of_memory(matrix: Any, axis: int, chunk_size: int, *, dense: bool) -> Iterator[tuple[slice, Any]]:
    for start in range(0, matrix.shape[axis], chunk_size):
        where = slice(start, min(start + chunk_size, matrix.shape[axis]))
        block: Any = matrix[where] if axis == 0 else matrix[:, where]
        if hasattr(block, "asformat"):
            block = block.toarray() if dense else block.asformat("csr" if axis == 0 else "csc")
        yield where, np.asarray(block) if dense else block


def _of_file(
    adata: Any, axis: int, chunk_size: int, scratch_dir: str | os.PathLike[str] | None, *, dense: bool
) -> Iterator[tuple[slice, Any]]:
    with open_data(adata) as file, Work() as work:
        ref, scratch = describe_x(file), _scratch(file, scratch_dir)
        direct = _dense_lines(file, ref, work, scratch, axis, chunk_size) if ref.layout == "dense" else None
        if direct is not None:
            yield from _placed(_bands(direct, chunk_size, axis), axis)
            return
        kind: Literal["csr", "csc"] = "csr" if axis == 0 else "csc"
        found = lines_of(file, ref, kind, work, scratch)
        n_places = ref.shape[1 - axis]
        blocks = (to_scipy(lines, n_places, kind) for lines in rebatched(found.blocks, chunk_size))
        if dense or ref.layout == "dense":
            yield from _placed((block.toarray().astype(ref.dtype, copy=False) for block in blocks), axis)
        else:
            stored = sparse_type(np.dtype(ref.dtype))  # flags are carried as bytes
            yield from _placed((block.astype(stored, copy=False) for block in blocks), axis)


def _scratch(file: OpenH5ad, scratch_dir: str | os.PathLike[str] | None) -> Path:
    """Return a folder for what does not fit in memory."""
    if scratch_dir is not None:
        return Path(scratch_dir)
    beside = None if file.source.path is None else file.source.path.parent
    is_fit = beside is not None and os.access(beside, os.W_OK | os.X_OK)
    return beside if beside is not None and is_fit else Path(tempfile.gettempdir())


def _dense_lines(
    file: OpenH5ad, ref: MatrixRef, work: Work, scratch: Path, axis: int, n_lines: int
) -> Iterator[Array] | None:
    if axis == 1:
        return dense_columns(file, ref, work, n_lines)
    return (block for _, block in DenseRows(file, ref, work, scratch).rows())


def _placed(blocks: Iterator[Any], axis: int = 0) -> Iterator[tuple[slice, Any]]:
    at = 0
    for block in blocks:
        n = block.shape[axis]
        yield slice(at, at + n), block
        at += n


def _bands(blocks: Iterator[Array], n_lines: int, axis: int) -> Iterator[Array]:
    """Yield exactly `n_lines` rows, or columns, at a time, the last perhaps fewer."""
    held: list[Array] = []
    n_held = 0
    for block in blocks:
        begin = 0
        while begin < block.shape[axis]:
            end = min(begin + n_lines - n_held, block.shape[axis])
            held.append(block[begin:end] if axis == 0 else block[:, begin:end])
            n_held, begin = n_held + end - begin, end
            if n_held == n_lines:
                yield np.concatenate(held, axis)
                held, n_held = [], 0
    if held:
        yield np.concatenate(held, axis)
