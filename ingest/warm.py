"""Compile what units run, ahead of the first: when the package is installed, when an image is built.

Numba compiles a kernel for the types that it meets, and keeps the result beside the source or in ``NUMBA_CACHE_DIR``
for every process of the machine that comes after. ``python -m ingest.warm`` does it for the types that a run meets
unless it is told otherwise: float32 counts of a Census and of h5ad files, chunks of both formats compressed by deflate.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard

from ingest.block import Block, Counts
from ingest.encode.open import FORMATS, open_codec
from ingest.fetch.assemble import CooAssembler, GeneMap, csr_rows
from ingest.fetch.kernels import order_rows
from ingest.fetch.tiles.format import BYTE_SHUFFLE, ZSTD, Pipeline
from ingest.fetch.tiles.loading import StoredTile
from ingest.fetch.tiles.placing import TilePlacer
from ingest.fetch.tiles.schema import XSchema
from ingest.fetch.values import convert_counts
from ingest.genes import Genes
from ingest.validate import check_rows
from ingest.window_store import HeldRows

__all__ = [
    "compile_copy_kernels",
    "compile_hvg_kernels",
    "compile_kernels",
    "compile_load_kernels",
    "compile_mapped_kernels",
    "compile_qc_kernels",
    "compile_stream_kernels",
    "compile_transform_kernels",
]

_N_CELLS, _N_GENES = 4, 1024
"""Enough entries for planes to be coded on their own."""
_APART = 8
"""Of so many counts of a dense chunk one is not zero: seldom enough for those alone to be looked at."""


@cache
def compile_kernels() -> None:
    """Send a few cells through all that is compiled: 15 CPU-seconds the first time, 0.06 when it is cached.

    Once a process, however often it is asked.

    The first compiled call of a process costs 0.35 more, whatever it calls: numba reads its own tables.
    """
    counts, rows = _counts(), np.arange(_N_CELLS)
    genes = GeneMap(np.empty(0, np.int32), _N_GENES, _N_GENES)
    _assemble(counts, genes)
    for index_type in (np.int32, np.int64):
        csr_rows(counts.indptr, counts.indices.astype(index_type), counts.data, rows, genes, source="warm")
    _place(counts, genes)
    check_rows(counts, source="warm")
    _encode("h5ad", counts)
    import ingest.fetch.h5ad_bytes  # noqa: F401 # compiles as it is imported

    whole = convert_counts(counts, np.int32, source="warm")  # as they are fetched for int16
    check_rows(whole, source="warm")
    _encode("h5", _thinned(whole))
    for each in (counts, whole):
        _hold(each)


@cache
def compile_hvg_kernels() -> None:
    """Send a few cells through what `hvg` adds up with, for whole float32 counts: 5 CPU-seconds the first time."""
    from ingest.hvg import kernels  # the workers of a run do without

    counts, batches = _counts(), np.zeros(_N_CELLS, np.int32)
    check_rows(counts, source="warm")
    limbs = np.zeros((1, _N_GENES, kernels.WORDS), np.uint64)
    arrays = counts.indptr, counts.indices, counts.data, batches
    kernels.add_counts(*arrays, limbs)
    kernels.add_normalised(*arrays, np.ones(_N_CELLS), True, 1.0, limbs)
    kernels.add_clipped(*arrays, np.ones((1, _N_GENES)), limbs)
    travelled = limbs[0].copy()
    travelled.flags.writeable = False
    for other in (travelled, limbs[0]):
        kernels.add_limbs(limbs[0], other)


@cache
def compile_transform_kernels() -> None:
    """Send a few float32 counts through every transform, and normalised ones through those that may follow.

    6.5 CPU-seconds the first time.
    """
    from ingest.load import transform as to  # a run does without

    scaled = to.RankOrder(9, np.ones(_N_GENES), np.arange(_N_GENES))
    for transform in (to.Normalize(), to.DirectTokens(9), to.LogTokens(9), to.BinnedTokens(9, "uniform"), scaled):
        transform(_counts())
    for then in (to.BinnedTokens(9), to.RankOrder(9)):
        to.Compose([to.NormalizeLog1p(), then])(_counts())


@cache
def compile_load_kernels() -> None:
    """Place a few cells as a loader does, float32 and int16 ones, all genes and some: 3 CPU-seconds the first time."""
    from ingest.load.read.blocks import DenseBlocks, Parts, ShuffledBlocks  # the workers of a run do without
    from ingest.load.read.kernels import keep_columns, scatter_rows, tighten
    from ingest.load.read.layout import ArrayLayout

    counts, layout = _counts(), ArrayLayout(_N_CELLS * _N_GENES, np.empty(0, np.int64), np.empty(0, np.int64))
    parts = Parts(counts.indptr[:-1], counts.indptr[1:], counts.indptr[:-1], counts.indptr[1:])
    data, indices = np.empty(counts.nnz, np.float32), np.empty(counts.nnz, np.int32)
    sparse = ShuffledBlocks(layout, layout, data.dtype, _N_GENES, "deflate")
    stored = [zlib.compress(_shuffled(array).tobytes(), 1) for array in (counts.data, counts.indices)]
    sparse.place(sparse.inflate([memoryview(part) for part in stored]), parts, data.view(np.uint32), indices)
    kept, sums = np.empty(_N_CELLS, np.int64), np.empty(_N_CELLS)
    keep_columns(parts.begin, parts.end, np.arange(_N_GENES, dtype=np.int32), data, indices, kept, sums)
    tighten(parts.begin, kept, parts.begin, data, indices, data.copy(), indices.copy())
    order_rows(counts.indptr, indices, data, _N_GENES)
    for kind, delivered in ((np.float32, np.float32), (np.int32, np.int64)):  # counts, and tokens
        scatter_rows(counts.indptr, indices, data.astype(kind), np.zeros((_N_CELLS, _N_GENES), delivered))
    dense = DenseBlocks(layout, np.dtype(np.int16), _N_GENES, "deflate")
    whole = zlib.compress(_shuffled(counts.data.astype(np.int16)).tobytes(), 1)
    rows = replace(parts, begin=np.arange(_N_CELLS))
    dense.place(dense.inflate([memoryview(whole)]), rows, np.empty(counts.nnz, np.uint16), indices)


@cache
def compile_copy_kernels() -> None:
    """Bring a few entries of an h5ad file to the types of a memory-mapped archive: 3 CPU-seconds the first time.

    float32 counts to float32 and uint16, int32 columns to uint16; stored plainly and shuffled, CSR, CSC and dense.
    """
    from ingest.fetch.h5ad_lzf import undo_lzf
    from ingest.fetch.h5ad_stored import Stored
    from ingest.load.memmap.convert.h5ad_cast import ValueCast, put_columns  # a run does without
    from ingest.load.memmap.convert.h5ad_dense import filled_entries
    from ingest.load.memmap.convert.h5ad_kernels import count_rows, place_entries
    from ingest.load.memmap.convert.h5ad_transposed import frozen

    counts = _counts()
    values, indices = counts.data, counts.indices
    for turned in (lambda array: array, _shuffled):
        stored = [Stored(frozen(turned(array)), 0, counts.nnz, 0) for array in (values.copy(), indices.copy())]
        for target in (np.float32, np.uint16):
            ValueCast(values.dtype, target, 0).into(stored[0], np.empty(counts.nnz, target))
        put_columns(stored[1], indices.dtype, np.empty(counts.nnz, np.uint16), _N_GENES)
    rows, columns = np.repeat(np.arange(_N_CELLS, dtype=np.int32), _N_GENES), indices.astype(np.int64)
    count_rows(frozen(rows), np.zeros(_N_CELLS, np.int64))
    for bits in (np.zeros(counts.nnz, np.uint32), np.zeros(counts.nnz, np.uint16)):
        to, cursor = np.empty(counts.nnz, np.uint16), counts.indptr[:-1].copy()
        place_entries(rows, frozen(columns), bits, 0, cursor, counts.indptr[1:], to, bits.copy())
    undo_lzf(memoryview(b"\0a"), 1)
    filled_entries(frozen(values.reshape(_N_CELLS, _N_GENES).copy()))


@cache
def compile_stream_kernels() -> None:
    """Send a few float32 counts through what turns, chooses, sorts and normalises lines of h5ad files.

    8 CPU-seconds the first time, besides what writes and reads blocks.
    """
    from pathlib import Path  # a run does without all this
    from tempfile import gettempdir

    from ingest.load.transform.kernels import add_rows, log1p_rows, scale_rows
    from ingest.stream.matrix.choose import Choice, chosen
    from ingest.stream.matrix.filled import Filled
    from ingest.stream.matrix.kernels import outside, take_lines
    from ingest.stream.matrix.lines import Lines
    from ingest.stream.matrix.regroup import reordered, transposed
    from ingest.stream.matrix.work import Work

    counts, scratch = _counts(), Path(gettempdir())
    lines = Lines(0, counts.indptr, counts.indices, counts.data)
    outside(counts.indices, _N_GENES)
    bits = counts.data.view(np.uint32)
    take_lines(counts.indptr, counts.indices, bits, np.arange(_N_CELLS), counts.indices.copy(), bits.copy())
    for block_bytes in (1 << 20, 1 << 10):
        with Work(1, block_bytes) as work:
            list(transposed([lines], _N_CELLS, counts.nnz, _N_GENES, scratch, work))
            list(reordered([lines], np.arange(_N_CELLS)[::-1].copy(), _N_GENES, scratch, work))
    Filled(np.dtype(np.int32)).take(counts.data.reshape(_N_CELLS, _N_GENES))
    list(chosen(iter([lines]), Choice(np.arange(_N_GENES)[::-2], _N_GENES)))
    add_rows(counts.indptr, counts.data, np.empty(_N_CELLS))
    for scale in (log1p_rows, scale_rows):
        scale(counts.indptr, counts.data, np.ones(_N_CELLS), np.empty(counts.nnz, np.float32))


@cache
def compile_mapped_kernels() -> None:
    """Take a few rows out of an archive, with columns and values of each type that counts are mostly stored in."""
    from ingest.load.memmap.kernels import is_ascending  # a run does without
    from ingest.load.memmap.rows import MappedRows

    counts, rows = _counts(), np.arange(_N_CELLS)
    for columns, values in ((np.uint8, np.uint8), (np.uint16, np.uint16), (np.uint32, np.float32)):
        indices, ends = (counts.indices % (_N_GENES // 4)).astype(columns), counts.indptr.astype(np.uint32)
        taken = MappedRows(counts.data.astype(values), indices, ends).take(rows, _N_GENES)
    is_ascending(taken.indptr, taken.columns)


@cache
def compile_qc_kernels() -> None:
    """Send a few cells through what `qc` adds up with, for whole float32 counts."""
    from ingest.hvg import kernels
    from ingest.qc.kernels import measure_cells

    counts, places = _counts(), np.zeros(_N_CELLS, np.int32)
    check_rows(counts, source="warm")
    limbs = np.zeros((1, _N_GENES, kernels.WORDS), np.uint64)
    arrays = counts.indptr, counts.indices, counts.data
    kernels.add_counts(*arrays, places, limbs)
    measure_cells(*arrays, np.zeros(_N_GENES, bool), np.zeros(_N_CELLS, np.int32), np.zeros(_N_CELLS))
    travelled = limbs[0].copy()
    travelled.flags.writeable = False
    for other in (travelled, limbs[0]):
        kernels.add_limbs(limbs[0], other)


def _counts() -> Counts:
    """Return cells that have all genes, with counts such that some planes are worth a search and some are not."""
    nnz = _N_CELLS * _N_GENES
    indices = np.tile(np.arange(_N_GENES, dtype=np.int32), _N_CELLS)
    return Counts(np.arange(0, nnz + 1, _N_GENES), indices, np.arange(1, nnz + 1, dtype=np.float32), _N_GENES)


def _thinned(counts: Counts) -> Counts:
    """Return every `_APART`-th entry; rows have a multiple of these."""
    entries = slice(None, None, _APART)
    return Counts(counts.indptr // _APART, counts.indices[entries].copy(), counts.data[entries].copy(), counts.n_genes)


def _assemble(counts: Counts, genes: GeneMap) -> None:
    """Read a table as a Census has it, in Arrow's arrays: they are read-only, which makes types of their own."""
    rows = np.arange(_N_CELLS)
    assembler = CooAssembler(rows, genes, dtype=counts.data.dtype, source="warm")
    columns = np.repeat(rows, _N_GENES), counts.indices.astype(np.int64), counts.data
    assembler.add(*(pa.array(column).to_numpy() for column in columns))
    assembler.finish()


def _place(counts: Counts, genes: GeneMap) -> None:
    """Read tiles as a Census has them, from a disk and, in memory that is read-only, from a network."""
    packed, shuffled = Pipeline((ZSTD,)), Pipeline((BYTE_SHUFFLE, ZSTD))
    schema = XSchema(True, counts.nnz, packed, shuffled, shuffled, counts.data.dtype)
    rows = np.repeat(np.arange(_N_CELLS), _N_GENES)
    fields = _stored(rows), _stored(_shuffled(counts.indices.astype(np.int64))), _stored(_shuffled(counts.data))
    for writable in (True, False):
        tile = StoredTile(counts.nnz, *(np.frombuffer(bytearray(f) if writable else f, np.uint8) for f in fields))
        placer = TilePlacer(schema, genes, threads=1, source="warm")
        placer.rows([tile], np.arange(_N_CELLS))


def _hold(counts: Counts) -> None:
    """Send cells through a window, as `run --shuffle window` holds them."""
    held = HeldRows()
    held.add(np.arange(_N_CELLS), counts, np.arange(_N_CELLS), pa.array([""] * _N_CELLS))
    for part, _ in held.parts():
        check_rows(part, source="warm")


def _shuffled(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(values.view(np.uint8).reshape(len(values), -1).T)


def _stored(values: np.ndarray[Any, Any]) -> bytes:
    """Return a tile of one chunk of one part; see `ingest.fetch.tiles.kernels.tile_directory`."""
    part = zstandard.compress(values.tobytes(), 1)
    head = struct.pack("<IIII", 0, 1, values.nbytes, len(part))
    return struct.pack("<QIII", 1, values.nbytes, len(part), len(head)) + head + part


def _encode(format_name: str, counts: Counts) -> None:
    names = tuple(str(gene) for gene in range(_N_GENES))
    cells = pa.array([str(cell) for cell in range(_N_CELLS)])
    block = Block(counts, pa.table({"cell": cells.dictionary_encode()}), cells, Genes(names, names, (0,) * _N_GENES))
    codec = open_codec(format_name, "deflate", 1)
    encoder = codec.begin(block.genes, FORMATS[format_name].dtypes[0])
    encoder.add(counts)
    encoder.finish(block.obs, block.obs_names)
    codec.close()


if __name__ == "__main__":
    compile_kernels()
    compile_hvg_kernels()
    compile_load_kernels()
    compile_copy_kernels()
    compile_mapped_kernels()
    compile_stream_kernels()
    compile_qc_kernels()
    compile_transform_kernels()
