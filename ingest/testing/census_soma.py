"""Write the collections and arrays of a Census with the settings of the real ones.

Types, tile extents, capacities and filters are the published settings of the CELLxGENE Census builder (schema 2.4.0),
but for the Zstd level of X.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import tiledbsoma as soma

from ingest.testing.census_x import EXTENT, Band

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ingest.testing.census_model import Dataset

__all__ = ["CensusWriter"]

_CAPACITY = 1 << 16
_X_LEVEL = 3  # the builder takes 9: that decides how long building takes, not how reading goes
_FRAGMENT_ENTRIES = 16_000_000  # 20 bytes each, held twice while they are written


class CensusWriter:
    """Writes below one root collection; places are paths relative to it.

    Parameters
    ----------
    root
        URI of the Census.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._context = soma.SOMATileDBContext(
            tiledb_config={"sm.compute_concurrency_level": 2, "sm.io_concurrency_level": 2}
        )

    def create_collections(self, organisms: Sequence[str]) -> None:
        """Create the tree of collections; it holds no array yet."""
        created: Any = soma.Collection.create(self._root, context=self._context)
        with created as root:
            root.add_new_collection("census_info").close()
            with root.add_new_collection("census_data") as data:
                for organism in organisms:
                    self._create_experiment(data, organism)

    def _create_experiment(self, data: Any, organism: str) -> None:
        with (
            data.add_new_collection(organism, soma.Experiment) as experiment,
            experiment.add_new_collection("ms") as measurements,
            measurements.add_new_collection("RNA", soma.Measurement) as rna,
        ):
            rna.add_new_collection("X").close()

    def write_frame(self, place: str, name: str, table: pa.Table) -> None:
        """Add `table`, keyed by its ``soma_joinid`` 0, 1, 2, …, to the collection at `place`."""
        with self._open(place) as collection:
            collection.add_new_dataframe(
                name, schema=table.schema, domain=[(0, len(table) - 1)], platform_config=_frame_settings(table.schema)
            ).close()
        # Written through the handle just closed, dictionary columns would mostly lose their labels.
        with soma.DataFrame.open(self._uri(f"{place}/{name}"), "w", context=self._context) as frame:
            frame.write(table.combine_chunks())

    @contextmanager
    def open_layers(
        self, place: str, layers: Sequence[str], shape: tuple[int, int]
    ) -> Iterator[Callable[[Band], None]]:
        """Create the X `layers` and give a function that takes their bands in order."""
        with self._open(place) as collection:
            for layer in layers:
                collection.add_new_sparse_ndarray(
                    layer, type=pa.float32(), shape=shape, platform_config=_X_SETTINGS
                ).close()
        with ExitStack() as stack:
            arrays = {
                layer: stack.enter_context(
                    soma.SparseNDArray.open(self._uri(f"{place}/{layer}"), "w", context=self._context)
                )
                for layer in layers
            }
            pending = _Pending(arrays)
            yield pending.add
            pending.flush()

    def write_presence(self, place: str, datasets: Sequence[Dataset]) -> None:
        """Add the presence matrix: dataset joinid x gene, True where measured."""
        shape = (datasets[-1].joinid + 1, len(datasets[0].measured))
        name = "feature_dataset_presence_matrix"
        with self._open(place) as collection:
            collection.add_new_sparse_ndarray(name, type=pa.bool_(), shape=shape).close()
        genes = [np.flatnonzero(dataset.measured) for dataset in datasets]
        rows = np.repeat([dataset.joinid for dataset in datasets], [len(measured) for measured in genes])
        with soma.SparseNDArray.open(self._uri(f"{place}/{name}"), "w", context=self._context) as array:
            array.write(_coordinates(rows, np.concatenate(genes), np.ones(len(rows), bool)))

    def _open(self, place: str) -> Any:
        return soma.open(self._uri(place), "w", context=self._context)

    def _uri(self, place: str) -> str:
        return f"{self._root}/{place}"


class _Pending:
    """Bands on their way into one fragment: real Census X is consolidated, so few and large ones."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        self._arrays = arrays
        self._bands: list[Band] = []

    def add(self, band: Band) -> None:
        self._bands.append(band)
        if sum(len(held.values) for held in self._bands) >= _FRAGMENT_ENTRIES:
            self.flush()

    def flush(self) -> None:
        for layer, array in self._arrays.items():
            parts = [_coordinates(band.rows, band.columns, _layer_values(layer, band)) for band in self._bands]
            if parts:
                # The parts are in TileDB's global order already, which spares its sort of a whole fragment.
                array.write(pa.concat_tables(parts), platform_config=soma.TileDBWriteOptions(sort_coords=False))
        self._bands.clear()


def _layer_values(layer: str, band: Band) -> np.ndarray[Any, np.dtype[np.float32]]:
    if layer == "raw":
        return band.values
    sums = np.add.reduceat(band.counts.data.astype(np.float64), band.counts.indptr[:-1])
    shares: np.ndarray[Any, np.dtype[np.float32]] = (band.values / sums[band.rows - band.start]).astype(np.float32)
    return shares


def _coordinates(rows: Any, columns: Any, values: Any) -> pa.Table:
    return pa.table({"soma_dim_0": rows, "soma_dim_1": columns, "soma_data": values})


def _zstd(level: int, *before: str) -> list[Any]:
    return [*before, {"_type": "ZstdFilter", "level": level}]


_X_SETTINGS = {
    "tiledb": {
        "create": {
            "capacity": _CAPACITY,
            "dims": {
                "soma_dim_0": {"tile": EXTENT, "filters": _zstd(_X_LEVEL)},
                "soma_dim_1": {"tile": EXTENT, "filters": _zstd(_X_LEVEL, "ByteShuffleFilter")},
            },
            "attrs": {"soma_data": {"filters": _zstd(_X_LEVEL, "ByteShuffleFilter")}},
            "cell_order": "row-major",
            "tile_order": "row-major",
            "allows_duplicates": True,
        }
    }
}


def _frame_settings(schema: pa.Schema) -> dict[str, Any]:
    columns = {field.name: field.type for field in schema if field.name != "soma_joinid"}
    return {
        "tiledb": {
            "create": {
                "capacity": _CAPACITY,
                "dims": {"soma_joinid": {"filters": _zstd(19, "DoubleDeltaFilter")}},
                "attrs": {
                    name: {"filters": _zstd(19) if pa.types.is_large_string(kind) else _zstd(9, "ByteShuffleFilter")}
                    for name, kind in columns.items()
                },
                "offsets_filters": _zstd(19, "DoubleDeltaFilter"),
                "allows_duplicates": True,
            }
        }
    }
