"""The cells of chosen samples of a scBaseCount: obs_metadata joined with sample_metadata, as a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index.catalog.file_rows import FileRows
from index.dictionaries import is_text
from index.filtered import nothing_matched
from index.sample import draw_places
from ingest.batching import read_ahead
from ingest.errors import EmptySelectionError, SourceChangedError
from ingest.scbasecount import ACCESSION, BARCODE, CELLS_OF_SAMPLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from index.catalog.parquet_table import ParquetTable
    from ingest.grammar import Filter
    from ingest.source import Source

__all__ = ["Chosen", "ScBaseCountCells"]

_MOST_KNOWN: Final = 10_000
_SAID: Final = 3
_Int64 = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """The samples whose cells are wanted; everything is ``(n_samples,)``."""

    table: pa.Table
    """Their columns by the names of the index, ``SRX_accession`` among them; texts are dictionaries."""
    sources: tuple[Source, ...]
    """Their files, pinned."""
    sizes: _Int64 | None = None
    """int64 ``(n_samples,)``: cells that match, as counted or as sample_metadata promises; None: nobody asked."""
    quotas: _Int64 | None = None
    """int64 ``(n_samples,)``: how many of these are drawn; None: all."""
    seed: int = 0
    """Of the cells drawn."""

    @property
    def accessions(self) -> list[str]:
        """Of the samples."""
        names: list[str] = self.table[ACCESSION].to_pylist()
        return names

    def __len__(self) -> int:
        return len(self.table)


class ScBaseCountCells:
    """Cells of `chosen` samples in the order of obs_metadata; a `CellStream`.

    Parameters
    ----------
    obs
        obs_metadata; only the columns and row groups needed are read.
    stored
        Index name -> column of obs_metadata.
    schema
        Of what is delivered.
    kept
        Filter of cells, over names of the index; None keeps all.
    total
        Cells that the catalogue has in all.
    known
        Column -> its values in the whole catalogue, to explain a filter that matches nothing.
    notes
        What a person should know.
    trusted
        Take the place of a cell in obs_metadata for its row, instead of looking into the file.
    where
        What is indexed, for messages.
    """

    def __init__(
        self,
        obs: ParquetTable,
        stored: Mapping[str, str],
        chosen: Chosen,
        schema: pa.Schema,
        kept: Filter | None,
        *,
        total: int,
        known: Mapping[str, set[str]],
        notes: Sequence[str],
        trusted: bool,
        where: str,
    ) -> None:
        self._obs, self._stored, self._chosen, self._schema, self._kept = obs, stored, chosen, schema, kept
        self._notes, self._trusted, self._where, self._total = list(notes), trusted, where, total
        self._known = {name: set(values) for name, values in known.items()}
        self._groups = obs.groups_with(ACCESSION, chosen.accessions) if len(chosen) else []
        self._number = pa.array(chosen.accessions, pa.string())

    @property
    def schema(self) -> pa.Schema:
        """``source``, ``soma_joinid``, ``row``, then the columns chosen."""
        return self._schema

    @property
    def notes(self) -> Sequence[str]:
        """What a person should know; complete once streamed."""
        return tuple(self._notes)

    @property
    def total(self) -> int:
        """Cells of the release, feature and organism."""
        return self._total

    @property
    def chosen(self) -> Chosen:
        """The samples."""
        return self._chosen

    def nothing(self) -> EmptySelectionError:
        """Name the value of the filter that does not exist, if one does not."""
        if self._kept is None:
            return EmptySelectionError(f"{self._where} has no such cells")
        return nothing_matched(self._kept, self._known, self._where)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the cells, or only `columns` of them.

        Raises
        ------
        ConfigError
            obs_metadata is damaged.
        SourceChangedError
            It lists other cells now than when they were counted.
        CredentialsError, TransientError
            The store refuses, or does not answer.
        """
        names = list(self._schema.names if columns is None else columns)
        schema = pa.schema([self._schema.field(name) for name in names])
        needed = list(dict.fromkeys([*names, *(self._kept.columns if self._kept else ())]))
        if with_rows := "row" in names and not self._trusted:
            needed.append(BARCODE)
        stored = list(dict.fromkeys([ACCESSION, *(self._stored[name] for name in needed if name in self._stored)]))
        tally = _Tally(self._chosen)
        with FileRows(self._chosen.sources) as rows:
            for table in read_ahead(self._obs.batches(stored, self._groups)):
                part = self._part(table, tally)
                if len(part.samples):
                    found = part.columns(schema, rows if with_rows else None)
                    yield pa.record_batch(found, schema=schema)
        if with_rows:
            self._note_files(rows)
        self._settle(tally)

    def _part(self, table: pa.Table, tally: _Tally) -> _Part:
        column = table[ACCESSION].combine_chunks()
        codes = pc.fill_null(pc.index_in(column.cast(pa.string()), value_set=self._number), -1).to_numpy()
        wanted = np.flatnonzero(codes >= 0)
        samples = codes[wanted].astype(np.int64)
        part = _Part(self, table.take(pa.array(wanted)), samples, tally.places(samples))
        if self._kept is not None:
            part = part.only(np.flatnonzero(self._matching(part)))
        return part.only(tally.drawn(part.samples))

    def _matching(self, part: _Part) -> np.ndarray[Any, np.dtype[np.bool_]]:
        if self._kept is None:
            return np.ones(len(part.samples), np.bool_)
        schema = pa.schema([self.field(name) for name in self._kept.columns])
        batch = pa.record_batch(part.columns(schema, None), schema=schema)
        for name in self._kept.columns:
            if name in self._stored and is_text(schema.field(name).type):
                values = self._known.setdefault(name, set())
                if len(values) < _MOST_KNOWN:
                    values.update(text for text in pc.unique(batch.column(name)).to_pylist() if text is not None)
        matching: np.ndarray[Any, np.dtype[np.bool_]] = self._kept.mask(batch).to_numpy(zero_copy_only=False)
        return matching

    def field(self, name: str) -> pa.Field:
        """Return name and type of a column that a filter or the index may have."""
        if name in self._schema.names:
            return self._schema.field(name)
        if name in self._stored:
            return pa.field(name, index_type(self._obs.schema.field(self._stored[name]).type, name))
        return self._chosen.table.schema.field(name)

    def stored(self, name: str) -> str | None:
        """Return the column of obs_metadata that index column `name` is of, None for one of sample_metadata."""
        return self._stored.get(name)

    # -- what is worth saying --------------------------------------------------------------------------------------

    def _note_files(self, rows: FileRows) -> None:
        accessions = self._chosen.accessions
        self._say(
            [f"{accessions[sample]} ({error.kind})" for sample, error in sorted(rows.unreadable.items())],
            "cannot be looked into now: `run` will hold their chunks back",
        )
        self._say(
            [f"{accessions[sample]} ({count:,})" for sample, count in sorted(rows.foreign.items())],
            "have cells that their file lacks: `run` will hold their chunks back",
        )

    def _settle(self, tally: _Tally) -> None:
        """Hold what was met against what sample_metadata promises, once all is streamed."""
        accessions = self._chosen.accessions
        if CELLS_OF_SAMPLE in self._chosen.table.column_names:
            promised = self._chosen.table[CELLS_OF_SAMPLE].to_pylist()
            wrong = [
                f"{name} ({said:,} and {met:,})"
                for name, said, met in zip(accessions, promised, tally.listed.tolist(), strict=True)
                if said is not None and said != met
            ]
            self._say(wrong, "have another obs_count in sample_metadata than cells in obs_metadata")
        if (changed := tally.changed()).size and self._kept is not None:
            name = accessions[changed[0]]
            raise SourceChangedError(
                f"{self._obs.url}: {name} has other cells now than were counted", hint="run it again"
            )

    def _say(self, samples: Sequence[str], what: str) -> None:
        if not samples:
            return
        some = ", ".join(samples[:_SAID]) + (f" and {len(samples) - _SAID:,} more" if len(samples) > _SAID else "")
        line = f"{len(samples):,} of {len(self._chosen):,} samples {what}: {some}"
        if line not in self._notes:
            self._notes.append(line)


class _Tally:
    """Counts the cells of each sample as they go by, and knows which of them were drawn."""

    def __init__(self, chosen: Chosen) -> None:
        self.listed = np.zeros(len(chosen), np.int64)
        """Cells that obs_metadata lists, by sample."""
        self._matched = np.zeros(len(chosen), np.int64)
        self._chosen = chosen
        self._accessions = chosen.accessions
        self._drawn: dict[int, _Int64] = {}

    def places(self, samples: _Int64) -> _Int64:
        """Return for each cell its place among all cells of its sample, counted on from batch to batch."""
        return _counted(samples, self.listed)

    def drawn(self, samples: _Int64) -> _Int64:
        """Return which of the cells that match were drawn, as positions, ascending."""
        if self._chosen.quotas is None:
            return np.arange(len(samples))
        places = _counted(samples, self._matched)
        kept = np.ones(len(samples), np.bool_)
        for sample in np.unique(samples).tolist():
            mine = samples == sample
            chosen = self._places(sample)
            if chosen is not None:
                kept[mine] = np.isin(places[mine], chosen)
        return np.flatnonzero(kept)

    def _places(self, sample: int) -> _Int64 | None:
        """Return the places drawn of a sample's matching cells; None for all."""
        sizes, quotas = self._chosen.sizes, self._chosen.quotas
        if sizes is None or quotas is None or quotas[sample] >= sizes[sample]:
            return None
        if sample not in self._drawn:
            size, quota = int(sizes[sample]), int(quotas[sample])
            self._drawn[sample] = draw_places(self._chosen.seed, self._accessions[sample], size, quota)
        return self._drawn[sample]

    def changed(self) -> _Int64:
        """Return the samples of which another number of cells matched than was counted before."""
        if self._chosen.sizes is None or self._chosen.quotas is None:
            return np.empty(0, np.int64)
        return np.flatnonzero(self._matched != self._chosen.sizes)


def _counted(samples: _Int64, before: _Int64) -> _Int64:
    """Return the running number of each cell within its sample, from `before`, which is advanced."""
    order = np.argsort(samples, kind="stable")
    ascending = samples[order]
    first = np.searchsorted(ascending, ascending)
    places = np.empty(len(samples), np.int64)
    places[order] = np.arange(len(samples)) - first + before[ascending]
    np.add.at(before, samples, 1)
    return places


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Cells of one row group; arrays are ``(n_cells,)``."""

    cells: ScBaseCountCells
    table: pa.Table
    samples: _Int64
    places: _Int64

    def only(self, kept: _Int64) -> _Part:
        """Return the cells at `kept`."""
        if len(kept) == len(self.samples):
            return self
        return _Part(self.cells, self.table.take(pa.array(kept)), self.samples[kept], self.places[kept])

    def columns(self, schema: pa.Schema, rows: FileRows | None) -> list[pa.Array]:
        """Return the columns of `schema`; `rows` looks up the cells' rows, None takes their places."""
        return [self._column(field, rows) for field in schema]

    def _column(self, field: pa.Field, rows: FileRows | None) -> pa.Array:
        if field.name == "source":
            names = pa.array([str(source) for source in self.cells.chosen.sources], pa.string())
            return pa.DictionaryArray.from_arrays(pa.array(self.samples.astype(np.int32)), names)
        if field.name == "soma_joinid":
            return pa.array(np.full(len(self.samples), -1, np.int64))
        if field.name == "row":
            return pa.array(self._rows(rows))
        stored = self.cells.stored(field.name)
        if stored is None:
            return self.cells.chosen.table[field.name].combine_chunks().take(pa.array(self.samples)).cast(field.type)
        column = self.table[stored].combine_chunks()
        return column if column.type == field.type else column.cast(field.type)

    def _rows(self, rows: FileRows | None) -> _Int64:
        if rows is None:
            return self.places
        barcodes = self.table[BARCODE].combine_chunks().cast(pa.string())
        found = self.places.copy()
        for sample in np.unique(self.samples).tolist():
            mine = np.flatnonzero(self.samples == sample)
            found[mine] = rows.rows(sample, self.places[mine], barcodes.take(pa.array(mine)))
        return found


def index_type(kind: pa.DataType, name: str) -> pa.DataType:
    """Return the type in an index of a column of the metadata."""
    if name == BARCODE:
        return pa.string()
    if is_text(kind) or pa.types.is_null(kind) or pa.types.is_temporal(kind):
        return pa.dictionary(pa.int32(), pa.string())
    return kind.value_type if pa.types.is_dictionary(kind) else kind
