"""The content digest of a plan's cells, taken while they go by.

128-bit XXH3 (https://xxhash.com) with one state a column. Texts count by code, in order of first appearance, which the
cells alone determine: equal cells give equal digests, however an index was batched and its dictionaries were ordered.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

__all__ = ["CellsDigest"]

_MISSING = -1


class CellsDigest:
    """Takes the cells of a plan batch by batch, in plan order."""

    def __init__(self) -> None:
        self._states: dict[str, Any] = {}
        self._kinds: dict[str, str] = {}
        self._dictionaries: dict[str, pa.Array] = {}
        self._n_cells = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the next cells.

        Parameters
        ----------
        batch
            Dictionaries have int32 codes in order of first appearance over the whole plan.

        Raises
        ------
        ValueError
            The columns are others than before.
        """
        names = batch.schema.names
        if self._n_cells and names != list(self._states):
            raise ValueError(f"columns {names} after {list(self._states)}")
        for name, column in zip(names, batch.columns, strict=True):
            state = self._states.setdefault(name, xxhash.xxh3_128())
            values = self._values(name, column)
            little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
            self._kinds[name] = little.dtype.str
            if len(little):
                state.update(little.view(np.uint8).data)
        self._n_cells += len(batch)

    def _values(self, name: str, column: pa.Array) -> np.ndarray[Any, Any]:
        if pa.types.is_dictionary(column.type):
            self._dictionaries[name] = column.dictionary
            column = pc.fill_null(column.indices, _MISSING)
        values: np.ndarray[Any, Any] = column.to_numpy(zero_copy_only=False)
        return values

    def hexdigest(self) -> str:
        """Return 32 hex digits over all columns of all cells taken."""
        whole = xxhash.xxh3_128()
        for name, state in self._states.items():
            texts = self._dictionaries.get(name)
            raw = name.encode()
            kind = self._kinds[name] + (f" of {len(texts)} texts" if texts is not None else "")
            whole.update(len(raw).to_bytes(8, "little") + raw + f"{kind}\0{self._n_cells}\0".encode() + state.digest())
            for text in () if texts is None else texts.to_pylist():
                spelled = text.encode()
                whole.update(len(spelled).to_bytes(8, "little") + spelled)
        return str(whole.hexdigest())
