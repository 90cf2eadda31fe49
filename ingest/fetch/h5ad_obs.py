"""Annotations and names of an h5ad file's cells, streamed."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ingest.errors import ConfigError, SourceError
from ingest.fetch.h5ad_table import open_table
from ingest.fetch.h5ad_texts import decoded_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["iter_obs", "names_unique", "obs_columns", "obs_names"]

_NAME_ROWS = 1 << 14
_NAME_BLOCKS = 16
_MOST_NAME_BYTES = 64 << 20
"""Of a block."""
_HASHES_AT_ONCE = 1 << 24
_SUSPECTS = 1024


def obs_columns(file: OpenH5ad) -> dict[str, pa.DataType]:
    """Return the columns of obs and their Arrow types, in the file's order; the index is not among them.

    Categoricals are ``dictionary<int32, …>``, text is ``string``.

    Raises
    ------
    HostileFileError
        obs is not what an h5ad has.
    """
    return {name: column.type for name, column in open_table(file, "obs").columns.items()}


def iter_obs(file: OpenH5ad, columns: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield `columns` of obs in row order, `batch_rows` rows at a time; memory does not grow with the cells.

    All batches share one dictionary per categorical column: the file's own categories, in its order, missing values
    being null.

    Raises
    ------
    ConfigError
        There is no such column (kind ``unknown-column``).
    HostileFileError
        A column is damaged: lengths, codes out of range, text that is not UTF-8.
    """
    table = open_table(file, "obs")
    for name in columns:
        if name not in table.columns:
            raise _unknown(file, name, list(table.columns))
    readers = [table.columns[name] for name in columns]
    schema = pa.schema([pa.field(name, reader.type) for name, reader in zip(columns, readers, strict=True)])
    for start in range(0, table.n_rows, batch_rows):
        stop = min(start + batch_rows, table.n_rows)
        if readers:
            yield pa.RecordBatch.from_arrays([reader.read(start, stop) for reader in readers], schema=schema)
        else:
            yield pa.record_batch(pa.StructArray.from_buffers(pa.struct([]), stop - start, [None]))


def _unknown(file: OpenH5ad, name: str, known: list[str]) -> ConfigError:
    near = get_close_matches(name, known, 3) or known
    return ConfigError(
        f"{file.name}: no column {name!r} in obs",
        kind="unknown-column",
        hint=f"there are {', '.join(near[:12])}" if near else "its obs has no columns",
        source=str(file.source),
    )


def obs_names(file: OpenH5ad, rows: np.ndarray[Any, np.dtype[np.int64]]) -> pa.StringArray:
    """Return the names of `rows`, int64 ``(n,)`` in any order, in that order.

    Names are read in blocks, the last few being kept, and only blocks that hold a wanted row.

    Raises
    ------
    SourceError
        A row is not in the file (kind ``row-range``).
    HostileFileError
        Names are damaged or not UTF-8.
    """
    table = open_table(file, "obs")
    if len(rows) == 0:
        return pa.array([], pa.string())
    if rows.min() < 0 or rows.max() >= table.n_rows:
        wrong = int(rows[(rows < 0) | (rows >= table.n_rows)][0])
        raise SourceError(f"{file.name}: row {wrong} of {table.n_rows} rows", kind="row-range", source=str(file.source))
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    blocks = ascending // _NAME_ROWS
    cuts = np.flatnonzero(np.diff(blocks)) + 1
    parts = [
        _name_block(file, int(group[0] // _NAME_ROWS)).take(pa.array(group % _NAME_ROWS))
        for group in np.split(ascending, cuts)
    ]
    back = np.empty(len(rows), np.int64)
    back[order] = np.arange(len(rows))
    return pa.concat_arrays(parts).take(pa.array(back))


def names_unique(file: OpenH5ad) -> bool:
    """Tell whether no two cells have one name, in memory that does not grow with the cells.

    64-bit hashes are compared, in several passes over the names where there are many; equal hashes are then compared
    by name, so the answer is exact.
    """
    n_rows = open_table(file, "obs").n_rows
    n_passes = -(-n_rows // _HASHES_AT_ONCE) or 1
    return all(not _has_double(file, bucket, n_passes) for bucket in range(n_passes))


def _has_double(file: OpenH5ad, bucket: int, n_passes: int) -> bool:
    hashes = [found[found % n_passes == bucket] for _, found in _hashed_names(file)]
    ascending = np.sort(np.concatenate(hashes)) if hashes else np.empty(0, np.uint64)
    suspects = np.unique(ascending[1:][ascending[1:] == ascending[:-1]])[:_SUSPECTS]
    if len(suspects) == 0:
        return False
    seen: set[str] = set()
    for names, found in _hashed_names(file):
        for name in names[np.isin(found, suspects)]:
            if name in seen:
                return True
            seen.add(name)
    return False


def _hashed_names(file: OpenH5ad) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, np.dtype[np.uint64]]]]:
    n_rows = open_table(file, "obs").n_rows
    for block in range(-(-n_rows // _NAME_ROWS)):
        names = _name_block(file, block).to_numpy(zero_copy_only=False)
        yield names, pd.util.hash_array(names, categorize=False)


def _name_block(file: OpenH5ad, block: int) -> pa.StringArray:
    cache = file.name_blocks
    if block in cache:
        cache.move_to_end(block)
        return cache[block]
    table = open_table(file, "obs")
    names = table.index.read(block * _NAME_ROWS, min((block + 1) * _NAME_ROWS, table.n_rows))
    if decoded_bytes(names) > _MOST_NAME_BYTES:
        raise file.error("obs", f"names of {decoded_bytes(names):,} bytes in {len(names):,} rows", "decoded-size")
    cache[block] = names = _as_text(names)
    while len(cache) > _NAME_BLOCKS:
        cache.popitem(last=False)
    return names


def _as_text(names: pa.Array) -> pa.StringArray:
    if pa.types.is_dictionary(names.type):
        names = names.dictionary_decode()
    return names.cast(pa.string()).fill_null("")
