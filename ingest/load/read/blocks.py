"""One block of one chunk: inflated, and placed into a window. One class a kind of file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ingest.load.read.inflate import inflate_counts, inflate_dense, inflate_genes
from ingest.load.read.kernels import place_dense, place_plain, place_planes

if TYPE_CHECKING:
    from ingest.load.read.layout import ArrayLayout

__all__ = ["BlockKind", "DenseBlocks", "Parts", "PlainBlocks", "PlainRows", "ShuffledBlocks", "unsigned"]

Array = np.ndarray[Any, Any]
Int64 = np.ndarray[Any, np.dtype[np.int64]]

_NARROW_GENES = 1 << 16


def unsigned(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the unsigned type of the same width: counts are moved as bits."""
    return np.dtype(f"u{dtype.itemsize}")


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What is wanted of one block; see `ingest.load.read.planning.WindowPlan`."""

    begin: Int64
    end: Int64
    dst: Int64
    stop: Int64
    """Where each part ends in the window."""


class BlockKind(Protocol):
    """How blocks of one chunk are stored."""

    def ranges(self, block: int) -> list[tuple[int, int]]:
        """Return the byte ranges, (start, length), that a block stands in."""
        ...

    def inflate(self, stored: list[memoryview]) -> tuple[Array, ...]:
        """Return what `place` takes, from the bytes of the ranges; raise anything where they are damaged."""
        ...

    def place(self, inflated: tuple[Array, ...], parts: Parts, data: Array, indices: Array) -> str | None:
        """Place parts into the window's bits and int32 gene numbers; return what is wrong with the block."""
        ...


def _planes(raw: bytes | memoryview, width: int, n: int) -> Array:
    if len(raw) != width * n:
        raise ValueError(f"a block of {len(raw):,} bytes instead of {width * n:,}")
    planes = np.frombuffer(raw, np.uint8).reshape(width, n)
    planes.flags.writeable = False  # numba compiles for read-only and writable arrays apart
    return planes


@dataclass(frozen=True, slots=True, eq=False)
class ShuffledBlocks:
    """Counts of an h5ad chunk: compressed blocks of shuffled values and gene numbers."""

    values: ArrayLayout
    genes: ArrayLayout
    dtype: np.dtype[Any]
    n_genes: int
    codec: str

    def ranges(self, block: int) -> list[tuple[int, int]]:
        """Return the byte ranges of a block."""
        return [(int(part.offsets[block]), int(part.sizes[block])) for part in (self.values, self.genes)]

    def inflate(self, stored: list[memoryview]) -> tuple[Array, ...]:
        """Return planes of values ``(width, n)`` and of gene numbers ``(4, n)``."""
        n, width = self.values.elements, self.dtype.itemsize
        values = inflate_counts(self.codec)(stored[0], n * width)
        genes = inflate_genes(self.codec)(stored[1], n * 4)
        return _planes(values, width, n), _planes(genes, 4, n)

    def place(self, inflated: tuple[Array, ...], parts: Parts, data: Array, indices: Array) -> str | None:
        """Place parts."""
        wide = self.n_genes > _NARROW_GENES
        values, genes = inflated
        largest = place_planes(values, genes, parts.begin, parts.end, parts.dst, wide, data, indices)
        return None if largest < self.n_genes else f"gene number {largest:,} of {self.n_genes:,}"


@dataclass(frozen=True, slots=True, eq=False)
class PlainBlocks:
    """Counts of an h5ad chunk stored as they are: blocks are stretches of two arrays."""

    values: ArrayLayout
    genes: ArrayLayout
    dtype: np.dtype[Any]
    n_genes: int
    elements: int
    """Entries of a stretch."""

    def ranges(self, block: int) -> list[tuple[int, int]]:
        """Return the byte ranges of a stretch."""
        pairs = ((self.values, self.dtype.itemsize), (self.genes, 4))
        return [_stretch(layout, block * self.elements * width, self.elements * width) for layout, width in pairs]

    def inflate(self, stored: list[memoryview]) -> tuple[Array, ...]:
        """Return values and gene numbers."""
        return np.frombuffer(stored[0], unsigned(self.dtype)), np.frombuffer(stored[1], np.int32)

    def place(self, inflated: tuple[Array, ...], parts: Parts, data: Array, indices: Array) -> str | None:
        """Place parts."""
        values, genes = inflated
        largest = place_plain(values, genes, parts.begin, parts.end, parts.dst, data, indices)
        return None if largest < self.n_genes else f"gene number {largest:,} of {self.n_genes:,}"


@dataclass(frozen=True, slots=True, eq=False)
class DenseBlocks:
    """Counts of a dense chunk: compressed blocks of shuffled whole rows."""

    matrix: ArrayLayout
    dtype: np.dtype[Any]
    n_genes: int
    codec: str

    def ranges(self, block: int) -> list[tuple[int, int]]:
        """Return the byte range of a block."""
        return [(int(self.matrix.offsets[block]), int(self.matrix.sizes[block]))]

    def inflate(self, stored: list[memoryview]) -> tuple[Array, ...]:
        """Return planes ``(width, n)``, and the same in words of 8 values."""
        n, width = self.matrix.elements, self.dtype.itemsize
        return _with_words(_planes(inflate_dense(self.codec)(stored[0], n * width), width, n))

    def place(self, inflated: tuple[Array, ...], parts: Parts, data: Array, indices: Array) -> str | None:
        """Place rows."""
        return _place_rows(inflated, self.n_genes, parts, data, indices)


@dataclass(frozen=True, slots=True, eq=False)
class PlainRows:
    """Counts of a dense chunk stored as they are."""

    matrix: ArrayLayout
    dtype: np.dtype[Any]
    n_genes: int
    rows: int
    """Of a stretch."""

    def ranges(self, block: int) -> list[tuple[int, int]]:
        """Return the byte range of a stretch."""
        size = self.rows * self.n_genes * self.dtype.itemsize
        return [_stretch(self.matrix, block * size, size)]

    def inflate(self, stored: list[memoryview]) -> tuple[Array, ...]:
        """Return planes ``(width, n)``, and the same in words of 8 values."""
        width = self.dtype.itemsize
        return _with_words(np.ascontiguousarray(np.frombuffer(stored[0], np.uint8).reshape(-1, width).T))

    def place(self, inflated: tuple[Array, ...], parts: Parts, data: Array, indices: Array) -> str | None:
        """Place rows."""
        return _place_rows(inflated, self.n_genes, parts, data, indices)


def _stretch(layout: ArrayLayout, start: int, length: int) -> tuple[int, int]:
    base, size = int(layout.offsets[0]), int(layout.sizes[0])
    return base + start, min(length, size - start)


def _with_words(planes: Array) -> tuple[Array, ...]:
    planes.flags.writeable = False
    n = planes.shape[1]
    if n % 8:
        padded = np.zeros((len(planes), n + 8 - n % 8), np.uint8)
        padded[:, :n] = planes
    else:
        padded = planes
    words = padded.view(np.uint64)
    words.flags.writeable = False
    return planes, words


def _place_rows(inflated: tuple[Array, ...], n_genes: int, parts: Parts, data: Array, indices: Array) -> str | None:
    planes, words = inflated
    wrong = place_dense(planes, words, n_genes, parts.begin, parts.stop, parts.dst, data, indices)
    return f"{wrong} rows with another number of genes than obs/gene_count says" if wrong else None
