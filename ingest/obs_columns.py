"""The columns of an index as obs can hold them: texts by code, numbers without gaps.

A column's type in the plan may follow from its last value (one gap makes integers floats), so every column is first
looked at (`look`), batch by batch, and only then made (`make`), in a second pass over the same batches. What lies
between the two, on disk or in memory, are numbers alone: a text is its code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.errors import ConfigError
from ingest.index_file import same_array

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["ObsColumn", "TextColumn", "make_column"]

_MOST_TEXT_BYTES = (1 << 31) - 1
"""Of the distinct texts of a column: Arrow's strings count by 32 bits."""

_UNSEEN = -2
_MISSING = -1


class ObsColumn(Protocol):
    """One column on its way into the plan."""

    name: str

    def look(self, column: pa.Array) -> None:
        """Take the next rows in the first pass."""
        ...

    def make(self, column: pa.Array) -> pa.Array:
        """Return the same rows as numbers, in the second pass: of `stored`, without gaps."""
        ...

    @property
    def stored(self) -> pa.DataType:
        """Type of what `make` returns; known once every row was looked at."""
        ...

    def shown(self, numbers: pa.Array) -> pa.Array:
        """Return what `make` returned as the plan's index has it."""
        ...


class TextColumn:
    """Texts: their distinct values in order of first appearance, and int32 codes of which -1 is missing."""

    stored = pa.int32()

    def __init__(self, name: str, path: Path) -> None:
        self.name, self._path = name, path
        self.texts: list[str] = []
        self._codes: dict[str, int] = {}
        self._bytes = 0
        self._known: tuple[pa.Array, np.ndarray[Any, np.dtype[np.int32]]] | None = None
        """The last dictionary, and the code of each of its values."""
        self._dictionary: pa.Array | None = None

    def look(self, column: pa.Array) -> None:
        """Take the texts, and give new ones a code."""
        self.make(column)

    def make(self, column: pa.Array) -> pa.Array:
        """Return the codes of the texts, numbering those not met before.

        Raises
        ------
        ConfigError
            A NUL character, which HDF5 cannot hold (kind ``bad-index``).
        pyarrow.ArrowException
            Values that Arrow cannot spell.
        """
        if not (pa.types.is_dictionary(column.type) and is_text(column.type.value_type)):
            column = _plain(column).cast(pa.string()).dictionary_encode()
        code_of = self._code_of(column.dictionary)
        codes = pc.take(pa.array(code_of), column.indices, boundscheck=False)
        if pc.min(codes).as_py() == _UNSEEN:
            # `unique` keeps the order of appearance.
            fresh = pc.unique(column.indices.filter(pc.equal(codes, _UNSEEN)))
            texts = column.dictionary.take(fresh).to_pylist()
            code_of[fresh.to_numpy()] = [_MISSING if text is None else self._number(text) for text in texts]
            codes = pc.take(pa.array(code_of), column.indices, boundscheck=False)
        return pc.fill_null(codes, _MISSING)

    def _code_of(self, dictionary: pa.Array) -> np.ndarray[Any, np.dtype[np.int32]]:
        if self._known is not None and same_array(self._known[0], dictionary):
            return self._known[1]
        if pc.any(pc.match_substring(dictionary, "\0")).as_py():
            message = f"{self._path}: column {self.name!r} holds a NUL character, which HDF5 cannot"
            raise ConfigError(message, kind="bad-index", hint="drop the column, or the characters")
        self._known = dictionary, np.full(len(dictionary), _UNSEEN, np.int32)
        return self._known[1]

    def _number(self, text: str) -> int:
        code = self._codes.setdefault(text, len(self.texts))
        if code == len(self.texts):
            self.texts.append(text)
            self._bytes += len(text.encode())
            if self._bytes > _MOST_TEXT_BYTES:
                raise pa.ArrowCapacityError(f"column {self.name!r} has more than 2 GiB of different texts")
        return code

    def reorder(self, first: Sequence[int]) -> None:
        """Give the texts other codes: the text that had code ``first[k]`` gets k."""
        self.texts = [self.texts[code] for code in first]
        self._codes = {text: code for code, text in enumerate(self.texts)}
        self._known = self._dictionary = None

    def shown(self, numbers: pa.Array) -> pa.Array:
        """Return a dictionary array over all texts of the column."""
        if self._dictionary is None or len(self._dictionary) != len(self.texts):
            # One and the same object for all batches: the writer compares pointers before it compares texts.
            self._dictionary = pa.array(self.texts, pa.string())
        codes = numbers.to_numpy()
        indices = pa.array(codes, mask=codes < 0) if len(codes) and codes.min() < 0 else numbers
        return pa.DictionaryArray.from_arrays(indices, self._dictionary, safe=False)


class NumberColumn:
    """Integers and floats; integers with gaps become floats with NaN, as pandas makes them."""

    def __init__(self, name: str, path: Path, kind: pa.DataType) -> None:
        self.name, self._path, self._kind = name, path, kind
        self._has_gaps = False
        self._range: list[int] = []
        """Least and largest value."""
        self._counts = True

    @property
    def complete(self) -> bool:
        """Whether every value is there, finite and at least zero."""
        return self._counts and not self._has_gaps

    def look(self, column: pa.Array) -> None:
        """Take down gaps and extremes."""
        column = _plain(column)
        self._has_gaps = self._has_gaps or column.null_count > 0
        if pa.types.is_floating(self._kind):
            values = column.to_numpy(zero_copy_only=False)
            self._counts = self._counts and bool((np.isfinite(values) & (values >= 0)).all())
            return
        span = pc.min_max(column)
        if span["min"].is_valid:
            ends = [*self._range, span["min"].as_py(), span["max"].as_py()]
            self._range = [min(ends), max(ends)]
            self._counts = self._counts and self._range[0] >= 0

    @property
    def stored(self) -> pa.DataType:
        """The column's own type, or float64 for integers with gaps.

        Raises
        ------
        ConfigError
            Gaps beside integers that no float holds.
        """
        if pa.types.is_floating(self._kind) or not self._has_gaps:
            return self._kind
        try:
            pa.array(self._range, self._kind).cast(pa.float64(), safe=True)
        except pa.ArrowException as error:
            raise ConfigError(
                f"{self._path}: column {self.name!r} has missing values beside whole numbers beyond 2**53, "
                "which no float holds",
                kind="bad-index",
                hint="drop it, or turn it into strings",
            ) from error
        return pa.float64()

    def make(self, column: pa.Array) -> pa.Array:
        """Return the numbers, NaN for what is missing."""
        column = _plain(column).cast(self.stored)
        return pc.fill_null(column, float("nan")) if pa.types.is_floating(column.type) else column

    def shown(self, numbers: pa.Array) -> pa.Array:
        """Return `numbers` as they are."""
        return numbers


class BooleanColumn:
    """Booleans; with gaps they become the texts ``true`` and ``false``."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self._has_gaps = name, False
        self.as_text = TextColumn(name, path)

    def look(self, column: pa.Array) -> None:
        """Take down gaps, and the texts in case there are any."""
        column = _plain(column)
        self._has_gaps = self._has_gaps or column.null_count > 0
        self.as_text.look(column)

    def settled(self) -> ObsColumn:
        """Return the column that it is."""
        return self.as_text if self._has_gaps else self

    stored = pa.bool_()

    def make(self, column: pa.Array) -> pa.Array:
        """Return the values."""
        return _plain(column)

    def shown(self, numbers: pa.Array) -> pa.Array:
        """Return `numbers` as they are."""
        return numbers


def _plain(column: pa.Array) -> pa.Array:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def is_text(kind: pa.DataType) -> bool:
    """Say whether values of this type are texts, however they are laid out."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def make_column(name: str, kind: pa.DataType, path: Path) -> TextColumn | NumberColumn | BooleanColumn:
    """Return what takes a column of type `kind`.

    Raises
    ------
    ConfigError
        Nothing that obs can hold.
    """
    if pa.types.is_dictionary(kind):
        return make_column(name, kind.value_type, path)
    if is_text(kind) or pa.types.is_null(kind) or pa.types.is_temporal(kind):
        return TextColumn(name, path)
    if pa.types.is_boolean(kind):
        return BooleanColumn(name, path)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return NumberColumn(name, path, kind)
    raise ConfigError(
        f"{path}: column {name!r} of type {kind} cannot stand in obs",
        kind="bad-index",
        hint="drop it, or turn it into numbers or strings",
    )
