"""One type for a column that several files have in types of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index.dictionaries import is_text

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["TEXT", "as_type", "plain_type", "wider_type"]

TEXT: Final = pa.dictionary(pa.int32(), pa.string())


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return what a column of type `kind` is in an index: texts as dictionaries, anything else as itself."""
    if is_text(kind) or pa.types.is_temporal(kind):
        return TEXT
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def wider_type(kinds: Collection[pa.DataType]) -> pa.DataType | None:
    """Return the number type that holds all of `kinds` without rounding integers, if there is one."""
    if not kinds or not all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        return next(iter(kinds)) if len(kinds) == 1 else None
    wide = np.result_type(*(kind.to_pandas_dtype() for kind in kinds))
    integers = all(pa.types.is_integer(kind) for kind in kinds)
    return None if integers and wide.kind == "f" else pa.from_numpy_dtype(wide)


def as_type(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return `column` in the type that was agreed on."""
    if column.type == kind:
        return column
    if kind != TEXT:
        return (column.dictionary_decode() if pa.types.is_dictionary(column.type) else column).cast(kind)
    if isinstance(column, pa.DictionaryArray):
        # Also drops an order of the categories, which an index does not keep.
        return pa.DictionaryArray.from_arrays(column.indices.cast(pa.int32()), _text(column.dictionary))
    return _text(column).dictionary_encode()


def _text(column: pa.Array) -> pa.StringArray:
    if pa.types.is_boolean(column.type):
        return pc.if_else(column, "True", "False")
    return column.cast(pa.string())
