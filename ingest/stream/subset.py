"""A new file of some cells and some genes, as ``adata[cells, genes].copy()`` has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.fetch.h5ad_frame import read_frame
from ingest.stream.frames import fitting_frame
from ingest.stream.matrix.carry import Selection
from ingest.stream.matrix.put import put_matrix
from ingest.stream.matrix.rewrite import write_file
from ingest.stream.matrix.source import describe_x, shape_of
from ingest.stream.matrix.work import Work, check_chunk_size
from ingest.stream.output import refuse_same
from ingest.stream.perturbation import SORTING
from ingest.stream.sorted_rows import note_of_rows
from ingest.stream.storage import open_data

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import pandas as pd

    from ingest.fetch.h5ad_open import OpenH5ad
    from ingest.stream.matrix.put import Target
    from ingest.stream.matrix.work import Reached

__all__ = ["write_filtered_subset", "write_subset_of"]

Array = np.ndarray[Any, Any]

_WIDEST = 8


def write_filtered_subset(
    source_path: Any,
    *,
    cell_mask: Any,
    gene_mask: Any,
    output_path: str | os.PathLike[str],
    chunk_size: int | None = 4096,
    var_assignments: Mapping[str, Any] | None = None,
    row_nnz: Any = None,
    total_nnz: int | None = None,
    data_dtype: Any = None,
    reached: Reached | None = None,
) -> None:
    """Write the cells and genes whose masks say so; X, layers, obsm, varm, obsp and varp are cut, raw by cells.

    Matrices keep layout and type. Categories of obs and var that nothing has any more go, and their colours in uns.
    Where cells go, what `sort_by_perturbation` noted of their order is noted anew, ``sort_order`` and the original's
    path excepted.
    The source is read once, whatever is known of it.

    Parameters
    ----------
    source_path
        Path or URL, backed AnnData, or our handle.
    cell_mask, gene_mask
        bool ``(n_obs,)`` and ``(n_vars,)``.
    chunk_size
        Rows handled together, at most; None: as `ingest.stream.calculate_optimal_chunk_size` says.
    var_assignments
        Columns to add to var, or replace there: a value for each gene that stays, of types that `write_var` takes.
    row_nnz, total_nnz
        Entries of each cell that stays, int ``(n_kept,)``, and of all: checked against what is found, where given.
    data_dtype
        Of X in the output, of numbers or flags; None: as it is.
    reached
        As of `ingest.stream.convert_to_csc`.

    Raises
    ------
    ValueError
        A mask or `row_nnz` has another length or type, a column of `var_assignments` another length or values that no
        h5ad can hold; `data_dtype` is no type of numbers; X has other numbers of entries than stated.
    IngestError, TypeError
        As of `ingest.stream.convert_to_csc`.
    """
    check_chunk_size(chunk_size)
    dtype = None if data_dtype is None else _number_type(data_dtype)
    with open_data(source_path) as file:
        write_subset_of(
            file,
            output_path,
            cell_mask=cell_mask,
            gene_mask=gene_mask,
            work=Work(most_lines=chunk_size, reached=reached),
            var_assignments=var_assignments,
            known=(row_nnz, total_nnz),
            data_dtype=dtype,
        )


def write_subset_of(
    file: OpenH5ad,
    output_path: str | os.PathLike[str],
    *,
    cell_mask: Any,
    gene_mask: Any,
    work: Work,
    var_assignments: Mapping[str, Any] | None = None,
    known: tuple[Any, int | None] = (None, None),
    data_dtype: Any = None,
) -> None:
    """Do what `write_filtered_subset` does with a file that is open: with masks made of what was read in it.

    Parameters
    ----------
    known
        ``row_nnz`` and ``total_nnz``.
    """
    refuse_same(file, output_path)
    n_obs, n_vars = shape_of(file)
    rows, genes = _kept(cell_mask, n_obs, "cell_mask"), _kept(gene_mask, n_vars, "gene_mask")
    stated = _known(*known, len(rows))
    var = _assigned(file, genes, var_assignments) if var_assignments else None
    uns, without = ({}, ()) if len(rows) == n_obs else _sorting_of(file, rows)
    selection = Selection(
        _or_all(rows, n_obs), _or_all(genes, n_vars), var=var, uns=uns, without=without, drop_unused=True
    )

    def put_x(target: Target) -> None:
        if file.get("X") is not None:
            x = describe_x(file)
            put_matrix(file, x, target, rows=selection.rows, columns=selection.genes, dtype=data_dtype)
            _check_known(target, stated)

    write_file(file, output_path, selection, put_x=put_x, work=work)


def _sorting_of(file: OpenH5ad, rows: Array) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what uns says of the order of these rows, and what it must say no longer."""
    note = note_of_rows(file, rows)
    return ({}, (SORTING,)) if note is None else ({SORTING: note}, ())


def _kept(mask: Any, n: int, name: str) -> Array:
    values = np.asarray(mask)
    if values.shape != (n,):
        raise ValueError(f"{name} of shape {values.shape} where there are {n:,}")
    if values.dtype != np.bool_ and n:  # an empty list is of floats
        raise ValueError(f"{name} holds {values.dtype}; true and false are wanted")
    return np.flatnonzero(values)


def _number_type(asked: Any) -> np.dtype[Any]:
    try:
        dtype = np.dtype(asked)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "biuf" or dtype.itemsize > _WIDEST:
        raise ValueError(f"data_dtype {asked!r}: a type of numbers is wanted, such as float32")
    native: np.dtype[Any] = dtype.newbyteorder("=")
    return native


def _or_all(lines: Array, n: int) -> Array | None:
    return None if len(lines) == n else lines


def _known(row_nnz: Any, total_nnz: int | None, n_rows: int) -> tuple[Array | None, int | None]:
    counts = None if row_nnz is None else np.asarray(row_nnz, np.int64)
    if counts is not None and counts.shape != (n_rows,):
        raise ValueError(f"row_nnz of shape {counts.shape} for {n_rows:,} cells that stay")
    if counts is not None and total_nnz is not None and int(counts.sum()) != total_nnz:
        raise ValueError(f"row_nnz adds up to {int(counts.sum()):,}, total_nnz is {total_nnz:,}")
    return counts, total_nnz


def _check_known(target: Target, known: tuple[Array | None, int | None]) -> None:
    """Compare what was stated with what was written, before it gets its name."""
    counts, total = known
    if (counts is None and total is None) or "X/indptr" not in target.file:
        return
    group = target.file["X"]
    indptr = group["indptr"][:].astype(np.int64)
    if total is not None and int(indptr[-1]) != total:
        raise ValueError(f"X has {int(indptr[-1]):,} entries of these cells and genes, total_nnz is {total:,}")
    by_rows = group.attrs["encoding-type"] == "csr_matrix"
    if counts is not None and by_rows and not np.array_equal(np.diff(indptr), counts):
        raise ValueError("X has other numbers of entries in its rows than row_nnz states")


def _assigned(file: OpenH5ad, genes: Array, assignments: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    given: dict[str, Any] = {}
    for column, values in assignments.items():
        if np.ndim(values) != 1 or len(values) != len(genes):
            found = f"var_assignments[{column!r}] of shape {np.shape(values)}"
            raise ValueError(f"{found} for {len(genes):,} genes that stay")
        given[column] = pd.Series(values).array  # by place, whatever its names
    var = read_frame(file, "var").iloc[genes].copy()
    fitted = fitting_frame(pd.DataFrame(given), "var_assignments")
    for column in given:
        var[column] = fitted[column].array
    if var.index.name in given:  # an h5ad has one place for both
        var.index.name = None
    return var
