"""The first pass over an index: where its cells lie, whether they are in order, and what its columns hold."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.batching import read_ahead
from ingest.errors import ConfigError, EmptySelectionError, IngestError
from ingest.obs_columns import BooleanColumn, NumberColumn, ObsColumn, TextColumn, make_column
from ingest.source import Source

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from ingest.index_file import IndexFile

__all__ = ["COORDINATES", "Doubles", "IndexScan", "coordinates_of"]

COORDINATES = ("source", "soma_joinid", "row")
"""The columns that say where a cell lies; all others annotate it."""

_SAMPLE_EVERY = 128
"""One cell in so many, drawn at random, tells how the cells of an index that is out of order are spread."""

_Bool = np.ndarray[Any, np.dtype[np.bool_]]
_Int64 = np.ndarray[Any, np.dtype[np.int64]]
_Int32 = np.ndarray[Any, np.dtype[np.int32]]


class IndexScan:
    """What is known of an index once all of its rows were looked at; made by looking at them.

    Raises
    ------
    ConfigError
        Coordinates that are missing or not whole, sources that are none, columns that obs cannot hold.
    EmptySelectionError
        No rows.
    """

    def __init__(self, file: IndexFile, default_source: Source | None) -> None:
        self.file = file
        self.n_cells = 0
        self.in_order = True
        """Whether the rows are in source order: by source as they first appear, then by coordinate."""
        self.doubles = Doubles()
        """Cells that stand twice in a row: all that there are, where the rows are in order."""
        self.sample: list[tuple[_Int32, _Int64]] = []
        """Source and coordinate of some cells."""
        self.largest: _Int64 = np.empty(0, np.int64)
        """``(n_sources,)``: the largest coordinate asked of each."""
        self._numbers = _SourceNumbers(file, default_source)
        self._looking = {
            field.name: make_column(field.name, field.type, file.path)
            for field in file.schema
            if field.name not in COORDINATES
        }
        self._datasets: dict[int, _Bool] = {}
        """SOMA source -> for each text of the column ``dataset_id``: whether cells of the source have it."""
        self._random = np.random.default_rng(0)
        for batch in read_ahead(file.batches()):
            self._look(batch)
        self._refuse_nothing()
        self._numbers.refuse_missing()
        self.columns: list[ObsColumn] = [
            column.settled() if isinstance(column, BooleanColumn) else column for column in self._looking.values()
        ]
        """All but the coordinates, in the order of the file."""
        fields = [("source", pa.int32()), ("soma_joinid", pa.int64()), ("row", pa.int64())]
        self.stored_schema = pa.schema([*fields, *((column.name, column.stored) for column in self.columns)])
        """Of the batches that `stored` yields: numbers alone."""
        self.datasets = tuple(self._dataset_ids())
        """Dataset ids that the cells of each source have; None of an h5ad, or where the index does not say."""

    # -- what was found --------------------------------------------------------------------------------------------

    @property
    def sources(self) -> tuple[Source, ...]:
        """Distinct sources, in order of first appearance."""
        return tuple(self._numbers.sources)

    @property
    def is_h5ad(self) -> _Bool:
        """Bool ``(n_sources,)``: a cell of this source has its coordinate in ``row``, else in ``soma_joinid``."""
        return self._numbers.is_h5ad

    @property
    def knows_nnz(self) -> bool:
        """Whether the column ``nnz`` has a number for every cell."""
        column = self._looking.get("nnz")
        return isinstance(column, NumberColumn) and column.complete

    def stored(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the file again, in its order, as numbers: a source, and a text, is its code."""
        for batch in self.file.batches():
            with self._arrow_errors():
                made = [column.make(batch.column(column.name)) for column in self.columns]
                places = [_coordinate(batch, name, self.file.path) for name in COORDINATES[1:]]
            codes = pa.array(self._numbers.codes(batch))
            yield pa.RecordBatch.from_arrays([codes, *places, *made], schema=self.stored_schema)

    # -- looking ---------------------------------------------------------------------------------------------------

    def _look(self, batch: pa.RecordBatch) -> None:
        with self._arrow_errors():
            codes = self._numbers.codes(batch)
            joinids, rows = (_coordinate(batch, name, self.file.path).to_numpy() for name in COORDINATES[1:])
            for name, column in self._looking.items():
                column.look(batch.column(name))
        if not self._numbers.n_missing:  # else the index will be refused: what follows counts by source
            coordinates = coordinates_of(codes, joinids, rows, self.is_h5ad)
            self._refuse_nowhere(codes, coordinates)
            self._follow(codes, coordinates)
            self._look_at_datasets(batch, codes)
        self.n_cells += len(batch)

    def _follow(self, codes: _Int32, coordinates: _Int64) -> None:
        edges = np.concatenate([[0], np.flatnonzero(codes[1:] != codes[:-1]) + 1])
        grown = np.full(len(self.sources) - len(self.largest), -1, np.int64)
        self.largest = np.concatenate([self.largest, grown])
        np.maximum.at(self.largest, codes[edges], np.maximum.reduceat(coordinates, edges))
        self.in_order = self.doubles.follow(codes, coordinates) and self.in_order
        drawn = np.arange(0, len(codes), _SAMPLE_EVERY)
        drawn = np.minimum(drawn + self._random.integers(0, _SAMPLE_EVERY, len(drawn)), len(codes) - 1)
        self.sample.append((codes[drawn], coordinates[drawn]))

    def _look_at_datasets(self, batch: pa.RecordBatch, codes: _Int32) -> None:
        column = self._looking.get("dataset_id")
        if not isinstance(column, TextColumn):
            return
        datasets = column.make(batch.column("dataset_id")).to_numpy()
        for number in np.unique(codes[~self.is_h5ad[codes]]).tolist():
            counts = np.bincount(datasets[codes == number] + 1, minlength=len(column.texts) + 1)[1:] > 0
            known = self._datasets.get(number, np.empty(0, bool))
            counts[: len(known)] |= known
            self._datasets[number] = counts

    def _refuse_nowhere(self, codes: _Int32, coordinates: _Int64) -> None:
        if coordinates.min() >= 0:
            return
        at = int(np.flatnonzero(coordinates < 0)[0])
        name = "row" if self.is_h5ad[codes[at]] else "soma_joinid"
        has = f"no {name}" if coordinates[at] == -1 else f"{name} {coordinates[at]}"
        where = f"{self.file.path}: row {self.n_cells + at:,} of the index"
        raise ConfigError(f"{where} has {has} in {self.sources[codes[at]]}", kind="bad-index")

    def _refuse_nothing(self) -> None:
        if self.n_cells:
            return
        limit = self.file.limit
        why = f"-n {limit} takes none of its cells" if limit is not None and limit <= 0 else "the index has no cells"
        raise EmptySelectionError(f"{self.file.path}: {why}", hint="`index show` counts the cells of an index")

    def _dataset_ids(self) -> Iterator[Collection[str] | None]:
        column = self._looking.get("dataset_id")
        for number, source in enumerate(self.sources):
            # In an index made by hand it may hold numbers, which are no dataset's id.
            if source.kind == "h5ad" or not isinstance(column, TextColumn):
                yield None
            else:
                yield {column.texts[code] for code in np.flatnonzero(self._datasets[number]).tolist()}

    @contextmanager
    def _arrow_errors(self) -> Iterator[None]:
        try:
            yield
        except pa.ArrowException as error:  # a time zone of Mars, more than 2 GiB of different texts in one column
            message = f"{self.file.path}: a column cannot be turned into one of obs ({error})"
            hint = "drop the column, or turn it into numbers or fewer different texts"
            raise ConfigError(message, kind="bad-index", hint=hint) from error


class Doubles:
    """Watches cells go by, in batches: whether they come in source order, and whether one comes twice in a row."""

    def __init__(self) -> None:
        self.count = 0
        self._first: tuple[int, int] | None = None
        self._last: tuple[int, int] = (-1, -1)

    def follow(self, codes: _Int32, coordinates: _Int64) -> bool:
        """Take the next cells, at least one; False when they are out of order, among themselves or after the last."""
        first = (int(codes[0]), int(coordinates[0]))
        same = codes[1:] == codes[:-1]
        double = same & (coordinates[1:] == coordinates[:-1])
        if first == self._last:
            self._note(1, first)
        if double.any():
            at = int(np.flatnonzero(double)[0])
            self._note(int(double.sum()), (int(codes[at]), int(coordinates[at])))
        in_order = first >= self._last and bool(
            np.all(np.where(same, coordinates[1:] >= coordinates[:-1], codes[1:] > codes[:-1]))
        )
        self._last = (int(codes[-1]), int(coordinates[-1]))
        return in_order

    def _note(self, count: int, first: tuple[int, int]) -> None:
        self.count += count
        self._first = self._first or first

    def refuse(self, sources: tuple[Source, ...], path: Path) -> None:
        """Refuse an index of whose cells one came twice.

        Raises
        ------
        ConfigError
            Kind ``duplicate-cells``.
        """
        if self._first is None:
            return
        code, coordinate = self._first
        raise ConfigError(
            f"{path}: {self.count:,} cells stand twice, the first is {coordinate} of {sources[code]}",
            kind="duplicate-cells",
            hint="df.drop_duplicates(['source', 'soma_joinid', 'row']) in pandas leaves each cell once",
        )


class _SourceNumbers:
    """The sources of an index, numbered as they appear."""

    def __init__(self, file: IndexFile, default: Source | None) -> None:
        self._path = file.path
        self.n_missing = 0
        """Rows without a source."""
        self.sources: list[Source] = []
        self.is_h5ad: _Bool = np.empty(0, bool)
        self._number: dict[Source, int] = {}
        self._recode: _Int32 = np.full(1, -1, np.int32)
        """Number of the source that each text spells; the last element answers -1."""
        self._texts = TextColumn("source", file.path) if "source" in file.schema.names else None
        if self._texts is not None:
            return
        if default is None:
            raise ConfigError(
                f"{file.path}: no column 'source' says where the cells lie",
                kind="bad-index",
                hint="say it with --census-version DATE or --uri URI",
            )
        self._add([str(default)])

    def codes(self, batch: pa.RecordBatch) -> _Int32:
        """Return the number of the source of every row, int32 ``(n,)``; -1, and counted, where there is none."""
        if self._texts is None:
            return np.zeros(len(batch), np.int32)
        texts = self._texts.make(batch.column("source"))
        self._add(self._texts.texts[len(self._recode) - 1 :])
        codes = pc.take(pa.array(self._recode), pc.if_else(pc.less(texts, 0), len(self._recode) - 1, texts))
        numbers: _Int32 = codes.to_numpy()
        if numbers.min(initial=0) < 0:
            self.n_missing += int((numbers < 0).sum())
        return numbers

    def refuse_missing(self) -> None:
        """Refuse an index with rows that have no source."""
        if self.n_missing:
            raise ConfigError(f"{self._path}: {self.n_missing:,} cells have no source", kind="bad-index")

    def _add(self, texts: list[str]) -> None:
        if not texts:
            return
        # One source may be spelled in two ways; cells that stand twice would pass unseen as cells of two.
        numbers = [self._number.setdefault(self._parse(text), len(self._number)) for text in texts]
        self.sources = list(self._number)
        self.is_h5ad = np.array([source.kind == "h5ad" for source in self.sources], bool)
        self._recode = np.concatenate([self._recode[:-1], np.array([*numbers, -1], np.int32)])

    def _parse(self, text: str) -> Source:
        try:
            return Source.parse(text)
        except IngestError as error:
            raise ConfigError(f"{self._path}: {error}", kind=error.kind, hint=error.hint) from error


def _coordinate(batch: pa.RecordBatch, name: str, path: Path) -> pa.Array:
    """Return a column of coordinates as int64, -1 for what is missing."""
    if name not in batch.schema.names:
        return pa.array(np.full(len(batch), -1, np.int64))
    column = batch.column(name)
    kind = column.type
    try:
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        # pandas turns integers with gaps into floats: whole ones are taken, a fraction is refused by the safe cast.
        return pc.fill_null(column.cast(pa.int64(), safe=True), -1)
    except pa.ArrowException as error:
        message = f"{path}: column {name!r} ({column.type}) holds no whole numbers"
        raise ConfigError(message, kind="bad-index") from error


def coordinates_of(codes: _Int32, joinids: _Int64, rows: _Int64, is_h5ad: _Bool) -> _Int64:
    """Return the coordinate of every cell: its row in an h5ad, else its joinid."""
    if is_h5ad.all() or not is_h5ad.any():
        return rows if is_h5ad.any() else joinids
    found: _Int64 = np.where(is_h5ad[codes], rows, joinids)
    return found
