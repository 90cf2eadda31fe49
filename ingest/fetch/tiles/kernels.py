"""Compiled passes over tiles: where their parts lie, which rows their runs are of, and placing runs in rows.

Conventions are those of `ingest.fetch.kernels`: arrays only, every index checked before it is used as one, the GIL
released. Runs are runs of one row within a part of a tile; starts and stops count entries of the tile.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ingest.fetch.kernels import compiled, position_of, run_end

__all__ = [
    "chain_ascends",
    "count_runs",
    "find_runs",
    "join_columns",
    "join_eight",
    "join_four",
    "narrow_columns",
    "place_runs",
    "reserve_runs",
    "tile_directory",
]

Array = np.ndarray[Any, Any]


@compiled
def _number(data: Array, at: int) -> int:
    """Return the uint32 at byte `at`."""
    low, high = np.int64(data[at]) | np.int64(data[at + 1]) << 8, np.int64(data[at + 2]) | np.int64(data[at + 3]) << 8
    return int(low | high << 16)


@compiled
def tile_directory(tile: Array, compressed: bool, directory: Array) -> int:
    """Write start, stop and decompressed bytes of each part of `tile` (uint8) into `directory` (int64 ``(m, 3)``).

    Layout (``tile.md`` of the format): the number of chunks, uint64; a chunk is its original, filtered and metadata
    lengths, uint32, the metadata and the data. A compressor's metadata are the numbers of metadata and data parts,
    then original and compressed length of each, uint32; the parts follow one another in the data, metadata first.

    Return the number of parts, or -1: lengths do not add up, or `directory` is too short.
    """
    if tile.size < 8:
        return -1
    chunks, at, count = _number(tile, 0) | _number(tile, 4) << 32, 8, 0
    for _ in range(chunks):
        if at + 12 > tile.size:
            return -1
        original, filtered, head = _number(tile, at), _number(tile, at + 4), _number(tile, at + 8)
        at += 12
        data = at + head
        end = data + filtered
        if end > tile.size:
            return -1
        n_metadata, n_data, part = 0, 1, at
        if compressed:
            if head < 8:
                return -1
            n_metadata, n_data, part = _number(tile, at), _number(tile, at + 4), at + 8
            if 8 * (n_metadata + n_data) > head - 8:
                return -1
        elif head != 0 or original != filtered:
            return -1
        left = original
        for number in range(n_metadata + n_data):
            size, stored = original, filtered
            if compressed:
                size, stored = _number(tile, part + 8 * number), _number(tile, part + 8 * number + 4)
            if data + stored > end:
                return -1
            if number >= n_metadata:
                if count == directory.shape[0]:
                    return -1
                directory[count, 0] = data
                directory[count, 1] = data + stored
                directory[count, 2] = size
                count += 1
                left -= size
            data += stored
        if data != end or left != 0:
            return -1
        at = end
    return count if at == tile.size else -1


@compiled
def join_four(planes: Array, out: Array) -> None:
    """Undo a byte shuffle: `planes` uint8 ``(4 * n,)`` into `out` uint32 ``(n,)``."""
    n = out.size
    p0, p1, p2, p3 = planes[:n], planes[n : 2 * n], planes[2 * n : 3 * n], planes[3 * n : 4 * n]
    for i in range(n):
        out[i] = np.uint32(p0[i]) | np.uint32(p1[i]) << 8 | np.uint32(p2[i]) << 16 | np.uint32(p3[i]) << 24


@compiled
def join_eight(planes: Array, out: Array) -> None:
    """Undo a byte shuffle: `planes` uint8 ``(8 * n,)`` into `out` uint64 ``(n,)``."""
    n = out.size
    out[:] = 0
    for plane in range(8):
        piece, shift = planes[plane * n : (plane + 1) * n], np.uint64(8 * plane)
        for i in range(n):
            out[i] |= np.uint64(piece[i]) << shift


@compiled
def join_columns(planes: Array, out: Array) -> None:
    """Undo a byte shuffle of int64 columns, uint8 ``(8 * n,)``, into int32 ``(n,)``; what does not fit becomes -1."""
    n = out.size
    p0, p1, p2, p3 = planes[:n], planes[n : 2 * n], planes[2 * n : 3 * n], planes[3 * n : 4 * n]
    high, rest = np.uint8(0), planes[4 * n : 8 * n]
    for i in range(n):
        out[i] = np.int32(p0[i]) | np.int32(p1[i]) << 8 | np.int32(p2[i]) << 16 | np.int32(p3[i]) << 24
    for i in range(rest.size):
        high |= rest[i]
    if high:
        for plane in range(4):
            piece = rest[plane * n : (plane + 1) * n]
            for i in range(n):
                if piece[i]:
                    out[i] = -1


@compiled
def narrow_columns(columns: Array, out: Array) -> None:
    """Copy int64 columns to int32; what does not fit becomes -1."""
    for i in range(out.size):
        out[i] = columns[i] if 0 <= columns[i] < 1 << 31 else -1


@compiled
def find_runs(
    rows: Array,
    first: int,
    low: int,
    lookup: Array,
    sorted_rows: Array,
    order: Array,
    position: Array,
    start: Array,
    stop: Array,
    count: int,
) -> int:
    """Append the runs of wanted rows in one part to `position`, `start` and `stop` (int32, long enough).

    Parameters
    ----------
    rows
        int64 ``(n,)``: the part's rows; `first` is the place of its first entry in the tile.
    low, lookup, sorted_rows, order
        See `ingest.fetch.kernels.position_of`.
    count
        Runs that are there already.

    Returns
    -------
    int
        Runs that are there now.
    """
    begin = 0
    while begin < rows.size:
        end = run_end(rows, begin)
        where = position_of(rows[begin], low, lookup, sorted_rows, order)
        if where >= 0:
            position[count] = where
            start[count] = first + begin
            stop[count] = first + end
            count += 1
        begin = end
    return count


@compiled
def count_runs(position: Array, start: Array, stop: Array, counts: Array) -> None:
    """Add the entries of each run to `counts` (int64 ``(n_rows,)``) of its row."""
    for run in range(position.size):
        counts[position[run]] += stop[run] - start[run]


@compiled
def reserve_runs(position: Array, start: Array, stop: Array, cursor: Array, place: Array) -> None:
    """Give each run its place (int64) in the matrix, `cursor` (int64 ``(n_rows,)``) being each row's next free one."""
    for run in range(position.size):
        place[run] = cursor[position[run]]
        cursor[position[run]] += stop[run] - start[run]


@compiled
def place_runs(
    columns: Array,
    values: Array,
    start: Array,
    stop: Array,
    place: Array,
    gene_map: Array,
    n_source_genes: int,
    out_indices: Array,
    out_data: Array,
    first: Array,
    last: Array,
) -> tuple[bool, int, int]:
    """Put the runs of one tile where they belong; what is not wanted of a run becomes a zero, to be dropped later.

    Parameters
    ----------
    columns, values
        int32 and value ``(n,)``: the tile.
    start, stop, place
        Of each run: entries of the tile, and where its first goes.
    gene_map, n_source_genes
        Column to target column or -1, ascending where it is not; empty for the identity.
    out_indices, out_data
        The matrix.
    first, last
        int32, filled: the runs' first and last column.

    Returns
    -------
    tuple
        Whether columns ascend within every run and are columns of the source (if not, nothing here is to be used);
        zeros among the wanted; entries that nobody wants.
    """
    zeros, unwanted = 0, 0
    for run in range(start.size):
        run_columns, run_values = columns[start[run] : stop[run]], values[start[run] : stop[run]]
        to = place[run]
        indices, data = out_indices[to : to + run_columns.size], out_data[to : to + run_columns.size]
        falls, some = False, 0
        for i in range(run_columns.size - 1):
            falls |= run_columns[i + 1] <= run_columns[i]
        first[run], last[run] = run_columns[0], run_columns[run_columns.size - 1]
        if falls or first[run] < 0 or last[run] >= n_source_genes:
            return False, zeros, unwanted
        if gene_map.size == 0:
            for i in range(run_columns.size):
                indices[i] = run_columns[i]
                data[i] = run_values[i]
                some += run_values[i] == 0
        else:
            for i in range(run_columns.size):
                gene = gene_map[run_columns[i]]
                indices[i] = gene
                data[i] = run_values[i] if gene >= 0 else 0
                unwanted += gene < 0
                some += gene >= 0 and run_values[i] == 0
        zeros += some
    return True, zeros, unwanted


@compiled
def chain_ascends(position: Array, first: Array, last: Array, seen: Array) -> bool:
    """Tell whether each run begins after the last column that its row had before; `seen` (int32) is filled with -1."""
    for run in range(position.size):
        if first[run] <= seen[position[run]]:
            return False
        seen[position[run]] = last[run]
    return True
