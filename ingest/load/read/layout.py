"""Where the HDF5 blocks of every chunk lie: from ``chunk_offsets.feather``, or from the files that it lacks.

A file that another attempt wrote was adopted by its content, and nobody knows its offsets: HDF5 says them, once.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.errors import CorruptError, NotFoundError
from ingest.layout import CHUNK_OFFSETS_KEY

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.load.manifest import Manifest
    from ingest.load.read.ranges import ChunkBytes

__all__ = ["ArrayLayout", "ChunkLayouts"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class ArrayLayout:
    """One array of one file."""

    elements: int
    """Of a block; the last has them too."""
    offsets: np.ndarray[Any, Any]
    """int64 ``(n_blocks,)``: bytes from the file's begin."""
    sizes: np.ndarray[Any, Any]
    """int64 ``(n_blocks,)``: stored bytes."""


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
            table = _mapped(path)
            self._offsets, self._sizes, self._elements = (
                table[name].combine_chunks().to_numpy() for name in ("offset", "size", "elements")
            )
            firsts = np.flatnonzero(table["hdf5_chunk"].combine_chunks().to_numpy() == 0)
            datasets = table["dataset"].combine_chunks()
            names = datasets.take(pa.array(firsts)).to_pylist()
            chunks = table["chunk"].combine_chunks().to_numpy()[firsts].tolist()
        except (KeyError, pa.ArrowException, OSError, AttributeError) as error:
            raise CorruptError(
                f"{manifest.url}/{CHUNK_OFFSETS_KEY} is damaged ({error})",
                kind="bad-summary",
                hint=f"`python -m ingest run {manifest.url}` writes it again",
                key=CHUNK_OFFSETS_KEY,
            ) from error
        ends = np.append(firsts[1:], len(self._offsets)).tolist()
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
            return ArrayLayout(int(self._elements[run[0]]), self._offsets[part], self._sizes[part])
        return self._looked_up(at)[name]

    def _looked_up(self, at: int) -> dict[str, ArrayLayout]:
        found = self._found.get(at)
        if found is None:
            found = self._found[at] = self._look_up(at)
        return found

    def _look_up(self, at: int) -> dict[str, ArrayLayout]:
        import h5py

        key = self._manifest.keys[at]
        names = ("X",) if self._manifest.dense else ("X/data", "X/indices", "X/indptr")
        try:
            with h5py.File(io.BytesIO(self._files.whole(at)), "r") as file:
                return {name: _layout_of(file[name]) for name in names}
        except NotFoundError:
            raise
        except Exception as error:  # damage makes HDF5 raise anything
            raise CorruptError(
                f"{self._manifest.url}/{key} is no readable chunk ({error})", kind="undecodable-chunk", key=key
            ) from error


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


def _mapped(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
