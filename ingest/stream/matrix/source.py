"""Any matrix of a file as rows or as columns: those asked for, in any order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np

from ingest.errors import NoMatrixError
from ingest.fetch.h5ad_matrix import describe_at
from ingest.fetch.h5ad_table import open_table
from ingest.fetch.heap import give_freed_memory_back
from ingest.stream.matrix.choose import Choice, chosen, in_order
from ingest.stream.matrix.dense import DenseRows
from ingest.stream.matrix.regroup import reordered, transposed
from ingest.stream.matrix.sparse import SparseLines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ingest.fetch.h5ad_matrix import MatrixRef
    from ingest.fetch.h5ad_open import OpenH5ad
    from ingest.stream.matrix.lines import Lines
    from ingest.stream.matrix.work import Work

__all__ = ["Chosen", "describe_x", "lines_of", "shape_of"]

Array = np.ndarray[Any, Any]

_TIDIED = 16
"""Blocks after which freed memory is given back: it lies in pieces by then, a tenth more of it with every ten times."""


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Rows and columns of a matrix as lines."""

    blocks: Iterator[Lines]
    shape: tuple[int, int]
    """Rows and columns."""
    dtype: np.dtype[Any]
    nnz: int | None
    """Entries, where that is known."""


def shape_of(file: OpenH5ad, path: str = "X") -> tuple[int, int]:
    """Return rows of obs and rows of the table of columns: what a matrix at `path` must have."""
    table = {"raw/X": "raw/var", "raw.X": "raw.var"}.get(path, "var")
    return open_table(file, "obs").n_rows, open_table(file, table).n_rows


def describe_x(file: OpenH5ad, path: str = "X") -> MatrixRef:
    """Describe a matrix of cells by genes.

    Raises
    ------
    NoMatrixError
        The file has none at `path`.
    HostileFileError, NotCountsError
        Its structure breaks a rule; it holds no numbers.
    """
    node = file.get(path)
    if node is None or (isinstance(node, h5py.Dataset) and node.shape in ((), None)):
        raise NoMatrixError(f"{file.name}: there is no {path}", source=str(file.source))
    return describe_at(file, path, shape_of(file, path))


def lines_of(
    file: OpenH5ad,
    ref: MatrixRef,
    kind: Literal["csr", "csc"],
    work: Work,
    scratch: Path,
    *,
    rows: Array | None = None,
    columns: Array | None = None,
) -> Chosen:
    """Return a matrix as rows or as columns, whatever it is stored as; nothing is read before blocks are taken.

    Parameters
    ----------
    kind
        ``csr``: rows; ``csc``: columns.
    scratch
        Folder for what does not fit in memory.
    rows, columns
        int64: those asked for, in the order wanted, none twice; None: all.
    """
    stored = "csr" if ref.layout == "dense" else ref.layout
    row_choice, column_choice = Choice(rows, ref.shape[0]), Choice(columns, ref.shape[1])
    major, minor = (row_choice, column_choice) if stored == "csr" else (column_choice, row_choice)
    most, blocks = _stored(file, ref, work, scratch, major.ascending)
    if minor.places is not None:
        blocks = chosen(blocks, minor)
    if kind != stored:
        blocks = transposed(blocks, major.n, most, minor.n, scratch, work)
        blocks = in_order(blocks, major)
    elif major.ranks is not None:
        blocks = reordered(blocks, major.ranks, minor.n, scratch, work)
    is_exact = ref.layout != "dense" and minor.places is None
    shape = row_choice.n, column_choice.n
    return Chosen(blocks, shape, np.dtype(ref.dtype), most if is_exact else None)


def _stored(
    file: OpenH5ad, ref: MatrixRef, work: Work, scratch: Path, wanted: Array | None
) -> tuple[int, Iterator[Lines]]:
    """Return how many entries there are at most, and the blocks."""
    if ref.layout == "dense":
        n_rows = ref.shape[0] if wanted is None else len(wanted)
        blocks = DenseRows(file, ref, work, scratch).lines(wanted)
        return n_rows * ref.shape[1], _watched(blocks, ref.path, n_rows, work)
    source = SparseLines(file, ref, work)
    n_lines = source.n_lines if wanted is None else len(wanted)
    return source.count(wanted), _watched(source.blocks(wanted), ref.path, n_lines, work)


def _watched(blocks: Iterator[Lines], path: str, n_lines: int, work: Work) -> Iterator[Lines]:
    for number, block in enumerate(blocks):
        if number % _TIDIED == 0:
            give_freed_memory_back()
        done = block.first + len(block)
        yield block
        del block  # while the next is read
        work.reached(path, done, n_lines)
