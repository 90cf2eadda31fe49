"""What a chunk's file takes before it is made: at most, for memory; by expectation, for people. In bytes.

Measured over a Census of 2,440 non-zeros a cell, over counts drawn evenly up to 30,000 and over random fractions.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingest.encode.open import FORMATS

__all__ = ["FileKind"]

_ZEROS = {"deflate": 1032, "zstd": 1032, "lz4": 255}
"""Zeros that a codec says in one byte, at the least: deflate two bits for 258 of them, lz4 a byte for 255."""

_INDEX = 4
"""Bytes of a gene's number in a file that stores no zeros."""

_EXPECTED = {
    ("h5ad", "deflate"): 1.6,
    ("h5ad", "zstd"): 2.0,
    ("h5ad", "lz4"): 2.3,
    ("h5", "deflate"): 1.4,
    ("h5", "zstd"): 1.8,
    ("h5", "lz4"): 3.6,
}
"""Of one count of a Census, at the usual level."""

_WIDTHS = {"int16": 2, "uint16": 2, "int32": 4, "float32": 4}

_GENE = 7
"""Of a gene in the gene table, compressed."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """What decides the size of files beside their cells."""

    format: str
    codec: str
    dtype: str
    fractions: bool = False
    """Whether values may be fractional, which hardly shrink."""

    def most_bytes(self, nnz: int, n_cells: int, n_genes: int) -> int:
        """Return what the counts of a file take at most, widened where that may happen."""
        dense = FORMATS[self.format].dense
        width = max(4, _WIDTHS[self.dtype])
        if self.codec == "none":
            return n_cells * n_genes * width if dense else nnz * (width + _INDEX)
        if not dense:
            return round(nnz * (width + 1.5 if self.fractions else 2.5))
        # Every byte of a value stands among zeros of its own: those of floats are used, those of counts hardly.
        each = 8.0 if self.fractions else 4.0 if self.dtype == "float32" else 2.5
        each *= 1 if self.codec == "deflate" else 2
        return round(nnz * each + n_cells * n_genes * width / _ZEROS[self.codec])

    def expected_bytes(self, nnz: int, n_cells: int, n_genes: int) -> int:
        """Return what the counts of so many cells take, as a rule, whatever the number of their files."""
        dense, width = FORMATS[self.format].dense, _WIDTHS[self.dtype]
        if self.codec == "none":
            return n_cells * n_genes * width if dense else nnz * (width + _INDEX)
        zeros = n_cells * n_genes * width / _ZEROS[self.codec] if dense else 0.0
        return round(nnz * _EXPECTED[self.format, self.codec] + zeros)

    def table_bytes(self, n_genes: int) -> int:
        """Return what the gene table takes in every file."""
        return n_genes * _GENE
