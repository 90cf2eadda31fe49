"""Arc's scBaseCount as a catalogue of cells: which samples first, then which of their cells."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index.catalog.bucket import Bucket, no_such
from index.catalog.columns import placed_names
from index.catalog.parquet_table import ParquetTable
from index.catalog.scbasecount_cells import Chosen, ScBaseCountCells, index_type
from index.dictionaries import is_text
from index.draw import choose_samples
from index.filtered import nothing_matched
from ingest.errors import ConfigError, EmptySelectionError
from ingest.grammar import did_you_mean, unknown_column
from ingest.scbasecount import ACCESSION, BARCODE, CELLS_OF_SAMPLE, PUBLIC_ROOT, is_czi
from ingest.source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from index.draw import SampleDraw
    from ingest.grammar import Filter

__all__ = ["SAMPLE_COLUMNS", "ScBaseCountCatalog", "Wanted"]

SAMPLE_COLUMNS: Final = (
    "organism",
    "tissue",
    "disease",
    "perturbation",
    "cell_line",
    "tech_10x",
    "cell_prep",
    "lib_prep",
)
"""Of sample_metadata, unless others are asked for."""
ALWAYS_COLUMNS: Final = (ACCESSION, BARCODE, CELLS_OF_SAMPLE, "czi_collection_id")
"""A run checks by them that it reads the cells that were promised; `index select --dedupe` goes by the last."""
_KEY: Final = "srx_accession"
_PATH: Final = "file_path"
_COLLECTION: Final = "czi_collection_id"
_RELEASE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_SAID: Final = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which cells."""

    kept: Filter | None = None
    """Over columns of samples and of cells alike."""
    columns: tuple[str, ...] | None = None
    """Instead of all columns of cells and the usual ones of samples."""
    draw: SampleDraw | None = None
    """Whole samples at random; None: all."""
    exclude_czi: bool = False
    """Leave out CELLxGENE collections processed again."""
    extra: tuple[str, ...] = ()
    """Columns wanted besides."""
    trusted: bool = False
    """Take the order of obs_metadata for that of the files, without looking into these."""


class ScBaseCountCatalog:
    """One release, feature and organism.

    Parameters
    ----------
    bucket
        The root of all releases.
    release, feature, organism
        Names of folders that are there.
    notes
        What a person should know.
    """

    def __init__(self, bucket: Bucket, release: str, feature: str, organism: str, notes: Sequence[str] = ()) -> None:
        self._bucket, self.release, self.feature, self.organism = bucket, release, feature, organism
        self.notes = tuple(notes)
        self.samples = self._table("sample_metadata.parquet", plain=(_PATH,))
        self.obs = self._table("obs_metadata.parquet", plain=(BARCODE,))
        self._require()
        renames: list[str] = []
        self._obs_columns = placed_names([name for name in self.obs.schema.names if name != ACCESSION], renames)
        others = [name for name in self.samples.schema.names if name not in (_KEY, _PATH)]
        self._sample_columns = {
            (f"sample_{index}" if index in self._obs_columns else index): name
            for index, name in placed_names(others, renames).items()
        }
        self._renames = renames

    @classmethod
    def open(
        cls,
        *,
        root: str = PUBLIC_ROOT,
        release: str = "latest",
        feature: str = "GeneFull_Ex50pAS",
        organism: str = "Homo_sapiens",
    ) -> ScBaseCountCatalog:
        """Open a release of the public bucket, or of the copy at `root`.

        Raises
        ------
        ConfigError
            ``unknown-release``, ``unknown-feature``, ``unknown-organism``: the hint lists what there is;
            ``no-metadata``, ``secret-url``, ``unknown-scheme``.
        CredentialsError
            ``requester-pays``, or no permission.
        TransientError
            The network.
        """
        bucket = Bucket(root)
        found = _release(bucket, release)
        notes = [f"release {release!r} is {found} today"] if found != release else []
        feature = _pick(bucket, "feature", feature, (found, "metadata"))
        organism = _pick(bucket, "organism", organism.strip().replace(" ", "_"), (found, "metadata", feature))
        return cls(bucket, found, feature, organism, notes)

    @property
    def root(self) -> str:
        """URL of the folder of all releases."""
        return self._bucket.root

    @property
    def where(self) -> str:
        """What has these columns, for messages."""
        return f"scBaseCount {self.release} {self.feature} {self.organism}"

    @property
    def schema(self) -> pa.Schema:
        """Every column that a filter may name, as an index has it."""
        cells = [
            (index, index_type(self.obs.schema.field(name).type, name)) for index, name in self._obs_columns.items()
        ]
        return pa.schema([(ACCESSION, pa.dictionary(pa.int32(), pa.string())), *cells, *self._sample_fields()])

    def cells(self, wanted: Wanted) -> ScBaseCountCells:
        """Select cells: samples by what is known of samples, then cells of these.

        Raises
        ------
        ConfigError
            ``unknown-column``, ``filter-type``, ``bad-sampling``; metadata are damaged.
        EmptySelectionError
            No sample matches.
        CredentialsError, TransientError
            The store refuses, or does not answer.
        """
        kept = None if wanted.kept is None else wanted.kept.renamed({_KEY: ACCESSION})
        bound = None if kept is None else kept.bind(self.schema, self.where)
        delivered = self._delivered(wanted)
        strata = wanted.draw.stratify if wanted.draw else None
        self._check_strata(strata)
        needed = {*delivered, *(kept.columns if kept else ()), *({strata} if strata else ()), *ALWAYS_COLUMNS}
        table = self._sample_table([name for name in self._sample_columns if name in needed])
        known = _known(table, kept)
        total = int(pc.sum(table[CELLS_OF_SAMPLE]).as_py() or 0)
        notes = [*self.notes, *self._renames]
        table = self._only_matching(table, kept, bound, known)
        if wanted.exclude_czi:
            table = _without_czi(table, notes)
        fields = [self.schema.field(name) for name in delivered]
        schema = pa.schema([_SOURCE, ("soma_joinid", pa.int64()), ("row", pa.int64()), *fields])
        concerns_cells = kept is not None and any(name in self._obs_columns for name in kept.columns)
        cells = _Draft(self, schema, bound if concerns_cells else None, known, total, notes, wanted.trusted)
        return self._drawn(cells, table, wanted.draw)

    # -- samples ---------------------------------------------------------------------------------------------------

    def _only_matching(
        self, table: pa.Table, kept: Filter | None, bound: Filter | None, known: Mapping[str, set[str]]
    ) -> pa.Table:
        if kept is None or bound is None:
            return table
        # What a filter demands of samples alone spares the reading of all their cells.
        demanded = bound.implied((ACCESSION, *self._sample_columns))
        matching = table if demanded is None else table.filter(demanded.mask(table))
        if not len(matching):
            raise nothing_matched(kept, known, self.where)
        return matching

    def _drawn(self, cells: _Draft, table: pa.Table, draw: SampleDraw | None) -> ScBaseCountCells:
        if not len(table):
            raise EmptySelectionError(f"{self.where} has no such samples")
        if draw is None:
            return cells.over(self._chosen(table, cells.notes))
        sizes = self._sizes(cells, table)
        strata = None
        if draw.stratify is not None:
            texts = table[draw.stratify].cast(pa.string()).fill_null("(missing)").to_pylist()
            strata = dict(zip(sizes, texts, strict=True))
        taken = choose_samples(sizes, draw, strata)
        if not taken:
            raise cells.over(Chosen(table.slice(0, 0), ())).nothing()
        drawn = table.filter(pc.is_in(table[ACCESSION].cast(pa.string()), value_set=pa.array(list(taken))))
        names = drawn[ACCESSION].to_pylist()
        _note_draw(taken, sizes, draw, cells.notes)
        chosen = self._chosen(drawn, cells.notes)
        counts = np.array([sizes[name] for name in names], np.int64)
        quotas = np.array([taken[name] for name in names], np.int64)
        return cells.over(replace(chosen, sizes=counts, quotas=quotas, seed=draw.seed))

    def _sizes(self, cells: _Draft, table: pa.Table) -> dict[str, int]:
        """Return accession -> cells that match: as promised where the filter looks at samples alone, else counted."""
        names = table[ACCESSION].to_pylist()
        if cells.kept is None and not table[CELLS_OF_SAMPLE].null_count:
            return dict(zip(names, table[CELLS_OF_SAMPLE].to_pylist(), strict=True))
        counts: Counter[str] = Counter()
        stream = cells.over(Chosen(table, tuple(Source("h5ad", "", "") for _ in names)))
        for batch in stream.batches([ACCESSION]):
            for entry in pc.value_counts(batch.column(0).cast(pa.string())).to_pylist():
                counts[entry["values"]] += entry["counts"]
        if not counts:
            raise stream.nothing()
        return {name: counts[name] for name in names}

    def _chosen(self, table: pa.Table, notes: list[str]) -> Chosen:
        urls = [
            self._url(path, name)
            for path, name in zip(table[_PATH].to_pylist(), table[ACCESSION].to_pylist(), strict=True)
        ]
        versions = self._bucket.versions(urls, self.samples.n_rows)
        absent = [url for url in urls if not isinstance(versions[url], str)]
        if absent:
            some = ", ".join(url.rsplit("/", 1)[-1] for url in absent[:_SAID]) + (", …" if len(absent) > _SAID else "")
            notes.append(
                f"{len(absent):,} of {len(urls):,} samples have no file ({some}): `run` will hold their chunks back"
            )
        pinned = [version if isinstance(version, str) else "" for version in map(versions.__getitem__, urls)]
        sources = tuple(Source("h5ad", url, version) for url, version in zip(urls, pinned, strict=True))
        return Chosen(table.drop_columns([_PATH]), sources)

    def _url(self, path: str | None, accession: str) -> str:
        """Return where a sample's file is below this root, wherever the metadata have it."""
        _, found, below = (path or "").partition(f"/{self.release}/")
        parts = below.split("/")
        # Whoever wrote the table says where files are, but below the root alone.
        if found and parts[0] == "h5ad" and not {"", ".", ".."}.intersection(parts):
            return self._bucket.url(self.release, *parts)
        return self._bucket.url(self.release, "h5ad", self.feature, self.organism, f"{accession}.h5ad")

    def _sample_table(self, names: Sequence[str]) -> pa.Table:
        """Return the columns of all samples, by accession, each sample once."""
        stored = [self._sample_columns[name] for name in names]
        table = self.samples.read([_KEY, _PATH, *stored]).rename_columns([ACCESSION, _PATH, *names])
        fields = {field.name: field.type for field in self._sample_fields()}
        columns = {
            ACCESSION: _texts(table[ACCESSION]),
            _PATH: table[_PATH].cast(pa.string()),
            **{
                name: _texts(table[name]) if is_text(fields[name]) else table[name].cast(fields[name]) for name in names
            },
        }
        if CELLS_OF_SAMPLE not in columns:
            columns[CELLS_OF_SAMPLE] = pa.chunked_array([pa.nulls(len(table), pa.int64())])
        table = pa.table(columns).filter(pc.is_valid(columns[ACCESSION]))
        names_of = table[ACCESSION].cast(pa.string())
        order = pc.sort_indices(names_of)
        ascending = names_of.take(order).to_pylist()
        first = [at for at in range(len(ascending)) if not at or ascending[at] != ascending[at - 1]]
        return table.take(order.take(pa.array(first, pa.int64())))

    # -- columns ---------------------------------------------------------------------------------------------------

    def _sample_fields(self) -> list[pa.Field]:
        return [
            pa.field(index, index_type(self.samples.schema.field(name).type, name))
            for index, name in self._sample_columns.items()
        ]

    def _delivered(self, wanted: Wanted) -> list[str]:
        there = self.schema.names
        for name in (*(wanted.columns or ()), *wanted.extra):
            if name not in there and name != _KEY:
                raise unknown_column(name, there, self.where)
        usual = (*self._obs_columns, *SAMPLE_COLUMNS) if wanted.columns is None else wanted.columns
        names = dict.fromkeys([ACCESSION, *usual, *wanted.extra, *ALWAYS_COLUMNS])
        return [name for name in names if name in there]

    def _check_strata(self, strata: str | None) -> None:
        if strata is None or strata in self._sample_columns:
            return
        if strata not in self.schema.names:
            raise unknown_column(strata, list(self._sample_columns), f"the samples of {self.where}, to stratify by")
        raise ConfigError(
            f"--stratify {strata} with --by sample: {strata} differs from cell to cell of a sample",
            kind="bad-sampling",
            hint="say --by cell, or stratify by a column of samples, such as tissue",
        )

    def _table(self, name: str, *, plain: Sequence[str]) -> ParquetTable:
        url = self._bucket.url(self.release, "metadata", self.feature, self.organism, name)
        return ParquetTable(self._bucket.filesystem, self._bucket.place(url), plain=plain)

    def _require(self) -> None:
        for table, column in ((self.samples, _KEY), (self.obs, ACCESSION), (self.obs, BARCODE)):
            if column not in table.schema.names:
                raise ConfigError(
                    f"{table.url}: has no column {column!r}",
                    kind="no-metadata",
                    hint=f"it has {', '.join(table.schema.names)}",
                )
        for table, texts in ((self.samples, (_KEY, _PATH, _COLLECTION)), (self.obs, (ACCESSION, BARCODE))):
            for field in table.schema:
                if field.name in texts:
                    right = is_text(field.type) or pa.types.is_null(field.type)
                else:
                    right = not pa.types.is_nested(field.type) and not _is_odd(field.type)
                if not right or (field.name == CELLS_OF_SAMPLE and not pa.types.is_integer(field.type)):
                    raise ConfigError(f"{table.url}: column {field.name!r} is of type {field.type}", kind="no-metadata")

    def over(self, cells: _Draft, chosen: Chosen) -> ScBaseCountCells:
        """Return the cells of `chosen` samples."""
        return ScBaseCountCells(
            self.obs,
            self._obs_columns,
            chosen,
            cells.schema,
            cells.kept,
            total=cells.total,
            known=cells.known,
            notes=cells.notes,
            trusted=cells.trusted,
            where=self.where,
        )


_SOURCE: Final = ("source", pa.dictionary(pa.int32(), pa.string()))


@dataclass(frozen=True, slots=True, eq=False)
class _Draft:
    """All that a stream of cells needs but the samples."""

    catalog: ScBaseCountCatalog
    schema: pa.Schema
    kept: Filter | None
    """None where the samples settle it."""
    known: Mapping[str, set[str]]
    total: int
    notes: list[str]
    trusted: bool

    def over(self, chosen: Chosen) -> ScBaseCountCells:
        return self.catalog.over(self, chosen)


def _release(bucket: Bucket, wanted: str) -> str:
    there = [entry.name for entry in bucket.list() if entry.is_folder and _RELEASE.fullmatch(entry.name)]
    if wanted == "latest" and there:
        return max(there)
    if wanted not in there:
        raise no_such("release", wanted, there, bucket.root, did_you_mean(wanted, there))
    return wanted


def _pick(bucket: Bucket, what: str, wanted: str, parts: tuple[str, ...]) -> str:
    there = [entry.name for entry in bucket.list(*parts) if entry.is_folder]
    found = next((name for name in there if name.lower() == wanted.lower()), None)
    if found is None:
        raise no_such(what, wanted, there, bucket.url(*parts), did_you_mean(wanted, there))
    return found


def _is_odd(kind: pa.DataType) -> bool:
    """Return whether no index holds values of this type."""
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return bool(is_binary or pa.types.is_decimal(kind) or pa.types.is_duration(kind) or pa.types.is_interval(kind))


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts as one dictionary array over strings."""
    return pa.chunked_array([column.cast(pa.string()).combine_chunks().dictionary_encode()])


def _known(table: pa.Table, kept: Filter | None) -> dict[str, set[str]]:
    names = () if kept is None else kept.columns
    return {
        name: {text for text in pc.unique(table[name].cast(pa.string())).to_pylist() if text is not None}
        for name in names
        if name in table.column_names and is_text(table.schema.field(name).type)
    }


def _without_czi(table: pa.Table, notes: list[str]) -> pa.Table:
    collections = table[_COLLECTION].to_pylist() if _COLLECTION in table.column_names else [None] * len(table)
    pairs = zip(table[ACCESSION].to_pylist(), collections, strict=True)
    kept = [not is_czi(accession, collection) for accession, collection in pairs]
    if not all(kept):
        cells = pc.sum(table.filter(pa.array([not one for one in kept]))[CELLS_OF_SAMPLE]).as_py() or 0
        n_left = kept.count(False)
        samples = "1 sample" if n_left == 1 else f"{n_left:,} samples"
        notes.append(f"{samples} of CELLxGENE collections left out ({cells:,} cells)")
    return table.filter(pa.array(kept, pa.bool_()))


def _note_draw(taken: Mapping[str, int], sizes: Mapping[str, int], draw: SampleDraw, notes: list[str]) -> None:
    there = sum(sizes.values())
    if there <= draw.cells:
        notes.append(f"all {there:,} cells are taken: there are no more than the {draw.cells:,} asked for")
        return
    cut = [name for name in taken if taken[name] < sizes[name]]
    some = ", ".join(f"{name} gives {taken[name]:,} of {sizes[name]:,}" for name in cut[:_SAID])
    more = f"; {some}{', …' if len(cut) > _SAID else ''}" if cut else ""
    notes.append(f"{len(taken):,} of {len(sizes):,} samples drawn, seed {draw.seed}{more}")
