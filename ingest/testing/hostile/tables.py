"""Feather files that are no index: cut, lying, of other types, or a thousand times larger than they look."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import feather

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BYTES", "COLUMNS", "table_bytes"]

Array = np.ndarray[Any, Any]
_BOMB_ROWS = 1 << 22


def table_bytes(table: pa.Table, **options: Any) -> bytes:
    """Return the bytes of a feather file."""
    sink = io.BytesIO()
    feather.write_feather(table, sink, **options)
    return sink.getvalue()


def _with(name: str, values: Any) -> Callable[[pa.Table], pa.Table]:
    """Replace or add a column."""

    def change(table: pa.Table) -> pa.Table:
        column = values(len(table)) if callable(values) else values
        at = table.column_names.index(name) if name in table.column_names else None
        return table.append_column(name, column) if at is None else table.set_column(at, name, column)

    return change


def _renamed(old: str, new: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.rename_columns([new if name == old else name for name in table.column_names])


def _some(value: Any, usual: Any, kind: pa.DataType | None = None) -> Callable[[int], pa.Array]:
    return lambda n: pa.array([value, *[usual] * (n - 1)], kind)


def _rows(value: Any, kind: pa.DataType) -> Callable[[int], pa.Array]:
    return lambda n: pa.array([value, *range(1, n)], kind)


def _sources(text: str) -> Callable[[pa.Table], pa.Table]:
    return _with("source", lambda n: pa.array([text] * n))


def _codes(numbers: Callable[[int], Array]) -> Callable[[int], pa.Array]:
    return lambda n: pa.DictionaryArray.from_arrays(pa.array(numbers(n)), pa.array(["a", "b"]), safe=False)


def _lying_text(offsets: Callable[[Array], None], data: bytes = b"abcdefgh" * 16) -> Callable[[int], pa.Array]:
    """Build a column of texts whose offsets or bytes are not sound."""

    def build(n: int) -> pa.Array:
        places = np.arange(0, 4 * n + 1, 4, dtype=np.int32)
        offsets(places)
        return pa.Array.from_buffers(pa.string(), n, [None, pa.py_buffer(places), pa.py_buffer(data * n)])

    return build


def _spoil(at: int, value: int) -> Callable[[Array], None]:
    def spoil(places: Array) -> None:
        places[at] = value

    return spoil


def _nested(depth: int) -> Callable[[int], pa.Array]:
    def build(n: int) -> pa.Array:
        value: Any = 1
        kind: pa.DataType = pa.int8()
        for _ in range(depth):
            kind, value = pa.list_(kind), [value]
        return pa.array([value] * n, kind)

    return build


def _zeros(table: pa.Table) -> pa.Table:
    """As many rows as there is room for, of which each is the same: a hundredth of a byte a row."""
    source = pa.DictionaryArray.from_arrays(np.zeros(_BOMB_ROWS, np.int32), table["source"].unique().cast(pa.string()))
    return pa.table({"source": source, "row": np.zeros(_BOMB_ROWS, np.int64)})


def _wide_text(table: pa.Table) -> pa.Table:
    """One text of 4 MiB, which every cell has."""
    texts = pa.array(["x" * (1 << 22)])
    return table.append_column("note", pa.DictionaryArray.from_arrays(np.zeros(len(table), np.int8), texts))


COLUMNS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "no-columns": lambda table: table.select([]),
    "no-rows": lambda table: table.slice(0, 0),
    "no-source": lambda table: table.drop_columns(["source"]),
    "no-row": lambda table: table.drop_columns(["row"]),
    "row-twice": lambda table: pa.concat_tables([table, table.slice(0, 1)]),
    "row-text": _with("row", lambda n: pa.array([str(number) for number in range(n)])),
    "row-fraction": _with("row", _rows(0.5, pa.float64())),
    "row-nan": _with("row", _rows(float("nan"), pa.float64())),
    "row-infinite": _with("row", _rows(float("inf"), pa.float64())),
    "row-huge-float": _with("row", _rows(1e300, pa.float64())),
    "row-negative": _with("row", _rows(-5, pa.int64())),
    "row-int64-top": _with("row", _rows(2**63 - 1, pa.int64())),
    "row-uint64-top": _with("row", _rows(2**64 - 1, pa.uint64())),
    "row-beyond": _with("row", _rows(10**9, pa.int64())),
    "row-null": _with("row", _rows(None, pa.int64())),
    "row-bool": _with("row", lambda n: pa.array([True] * n)),
    "row-decimal": _with("row", lambda n: pa.array(range(n), pa.int64()).cast(pa.decimal128(19, 0))),
    "row-time": _with("row", lambda n: pa.array(range(n), pa.timestamp("ns"))),
    "row-list": _with("row", lambda n: pa.array([[number] for number in range(n)])),
    "row-codes": _with("row", lambda n: pa.array(range(n)).dictionary_encode()),
    "row-of-nothing": _with("row", pa.nulls),
    "joinid-and-row": _with("soma_joinid", lambda n: pa.array(range(n))),
    "source-null": _with("source", _some(None, "x.h5ad", pa.string())),
    "source-number": _with("source", lambda n: pa.array(range(n))),
    "source-empty": _sources(""),
    "source-binary": _with("source", lambda n: pa.array([b"\xff\xfe"] * n, pa.binary())),
    "source-device": _sources("file:///dev/zero"),
    "source-folder": _sources("file:///"),
    "source-nowhere": _sources("file:///nowhere/at/all.h5ad"),
    "source-control": _sources("file:///a\nb\x1b[2J.h5ad"),
    "source-secret": _sources("https://user:canary-password@127.0.0.1:1/a.h5ad"),
    "source-signed": _sources("https://127.0.0.1:1/a.h5ad?X-Amz-Signature=canary-signature"),
    "source-scheme": _sources("gopher://a/b.h5ad"),
    "source-census": _sources("census://2025-11-08/homo_sapiens"),
    "source-soma-none": _sources("soma+file:///nowhere#organism=homo_sapiens"),
    "source-version": lambda table: _sources(table["source"][0].as_py().partition("#")[0] + "#version=1-2")(table),
    "source-long": _sources("file:///" + "a" * 100_000),
    "source-nul": _sources("file:///a\0b.h5ad"),
    "codes-beyond": _with("cell_type", _codes(lambda n: np.full(n, 99, np.int8))),
    "codes-negative": _with("cell_type", _codes(lambda n: np.full(n, -3, np.int8))),
    "codes-top": _with("cell_type", _codes(lambda n: np.full(n, 2**62, np.int64))),
    "text-descending": _with("note", _lying_text(_spoil(3, 0))),
    "text-negative": _with("note", _lying_text(_spoil(2, -8))),
    "text-beyond": _with("note", _lying_text(_spoil(4, 2**31 - 1))),
    "text-not-utf8": _with("note", _lying_text(lambda _: None, b"\xff\xfe\xfd\xfc")),
    "text-surrogate": _with("note", _lying_text(lambda _: None, b"\xed\xa0\x80x")),
    "text-nul": _with("note", lambda n: pa.array(["a\0b"] * n)),
    "type-struct": _with("note", lambda n: pa.array([{"a": 1}] * n)),
    "type-map": _with("note", lambda n: pa.array([[("a", 1)]] * n, pa.map_(pa.string(), pa.int8()))),
    "type-union": _with("note", lambda n: pa.UnionArray.from_sparse(pa.array([0] * n, pa.int8()), [pa.array([1] * n)])),
    "type-runs": _with("note", lambda n: pa.RunEndEncodedArray.from_arrays([n], ["a"])),
    "type-deep": _with("note", _nested(40)),
    "type-duration": _with("note", lambda n: pa.array(range(n), pa.duration("us"))),
    "type-interval": _with("note", lambda n: pa.array([(1, 2, 3)] * n, pa.month_day_nano_interval())),
    "type-binary": _with("note", lambda n: pa.array([b"\0\xff"] * n)),
    "type-view": _with("note", lambda n: pa.array(["a text that is longer than twelve bytes"] * n, pa.string_view())),
    "type-large-text": _with("note", lambda n: pa.array(["a"] * n, pa.large_string())),
    "type-null": _with("note", pa.nulls),
    "type-time-beyond": _with("note", lambda n: pa.array([2**62] * n, pa.timestamp("s"))),
    "type-zone": _with("note", lambda n: pa.array(range(n), pa.timestamp("s", tz="Nowhere/At_All"))),
    "name-empty": _renamed("score", ""),
    "name-dots": _renamed("score", ".."),
    "name-slash": _renamed("score", "../../etc/passwd"),
    "name-nul": _renamed("score", "a\0b"),
    "name-index": _renamed("score", "_index"),
    "name-twice": _renamed("score", "cell_type"),
    "name-long": _renamed("score", "x" * 100_000),
    "name-control": _renamed("score", "a\nb\x1b[2J"),
    "columns-many": lambda table: pa.table(
        {
            **{name: table[name] for name in table.column_names},
            **{f"c{k}": np.zeros(len(table), np.int8) for k in range(200)},
        }
    ),
    "bomb-rows": _zeros,
    "bomb-text": _wide_text,
}
"""Of the good table."""


def _body(spoil: Callable[[bytearray, int], None]) -> Callable[[bytes], bytes]:
    """Change the bytes of the footer: called with all bytes and where it begins."""

    def change(good: bytes) -> bytes:
        data = bytearray(good)
        spoil(data, len(data) - 10 - int.from_bytes(data[-10:-6], "little"))
        return bytes(data)

    return change


def _footer_size(size: int) -> Callable[[bytes], bytes]:
    return lambda good: good[:-10] + size.to_bytes(4, "little", signed=size < 0) + good[-6:]


def _words(value: bytes) -> Callable[[bytearray, int], None]:
    def spoil(data: bytearray, start: int) -> None:
        for at in range(start + 8, len(data) - 10 - len(value), 16):
            data[at : at + len(value)] = value

    return spoil


def _blocks(data: bytearray, start: int) -> None:
    """Say of every record batch and dictionary that it is elsewhere and longer."""
    for at in range(start, len(data) - 32):
        if data[at : at + 4] == b"\0\0\0\0" and data[at + 16] and not at % 8:
            data[at + 16 : at + 24] = (1 << 40).to_bytes(8, "little")


def _parquet(good: bytes) -> bytes:
    sink = io.BytesIO()
    pq.write_table(feather.read_table(io.BytesIO(good)), sink)
    return sink.getvalue()


def _stream(good: bytes) -> bytes:
    table, sink = feather.read_table(io.BytesIO(good)), io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _first_message(value: bytes, offset: int) -> Callable[[bytes], bytes]:
    return lambda good: good[: 8 + offset] + value + good[8 + offset + len(value) :]


def _cut(percent: int) -> Callable[[bytes], bytes]:
    return lambda good: good[: len(good) * percent // 100]


BYTES: dict[str, Callable[[bytes], bytes]] = {
    **{f"cut-{percent:02d}": _cut(percent) for percent in (1, 20, 50, 80, 99)},
    "cut-last": lambda good: good[:-1],
    "empty": lambda _: b"",
    "text": lambda _: b"source,row\na.h5ad,0\n",
    "magic-alone": lambda _: b"ARROW1",
    "magic-both": lambda _: b"ARROW1\0\0\0\0\0\0ARROW1",
    "magic-old": lambda good: b"FEA1" + good[4:-4] + b"FEA1",
    "magic-old-alone": lambda _: b"FEA1\0\0\0\0FEA1",
    "magic-wrong-end": lambda good: good[:-6] + b"ARROW2",
    "magic-wrong-begin": lambda good: b"ARROW2" + good[6:],
    "footer-zero": _footer_size(0),
    "footer-negative": _footer_size(-1),
    "footer-huge": _footer_size(2**31 - 1),
    "footer-small": _footer_size(16),
    "footer-zeroed": _body(
        lambda data, start: data.__setitem__(slice(start, len(data) - 10), bytes(len(data) - 10 - start))
    ),
    "footer-ones": _body(_words(b"\xff" * 4)),
    "footer-large-words": _body(_words(b"\xff\xff\xff\x7f")),
    "footer-blocks": _body(_blocks),
    "message-huge": _first_message(b"\xff\xff\xff\xff\xff\xff\xff\x7f", 0),
    "message-negative": _first_message(b"\xff\xff\xff\xff\xff\xff\xff\xff", 0),
    "message-zero": _first_message(bytes(64), 0),
    "name-bytes": lambda good: good.replace(b"source", b"\xffource"),
    "body-ones": lambda good: good[: len(good) // 4] + b"\xff" * (len(good) // 4) + good[len(good) // 2 :],
    "body-zeros": lambda good: good[: len(good) // 4] + bytes(len(good) // 4) + good[len(good) // 2 :],
    "is-parquet": _parquet,
    "is-stream": _stream,
    "twice": lambda good: good + good,
    "followed": lambda good: good + bytes(64),
}
"""Of the good file's bytes."""
