"""The schema of a stored array, if it is one that X of a Census has. Pure; layout: the format's ``array_schema.md``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ingest.fetch.tiles.format import BYTE_SHUFFLE, GZIP, ZSTD, Cursor, Pipeline, Unfamiliar, generic_tile

__all__ = ["VERSIONS", "XSchema"]

VERSIONS = range(16, 23)
"""Of the format, that are read: from processed conditions (16) to before the global order of tiles (23)."""

_SPARSE = 1
_ROW_MAJOR = 0
_INT64 = 1
_VALUES = {0: "int32", 1: "int64", 2: "float32", 3: "float64"}
"""Datatypes of TileDB's ``datatype.h``."""
_READ = ((), (ZSTD,), (GZIP,), (BYTE_SHUFFLE, ZSTD), (BYTE_SHUFFLE, GZIP))


@dataclass(frozen=True, slots=True)
class XSchema:
    """Two int64 dimensions and one value, none of them nullable or of variable length."""

    allows_duplicates: bool
    """Whether a coordinate may stand twice; if not, TileDB delivers the youngest."""
    capacity: int
    """Entries of every data tile but a fragment's last."""
    rows: Pipeline
    columns: Pipeline
    values: Pipeline
    dtype: np.dtype[np.generic]
    """Of the values: int32, int64, float32 or float64."""

    @classmethod
    def parse(cls, data: bytes) -> XSchema:
        """Read a schema file.

        Raises
        ------
        Unfamiliar
            Anything else than X of a Census.
        """
        cursor = Cursor(generic_tile(data))
        version, duplicates, kind, _, cell_order, capacity = cursor.take("IBBBBQ")
        if version not in VERSIONS:
            raise Unfamiliar(f"format version {version}")
        if kind != _SPARSE or cell_order != _ROW_MAJOR or not 0 < capacity <= 1 << 24:
            raise Unfamiliar("no sparse array in row-major order")
        usual, _, _ = (Pipeline.read(cursor) for _ in range(3))  # of coordinates, offsets, validity
        if cursor.one("I") != 2:
            raise Unfamiliar("other than two dimensions")
        rows, columns = (_dimension(cursor, name, usual) for name in ("soma_dim_0", "soma_dim_1"))
        values, dtype = _value(cursor)
        return cls(bool(duplicates), capacity, rows, columns, values, dtype)


def _dimension(cursor: Cursor, name: str, usual: Pipeline) -> Pipeline:
    _expect_name(cursor, name)
    kind, per_cell = cursor.take("BI")
    if kind != _INT64 or per_cell != 1:
        raise Unfamiliar(f"{name} of another type than int64")
    pipeline = Pipeline.read(cursor)
    cursor.bytes(cursor.one("Q"))  # the domain
    if not cursor.one("B"):
        cursor.one("q")  # the extent
    return _known(pipeline if pipeline.filters else usual, name)


def _value(cursor: Cursor) -> tuple[Pipeline, np.dtype[np.generic]]:
    if cursor.one("I") != 1:
        raise Unfamiliar("other than one value an entry")
    _expect_name(cursor, "soma_data")
    kind, per_cell = cursor.take("BI")
    if kind not in _VALUES or per_cell != 1:
        raise Unfamiliar(f"values of TileDB's type {kind}")
    pipeline = Pipeline.read(cursor)
    cursor.bytes(cursor.one("Q"))  # the fill value
    if cursor.one("B"):
        raise Unfamiliar("values that may be missing")
    return _known(pipeline, "soma_data"), np.dtype(_VALUES[kind])


def _expect_name(cursor: Cursor, name: str) -> None:
    found = bytes(cursor.bytes(cursor.one("I")))
    if found != name.encode():
        raise Unfamiliar(f"{found[:80]!r} where {name} should be")


def _known(pipeline: Pipeline, name: str) -> Pipeline:
    if pipeline.filters not in _READ:
        raise Unfamiliar(f"{name} filtered by {pipeline.filters}")
    return pipeline
