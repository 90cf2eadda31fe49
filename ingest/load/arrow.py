"""Arrow tables that are mapped from files which may be damaged, and their numbers without pandas.

pyarrow's own way to numpy imports pandas, half a second before a first batch. What it maps it believes: a wrong length
ends the process when it is looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.arrow_names import check_names
from ingest.unpacked import UnpackLimit

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["map_table", "numbers_of"]

_NAMES = {"halffloat": "float16", "float": "float32", "double": "float64"}


def map_table(path: Path) -> pa.Table:
    """Map the table of an Arrow file, whose lengths, offsets and texts are known to be sound then; codes are not.

    Raises
    ------
    pa.ArrowException, OSError
        It is damaged, or none, or would take more memory than may be.
    """
    with pa.memory_map(str(path)) as source:
        UnpackLimit(memoryview(source.read_buffer())).check_whole()
        source.seek(0)
        table: pa.Table = pa.ipc.open_file(source).read_all()
    check_names(table.schema)
    table.validate()
    for column in table.columns:
        for chunk in column.chunks:
            if pa.types.is_dictionary(column.type):
                chunk.dictionary.validate(full=True)
            elif not pa.types.is_primitive(column.type):
                chunk.validate(full=True)
    return table


def numbers_of(array: pa.Array) -> np.ndarray[Any, Any]:
    """Return the values of `array` ``(n,)``: a view where it holds plain numbers and no null."""
    kind = array.type
    if array.null_count or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        values: np.ndarray[Any, Any] = array.to_numpy(zero_copy_only=False)
        return values
    buffer = array.buffers()[1]
    if buffer is None:
        return np.empty(0, _NAMES.get(str(kind), str(kind)))
    return np.frombuffer(buffer, _NAMES.get(str(kind), str(kind)))[array.offset : array.offset + len(array)]
