"""Entries dealt out to other lines in bounded memory: transposed matrices, rows in another order.

What fits into a block is dealt out there; otherwise entries go through an unnamed file beside the output
(`ingest.stream.matrix.dealt`). So the source is read once, whatever its size, and memory is that of a block. Lines keep
the order in which their entries come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.fetch.h5ad_planes import bits_of
from ingest.stream.files import writing
from ingest.stream.matrix.dealt import Entries, dealt_lines
from ingest.stream.matrix.kernels import spread, transpose
from ingest.stream.matrix.lines import Lines, index_type, pieces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ingest.stream.matrix.work import Work

__all__ = ["Entries", "regrouped", "reordered", "transposed"]

Array = np.ndarray[Any, Any]


def transposed(
    blocks: Iterable[Lines], n_lines: int, nnz: int, n_new: int, scratch: Path, work: Work
) -> Iterator[Lines]:
    """Yield the columns of rows, or the rows of columns.

    Parameters
    ----------
    n_lines, nnz
        Of all `blocks` together; of entries there may be fewer.
    n_new
        Lines to come: indices are below it.
    scratch
        Folder for what does not fit into a block.
    """
    kind = index_type(n_lines)
    if nnz <= work.block_entries:
        for block in _whole(blocks):
            yield from _parted(_turned(block, n_new, kind), work)
        return

    def entries() -> Iterator[Entries]:
        for block in blocks:
            numbers = np.empty(block.nnz, kind)
            spread(block.indptr, np.arange(block.first, block.first + len(block), dtype=kind), numbers)
            yield Entries(block.indices, numbers, block.data)

    yield from regrouped(entries(), n_new, n_lines, scratch, work)


def reordered(blocks: Iterable[Lines], ranks: Array, n_places: int, scratch: Path, work: Work) -> Iterator[Lines]:
    """Yield lines in another order.

    Parameters
    ----------
    ranks
        int64 ``(n_lines,)``: a permutation, where each line of `blocks` goes.
    n_places
        Indices are below it.
    """

    def entries() -> Iterator[Entries]:
        for block in blocks:
            lines = np.empty(block.nnz, np.int64)
            spread(block.indptr, ranks[block.first : block.first + len(block)], lines)
            yield Entries(lines, block.indices, block.data)

    yield from regrouped(entries(), len(ranks), n_places, scratch, work)


def regrouped(entries: Iterable[Entries], n_lines: int, n_places: int, scratch: Path, work: Work) -> Iterator[Lines]:
    """Yield `n_lines` lines of entries that come in any order of lines.

    Raises
    ------
    ConfigError
        ``disk-full``: the scratch folder is.
    """
    with writing(scratch / "scratch"):
        for lines in dealt_lines(entries, n_lines, index_type(n_places), scratch, work):
            yield from _parted(lines, work)


def _whole(blocks: Iterable[Lines]) -> Iterator[Lines]:
    """Yield all blocks as one; where there is none, an empty one: there may be lines to come all the same."""
    held = list(blocks) or [Lines(0, np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))]
    if len(held) == 1:
        yield held[0]
        return
    ends = np.cumsum([0, *(block.nnz for block in held)])
    indptr = [block.indptr[:-1] + end for block, end in zip(held, ends.tolist(), strict=False)]
    yield Lines(
        0,
        np.concatenate([*indptr, ends[-1:]]),
        np.concatenate([block.indices for block in held]),
        np.concatenate([block.data for block in held]),
    )


def _turned(block: Lines, n_new: int, kind: np.dtype[Any]) -> Lines:
    ends, to, into = np.zeros(n_new + 1, np.int64), np.empty(block.nnz, kind), np.empty(block.nnz, block.data.dtype)
    bits = bits_of(into.dtype)
    numbers = np.arange(block.first, block.first + len(block), dtype=kind)
    transpose(numbers, block.indptr, block.indices, block.data.view(bits), ends, to, into.view(bits))
    return Lines(0, ends, to, into)


def _parted(lines: Lines, work: Work) -> Iterator[Lines]:
    for begin, end in pieces(np.diff(lines.indptr), work.block_entries):
        yield lines.part(begin, end)
