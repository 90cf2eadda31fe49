"""Where the HDF5 blocks of every chunk lie: from ``chunk_offsets.feather``, or from the files that it lacks.

A file that another attempt wrote was adopted by its content, and nobody knows its offsets: HDF5 says them, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.errors import CorruptError
from ingest.fetch.h5ad_bytes import MemoryBytes
from ingest.layout import CHUNK_OFFSETS_KEY
from ingest.load.arrow import map_table, numbers_of

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.load.manifest import Manifest
    from ingest.load.read.ranges import ChunkBytes

__all__ = ["ArrayLayout", "ChunkLayouts"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]

_LEAST_ELEMENTS = 1 << 22
"""Blocks of so many are believed of any chunk: the last, or only, has the size of the others."""


@dataclass(frozen=True, slots=True, eq=False)
class ArrayLayout:
    """One array of one file."""

    elements: int
    """Of a block; the last has them too."""
    offsets: np.ndarray[Any, Any]
    """int64 ``(n_blocks,)``: bytes from the file's begin."""
    sizes: np.ndarray[Any, Any]
    """int64 ``(n_blocks,)``: stored bytes."""

    def inside(self, file_bytes: int) -> bool:
        """Return whether all blocks lie in a file of so many bytes."""
        lowest = min(self.offsets.min(initial=0), self.sizes.min(initial=0))
        return bool(self.elements > 0 and lowest >= 0 and (self.sizes <= file_bytes - self.offsets).all())


class ChunkLayouts:
    """The arrays of every chunk.

    Parameters
    ----------
    manifest
        The chunks.
    path
        Local copy of ``chunk_offsets.feather``, which is mapped into memory.
    files
        Where chunks can be read that it lacks.

    Raises
    ------
    CorruptError
        The table is damaged.
    """

    def __init__(self, manifest: Manifest, path: Path, files: ChunkBytes) -> None:
        self._manifest, self._files = manifest, files
        self._found: dict[int, dict[str, ArrayLayout]] = {}
        try:
            table = map_table(path)
            for name in ("chunk", "hdf5_chunk", "elements", "offset", "size"):
                if not pa.types.is_integer(table.schema.field(name).type) or table[name].null_count:
                    raise ValueError(f"{name} holds {table.schema.field(name).type}")  # noqa: TRY301
            self._offsets, self._sizes, self._elements = (
                numbers_of(table[name].combine_chunks()) for name in ("offset", "size", "elements")
            )
            firsts = np.flatnonzero(numbers_of(table["hdf5_chunk"].combine_chunks()) == 0)
            datasets = table["dataset"].combine_chunks()
            if datasets.null_count:
                raise ValueError("dataset is null somewhere")  # noqa: TRY301
            texts = datasets.dictionary.to_pylist()
            names = [texts[code] for code in numbers_of(datasets.indices)[firsts].tolist()]
            chunks = numbers_of(table["chunk"].combine_chunks())[firsts].tolist()
        except (KeyError, IndexError, ValueError, pa.ArrowException, OSError, AttributeError) as error:
            raise _damaged(manifest, str(error)) from error
        ends = [*firsts[1:].tolist(), len(self._offsets)][: len(firsts)]
        self._runs = {
            (chunk, name): (low, high)
            for chunk, name, low, high in zip(chunks, names, firsts.tolist(), ends, strict=True)
        }

    def of(self, at: int, name: str) -> ArrayLayout:
        """Return where array `name` (``X/data``, …) of the chunk at place `at` of the manifest lies.

        Raises
        ------
        CorruptError
            The file is not what the dataset says.
        """
        run = self._runs.get((self._manifest.numbers[at], name))
        if run is not None:
            part = slice(*run)
            found = ArrayLayout(int(self._elements[run[0]]), self._offsets[part], self._sizes[part])
            if not found.inside(int(self._manifest.sizes[at])) or found.elements > self._most_elements(at):
                key = self._manifest.keys[at]
                raise _damaged(self._manifest, f"blocks of {key} lie outside of it")
            return found
        return self._looked_up(at)[name]

    def _most_elements(self, at: int) -> int:
        """Return what a block can hold: memory is made for it before it is looked into."""
        manifest = self._manifest
        n_cells = int(manifest.starts[at + 1] - manifest.starts[at])
        all_of_it = n_cells * len(manifest.genes) if manifest.dense else max(int(manifest.nnz[at]), n_cells + 1)
        return max(all_of_it, _LEAST_ELEMENTS)

    def _looked_up(self, at: int) -> dict[str, ArrayLayout]:
        found = self._found.get(at)
        if found is None:
            found = self._found[at] = self._look_up(at)
        return found

    def _look_up(self, at: int) -> dict[str, ArrayLayout]:
        manifest, number, key = self._manifest, self._manifest.numbers[at], self._manifest.keys[at]
        try:
            with MemoryBytes(self._files.whole(at), key).as_hdf5() as file:
                nodes = {name: file[name] for name in self._types(at)}
                ours = all(_as_we_do(nodes[name], dtype, manifest.codec) for name, dtype in self._types(at).items())
                found = {name: _layout_of(node) for name, node in nodes.items()} if ours else {}
        except CorruptError:
            raise
        except Exception as error:  # damage makes HDF5 raise anything
            raise CorruptError(
                f"{manifest.url}/{key} is damaged: {error}",
                kind="chunk-damaged",
                hint=f"`python -m ingest repair {manifest.url}` makes it again",
                chunk=number,
                key=key,
            ) from error
        if not found:
            raise self.foreign(at)
        return found

    def foreign(self, at: int) -> CorruptError:
        """Return the error of a chunk with the right content in a way that only HDF5 itself reads."""
        url, key = self._manifest.url, self._manifest.keys[at]
        return CorruptError(
            f"{url}/{key} is stored as another program stores it, which a loader does not read",
            kind="foreign-layout",
            hint=f"remove it, and `python -m ingest repair {url}` makes it again",
            chunk=self._manifest.numbers[at],
            key=key,
        )

    def _types(self, at: int) -> dict[str, str]:
        """Return the arrays that are read of a chunk, and what they are of."""
        dtype = self._manifest.dtypes[at]
        if self._manifest.dense:
            return {"X": dtype}
        places = "int32" if self._manifest.nnz[at] <= np.iinfo(np.int32).max else "int64"
        return {"X/data": dtype, "X/indices": "int32", "X/indptr": places}


def _damaged(manifest: Manifest, what: str) -> CorruptError:
    return CorruptError(
        f"{manifest.url}/{CHUNK_OFFSETS_KEY} is damaged ({what})",
        kind="bad-summary",
        hint=f"`python -m ingest run {manifest.url}` writes it again",
        key=CHUNK_OFFSETS_KEY,
    )


_FILTERS = {"none": [], "deflate": [2, 1], "zstd": [2, 32015], "lz4": [2, 32004]}
"""HDF5's numbers of what is done to a block: bytes shuffled, then compressed."""


def _as_we_do(node: Any, dtype: str, codec: str) -> bool:
    """Return whether an open HDF5 dataset is stored as our encoders store it, of blocks of whatever size."""
    made = node.id.get_create_plist()
    filters = [made.get_filter(number)[0] for number in range(made.get_nfilters())]
    whole_rows = node.chunks is None or node.chunks[1:] == node.shape[1:]
    return bool(
        node.dtype == dtype and filters == _FILTERS[codec] and whole_rows and (codec == "none") == (not node.chunks)
    )


def _layout_of(node: Any) -> ArrayLayout:
    """Return the layout of an open HDF5 dataset."""
    width = node.dtype.itemsize
    if node.chunks is None:
        at, n = node.id.get_offset(), node.size
        whole = np.array([] if at is None else [at], np.int64)
        return ArrayLayout(max(n, 1), whole, np.full(len(whole), n * width, np.int64))
    infos: list[Any] = []
    node.id.chunk_iter(infos.append)
    infos.sort(key=lambda info: info.chunk_offset)
    return ArrayLayout(
        int(np.prod(node.chunks)),
        np.array([info.byte_offset for info in infos], np.int64),
        np.array([info.size for info in infos], np.int64),
    )
