"""A new file of some rows and columns of another, in any order, everything else carried along."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ingest.fetch.heap import give_freed_memory_back
from ingest.stream.files import new_file
from ingest.stream.hdf5 import bound_metadata, writable
from ingest.stream.matrix.carry import Selection, carry
from ingest.stream.matrix.put import Target, put_matrix
from ingest.stream.matrix.source import describe_x
from ingest.stream.matrix.work import Work, check_chunk_size
from ingest.stream.output import MADE_FROM
from ingest.stream.perturbation import SORTING
from ingest.stream.storage import open_data

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    import pandas as pd

    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["rewrite", "write_file"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]


def rewrite(
    source: Path,
    output: Path,
    *,
    rows: Int64 | None = None,
    genes: Int64 | None = None,
    layout: Literal["csr", "csc", "dense"] | None = None,
    obs: pd.DataFrame | None = None,
    var: pd.DataFrame | None = None,
    uns: Mapping[str, Any] | None = None,
    chunk_size: int | None = None,
) -> None:
    """Write the rows and columns asked for, in their order, to a new file, in bounded memory.

    X, raw.X and layers keep their types; obsm, varm, obsp, varp and layers are cut with X, raw by rows alone.

    Parameters
    ----------
    rows, genes
        int64: numbers of rows and of columns of the source, none twice; None: all, in its order.
    layout
        Of X in the output; None: as it is. Layers keep theirs.
    obs, var
        Tables of the output, instead of the source's: rows as in the output.
    uns
        Entries of uns that replace or join those of the source. What was noted of the order of all of its rows goes
        where some are asked for, or another order.
    chunk_size
        Rows handled together, at most; None: as `ingest.stream.calculate_optimal_chunk_size` says.

    Raises
    ------
    ValueError
        A row or gene is wanted twice, or is not there; a `chunk_size` below 1.
    NoFileError, HostileFileError, SourceError
        The source cannot be read.
    ConfigError, CredentialsError
        The output cannot be written.
    """
    check_chunk_size(chunk_size)
    without = () if rows is None else (SORTING,)
    selection = Selection(_whole_numbers(rows), _whole_numbers(genes), obs, var, uns, without)
    with open_data(source) as file:
        write_file(file, output, selection, layout=layout, work=Work(most_lines=chunk_size))


def write_file(
    source: OpenH5ad,
    output: str | os.PathLike[str],
    selection: Selection,
    *,
    layout: Literal["csr", "csc", "dense"] | None = None,
    put_x: Callable[[Target], None] | None = None,
    work: Work | None = None,
) -> None:
    """Write a new file, whole or not at all.

    Parameters
    ----------
    put_x
        Writes X; None: that of the source, if it has one, the rows and genes selected.
    work
        Used and ended.
    """
    with work or Work() as at_work, new_file(output) as path, writable(path, name=Path(output)) as file:
        target = Target(file, path.parent, at_work)
        for each in (source.file, file):
            bound_metadata(each)
        give_freed_memory_back()
        if put_x is not None:
            put_x(target)
        elif source.get("X") is not None:
            put_matrix(source, describe_x(source), target, layout=layout, rows=selection.rows, columns=selection.genes)
        give_freed_memory_back()
        carry(source, target, {MADE_FROM: source.source.address}, selection)
        source.check_unchanged()


def _whole_numbers(lines: Int64 | None) -> Int64 | None:
    return None if lines is None else np.asarray(lines, np.int64)
