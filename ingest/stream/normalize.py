"""Cells brought to one total and logged, as scanpy's ``normalize_total`` and ``log1p`` have it, block by block.

``value * target_sum / total of the cell``, then ``log1p``, in float64 and rounded once to float32; scanpy rounds at
each step. A cell without a total stays as it is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.load.transform.kernels import add_rows, log1p_rows, scale_rows
from ingest.ordered_map import map_ordered
from ingest.stream.handle import AnnData
from ingest.stream.matrix.carry import Selection
from ingest.stream.matrix.lines import Lines
from ingest.stream.matrix.rewrite import write_file
from ingest.stream.matrix.source import describe_x, lines_of
from ingest.stream.matrix.work import Work, check_chunk_size
from ingest.stream.matrix.writer import write_lines
from ingest.stream.output import output_for
from ingest.stream.saying import say
from ingest.stream.storage import open_data

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from ingest.fetch.h5ad_matrix import MatrixRef
    from ingest.fetch.h5ad_open import OpenH5ad
    from ingest.stream.matrix.put import Target
    from ingest.stream.matrix.work import Reached

__all__ = ["normalize_total_block", "normalize_total_log1p"]

Array = np.ndarray[Any, Any]


def normalize_total_block(
    block: Any, *, library_size: Any = None, target_sum: float = 1e4, dtype: Any = np.float64
) -> tuple[Array, Array]:
    """Bring the rows of a block in memory to one total.

    Parameters
    ----------
    block
        Dense or sparse ``(n, n_vars)``.
    library_size
        ``(n,)``: the total of each row; None: its sum. A row whose total is 0 becomes zeros.
    target_sum
        What every total becomes.
    dtype
        Of the result; computed in float64.

    Returns
    -------
    tuple
        The rows, dense ``(n, n_vars)``; their totals before, float64 ``(n,)``.

    Raises
    ------
    ValueError
        `block` has not two dimensions, `library_size` another length, `target_sum` is not above 0.
    """
    check_target(target_sum)
    dense = np.asarray(block.toarray() if hasattr(block, "toarray") else block)
    if dense.ndim != 2:
        raise ValueError(f"a block of {dense.ndim} dimensions; rows and columns are two")
    totals = dense.sum(axis=1, dtype=np.float64) if library_size is None else np.asarray(library_size, np.float64)
    if totals.shape != (len(dense),):
        raise ValueError(f"library_size of shape {totals.shape} for {len(dense):,} rows")
    scaled = dense.astype(np.float64) * factors_of(totals, target_sum, empty=0.0)[:, None]
    return scaled.astype(dtype, copy=False), totals


def normalize_total_log1p(
    data: Any,
    output_path: str | os.PathLike[str] | None = None,
    *,
    normalize: bool = True,
    log1p: bool = True,
    target_sum: float = 1e4,
    chunk_size: int | None = 4096,
    output_dir: str | os.PathLike[str] | None = None,
    data_name: str | None = None,
    verbose: bool = True,
    reached: Reached | None = None,
) -> AnnData:
    """Write a file whose X is normalised and logged: CSR, float32, everything else carried along.

    Parameters
    ----------
    data
        Path or URL, backed AnnData, or our handle: X ``(n_obs, n_vars)`` of any layout; totals are over all genes.
    output_path
        None: ``ingest_normalized_log1p.h5ad`` (``normalized``, ``log1p``) beside the input.
    normalize, log1p
        What to do.
    target_sum
        What every cell's total becomes.
    chunk_size
        Rows handled together, at most; None: as `ingest.stream.calculate_optimal_chunk_size` says.
    verbose, reached
        As of `ingest.stream.convert_to_csc`.

    Returns
    -------
    AnnData
        Handle on the output. ``uns["log1p"]`` says that it is logged, as scanpy does.

    Raises
    ------
    ValueError
        There is nothing to do; `target_sum` is not above 0.
    IngestError, TypeError
        As of `ingest.stream.convert_to_csc`.
    """
    if not (normalize or log1p):
        raise ValueError("neither normalize nor log1p: there is nothing to do")
    check_target(target_sum)
    check_chunk_size(chunk_size)
    suffix = "_".join([*["normalized"][: int(normalize)], *["log1p"][: int(log1p)]])
    with open_data(data) as file:
        matrix = describe_x(file)
        output = output_for(
            data, file, suffix=suffix, output_path=output_path, output_dir=output_dir, data_name=data_name
        )
        if log1p and file.get("uns/log1p") is not None:
            say(f"{file.name}: uns['log1p'] says that X is logged already; it is logged again", verbose=verbose)
        work = Work(most_lines=chunk_size, reached=reached)

        def put_x(target: Target) -> None:
            _put(file, matrix, target, target_sum if normalize else None, log1p=log1p)

        marks: dict[str, Any] = {"log1p": {}} if log1p else {}  # natural, whatever base was noted before
        write_file(file, output, Selection(uns=marks), put_x=put_x, work=work)
        say(f"{file.name}: X {suffix.replace('_', ' and ')}, CSR float32, in {output}", verbose=verbose)
    return AnnData(output)


def check_target(target_sum: float) -> None:
    """Raise ValueError for a total that cells cannot be brought to."""
    if not (isinstance(target_sum, int | float | np.number) and 0 < target_sum < math.inf):
        raise ValueError(f"target_sum {target_sum!r}: a number above 0")


def factors_of(totals: Array, target_sum: float, *, empty: float) -> Array:
    """Return what to multiply each row with, float64 ``(n,)``; `empty` where the total is 0."""
    factors = np.full(len(totals), empty)
    np.divide(target_sum, totals, out=factors, where=totals != 0)
    return factors


def _put(file: OpenH5ad, matrix: MatrixRef, target: Target, target_sum: float | None, *, log1p: bool) -> None:
    found = lines_of(file, matrix, "csr", target.work, target.scratch)

    def normalized(block: Lines) -> Lines:
        return _normalized(block, target_sum, log1p=log1p)

    work = target.work
    blocks: Iterator[Lines] = map_ordered(work.pool, normalized, found.blocks, ahead=1)
    write_lines(target.file, "X", "csr", found.shape, np.dtype(np.float32), blocks, work, nnz=found.nnz)


def _normalized(block: Lines, target_sum: float | None, *, log1p: bool) -> Lines:
    values, factors = _plain(block.data), np.ones(len(block))
    if target_sum is not None:
        totals = np.empty(len(block))
        add_rows(block.indptr, values, totals)
        factors = factors_of(totals, target_sum, empty=1.0)
    out = np.empty(len(values), np.float32)
    with np.errstate(all="ignore"):
        (log1p_rows if log1p else scale_rows)(block.indptr, values, factors, out)
    return Lines(block.first, block.indptr, block.indices, out)


def _plain(values: Array) -> Array:
    """Return values as float32 or float64, one of two types that kernels are compiled for, that holds them."""
    return values.astype(np.float32 if np.can_cast(values.dtype, np.float32) else np.float64, copy=False)
