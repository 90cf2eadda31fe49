"""Take out of an index the cells of a scBaseCount that it has from a Census already.

Some samples of a scBaseCount are CELLxGENE collections processed again; they name their collection. The cells of a
Census name their dataset, and the Census knows to which collection a dataset belongs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ingest.errors import ConfigError, EmptySelectionError
from ingest.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from index.stream import CellStream

__all__ = ["Deduped"]

COLLECTION = "czi_collection_id"
_NEEDED = ("source", "soma_joinid", "dataset_id")


class Deduped:
    """The cells of `stream` without those of collections that its Census cells are of.

    Parameters
    ----------
    stream
        Cells of a Census and of files; streamed once to see which datasets of the Census there are.
    collections_of
        Asks a Census: dataset_id -> collection id.

    Raises
    ------
    ConfigError
        ``no-dedupe``: the index lacks what tells.
    """

    def __init__(self, stream: CellStream, collections_of: Callable[[Source], Mapping[str, str]]) -> None:
        self._stream = stream
        self._notes: list[str] = []
        for name, whose in (*((name, "the Census") for name in _NEEDED), (COLLECTION, "scBaseCount")):
            if name not in stream.schema.names:
                raise ConfigError(
                    f"--dedupe goes by {name!r} of {whose}, which the index does not have",
                    kind="no-dedupe",
                    hint="index both catalogues with this column: they have it unless it was taken out",
                )
        self._held = self._collections(collections_of)

    @property
    def schema(self) -> pa.Schema:
        """That of the stream."""
        return self._stream.schema

    @property
    def notes(self) -> Sequence[str]:
        """Those of the stream, and how much was taken out."""
        return [*self._stream.notes, *self._notes]

    @property
    def total(self) -> int:
        """Cells there are before anything is taken out."""
        return self._stream.total

    def nothing(self) -> EmptySelectionError:
        """Explain that all cells were duplicates, or as the stream does."""
        if self._held:
            return EmptySelectionError("all cells are those of collections that the Census holds")
        return self._stream.nothing()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the cells that are left."""
        needed = None if columns is None else list(dict.fromkeys([*columns, "soma_joinid", COLLECTION]))
        held = pa.array(sorted(self._held), pa.string())
        n_out, out_of = 0, set[str]()
        for batch in self._stream.batches(needed):
            collections = _texts(batch.column(COLLECTION))
            double = pc.and_(pc.less(batch.column("soma_joinid"), 0), pc.is_in(collections, value_set=held))
            n_out += pc.sum(double).as_py() or 0
            out_of.update(pc.unique(collections.filter(double)).to_pylist())
            left = batch.filter(pc.invert(double))
            if len(left):
                yield left if columns is None else left.select(list(columns))
        some = "1 collection" if len(out_of) == 1 else f"{len(out_of):,} collections"
        line = f"{n_out:,} cells of {some} taken out: the Census holds them" if n_out else "no cell stands in both"
        self._notes = [line]

    def _collections(self, collections_of: Callable[[Source], Mapping[str, str]]) -> Collection[str]:
        """Return the collections of which the stream has cells of a Census."""
        datasets: dict[str, set[str]] = {}
        for batch in self._stream.batches(list(_NEEDED)):
            of_census = batch.filter(pc.greater_equal(batch.column("soma_joinid"), 0))
            pairs = pa.table({name: _texts(of_census.column(name)) for name in ("source", "dataset_id")})
            for pair in pairs.group_by(["source", "dataset_id"]).aggregate([]).to_pylist():
                if pair["dataset_id"] is not None:
                    datasets.setdefault(pair["source"], set()).add(pair["dataset_id"])
        held: set[str] = set()
        for source, wanted in datasets.items():
            known = collections_of(Source.parse(source))
            held.update(known[dataset] for dataset in wanted if dataset in known)
        return held


def _texts(column: pa.Array) -> pa.Array:
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return plain.cast(pa.string())
