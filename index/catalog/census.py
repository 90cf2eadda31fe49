"""The CELLxGENE Census as a catalogue of cells."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index.catalog.columns import placed_names
from index.catalog.release import find_release
from index.dictionaries import is_text
from index.filtered import nothing_matched
from ingest.cpu import require_avx2
from ingest.errors import ConfigError, EmptySelectionError, SourceError
from ingest.fetch.base import FetchLimits
from ingest.fetch.soma_errors import soma_errors
from ingest.fetch.soma_open import open_experiment
from ingest.grammar import Filter, did_you_mean, parse_filter, unknown_column
from ingest.source import Source, address_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ingest.fetch.soma_open import OpenExperiment

__all__ = ["ALWAYS_COLUMNS", "DEFAULT_COLUMNS", "CensusCatalog", "CensusCells", "collections_of"]

DEFAULT_COLUMNS: Final = ("assay", "cell_type", "tissue", "tissue_general", "suspension_type", "disease")
ALWAYS_COLUMNS: Final = ("dataset_id", "nnz", "raw_sum")
"""Planning and verifying use them."""
_PRIMARY: Final = "is_primary_data"
_MOST_KNOWN: Final = 10_000
_MEMORY_BYTES: Final = 2**29
"""Column buffers of 8 MiB; obs streams no faster with more."""
_BATCH_ROWS: Final = 131_072


class CensusCatalog:
    """One organism of one Census; a context manager. Not fork-safe, not pickled.

    Parameters
    ----------
    opened
        The open experiment; closed with the catalogue.
    notes
        What a person should know of it.

    Raises
    ------
    SourceError
        It has no obs that can be opened.
    """

    def __init__(self, opened: OpenExperiment, notes: Sequence[str] = ()) -> None:
        self._opened = opened
        self.source = replace(opened.source, version=opened.version)
        self.notes = tuple(notes)
        try:
            self._obs = opened.obs
        except BaseException:
            opened.close()
            raise

    @classmethod
    def open(cls, *, version: str = "stable", uri: str | None = None, organism: str = "homo_sapiens") -> CensusCatalog:
        """Open a release of the public Census, or the copy at `uri`.

        Raises
        ------
        ConfigError
            ``cpu-no-avx2``, ``unknown-version``, ``unknown-organism``, ``no-census``, ``secret-url``.
        TransientError
            The network.
        """
        require_avx2()
        name = organism.strip().lower().replace(" ", "_")
        if uri is not None:
            return cls(_open(Source("soma", address_of(uri), "", name), "--uri names the folder of census_data"))
        release = find_release(version)
        source = Source("census", release.date, release.date, name)
        return cls(_open(source, "weekly builds vanish after a month"), release.notes)

    def __enter__(self) -> CensusCatalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the handles."""
        self._opened.close()

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
        with soma_errors(self.source):
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
        with soma_errors(self._source):
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
            with soma_errors(self._source):
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
        SourceError, TransientError
            The Census is damaged, or the network.
        """
        schema = self.schema
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        stored = [self._stored[name] for name in schema.names if name in self._stored]
        with soma_errors(self._source):
            # Unordered would be a little faster; by joinid, samples and `-n` do not depend on buffer sizes.
            tables = self._obs.read(
                column_names=["soma_joinid", *stored],
                value_filter=None if self._bound is None else self._bound.to_soma(),
                result_order="row-major",
            )
            for table in tables:
                for batch in table.to_batches(_BATCH_ROWS):
                    yield pa.record_batch([self._column(batch, name) for name in schema.names], schema=schema)

    def _column(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        if name == "source":
            codes = pa.array(np.zeros(len(batch), np.int32))
            return pa.DictionaryArray.from_arrays(codes, pa.array([str(self._source)]))
        if name == "row":
            return pa.array(np.full(len(batch), -1, np.int64))
        return batch.column(self._stored.get(name, name))


def collections_of(source: Source) -> dict[str, str]:
    """Return dataset_id -> collection id of every dataset that a Census knows; a few kilobytes are read.

    Raises
    ------
    ConfigError
        ``no-census``: it is not there any more; ``cpu-no-avx2``.
    TransientError
        The network.
    """
    require_avx2()
    with _open(source, "--dedupe asks the Census that the index names") as opened, soma_errors(source):
        info = opened.census["census_info"]["datasets"]
        table = info.read(column_names=["dataset_id", "collection_id"]).concat()
    return dict(zip(table["dataset_id"].to_pylist(), table["collection_id"].to_pylist(), strict=True))


def _open(source: Source, hint: str) -> OpenExperiment:
    limits = FetchLimits(_MEMORY_BYTES, len(os.sched_getaffinity(0)), Path(tempfile.gettempdir()))
    try:
        return open_experiment(source, limits)
    except SourceError as error:
        # While choosing cells there is nothing yet whose source could be at fault: the place asked for is.
        raise ConfigError(f"no Census there: {error}", kind="no-census", hint=hint, source=str(source)) from error
