"""Dictionaries that only grow, as Arrow files need them: delta batches may append to one, never replace it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["GrowingDictionary", "is_text"]

_MOST_VALUES: Final = 1_000_000
_MOST_BYTES: Final = 128 * 2**20


def is_text(kind: pa.DataType) -> bool:
    """Whether values of `kind` are text, dictionary-encoded or not."""
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values))


class GrowingDictionary:
    """Codes for the distinct texts of one column, in order of appearance.

    Parameters
    ----------
    most_values, most_bytes
        Beyond these the column is better off without a dictionary.
    """

    def __init__(self, most_values: int = _MOST_VALUES, most_bytes: int = _MOST_BYTES) -> None:
        self.values = pa.array([], pa.string())
        self._most_values = most_values
        self._most_bytes = most_bytes

    @property
    def is_too_large(self) -> bool:
        """Whether it has outgrown its bounds."""
        return len(self.values) > self._most_values or self.values.nbytes > self._most_bytes

    def encode(self, column: pa.Array) -> pa.Int32Array:
        """Return the codes of `column`, int32 ``(n_rows,)``, null where it is; unseen texts get the next codes."""
        if not isinstance(column, pa.DictionaryArray):
            column = column.cast(pa.string()).dictionary_encode()
        indices = column.indices
        used = pc.unique(indices).drop_null()
        texts = column.dictionary.take(used).cast(pa.string())
        self._learn(texts)
        recode: np.ndarray[Any, np.dtype[np.int32]] = np.full(len(column.dictionary) + 1, -1, np.int32)
        recode[used.to_numpy()] = pc.fill_null(pc.index_in(texts, value_set=self.values), -1).to_numpy()
        codes = recode[pc.fill_null(indices.cast(pa.int64()), -1).to_numpy()]
        return pa.array(codes, pa.int32(), mask=codes < 0)

    def _learn(self, texts: pa.StringArray) -> None:
        unseen = pc.and_(pc.is_null(pc.index_in(texts, value_set=self.values)), pc.is_valid(texts))
        # Unique once more: a dictionary made elsewhere may hold the same text twice.
        fresh = pc.unique(texts.filter(unseen))
        if len(fresh):
            self.values = pa.concat_arrays([self.values, fresh])
