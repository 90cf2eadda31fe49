"""The CELLxGENE Census as a catalogue of cells."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tiledbsoma

from index.catalog.columns import placed_names
from index.catalog.release import find_release, open_census, open_copy
from index.dictionaries import is_text
from index.filtered import nothing_matched
from ingest.errors import ConfigError, EmptySelectionError, SourceError, TransientError
from ingest.grammar import Filter, did_you_mean, parse_filter, unknown_column
from ingest.source import Source, address_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["ALWAYS_COLUMNS", "DEFAULT_COLUMNS", "CensusCatalog", "CensusCells"]

DEFAULT_COLUMNS: Final = ("assay", "cell_type", "tissue", "tissue_general", "suspension_type", "disease")
ALWAYS_COLUMNS: Final = ("dataset_id", "nnz", "raw_sum")
"""Planning and verifying use them."""
_PRIMARY: Final = "is_primary_data"
_MOST_KNOWN: Final = 10_000


class CensusCatalog:
    """One organism of one Census; a context manager. Not fork-safe, not pickled.

    Parameters
    ----------
    census
        The open root collection; closed with the catalogue.
    source
        What index rows will name; its organism is among the Census'.
    notes
        What a person should know of it.
    """

    def __init__(self, census: Any, source: Source, notes: Sequence[str] = ()) -> None:
        self._census = census
        self.source = source
        self.notes = tuple(notes)
        self._obs = census["census_data"][source.organism].obs

    @classmethod
    def open(cls, *, version: str = "stable", uri: str | None = None, organism: str = "homo_sapiens") -> CensusCatalog:
        """Open a release of the public Census, or the copy at `uri`.

        Raises
        ------
        ConfigError
            ``unknown-version``, ``unknown-organism``, ``no-census``.
        TransientError
            The network.
        """
        if uri is None:
            release = find_release(version)
            return cls._checked(open_census(release.date), organism, ("census", release.date), release.notes)
        return cls._checked(open_copy(uri), organism, ("soma", address_of(uri)), ())

    @classmethod
    def _checked(cls, census: Any, organism: str, at: tuple[Any, str], notes: Sequence[str]) -> CensusCatalog:
        wanted = organism.strip().lower().replace(" ", "_")
        there = sorted(census["census_data"].keys())
        if wanted not in there:
            census.close()
            raise ConfigError(
                f"no organism {organism!r} in the Census{did_you_mean(wanted, there)}",
                kind="unknown-organism",
                hint=f"it has {', '.join(there)}",
            )
        kind, address = at
        version = address if kind == "census" else _build_date(census)
        return cls(census, Source(kind, address, version, wanted), notes)

    def __enter__(self) -> CensusCatalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the handles."""
        self._census.close()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of obs."""
        return tuple(self._obs.schema.names)

    def cells(
        self,
        kept: Filter | None = None,
        *,
        columns: Sequence[str] | None = None,
        extra: Sequence[str] = (),
        all_cells: bool = False,
    ) -> CensusCells:
        """Select cells.

        Parameters
        ----------
        kept
            Filter over obs.
        columns
            obs columns wanted; the usual ones by default. dataset_id, nnz and raw_sum come in any case.
        extra
            obs columns wanted besides.
        all_cells
            Keep cells that stand in several datasets as often as they do. By default their primary copy is kept,
            unless `kept` itself speaks of ``is_primary_data``.

        Raises
        ------
        ConfigError
            ``unknown-column``, ``filter-type``.
        """
        notes = list(self.notes)
        names = self._wanted(columns, extra, notes)
        kept = self._with_primary(kept, all_cells, notes)
        categories = self._categories(() if kept is None else kept.columns)
        bound = None if kept is None else kept.bind(self._obs.schema, "the Census obs", categories)
        return CensusCells(self._obs, self.source, names, (kept, bound), categories, notes)

    def _wanted(self, columns: Sequence[str] | None, extra: Sequence[str], notes: list[str]) -> list[str]:
        there = self._obs.schema.names
        for name in (*(columns or ()), *extra):
            if name not in there:
                raise unknown_column(name, there, "the Census obs")
        usual = (*(DEFAULT_COLUMNS if columns is None else ()), *ALWAYS_COLUMNS)
        absent = [name for name in usual if name not in there]
        if absent:
            notes.append(f"this Census has no {', '.join(absent)}: left out")
        names = dict.fromkeys([*(DEFAULT_COLUMNS if columns is None else columns), *extra, *ALWAYS_COLUMNS])
        return [name for name in names if name in there and name != "soma_joinid"]

    def _with_primary(self, kept: Filter | None, all_cells: bool, notes: list[str]) -> Filter | None:
        if all_cells:
            notes.append("all cells: one that stands in several datasets is there several times")
        elif kept is not None and _PRIMARY in kept.columns:
            notes.append(f"the filter itself says which of several copies to keep ({_PRIMARY})")
        elif _PRIMARY not in self._obs.schema.names:
            notes.append(f"this Census does not tell primary cells ({_PRIMARY} is missing): all are kept")
        else:
            notes.append("primary cells only: each cell once, whatever datasets it stands in (--all-cells keeps all)")
            primary = parse_filter(f"{_PRIMARY} == True")
            return primary if kept is None else primary & kept
        return kept

    def _categories(self, columns: Sequence[str]) -> dict[str, list[str]]:
        schema = self._obs.schema
        coded = [name for name in columns if name in schema.names and pa.types.is_dictionary(schema.field(name).type)]
        return {name: values.to_pylist() for name, values in self._obs.get_enumeration_values(coded).items()}


class CensusCells:
    """Cells of a Census in the order of their joinids; made by :meth:`CensusCatalog.cells`."""

    def __init__(
        self,
        obs: Any,
        source: Source,
        columns: Sequence[str],
        filters: tuple[Filter | None, Filter | None],
        categories: Mapping[str, Sequence[str]],
        notes: list[str],
    ) -> None:
        self._obs = obs
        self._source = source
        self._kept, self._bound = filters
        self._categories = categories
        self._stored = placed_names(columns, notes)
        self._notes = notes
        self._source_type = pa.dictionary(pa.int32(), pa.string())
        if self._kept is not None:
            for column, value in self._kept.absent_values(categories):
                notes.append(f"no cell has {column} == {value!r}{did_you_mean(value, sorted(categories[column]))}")

    @property
    def schema(self) -> pa.Schema:
        """``source``, ``soma_joinid``, ``row``, then obs columns with the types of the Census."""
        stored = self._obs.schema
        obs = [(name, stored.field(column).type) for name, column in self._stored.items()]
        return pa.schema([("source", self._source_type), ("soma_joinid", pa.int64()), ("row", pa.int64()), *obs])

    @property
    def notes(self) -> Sequence[str]:
        """What was kept, what was left out, which values of the filter do not exist."""
        return tuple(self._notes)

    @property
    def total(self) -> int:
        """Cells of the organism in this Census."""
        return int(self._obs.count)

    def nothing(self) -> EmptySelectionError:
        """Name the value of the filter that does not exist, if one does not."""
        if self._kept is None:
            return EmptySelectionError("the Census has no cells")
        return nothing_matched(self._kept, {**self._categories, **self._plain_values()}, "the Census")

    def _plain_values(self) -> dict[str, set[str]]:
        """Collect the values of text columns without categories that the filter names: once, to explain a failure."""
        columns = () if self._kept is None else self._kept.columns
        plain = [
            name for name in columns if name not in self._categories and is_text(self._obs.schema.field(name).type)
        ]
        known = {name: set[str]() for name in plain}
        if plain:
            with self._reading():
                for table in self._obs.read(column_names=plain):
                    for name in plain:
                        known[name].update(pc.unique(table[name]).drop_null().to_pylist())
                    if any(len(values) > _MOST_KNOWN for values in known.values()):
                        break
        return known

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the cells, or only `columns` of them, by joinid.

        Raises
        ------
        TransientError, SourceError
            Reading failed, from afar or here.
        """
        schema = self.schema
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        stored = [self._stored[name] for name in schema.names if name in self._stored]
        with self._reading():
            # Unordered would be a little faster; by joinid, samples and `-n` do not depend on buffer sizes.
            tables = self._obs.read(
                column_names=["soma_joinid", *stored],
                value_filter=None if self._bound is None else self._bound.to_soma(),
                result_order="row-major",
            )
            for table in tables:
                for batch in table.to_batches():
                    yield pa.record_batch([self._column(batch, name) for name in schema.names], schema=schema)

    def _column(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        if name == "source":
            codes = pa.array(np.zeros(len(batch), np.int32))
            return pa.DictionaryArray.from_arrays(codes, pa.array([str(self._source)]))
        if name == "row":
            return pa.array(np.full(len(batch), -1, np.int64))
        return batch.column(self._stored.get(name, name))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except tiledbsoma.SOMAError as error:
            reason = str(error).splitlines()[0][:200]
            failure = SourceError if self._source.path is not None else TransientError
            raise failure(f"reading the Census obs failed: {reason}", source=str(self._source)) from error


def _build_date(census: Any) -> str:
    info = census["census_info"]
    if "summary" not in info:
        return ""
    summary = info["summary"].read(column_names=["label", "value"]).concat().to_pydict()
    facts = dict(zip(map(str, summary["label"]), map(str, summary["value"]), strict=True))
    return facts.get("census_build_date", "")
