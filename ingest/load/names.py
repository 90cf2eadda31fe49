"""Names of cells: computed where they are numbers of a Census, else read from the chunks' own obs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.errors import CorruptError
from ingest.load.read.cache import ByteLru
from ingest.load.read.chunk import ChunkFile, ChunkReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ingest.load.obs import Obs

__all__ = ["CellNames"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]

_CACHE_BYTES = 64 << 20
_SCAN_CELLS = 1 << 18


class CellNames:
    """The names of one dataset's cells, unique there: ``obs_names`` of its chunks.

    Parameters
    ----------
    reader
        Of the chunks.
    obs
        Of all datasets.
    first_cell
        Number in `obs` of this dataset's first cell.
    sources, labels
        Of the dataset, in its order.
    """

    def __init__(
        self, reader: ChunkReader, obs: Obs, first_cell: int, sources: Sequence[str], labels: Sequence[str]
    ) -> None:
        self._reader, self._obs, self._first = reader, obs, first_cell
        self._numbered = "soma_joinid" in obs and all(_is_soma(source) for source in sources)
        self._prefix = dict(zip(sources, labels, strict=True)) if len(sources) > 1 else None
        self._held: ByteLru[pa.StringArray] = ByteLru(_CACHE_BYTES)

    def take(self, rows: Int64) -> list[str]:
        """Return the names of some cells of this dataset, in the order asked for.

        Raises
        ------
        CorruptError
            A chunk that has to be asked is missing or damaged.
        """
        if self._numbered:
            return self._by_number(rows)
        names = np.empty(len(rows), object)
        chunks = self._reader.manifest.chunk_of(rows)
        for at in np.unique(chunks).tolist():
            mine = chunks == at
            local = rows[mine] - self._reader.manifest.starts[at]
            names[mine] = self.of_chunk(at).take(pa.array(local)).to_pylist()
        found: list[str] = names.tolist()
        return found

    def every(self) -> Iterator[pa.StringArray]:
        """Yield the names of all cells of this dataset in order, some at a time.

        Raises
        ------
        CorruptError
            A chunk that has to be asked is missing or damaged.
        """
        manifest = self._reader.manifest
        if not self._numbered:
            yield from map(self._read, range(manifest.n_chunks))
            return
        for start in range(0, manifest.n_cells, _SCAN_CELLS):
            rows = np.arange(start, min(start + _SCAN_CELLS, manifest.n_cells))
            yield pa.array(self._by_number(rows), pa.string())

    def find(self, wanted: Sequence[str]) -> dict[str, int]:
        """Return the cell of this dataset of each name that is one of its cells'; the chunks' names are looked through.

        Raises
        ------
        CorruptError
            A chunk is missing or damaged.
        """
        manifest = self._reader.manifest
        if self._numbered:
            return self._find_numbers(wanted)
        texts = pa.array(list(dict.fromkeys(wanted)), pa.string())
        found: dict[str, int] = {}
        for at in range(manifest.n_chunks):
            if len(found) == len(texts):
                break
            names = self.of_chunk(at)
            hits = pc.is_in(names, texts).to_numpy(zero_copy_only=False)
            for place in np.flatnonzero(hits).tolist():
                found[names[place].as_py()] = int(manifest.starts[at]) + place
        return found

    def of_chunk(self, at: int) -> pa.StringArray:
        """Return the names of all cells of the chunk at place `at`."""
        found = self._held.get(at)
        if found is None:
            found = self._read(at)
            self._held.put(at, found, found.nbytes)
        return found

    def _by_number(self, rows: Int64) -> list[str]:
        numbers = self._obs.take("soma_joinid", rows + self._first).values
        if self._prefix is None:
            return [str(number) for number in numbers.tolist()]
        source = self._obs.take("source", rows + self._first)
        labels = [self._prefix.get(text, text) for text in source.categories or ()]
        return [
            f"{labels[code]}:{number}" for code, number in zip(source.values.tolist(), numbers.tolist(), strict=True)
        ]

    def _find_numbers(self, wanted: Sequence[str]) -> dict[str, int]:
        numbers = {int(tail) for name in wanted if (tail := name.rpartition(":")[2]).isdecimal()}
        largest = np.iinfo(np.int64).max
        sought, asked = np.array(sorted(n for n in numbers if n <= largest), np.int64), set(wanted)
        found: dict[str, int] = {}
        n_cells = self._reader.manifest.n_cells
        for start in range(0, n_cells, _SCAN_CELLS):
            rows = np.arange(start, min(start + _SCAN_CELLS, n_cells))
            values = self._obs.take("soma_joinid", rows + self._first).values
            hits = rows[np.isin(values, sought)]
            found |= {
                name: row for name, row in zip(self._by_number(hits), hits.tolist(), strict=True) if name in asked
            }
        return found

    def _read(self, at: int) -> pa.StringArray:
        from ingest.encode.guard import ChunkTexts

        manifest = self._reader.manifest
        try:
            stream = ChunkFile(self._reader, at)
            with stream.as_hdf5() as file:
                node = file["cells"] if manifest.dense else file["obs"][file["obs"].attrs["_index"]]
                names = pa.array(ChunkTexts(stream)(node), pa.string())
        except CorruptError:
            raise
        except Exception as error:  # damage makes HDF5 raise anything
            raise self._reader.damaged(at, str(error)) from error
        if len(names) != manifest.starts[at + 1] - manifest.starts[at]:
            raise self._reader.damaged(at, f"{len(names):,} names of cells")
        return names


def _is_soma(source: str) -> bool:
    return source.startswith(("census://", "soma+"))
