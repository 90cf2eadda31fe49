"""Features of genes: the arrays of var that all cells of a block have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.load.memmap.feature_encode import from_arrow, from_values
from ingest.load.memmap.feature_frames import Frame, arrow_type, write_frame
from ingest.load.memmap.feature_segments import giver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ingest.load.memmap.feature_pieces import Array

__all__ = ["SharedTexts", "VariableBlock"]


class SharedTexts:
    """Lets equal texts of many arrays be one: files have much the same genes, each in its own order."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedTexts, ()

    def of(self, array: Array) -> Array:
        """Return the array, of texts that may be another's, too."""
        if array.dtype != object or array.ndim != 1:
            return array
        texts = self._texts
        shared = (texts.setdefault(value, value) if type(value) is str else value for value in array.tolist())
        return np.fromiter(shared, object, len(array))


class VariableBlock(Mapping[str, "Array"]):
    """Arrays of var that all rows of a block have; a mapping of them.

    Parameters
    ----------
    arrays
        All of one length, or None: they are in `frame`.
    shared
        Texts that other blocks have.
    """

    def __init__(
        self, arrays: Mapping[str, Array] | None, frame: Frame | None = None, shared: SharedTexts | None = None
    ) -> None:
        self._frame, self._shared = frame, shared or SharedTexts()
        self._arrays = {name: self._shared.of(array) for name, array in (arrays or {}).items()}
        self._names = dict.fromkeys(self._arrays if frame is None else frame.names)

    def __reduce__(self) -> tuple[Any, ...]:
        # What has been read is not sent to another process: it has the file.
        return VariableBlock, (None if self._frame else self._arrays, self._frame, self._shared)

    def __getitem__(self, name: str) -> Array:
        found = self._arrays.get(name)
        if found is None:
            if self._frame is None or name not in self._names:
                raise KeyError(name)
            found = from_arrow(self._frame.read(name, 0, self._frame.n_rows)).take(slice(None))
            # Arrow's own memory cannot be written to, which torch.from_numpy warns of.
            found = self._shared.of(found if found.flags.writeable else found.copy())
            self._arrays[name] = found
        return found

    def __contains__(self, name: object) -> bool:
        # Mapping's own would read the column.
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def n_values(self) -> int:
        """Of each array."""
        if self._frame is not None:
            return self._frame.n_rows if self._names else 0
        return len(next(iter(self._arrays.values()), ()))

    def equals(self, other: VariableBlock) -> bool:
        """Return whether names and values are the same; what is missing equals nothing, as numpy has it."""
        return (
            self.keys() == other.keys()
            and self.n_values == other.n_values
            and all(_equal(self[name], other[name]) for name in self)
        )

    def save(self, path: Path) -> Frame | None:
        """Write a new Parquet file, or return the one that holds just this."""
        if self._frame is not None:
            return self._frame
        pieces = {name: from_values(array) for name, array in self._arrays.items()}
        kinds = {name: arrow_type(name, piece.dtype, piece.samples) for name, piece in pieces.items()}
        rows = slice(0, self.n_values)
        whole = [{name: giver(piece, rows, ()) for name, piece in pieces.items()}] if pieces else []
        write_frame(path, kinds, iter(whole))
        return None

    def moved(self, old: Path, frame: Frame) -> None:
        """Read from `frame` what was to be read from a file of the folder `old`."""
        if self._frame is not None and self._frame.path.parent == old:
            self._frame = frame


def _equal(one: Array, other: Array) -> bool:
    try:
        return bool(np.array_equal(one, other))
    except (TypeError, ValueError):  # of pandas' NA and of lists it cannot be said
        return False
