"""Parquet files that are no tables of a scBaseCount, and no features of an archive."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BYTES", "COLUMNS", "parquet_bytes"]

_BOMB_TEXT = 1 << 20


def parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    """Return the bytes of a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def _every(value: Callable[[int], Any]) -> Callable[[pa.Table], pa.Table]:
    """Replace all columns but the first by the same."""

    def change(table: pa.Table) -> pa.Table:
        names = table.column_names
        return pa.table({names[0]: table[names[0]], **{name: value(len(table)) for name in names[1:]}})

    return change


def _first(value: Callable[[int], Any]) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(0, table.column_names[0], value(len(table)))


COLUMNS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "no-columns": lambda table: table.select([]),
    "no-rows": lambda table: table.slice(0, 0),
    "first-gone": lambda table: table.drop_columns(table.column_names[:1]),
    "last-gone": lambda table: table.drop_columns(table.column_names[-1:]),
    "first-alone": lambda table: table.select(table.column_names[:1]),
    "first-null": _first(lambda n: pa.nulls(n, pa.string())),
    "first-numbers": _first(lambda n: pa.array(range(n))),
    "first-binary": _first(lambda n: pa.array([b"\xff\xfe"] * n)),
    "first-list": _first(lambda n: pa.array([["a"]] * n)),
    "first-repeats": _first(lambda n: pa.array(["a"] * n)),
    "first-long": _first(lambda n: pa.array(["x" * 100_000] * n)),
    "all-null": _every(pa.nulls),
    "all-text": _every(lambda n: pa.array(["x"] * n)),
    "all-nan": _every(lambda n: pa.array([float("nan")] * n)),
    "all-negative": _every(lambda n: pa.array([-1] * n)),
    "all-huge": _every(lambda n: pa.array([2**63 - 1] * n)),
    "all-lists": _every(lambda n: pa.array([[1, 2]] * n)),
    "all-structs": _every(lambda n: pa.array([{"a": {"b": 1}}] * n)),
    "all-decimals": _every(lambda n: pa.array([1] * n).cast(pa.decimal128(38, 10))),
    "all-times": _every(lambda n: pa.array([2**60] * n, pa.timestamp("us"))),
    "bomb-text": _every(lambda n: pa.DictionaryArray.from_arrays(np.zeros(n, np.int8), pa.array(["x" * _BOMB_TEXT]))),
    "twice": lambda table: pa.concat_tables([table, table]),
}
"""Of the good table."""


def _footer(spoil: Callable[[bytearray], None]) -> Callable[[bytes], bytes]:
    def change(good: bytes) -> bytes:
        size = int.from_bytes(good[-8:-4], "little")
        footer = bytearray(good[-8 - size : -8])
        spoil(footer)
        return good[: -8 - size] + bytes(footer) + good[-8:]

    return change


def _size(value: int) -> Callable[[bytes], bytes]:
    return lambda good: good[:-8] + value.to_bytes(4, "little") + good[-4:]


def _ones(footer: bytearray) -> None:
    for at in range(0, len(footer), 7):
        footer[at] = 0xFF


def _long_lists(footer: bytearray) -> None:
    """Say of every list that it has two thousand million entries."""
    for at in range(len(footer) - 6):
        if footer[at] & 0xF0 == 0xF0:
            footer[at + 1 : at + 6] = b"\xff\xff\xff\xff\x07"


def _cut(percent: int) -> Callable[[bytes], bytes]:
    return lambda good: good[: len(good) * percent // 100]


BYTES: dict[str, Callable[[bytes], bytes]] = {
    **{f"cut-{percent}": _cut(percent) for percent in (1, 30, 60, 90, 99)},
    "empty": lambda _: b"",
    "magic-alone": lambda _: b"PAR1",
    "magic-both": lambda _: b"PAR1\0\0\0\0PAR1",
    "magic-wrong": lambda good: good[:-4] + b"PAR2",
    "magic-encrypted": lambda good: b"PARE" + good[4:-4] + b"PARE",
    "size-zero": _size(0),
    "size-huge": _size(2**31 - 1),
    "size-top": _size(2**32 - 1),
    "footer-zeros": _footer(lambda footer: footer.__setitem__(slice(None), bytes(len(footer)))),
    "footer-ones": _footer(_ones),
    "footer-lists": _footer(_long_lists),
    "footer-reversed": _footer(bytearray.reverse),
    "footer-names": lambda good: good.replace(b"SRX_accession", b"SRX_accessio\xc3").replace(
        b"srx_accession", b"srx_accessio\xc3"
    ),
    "pages-zeros": lambda good: good[:4] + bytes(len(good) // 2) + good[4 + len(good) // 2 :],
    "pages-ones": lambda good: good[:4] + b"\xff" * (len(good) // 4) + good[4 + len(good) // 4 :],
    "html": lambda _: b"<!DOCTYPE html><title>403 Forbidden</title>",
}
"""Of the good file's bytes."""
