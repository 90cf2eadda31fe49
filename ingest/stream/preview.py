"""What a person wants to see of a file first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd

from ingest.fetch.h5ad_matrix import describe_matrix
from ingest.fetch.h5ad_table import open_table
from ingest.stream.elements import read_rows

if TYPE_CHECKING:
    from ingest.fetch.h5ad_matrix import MatrixRef
    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["corner", "preview"]

_KEYED = ("layers", "obsm", "varm", "obsp", "varp", "uns")
_WIDTH, _MOST_COLUMNS = 120, 12
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def preview(opened: OpenH5ad, n_obs: int, n_vars: int) -> str:
    """Describe a file in some lines: extents, tables' first rows, X's first cells and genes, names of all else.

    Raises
    ------
    HostileFileError, NotCountsError
        It is damaged, or X holds no numbers.
    """
    obs, var = open_table(opened, "obs"), open_table(opened, "var")
    matrix = describe_matrix(opened, "X") if "X" in opened.file else None
    lines = [f"{opened.name}: {obs.n_rows:,} cells x {var.n_rows:,} genes, {_size(opened.size_bytes)}"]
    for table, n in ((obs, n_obs), (var, n_vars)):
        frame = read_rows(opened, table.path, 0, n)
        lines += [f"\n{table.path}: {_columns(len(table.columns))}", _text(frame)]
    if matrix is None:
        lines.append("\nno X")
    else:
        shown = corner(opened, matrix, n_obs, n_vars)
        cells, genes = (read_rows(opened, *part, columns=()).index for part in (("obs", 0, n_obs), ("var", 0, n_vars)))
        frame = pd.DataFrame(shown, index=cells.rename(None), columns=genes.rename(None))
        lines += [f"\nX: {_matrix(matrix)}", _text(frame)]
    return "\n".join([*lines, *_others(opened)])


def corner(opened: OpenH5ad, matrix: MatrixRef, n_obs: int, n_vars: int) -> np.ndarray[Any, Any]:
    """Return the first `n_obs` cells of the first `n_vars` genes, dense ``(n_obs, n_vars)`` or what there is.

    Of a sparse matrix the rows (columns, where it lies by columns) are read whole, no others.

    Raises
    ------
    HostileFileError
        Its pointers or indices lead outside.
    """
    n_obs, n_vars = min(n_obs, matrix.shape[0]), min(n_vars, matrix.shape[1])
    if matrix.layout == "dense":
        with opened.reading(matrix.path):
            return np.asarray(opened.dataset(matrix.path)[:n_obs, :n_vars])
    wanted = (n_obs, n_vars) if matrix.layout == "csr" else (n_vars, n_obs)
    found = _compressed_corner(opened, matrix, *wanted)
    return found if matrix.layout == "csr" else found.T


def _compressed_corner(opened: OpenH5ad, matrix: MatrixRef, n_major: int, n_minor: int) -> np.ndarray[Any, Any]:
    parts = {name: opened.dataset(f"{matrix.path}/{name}") for name in ("indptr", "indices", "data")}
    with opened.reading(matrix.path):
        indptr = parts["indptr"][: n_major + 1].astype(np.int64)
    if indptr[0] != 0 or (np.diff(indptr) < 0).any() or indptr[-1] > matrix.nnz:
        raise opened.error(f"{matrix.path}/indptr", "its pointers do not ascend from 0 to the entries", "indptr-order")
    with opened.reading(matrix.path):
        indices, data = (parts[name][: indptr[-1]] for name in ("indices", "data"))
    width = matrix.shape[1] if matrix.layout == "csr" else matrix.shape[0]
    if len(indices) and (indices.min() < 0 or indices.max() >= width):
        raise opened.error(f"{matrix.path}/indices", f"an index outside of {width:,}", "index-range")
    out = np.zeros((n_major, n_minor), data.dtype)
    majors = np.repeat(np.arange(n_major), np.diff(indptr))
    inside = indices < n_minor
    np.add.at(out, (majors[inside], indices[inside]), data[inside])  # an entry stored twice is their sum
    return out


def _others(opened: OpenH5ad) -> list[str]:
    lines = []
    for name in _KEYED:
        node = opened.get(name)
        keys = list(node) if isinstance(node, h5py.Group) else list(getattr(node, "dtype", np.dtype("u1")).names or ())
        if keys:
            lines.append(f"{name}: {', '.join(keys)}")
    raw = next((path for path in ("raw/X", "raw.X") if path in opened.file), None)
    if raw is not None:
        lines.append(f"raw: {_matrix(describe_matrix(opened, raw))}")
    return ["", *lines] if lines else []


def _matrix(matrix: MatrixRef) -> str:
    shape = f"{matrix.shape[0]:,} x {matrix.shape[1]:,}, {matrix.layout} {matrix.dtype}"
    return shape if matrix.layout == "dense" else f"{shape}, {matrix.nnz:,} entries"


def _columns(count: int) -> str:
    return f"{count:,} columns" if count != 1 else "1 column"


def _text(frame: pd.DataFrame) -> str:
    if not frame.size:
        return "  " + (", ".join(map(str, frame.index)) or "no rows")
    # Columns that do not fit one line are left off, not broken over several.
    for n_columns in range(min(len(frame.columns), _MOST_COLUMNS), 0, -1):
        text = frame.to_string(max_cols=n_columns, max_colwidth=24)
        if max(map(len, text.splitlines())) <= _WIDTH:
            break
    return text


def _size(size_bytes: int) -> str:
    unit, name = next((pair for pair in _UNITS if size_bytes >= pair[0]), _UNITS[-1])
    return f"{size_bytes / unit:,.1f} {name}"
