"""Finished datasets and archives with one file changed, sealed again where it carries a digest of its own."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import feather

from ingest.documents import canonical, seal, sha256_hex
from ingest.layout import (
    CELLS_KEY,
    CHUNK_INDEX_KEY,
    CHUNK_OFFSETS_KEY,
    GENE_LIST_KEY,
    HVG_KEY,
    PLAN_KEY,
    PRESENCE_KEY,
    PROCESSING_KEY,
)
from ingest.settings import DataSettings
from ingest.testing.datasets import make_dataset, write_h5ad_index
from ingest.testing.entry_points.base import command
from ingest.testing.hostile.documents import SPELLINGS, leaf_changes
from ingest.testing.hostile.good import write_good_h5ad
from ingest.testing.hostile.tables import BYTES, COLUMNS, table_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["changed", "dest_changes", "json_keys", "resealed", "write_good_dest"]

Change = tuple[str, str, bytes]
"""Name, key, and what is put there."""


def write_good_dest(folder: Path) -> Path:
    """Make a dataset of 24 cells in chunks of 7 in the folder ``dest``, with its highly variable genes and quality."""
    from ingest.opened import open_plan
    from ingest.pool import Failure
    from ingest.store.open import open_store

    dest = folder / "dest"
    index = write_h5ad_index(folder / "index.feather", [write_good_h5ad(folder / "good.h5ad")])
    made = make_dataset(str(dest), index, data=DataSettings(cells_per_chunk=7))
    command("hvg", str(dest), "--n-hvgs", "5", "--pool", "serial")
    command("qc", str(dest), "--min-genes", "2", "--pool", "serial")
    opened = open_plan(open_store(str(dest)))
    opened.ledger.record_failures("a-1", [Failure((1,), "transient", "io", "the disk")])
    opened.ledger.claim(made.report.run_id, 7, [1, 2])
    (dest / "chunks" / "chunk_000099.h5ad").write_bytes(b"left over")
    command("gc", str(dest), "--delete")
    return dest


def json_keys(dest: Path) -> list[str]:
    """Return the keys of one document of each kind."""
    kinds: dict[str, str] = {}
    for path in sorted(dest.rglob("*.json")):
        key = path.relative_to(dest).as_posix()
        kind = key if not key.startswith("_ingest/") or key == PLAN_KEY else key.rpartition("/")[0]
        kinds.setdefault(f"_ingest/runs/{path.name[:4]}" if "/runs/" in key else kind, key)
    return list(kinds.values())


def changed(dest: Path, folder: Path, change: Change) -> Path:
    """Return a copy of `dest` in `folder` with one file changed."""
    copy = folder / "dest"
    shutil.copytree(dest, copy)
    name, key, data = change
    (copy / key).write_bytes(data)
    if name.startswith("planned:"):  # as plan.json would have it of whoever wrote both
        _name_in_plan(copy, key, data)
    return copy


def _name_in_plan(copy: Path, key: str, data: bytes) -> None:
    document = json.loads((copy / PLAN_KEY).read_bytes())
    role = next(role for role, named in document["files"].items() if named == key)
    document["sha256"][role] = sha256_hex(data)
    (copy / PLAN_KEY).write_bytes(_sealed(document))


def dest_changes(dest: Path) -> Iterator[Change]:
    """Yield all changes of one file of a finished dataset."""
    for key in json_keys(dest):
        good = (dest / key).read_bytes()
        for name, spell in SPELLINGS.items():
            yield f"{key}:{name}", key, spell(good)
        yield from _leaves(key, good)
    plan = json.loads((dest / PLAN_KEY).read_bytes())
    for key in (CELLS_KEY, CHUNK_OFFSETS_KEY):
        yield from _tables(key, (dest / key).read_bytes(), "")
    for role in ("index", "survey"):
        key = plan["files"][role]
        yield from _tables(key, (dest / key).read_bytes(), "planned:")
    key = plan["files"]["genes"]
    good = (dest / key).read_bytes()
    for name, spell in SPELLINGS.items():
        if not name.startswith("version"):
            yield f"planned:{key}:{name}", key, spell(good)
    for name, document in leaf_changes(json.loads(good)):
        yield f"planned:{key}:{name}", key, json.dumps(document).encode()
    yield from _arrays((dest / PRESENCE_KEY).read_bytes())


READ_BY_LOADERS = (CHUNK_INDEX_KEY, GENE_LIST_KEY, PROCESSING_KEY, HVG_KEY, PRESENCE_KEY, CELLS_KEY, CHUNK_OFFSETS_KEY)
"""What is read without a digest."""


def _leaves(key: str, good: bytes) -> Iterator[Change]:
    for name, other in leaf_changes(json.loads(good)):
        try:
            yield f"{key}:{name}", key, resealed(good, other)
        except ValueError:  # no canonical form has it
            continue


def resealed(good: bytes, other: Any) -> bytes:
    """Return the bytes of `other`, with a digest of its own where `good`, which it was made of, has one.

    Raises
    ------
    ValueError
        No canonical form has it.
    """
    document = json.loads(good)
    is_sealed = isinstance(document, dict) and "digest" in document and canonical(document) == good
    return _sealed(other) if is_sealed else json.dumps(other).encode()


def _sealed(document: dict[str, Any]) -> bytes:
    return seal({name: value for name, value in document.items() if name not in ("digest", "format_version")})


def _tables(key: str, good: bytes, prefix: str) -> Iterator[Change]:
    for name, spoil in BYTES.items():
        yield f"{prefix}{key}:{name}", key, spoil(good)
    table = feather.read_table(io.BytesIO(good), memory_map=False)
    names = ("no-columns", "no-rows", "codes-beyond", "codes-top", "text-descending", "text-negative", "text-not-utf8")
    for name in names if len(table) > 4 else names[:2]:
        column = "cell_type" if "cell_type" in table.column_names else table.column_names[0]
        yield (
            f"{prefix}{key}:{name}",
            key,
            table_bytes(_renamed_after(COLUMNS[name](table), column), compression="uncompressed"),
        )
    for column in table.column_names:
        for name, change in _COLUMN.items():
            try:
                other = table.set_column(table.column_names.index(column), column, change(table[column]))
            except (pa.ArrowException, ValueError):
                continue
            yield f"{prefix}{key}:{column}:{name}", key, table_bytes(other, compression="uncompressed")
        yield f"{prefix}{key}:{column}:gone", key, table_bytes(table.drop_columns([column]), compression="uncompressed")
    yield f"{prefix}{key}:short", key, table_bytes(table.slice(1), compression="uncompressed")
    yield f"{prefix}{key}:twice", key, table_bytes(pa.concat_tables([table, table]), compression="uncompressed")
    yield f"{prefix}{key}:small-batches", key, table_bytes(table, compression="uncompressed", chunksize=2)
    yield f"{prefix}{key}:packed", key, table_bytes(table, compression="zstd")


def _renamed_after(table: pa.Table, name: str) -> pa.Table:
    """Have a spoilt ``note`` stand for a column that is read."""
    if "note" not in table.column_names or name not in table.column_names:
        return table
    spoilt = table["note"]
    return table.drop_columns(["note"]).set_column(table.column_names.index(name), name, spoilt)


def _numbers(value: Any, kind: pa.DataType) -> Callable[[pa.ChunkedArray], pa.Array]:
    return lambda column: pa.array([value] * len(column), kind)


_COLUMN: dict[str, Callable[[pa.ChunkedArray], Any]] = {
    "nulls": lambda column: pa.nulls(len(column), column.type),
    "nothing": lambda column: pa.nulls(len(column)),
    "top": _numbers(2**63 - 1, pa.int64()),
    "bottom": _numbers(-(2**63), pa.int64()),
    "minus": _numbers(-1, pa.int64()),
    "zero": _numbers(0, pa.int64()),
    "uint64-top": _numbers(2**64 - 1, pa.uint64()),
    "nan": _numbers(float("nan"), pa.float64()),
    "text": _numbers("x", pa.string()),
    "binary": _numbers(b"\xff", pa.binary()),
    "list": _numbers([1], pa.list_(pa.int64())),
    "struct": _numbers({"a": 1}, pa.struct([("a", pa.int8())])),
    "flag": _numbers(True, pa.bool_()),
    "runs": lambda column: pa.RunEndEncodedArray.from_arrays([len(column)], [1]),
    "view": _numbers("x", pa.string_view()),
    "codes-beyond": lambda column: pa.DictionaryArray.from_arrays(
        pa.array(np.full(len(column), 99, np.int32)), pa.array(["a"]), safe=False
    ),
    "codes-null": lambda column: pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(len(column), np.int32)), pa.array([None], pa.string())
    ),
    "codes-numbers": lambda column: pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(len(column), np.int32)), pa.array([7])
    ),
    "reversed": lambda column: column.combine_chunks().take(pa.array(range(len(column) - 1, -1, -1))),
}


def _arrays(good: bytes) -> Iterator[Change]:
    with np.load(io.BytesIO(good)) as file:
        held = {name: file[name] for name in file.files}
    presence, names = held["presence"], held["datasets"]
    others: dict[str, dict[str, Any]] = {
        "no-presence": {"datasets": names},
        "no-datasets": {"presence": presence},
        "wide": {"presence": np.ones((len(names), presence.shape[1] + 1), bool), "datasets": names},
        "flat": {"presence": presence[0], "datasets": names},
        "counts": {"presence": presence.astype(np.int8), "datasets": names},
        "fewer": {"presence": presence[:0], "datasets": names},
        "names-other": {"presence": presence, "datasets": np.array(["nowhere"] * len(names))},
        "names-numbers": {"presence": presence, "datasets": np.arange(len(names))},
        "names-2d": {"presence": presence, "datasets": names.reshape(1, -1)},
        "pickled": {"presence": presence, "datasets": np.array([object() for _ in names], object)},
    }
    for name, arrays in others.items():
        sink = io.BytesIO()
        np.savez_compressed(sink, **arrays)
        yield f"{PRESENCE_KEY}:{name}", PRESENCE_KEY, sink.getvalue()
    for name, member in _MEMBERS.items():
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("presence.npy", member)
            archive.writestr("datasets.npy", member)
        yield f"{PRESENCE_KEY}:{name}", PRESENCE_KEY, sink.getvalue()
    for share in (0, 10, 50, 90, 99):
        yield f"{PRESENCE_KEY}:cut-{share}", PRESENCE_KEY, good[: len(good) * share // 100]
    for at in range(0, len(good), max(1, len(good) // 12)):
        yield f"{PRESENCE_KEY}:flip-{at}", PRESENCE_KEY, good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :]


def _npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + data


_MEMBERS: dict[str, bytes] = {
    "member-empty": b"",
    "member-header-huge": b"\x93NUMPY\2\0\xff\xff\xff\x7f",
    "member-shape-huge": _npy("{'descr': '|b1', 'fortran_order': False, 'shape': (1, 1152921504606846976), }"),
    "member-shape-negative": _npy("{'descr': '|b1', 'fortran_order': False, 'shape': (-1, 40), }", bytes(40)),
    "member-code": _npy("{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (1,), }"),
    "member-objects": _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\x80\4N."),
    "member-bomb": _npy("{'descr': '|b1', 'fortran_order': False, 'shape': (1, 268435456), }", bytes(1 << 28)),
    "member-not-utf8": b"\x93NUMPY\3\0\4\0\0\0\xff\xff\xff\xff",
}
